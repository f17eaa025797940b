"""The continuous stage: training a spiking U-Net to denoise images."""

from __future__ import annotations

from dataclasses import asdict, replace

import torch
from torch import Tensor, nn

from spiking_vq.checkpoint.build import PixelModel, build_unet
from spiking_vq.config.schema import GaussianConfig
from spiking_vq.data.datasets import load_dataset
from spiking_vq.data.levels import to_unit
from spiking_vq.data.styles import with_styles
from spiking_vq.diffusion.gaussian import GaussianDiffusion
from spiking_vq.pipelines.pixel import as_images
from spiking_vq.randomness import mix_seed
from spiking_vq.runtime.precision import parameter_type
from stages.training.denoiser import DenoiserStage, knowing_labels

PICTURED = 64
PICTURE_STEPS = 20


class GaussianStage(DenoiserStage):
    """The U-Net being trained; validated by its objective on the first images of the validation split.

    Args:
        config: of the run; what follows from the data is filled in.
    """

    monitor = "loss"

    def __init__(self, config: GaussianConfig) -> None:
        data = load_dataset(config.data, config.data_dir, config.image_size)
        config = knowing_labels(replace(config, image_shape=list(data.image_shape)), data)
        diffusion, sample = GaussianDiffusion(**asdict(config.diffusion)), config.sample
        measured = torch.zeros(diffusion.diffusion_steps + 1)  # as it will be once `make analytic` has run
        diffusion.check_settings(
            sample.sampler, sample.sample_steps or diffusion.diffusion_steps, sample.eta, image_error=measured
        )
        train_labels, val_labels = with_styles(data.train, data.val, config.styles)
        val = [rows[: config.val_images] for rows in (data.val.images, val_labels)]
        super().__init__(config, build_unet(config), diffusion, [data.train.images, train_labels], val)

    def prepared(self, examples: Tensor) -> Tensor:
        """uint8 images [B, C, H, W] in [-1, 1]."""
        return 2 * to_unit(examples).to(parameter_type(self.config.precision)) - 1

    @torch.no_grad()
    def picture(self) -> Tensor:
        """Samples, of the same seeds each time."""
        with self.autocast():
            *_, last = self.diffusion.trajectory(
                self.trained.eval(),
                [mix_seed(self.config.seed, 4, index) for index in range(min(PICTURED, self.config.val_images))],
                self.config.image_shape,
                sample_steps=min(PICTURE_STEPS, self.diffusion.diffusion_steps),  # a picture, not a measurement
                num_currents=self.config.T if self.diffusion.on_currents else None,
                device=self.device,
                dtype=parameter_type(self.config.precision),
            )
        return as_images(last.noisy, self.config.sample.contrast).cpu()

    def export(self) -> nn.Module:
        """The U-Net."""
        return PixelModel(self.trained, self.diffusion.diffusion_steps)

    def part(self, exported: PixelModel) -> nn.Module:
        """The U-Net."""
        return exported.unet

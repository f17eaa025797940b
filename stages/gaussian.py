"""The continuous stage: training a spiking U-Net to denoise images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace

import torch
from torch import Tensor, nn

from spiking_vq.checkpoint import PixelModel, build_unet
from spiking_vq.config import GaussianConfig
from spiking_vq.data import load_dataset, mix_seed, to_unit
from spiking_vq.diffusion.gaussian import Draw, GaussianDiffusion
from spiking_vq.distributed import own_rows
from spiking_vq.generators import as_images
from stages.denoiser import DenoiserStage

VALIDATION_BATCH = 128
VALIDATED = 1024  # images; enough to tell checkpoints apart, as times and noise are the same each time
PICTURED = 64
PICTURE_STEPS = 20


class GaussianStage(DenoiserStage):
    """The U-Net being trained; validated by its objective on the first images of the validation split.

    Args:
        config: of the run; what follows from the data is filled in.
    """

    monitor = "loss"

    def __init__(self, config: GaussianConfig) -> None:
        self.data = load_dataset(config.data, config.data_dir, config.image_size)
        config = replace(config, image_shape=list(self.data.image_shape), num_classes=self.data.num_classes)
        super().__init__(config, build_unet(config), self.data.train)
        self.diffusion = GaussianDiffusion(**asdict(config.diffusion))

    def batch_loss(self, batch: Sequence[Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """The diffusion's objective on uint8 images: drawn for the whole batch, computed for this rank's share."""
        images, labels = batch
        generator = self.on_device(generator)
        drawn = Draw(*map(own_rows, self.diffusion.draw(2 * to_unit(images) - 1, generator)))
        labels = own_rows(self.some_labels(labels, generator))
        return self.diffusion.loss_of(self.told(self.model, labels), drawn)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """The objective and its terms in the mean over validation images, times and noise the same each time."""
        unet, generator, figures = self.trained.eval(), self.on_device(self.generator(3)), []
        images, labels = (rows[:VALIDATED].split(VALIDATION_BATCH) for rows in self.data.val)
        with self.autocast():
            for some, theirs in zip(images, labels, strict=True):
                denoiser = self.told(unet, theirs.to(self.device))
                found = self.diffusion.loss(denoiser, 2 * to_unit(some.to(self.device)) - 1, generator)
                figures.append({name: len(some) * value.item() for name, value in found.items()})
        count = sum(map(len, images))
        return {name: sum(found[name] for found in figures) / count for name in figures[0]}

    @torch.no_grad()
    def picture(self) -> Tensor:
        """Samples, of the same seeds each time."""
        with self.autocast():
            states = self.diffusion.trajectory(
                self.trained.eval(),
                [mix_seed(self.config.seed, 4, index) for index in range(PICTURED)],
                self.data.image_shape,
                sample_steps=min(PICTURE_STEPS, self.diffusion.diffusion_steps),  # a picture, not a measurement
                num_currents=self.config.T if self.diffusion.on_currents else None,
                device=self.device,
            )
            *_, last = states
        return as_images(last.noisy).cpu()

    def export(self) -> nn.Module:
        """The U-Net."""
        return PixelModel(self.trained, self.diffusion.diffusion_steps)

    def part(self, exported: PixelModel) -> nn.Module:
        """The U-Net."""
        return exported.unet

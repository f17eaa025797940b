"""The continuous stage: training a spiking U-Net to denoise images."""

from __future__ import annotations

from dataclasses import asdict, replace

import torch
from torch import Tensor, nn

from spiking_vq.checkpoint.build import PixelModel, build_unet
from spiking_vq.config.schema import GaussianConfig
from spiking_vq.data.augment import random_flips
from spiking_vq.data.image_data import ImageData
from spiking_vq.data.levels import to_unit
from spiking_vq.data.styles import with_styles
from spiking_vq.diffusion.gaussian import GaussianDiffusion
from spiking_vq.pipelines.base import Pipeline
from spiking_vq.runtime.precision import parameter_type
from stages.cli.data import data_of
from stages.training.denoiser import DenoiserStage, with_label_counts


def prepare(config: GaussianConfig) -> tuple[GaussianConfig, ImageData]:
    """Load the data, and complete the configuration with their shape and labels."""
    data = data_of(config)
    return with_label_counts(replace(config, image_shape=list(data.image_shape)), data), data


class GaussianStage(DenoiserStage):
    """The U-Net in training; validated by its objective on the first images of the validation split.

    Args:
        config: of the run.
    """

    monitor = "loss"

    def __init__(self, config: GaussianConfig) -> None:
        config, data = prepare(config)
        train_labels, val_labels = with_styles(data.train, data.val, config.styles)
        val = [rows[: config.val_images] for rows in (data.val.images, val_labels)]
        diffusion = GaussianDiffusion(**asdict(config.diffusion))
        super().__init__(config, build_unet(config), diffusion, [data.train.images, train_labels], val)

    def prepared(self, examples: Tensor) -> Tensor:
        """uint8 images [B, C, H, W] as floats in [-1, 1]."""
        return 2 * to_unit(examples).to(parameter_type(self.config.precision)) - 1

    def augmented(self, examples: Tensor, generator: torch.Generator) -> Tensor:
        """Random flips of uint8 images [B, C, H, W], if configured."""
        return random_flips(examples, generator) if self.config.flips else examples

    def pipeline(self) -> Pipeline:
        """The pipeline of a copy of the model; `analytic`, whose error is measured after training, takes 0 for it."""
        pipeline = super().pipeline()
        pipeline.model.image_error.zero_()
        return pipeline

    def export(self) -> nn.Module:
        """The U-Net."""
        return PixelModel(self.trained, self.diffusion.diffusion_steps)

    def network_of(self, exported: PixelModel) -> nn.Module:
        """The U-Net."""
        return exported.unet

"""Training a diffusion's network, common to both diffusions: labels, validation, pictures."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from spiking_vq.config.schema import DenoiserConfig
from spiking_vq.data.image_data import ImageData
from spiking_vq.data.levels import to_unit
from spiking_vq.diffusion.absorbing import AbsorbingDiffusion
from spiking_vq.diffusion.gaussian import GaussianDiffusion
from spiking_vq.diffusion.guidance import Denoiser, with_labels
from spiking_vq.pipelines.base import Pipeline
from spiking_vq.pipelines.load import pipeline_of
from spiking_vq.randomness import Stream, uniform_noise
from spiking_vq.runtime.distributed import own_rows
from spiking_vq.runtime.memory import images_at_once
from stages.training.stage import Stage

VALIDATION_BATCH = 128
PICTURED = 64
PICTURE_CALLS = 64
"""Calls of the network for a picture at most; published samplers take up to 1000."""


def with_label_counts(config: DenoiserConfig, data: ImageData) -> DenoiserConfig:
    """The configuration with the number of labels and of training images of each; unconditional, without."""
    if not config.conditional:
        return replace(config, num_classes=None, label_counts=None)
    counts = data.train.labels.bincount(minlength=data.num_classes).tolist()
    return replace(config, num_classes=data.num_classes, label_counts=counts)


class DenoiserStage(Stage):
    """The network of a diffusion in training; validated by its loss, with the same times and noise each time.

    Args:
        config: of the run, complete.
        model: network to train.
        diffusion: its objective.
        train, val: examples and their labels, as `with_styles` gives them; validation takes all of `val`.

    Raises:
        InputError: as `Stage`, or the sampler's options in the configuration do not fit.
    """

    def __init__(
        self,
        config: DenoiserConfig,
        model: nn.Module,
        diffusion: AbsorbingDiffusion | GaussianDiffusion,
        train: Sequence[Tensor],
        val: Sequence[Tensor],
    ) -> None:
        super().__init__(config, model, train)
        self.diffusion, self.val = diffusion, val
        self.pipeline().sampling()  # so that a sampler that does not fit is found before training

    @property
    def no_label(self) -> int:
        """The label that stands for none, of a class-conditional network."""
        return self.config.num_classes * self.config.styles

    def prepared(self, examples: Tensor) -> Tensor:
        """Examples as the diffusion takes them."""
        return examples

    def augmented(self, examples: Tensor, generator: torch.Generator) -> Tensor:
        """Training examples with the configured augmentation; none by default."""
        return examples

    def objective(self, labels: Tensor) -> dict[str, Any]:
        """Further arguments of the diffusion's objective for images with these labels [B]; none by default."""
        return {}

    def batch_loss(self, batch: Sequence[Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """The diffusion's objective: drawn for the whole batch, computed for this rank's rows."""
        examples, labels = batch
        generator = self._on_device(generator)
        drawn = self.diffusion.draw(self.prepared(self.augmented(examples, generator)), generator)
        drawn = type(drawn)(*map(own_rows, drawn))
        labels = own_rows(self._with_dropout(labels, generator))
        return self.diffusion.loss_of(self._denoiser(self.model, labels), drawn, **self.objective(labels))

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """The metrics of the diffusion's loss, mean over the validation examples."""
        network, generator, sums = self.trained.eval(), self._on_device(self.generator(Stream.VALIDATION)), {}
        with self.autocast():
            size = images_at_once(VALIDATION_BATCH, self.config.image_shape)
            for examples, labels in zip(*(rows.split(size) for rows in self.val), strict=True):
                labels = labels.to(self.device)
                denoiser, further = self._denoiser(network, labels), self.objective(labels)
                metrics = self.diffusion.loss(denoiser, self.prepared(examples.to(self.device)), generator, **further)
                for name, value in metrics.items():
                    sums[name] = sums.get(name, 0) + len(labels) * value.item()
        return {name: value / len(self.val[0]) for name, value in sums.items()}

    def pipeline(self) -> Pipeline:
        """The pipeline of a copy of the model as it is now, as `export` would write it."""
        return pipeline_of(deepcopy(self.export()), self.config, self.device, self.config.precision)

    def picture(self) -> Tensor:
        """The pipeline's samples of the run's seed, by the configuration's sampler in at most `PICTURE_CALLS` calls."""
        pipeline = self.pipeline()
        calls = min(PICTURE_CALLS, pipeline.sampling()["sample_steps"])
        return to_unit(pipeline.sample(PICTURED, self.config.seed, sample_steps=calls).images)

    def _on_device(self, generator: torch.Generator) -> torch.Generator:
        """A generator on the network's device with the seed of one on the CPU."""
        return torch.Generator(self.device).manual_seed(generator.initial_seed())

    def _with_dropout(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """The labels [B], a share `label_dropout` of them replaced by the one that means none."""
        if not self.config.conditional:
            return labels
        dropped = uniform_noise(labels.shape, generator, labels.device) < self.config.label_dropout
        return labels.masked_fill(dropped, self.no_label)

    def _denoiser(self, network: nn.Module, labels: Tensor) -> Denoiser:
        """The network as a denoiser with these labels; unconditional, without."""
        return with_labels(network, labels if self.config.conditional else None)

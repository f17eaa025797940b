"""What training the two diffusions has in common: labels, validation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from spiking_vq.config.schema import DenoiserConfig
from spiking_vq.data.datasets import ImageData
from spiking_vq.diffusion.absorbing import AbsorbingDiffusion
from spiking_vq.diffusion.gaussian import GaussianDiffusion
from spiking_vq.diffusion.guidance import told
from spiking_vq.randomness import uniform_noise
from spiking_vq.runtime.distributed import own_rows
from stages.training.stage import Stage

VALIDATION_BATCH = 128


def knowing_labels(config: DenoiserConfig, data: ImageData) -> DenoiserConfig:
    """With the number of labels and of the images of each, if the network is told them; without, if not."""
    if not config.conditional:
        return replace(config, num_classes=None, label_counts=None)
    counts = data.train.labels.bincount(minlength=data.num_classes).tolist()
    return replace(config, num_classes=data.num_classes, label_counts=counts)


class DenoiserStage(Stage):
    """The network of a diffusion being trained; validated by its figures, with the same times and noise each time.

    Args:
        config: of the run, complete.
        model: the network to train.
        diffusion: what it is trained for.
        train, val: examples and their labels, as `with_styles` gives them; validation takes all that are given.
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

    def prepared(self, examples: Tensor) -> Tensor:
        """Examples as the diffusion takes them."""
        return examples

    def batch_loss(self, batch: Sequence[Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """The diffusion's objective: drawn for the whole batch, computed for this rank's share."""
        examples, labels = batch
        generator = self.on_device(generator)
        drawn = self.diffusion.draw(self.prepared(examples), generator)
        drawn = type(drawn)(*map(own_rows, drawn))
        labels = own_rows(self._some(labels, generator))
        return self.diffusion.loss_of(self._told(self.model, labels), drawn)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """The diffusion's figures in the mean over the validation examples."""
        network, generator, figures = self.trained.eval(), self.on_device(self.generator(3)), []
        batches = zip(*(rows.split(VALIDATION_BATCH) for rows in self.val), strict=True)
        with self.autocast():
            for examples, labels in batches:
                denoiser = self._told(network, labels.to(self.device))
                found = self.diffusion.loss(denoiser, self.prepared(examples.to(self.device)), generator)
                figures.append({name: len(labels) * value.item() for name, value in found.items()})
        return {name: sum(found[name] for found in figures) / len(self.val[0]) for name in figures[0]}

    def on_device(self, generator: torch.Generator) -> torch.Generator:
        """A generator where the network is, that follows from one on the CPU."""
        return torch.Generator(self.device).manual_seed(generator.initial_seed())

    def _some(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """The labels [B], some of them, as often as `label_dropout` says, replaced by the one that means none."""
        if not self.config.conditional:
            return labels
        dropped = uniform_noise(labels.shape, generator, labels.device) < self.config.label_dropout
        return labels.masked_fill(dropped, self.config.num_classes * self.config.styles)

    def _told(self, network: nn.Module, labels: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """The network as a denoiser that is told these labels, if it knows any."""
        return told(network, labels if self.config.conditional else None)

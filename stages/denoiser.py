"""What training the two diffusions has in common: labels that are told or not, noise on the device."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from stages.stage import Stage


class DenoiserStage(Stage):
    """A network of a diffusion being trained; its configuration is a `DenoiserConfig`."""

    def some_labels(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """The labels [B], some of them, as often as `label_dropout` says, replaced by the one that means none."""
        if not self.config.conditional:
            return labels
        dropped = torch.rand(labels.shape, generator=generator, device=labels.device) < self.config.label_dropout
        return labels.masked_fill(dropped, self.config.num_classes)

    def told(self, network: Callable[..., Tensor], labels: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """The network as a denoiser that is told these labels, if it knows any."""
        return (lambda x, t: network(x, t, labels)) if self.config.conditional else network

    def on_device(self, generator: torch.Generator) -> torch.Generator:
        """A generator where the network is, that follows from one on the CPU."""
        return torch.Generator(self.device).manual_seed(generator.initial_seed())

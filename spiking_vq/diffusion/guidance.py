"""Classifier-free guidance, the same for tokens and for images."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def guided(
    network: Callable[..., Tensor], label: int | None, guidance: float = 1.0
) -> Callable[[Tensor, Tensor], Tensor]:
    """A denoiser of one label: `without + guidance (with - without)`, of what the network gives with and without it.

    Args:
        network: called as `network(x, t)` or, with labels int64 [B], `network(x, t, labels)`; both where guidance is
            not 1.
        label: of all images; None for none.
        guidance: 1 is the network's own answer, 0 that without a label; above 1 images are more typical of the label.

    Reference: Ho and Salimans, arXiv:2207.12598, whose w is guidance - 1.
    """

    def denoiser(x: Tensor, t: Tensor) -> Tensor:
        if label is None:
            return network(x, t)
        labelled = network(x, t, torch.full((len(t),), label, device=t.device))
        if guidance == 1.0:
            return labelled
        without = network(x, t)
        return without + guidance * (labelled - without)

    return denoiser

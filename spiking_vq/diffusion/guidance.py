"""Labels and classifier-free guidance, the same for tokens and for images."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


def guided(
    network: Callable[..., Tensor], guidance: float = 1.0, unlabelled: Callable[..., Tensor] | None = None
) -> Callable[..., Tensor]:
    """A denoiser `(x, t, labels)`: `without + guidance (with - without)`, of what the network gives with and without.

    Called as `(x, t)`, it is the network.

    Args:
        network: called as `network(x, t)` or, with labels int64 [B], `network(x, t, labels)`; both, unless guidance is
            0 or 1.
        guidance: 1 is the network's own answer, 0 that without labels; above 1 images are more typical of their label.
        unlabelled: gives the answer without that the other is held against, called as `unlabelled(x, t)`; by default
            the network itself.

    Reference: Ho and Salimans, arXiv:2207.12598, whose w is guidance - 1; held against a weaker network, Karras et al.,
        arXiv:2406.02507.
    """

    def denoiser(x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        if labels is None or guidance == 0:
            return network(x, t)
        labelled = network(x, t, labels)
        if guidance == 1:
            return labelled
        without = (unlabelled or network)(x, t)
        return without + guidance * (labelled - without)

    return denoiser


def told(denoiser: Callable[..., Tensor], labels: Tensor | None) -> Callable[[Tensor, Tensor], Tensor]:
    """A denoiser `(x, t)` of one `(x, t, labels)` and of labels int64 [B]; without labels, the denoiser itself."""
    return denoiser if labels is None else lambda x, t: denoiser(x, t, labels)

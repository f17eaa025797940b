"""Class-conditional denoisers and classifier-free guidance, the same for tokens and for images."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

Denoiser = Callable[[Tensor, Tensor], Tensor]
"""`denoiser(x, t) -> prediction`; see `AbsorbingDiffusion` and `GaussianDiffusion`. Class-conditional ones take int64
labels [B] as their third argument."""


def guided(
    network: Callable[..., Tensor],
    guidance: float = 1.0,
    unconditional: Callable[..., Tensor] | None = None,
    applies: Tensor | None = None,
) -> Callable[..., Tensor]:
    """Classifier-free guidance: a denoiser `(x, t, labels)` that predicts `without + guidance (with - without)`.

    `with` and `without` are the predictions with and without labels. Called as `(x, t)`, the denoiser is the network.

    Args:
        network: called as `network(x, t)` or, with labels int64 [B], `network(x, t, labels)`; both, unless guidance is
            0 or 1.
        guidance: 1 gives the class-conditional prediction, 0 the unconditional one; above 1, images are more typical of
            their label.
        unconditional: predicts without labels, called as `(x, t)`; None (default) takes the network itself.
        applies: bool [B], the images to guide; the others take `with`. None (default) guides all.

    Reference: Ho and Salimans, arXiv:2207.12598, whose w is guidance - 1; guidance by a weaker network, Karras et al.,
        arXiv:2406.02507.
    """

    def denoiser(x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        if labels is None or guidance == 0:
            return network(x, t)
        conditional = network(x, t, labels)
        if guidance == 1:
            return conditional
        without = (unconditional or network)(x, t)
        prediction = without + guidance * (conditional - without)
        if applies is None:
            return prediction
        return prediction.where(applies.view(-1, *[1] * (prediction.dim() - 1)), conditional)

    return denoiser


def with_labels(denoiser: Callable[..., Tensor], labels: Tensor | None, rows: Tensor | slice = slice(None)) -> Denoiser:
    """A denoiser `(x, t)` from a class-conditional one and `labels[rows]`; without labels, the denoiser itself."""
    return denoiser if labels is None else lambda x, t: denoiser(x, t, labels[rows])

"""Class-conditional denoisers and classifier-free guidance, the same for tokens and for images."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

Denoiser = Callable[[Tensor, Tensor], Tensor]
"""`denoiser(x, t) -> prediction`; see `AbsorbingDiffusion` and `GaussianDiffusion`. Class-conditional ones take int64
labels [B] as their third argument."""


GUIDES = ("unlabelled", "same_label")
"""Predictions that guidance leads away from."""

GUIDANCE = ("guidance", "guide", "guidance_T", "guidance_from", "guidance_to")
"""Names of the samplers' options of guidance."""


def guided(
    network: Callable[..., Tensor],
    guidance: float = 1.0,
    weaker: Callable[..., Tensor] | None = None,
    guide: str = "unlabelled",
    applies: Callable[[Tensor], Tensor | None] | None = None,
) -> Callable[..., Tensor]:
    """Guidance: a denoiser `(x, t, labels)` that predicts `weak + guidance (strong - weak)`.

    `strong` is the network's prediction with labels. `weak` is one without labels, which is classifier-free guidance;
    or one with the same labels by a weaker network, which is autoguidance and needs no labels: called as `(x, t)`, both
    predictions are unconditional. With the guide "unlabelled", the denoiser called as `(x, t)` is the network.

    Args:
        network: called as `network(x, t)` or, with labels int64 [B], `network(x, t, labels)`.
        guidance: 1 gives the class-conditional prediction, 0 the unconditional one; above 1, images are more typical of
            their label. At both, `weak` is not computed.
        weaker: predicts `weak`, called as the network is; None (default) takes the network itself.
        guide: `unlabelled` (default) or `same_label`, one of `GUIDES`.
        applies: function of x that selects the images to guide, bool [B], or None for all; the others take `strong`.
            `weak` is not computed where none is selected. None (default) guides all images in all calls.

    Reference: classifier-free guidance, Ho and Salimans, arXiv:2207.12598, whose w is guidance - 1; autoguidance,
        Karras et al., arXiv:2406.02507; guidance at some times only, Kynkaanniemi et al., arXiv:2404.07724.
    """

    def denoiser(x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        given = () if labels is None else (labels,)
        if guidance == 0 or (labels is None and guide == "unlabelled"):
            return network(x, t)
        strong = network(x, t, *given)
        selected = applies(x) if applies and guidance != 1 else None
        if guidance == 1 or (selected is not None and not selected.any()):
            return strong
        weak = (weaker or network)(x, t, *(given if guide == "same_label" else ()))
        prediction = weak + guidance * (strong - weak)
        if selected is None:
            return prediction
        return prediction.where(selected.view(-1, *[1] * (strong.dim() - 1)), strong)

    return denoiser


def with_labels(denoiser: Callable[..., Tensor], labels: Tensor | None, rows: Tensor | slice = slice(None)) -> Denoiser:
    """A denoiser `(x, t)` from a class-conditional one and `labels[rows]`; without labels, the denoiser itself."""
    return denoiser if labels is None else lambda x, t: denoiser(x, t, labels[rows])

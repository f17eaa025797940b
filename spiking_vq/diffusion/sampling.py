"""What both samplers share: they yield the state of all images after each call of the denoiser."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from torch import Tensor


class State(NamedTuple):
    """All images on their way, after some calls of the denoiser.

    Attributes:
        x: tokens int64 [n, G, h, w], or noisy images [n, C, H, W] or their synaptic currents `[T, n, C, H, W]`.
        calls: calls made so far; 0 at the start.
        total: calls in all.
    """

    x: Tensor
    calls: int
    total: int


class Sampler:
    """A sampler of a diffusion with given options.

    Each image draws its noise from its own seed on the CPU: it is the same in any batch and on any device, up to the
    rounding of the denoiser.

    Attributes:
        options: in force, an `AbsorbingSamplerOptions` or a `GaussianSamplerOptions`.
        sample_steps: number of calls of the denoiser for an image, S.
    """

    options: Any
    sample_steps: int

    def states(
        self, denoiser: Callable[..., Tensor], seeds: Sequence[int], labels: Tensor | None = None, **given: Any
    ) -> Iterator[State]:
        """The state at the start and after each call of the denoiser; in the last state all images are done."""
        raise NotImplementedError

    def sample(
        self, denoiser: Callable[..., Tensor], seeds: Sequence[int], labels: Tensor | None = None, **given: Any
    ) -> Tensor:
        """`x` of the last of the `states`, whose arguments these are."""
        *_, last = self.states(denoiser, seeds, labels, **given)
        return last.x

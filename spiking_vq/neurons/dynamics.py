"""The leaky integrate-and-fire recurrence and its gradient: the one definition of the neuron.

Plain functions of one tensor a step; `spiking_vq.neurons.fused` runs them over whole layers, compiled or not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from spiking_vq.errors import InputError
from spiking_vq.neurons.surrogates import SURROGATES

RESETS = ("zero", "subtract", "delayed_subtract")


@dataclass(frozen=True)
class Dynamics:
    """Rules of a leaky integrate-and-fire neuron; the values of beta and threshold are given separately.

    `h[t] = beta * mem[t-1] + gain * x[t]`, `gain = 1 - beta` if `scale_input` else 1;
    `spk[t] = 1 if h[t] > threshold else 0` (`>=` if `fire_at_threshold`);
    `mem[t] = h[t] * (1 - spk[t])` for reset `zero`, `h[t] - threshold * spk[t]` for `subtract`.
    `delayed_subtract`, snnTorch's default, subtracts the threshold at the next step, after the decay: `mem[t] = h[t]`,
    `h[t] = beta * mem[t-1] + gain * x[t] - threshold * spk[t-1]`, where `spk[t-1]` is computed from `mem[t-1]`.

    Attributes:
        reset: `zero` (default), `subtract` or `delayed_subtract`.
        detach_reset: stop the gradient through the spike inside the reset; default False.
        scale_input: multiply the input by `1 - beta`, as a membrane with time constant `1 / (1 - beta)` does; default
            False.
        fire_at_threshold: a membrane exactly at threshold fires; default False.
        surrogate: `atan` (default), `fast_sigmoid`, `triangle` or `rectangle`.
        surrogate_scale: alpha, slope, width or width of the surrogate; None (default) takes that of `SURROGATES`.

    Raises:
        InputError: an unknown reset or surrogate, or a scale that is not positive.
    """

    reset: str = "zero"
    detach_reset: bool = False
    scale_input: bool = False
    fire_at_threshold: bool = False
    surrogate: str = "atan"
    surrogate_scale: float | None = None

    def __post_init__(self) -> None:
        """Check the names and the scale."""
        if self.reset not in RESETS:
            raise InputError(f"reset must be one of {', '.join(RESETS)}; got {self.reset!r}")
        if self.surrogate not in SURROGATES:
            raise InputError(f"surrogate must be one of {', '.join(SURROGATES)}; got {self.surrogate!r}")
        if self.surrogate_scale is not None and not self.surrogate_scale > 0:
            raise InputError(f"surrogate_scale must be greater than 0; got {self.surrogate_scale}")

    @property
    def scale(self) -> float:
        """Shape parameter of the surrogate."""
        return SURROGATES[self.surrogate][1] if self.surrogate_scale is None else self.surrogate_scale

    def spike(self, h: Tensor, threshold: Tensor) -> Tensor:
        """Spikes in {0, 1} of the membranes `h`, in h's type."""
        return (h >= threshold if self.fire_at_threshold else h > threshold).to(h.dtype)

    def surrogate_derivative(self, h: Tensor, threshold: Tensor) -> Tensor:
        """Surrogate of the derivative of the spike with respect to the membrane, >= 0."""
        return SURROGATES[self.surrogate][0](h - threshold, self.scale)


class Step(NamedTuple):
    """Result of one step: membrane before the reset, spikes in {0, 1}, membrane after the reset; each `[...]`."""

    charged: Tensor
    spk: Tensor
    mem: Tensor


class Gradients(NamedTuple):
    """Gradients of a scan, all `[...]`: of each step's current, of the first membrane, and of beta and threshold, which
    are not yet summed to the shape of these, or None if not wanted."""

    currents: list[Tensor]
    mem: Tensor
    beta: Tensor | None
    threshold: Tensor | None


def scan_forward(
    currents: Sequence[Tensor], mem: Tensor | None, beta: Tensor, threshold: Tensor, dynamics: Dynamics
) -> list[Step]:
    """Run the recurrence of `Dynamics` over all steps.

    Args:
        currents: input of each step, `[...]`, any real values.
        mem: membrane before the first step, `[...]`; None is rest (0).
        beta, threshold: tensors that broadcast against `[...]`.
        dynamics: rules of the neuron.
    """
    steps = []
    for current in currents:
        charged = (1 - beta) * current if dynamics.scale_input else current
        if mem is not None:
            charged = charged + beta * mem
            if dynamics.reset == "delayed_subtract":
                charged = charged - threshold * dynamics.spike(mem, threshold)
        spk = dynamics.spike(charged, threshold)
        mem = charged
        if dynamics.reset == "zero":
            mem = charged * (1 - spk)
        elif dynamics.reset == "subtract":
            mem = charged - threshold * spk
        steps.append(Step(charged, spk, mem))
    return steps


def scan_backward(
    currents: Sequence[Tensor],
    mem: Tensor | None,
    beta: Tensor,
    threshold: Tensor,
    dynamics: Dynamics,
    grad_spk: Sequence[Tensor],
    grad_mem: Tensor | None,
    learnt: bool,
) -> Gradients:
    """Gradient of `scan_forward`: one scan forward, which computes the membranes again, and one in reverse.

    Args:
        currents, mem, beta, threshold, dynamics: arguments of `scan_forward`.
        grad_spk: gradient of each step's spikes, `[...]`.
        grad_mem: gradient of the membrane after the last step, `[...]`; None is 0.
        learnt: whether the gradients of beta and threshold are wanted.
    """
    steps = scan_forward(currents, mem, beta, threshold, dynamics)
    before = [mem, *(step.mem for step in steps[:-1])]
    through_reset = not dynamics.detach_reset
    grad_currents: list[Tensor] = []
    grad_beta, grad_threshold = [], []  # their terms
    for current, mem, (charged, spk, _), grad in reversed(list(zip(currents, before, steps, grad_spk, strict=True))):
        grad_charged = grad_mem
        if grad_mem is not None and dynamics.reset == "zero":
            grad = grad - grad_mem * charged if through_reset else grad
            grad_charged = grad_mem * (1 - spk)
        if grad_mem is not None and dynamics.reset == "subtract":
            grad = grad - grad_mem * threshold if through_reset else grad
            grad_threshold += [-grad_mem * spk] if learnt else []
        through_spike = grad * dynamics.surrogate_derivative(charged, threshold)
        grad_charged = through_spike if grad_charged is None else grad_charged + through_spike
        grad_threshold += [-through_spike] if learnt else []

        grad_mem = beta * grad_charged
        if mem is not None and dynamics.reset == "delayed_subtract":
            grad_threshold += [-grad_charged * dynamics.spike(mem, threshold)] if learnt else []
            if through_reset:
                through_spike = grad_charged * threshold * dynamics.surrogate_derivative(mem, threshold)
                grad_mem = grad_mem - through_spike
                grad_threshold += [through_spike] if learnt else []
        if learnt and mem is not None:
            grad_beta += [grad_charged * mem]
        if learnt and dynamics.scale_input:
            grad_beta += [-grad_charged * current]
        grad_currents.append((1 - beta) * grad_charged if dynamics.scale_input else grad_charged)
    return Gradients(
        grad_currents[::-1],
        grad_mem,
        sum(grad_beta, torch.zeros_like(currents[0])) if learnt else None,
        sum(grad_threshold, torch.zeros_like(currents[0])) if learnt else None,
    )

"""Spiking neurons as functions of time: surrogate gradients, the leaky integrate-and-fire scan, and read-outs.

Spiking activity is `[T, B, ...]`; every call starts from rest unless a membrane is handed in. Nothing survives a call.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from spiking_vq.errors import InputError

RESETS = ("zero", "subtract", "delayed_subtract")


# ---------------------------------------------------------------------------------------------------------------------
# Surrogate gradients: a step function forward, these bell curves backward. `x` is membrane minus threshold.


def atan_derivative(x: Tensor, alpha: float) -> Tensor:
    """`alpha / 2 / (1 + (pi/2 * alpha * x)^2)`. Reference: Fang et al., arXiv:2007.05785."""
    return alpha / 2 / (1 + (math.pi / 2 * alpha * x).square())


def fast_sigmoid_derivative(x: Tensor, slope: float) -> Tensor:
    """`1 / (slope * |x| + 1)^2`. Reference: Zenke and Ganguli, arXiv:1705.11146."""
    return (slope * x.abs() + 1).square().reciprocal()


def triangle_derivative(x: Tensor, width: float) -> Tensor:
    """`max(0, 1 - |x| / width)`. Reference: Bellec et al., arXiv:1803.09574; width 0.5 in FSDDIM."""
    return (1 - x.abs() / width).clamp(min=0)


def rectangle_derivative(x: Tensor, width: float) -> Tensor:
    """`1 / width` where `|x| < width / 2`, else 0. Reference: Wu et al., arXiv:1706.02609."""
    return (x.abs() < width / 2).to(x.dtype) / width


SURROGATES = {
    "atan": (atan_derivative, 2.0),
    "fast_sigmoid": (fast_sigmoid_derivative, 25.0),
    "triangle": (triangle_derivative, 0.5),
    "rectangle": (rectangle_derivative, 1.0),
}
"""Name -> (derivative, the default of its one shape parameter: alpha, slope, width, width)."""


class _Spike(torch.autograd.Function):
    """Heaviside step forward, surrogate derivative backward."""

    @staticmethod
    def forward(x: Tensor, inclusive: bool, surrogate: str, scale: float) -> Tensor:
        return (x >= 0 if inclusive else x > 0).to(x.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        x, _, ctx.surrogate, ctx.scale = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        (x,) = ctx.saved_tensors
        derivative, _ = SURROGATES[ctx.surrogate]
        return grad * derivative(x, ctx.scale), None, None, None


# ---------------------------------------------------------------------------------------------------------------------
# The neuron


@dataclass(frozen=True)
class Dynamics:
    """What a leaky integrate-and-fire neuron does at one step, apart from the values of beta and threshold.

    `h[t] = beta * mem[t-1] + gain * x[t]`, `gain = 1 - beta` if `scale_input` else 1;
    `spk[t] = 1 if h[t] > threshold else 0` (`>=` if `fire_at_threshold`);
    `mem[t] = h[t] * (1 - spk[t])` for reset `zero`, `h[t] - threshold * spk[t]` for `subtract`.
    `delayed_subtract` is snnTorch's default: `mem[t] = h[t]`, and the threshold is taken off at the next step, after the
    decay.

    Attributes:
        reset: one of `zero`, `subtract`, `delayed_subtract`.
        detach_reset: stop the gradient through the spike inside the reset.
        scale_input: multiply the input by `1 - beta`, as a membrane with time constant `1 / (1 - beta)` does.
        fire_at_threshold: a membrane exactly at threshold fires.
        surrogate: one of `atan`, `fast_sigmoid`, `triangle`, `rectangle`.
        surrogate_scale: its alpha, slope, width or width; None takes the default of `SURROGATES`.
    """

    reset: str = "zero"
    detach_reset: bool = False
    scale_input: bool = False
    fire_at_threshold: bool = False
    surrogate: str = "atan"
    surrogate_scale: float | None = None

    def __post_init__(self) -> None:
        """Refuse names that do not exist and a surrogate without width."""
        if self.reset not in RESETS:
            raise InputError(f"reset must be one of {', '.join(RESETS)}; got {self.reset!r}")
        if self.surrogate not in SURROGATES:
            raise InputError(f"surrogate must be one of {', '.join(SURROGATES)}; got {self.surrogate!r}")
        if self.surrogate_scale is not None and not self.surrogate_scale > 0:
            raise InputError(f"surrogate_scale must be greater than 0; got {self.surrogate_scale}")

    @property
    def scale(self) -> float:
        """The surrogate's shape parameter in force."""
        return SURROGATES[self.surrogate][1] if self.surrogate_scale is None else self.surrogate_scale

    def fire(self, h: Tensor, threshold: Tensor | float) -> Tensor:
        """Spikes (0.0 or 1.0) of membranes `h`, with the surrogate gradient."""
        return _Spike.apply(h - threshold, self.fire_at_threshold, self.surrogate, self.scale)

    def step(self, x: Tensor, mem: Tensor, beta: Tensor | float, threshold: Tensor | float) -> tuple[Tensor, Tensor]:
        """One step of the recurrence above: (input, membrane) -> (spikes, membrane)."""
        h = beta * mem + ((1 - beta) * x if self.scale_input else x)
        if self.reset == "delayed_subtract":
            h = h - threshold * self._reset(self.fire(mem, threshold))
        spk = self.fire(h, threshold)
        if self.reset == "zero":
            mem = h * (1 - self._reset(spk))
        elif self.reset == "subtract":
            mem = h - threshold * self._reset(spk)
        else:
            mem = h
        return spk, mem

    def _reset(self, spk: Tensor) -> Tensor:
        return spk.detach() if self.detach_reset else spk


def lif_scan(
    x: Tensor,
    mem: Tensor | None = None,
    *,
    beta: Tensor | float,
    threshold: Tensor | float = 1.0,
    dynamics: Dynamics = Dynamics(),
) -> tuple[Tensor, Tensor]:
    """Run the neuron over all steps of `x`, from state to state.

    The membrane is kept in fp32 (or fp64) whatever the input's type: spikes are exact in bf16, membranes are not.

    Args:
        x: input current `[T, ...]`, any real value.
        mem: membrane before the first step, `[...]`; None is rest (0).
        beta: decay per step in [0, 1]; a number or a tensor that broadcasts against `[...]`.
        threshold: firing threshold, greater than 0; a number or a tensor that broadcasts against `[...]`.
        dynamics: reset, tie, scaling and surrogate.

    Returns:
        spk: spikes `[T, ...]` in {0, 1}, of x's type.
        mem: membrane after the last step `[...]`. A scan cut in two, the state handed on, equals the whole.
    """
    state_type = torch.promote_types(x.dtype, torch.float32)
    if mem is None:
        mem = torch.zeros_like(x[0], dtype=state_type)
    spikes = []
    for current in x.unbind(0):
        spk, mem = dynamics.step(current.to(state_type), mem, beta, threshold)
        spikes.append(spk.to(x.dtype))
    return torch.stack(spikes), mem


class LIF(nn.Module):
    """A layer of leaky integrate-and-fire neurons over all time steps; `beta = 1` is integrate-and-fire.

    Args:
        beta: membrane decay per step, in [0, 1]; a number, or a tensor that broadcasts against `[B, ...]`.
        threshold: firing threshold, greater than 0; likewise.
        learn_beta: make beta a parameter (used clamped to [0, 1]).
        learn_threshold: make threshold a parameter.
        reset, detach_reset, scale_input, fire_at_threshold, surrogate, surrogate_scale: see `Dynamics`.

    Raises:
        InputError: beta outside [0, 1], threshold not positive, or an unknown name.
    """

    def __init__(
        self,
        beta: float | Tensor = 0.5,
        threshold: float | Tensor = 1.0,
        *,
        learn_beta: bool = False,
        learn_threshold: bool = False,
        **dynamics: Any,
    ) -> None:
        super().__init__()
        self.dynamics = Dynamics(**dynamics)
        beta, threshold = (torch.as_tensor(value, dtype=torch.float32).clone() for value in (beta, threshold))
        if not ((beta >= 0) & (beta <= 1)).all():
            raise InputError(f"beta must lie in [0, 1]; got {beta.tolist()}")
        if not (threshold > 0).all():
            raise InputError(f"threshold must be greater than 0; got {threshold.tolist()}")
        _hold(self, "beta", beta, learn_beta)
        _hold(self, "threshold", threshold, learn_threshold)

    def forward(self, x: Tensor) -> Tensor:
        """Spikes `[T, B, ...]` in {0, 1} of the input current `[T, B, ...]`, starting from rest."""
        return self.scan(x)[0]

    def scan(self, x: Tensor, mem: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The state-in, state-out form: `(x [T, B, ...], mem [B, ...]) -> (spk [T, B, ...], mem [B, ...])`."""
        if x.dim() < 2:
            raise InputError(f"LIF expects input current [T, B, ...]; got shape {tuple(x.shape)}")
        return lif_scan(x, mem, beta=self.beta.clamp(0, 1), threshold=self.threshold, dynamics=self.dynamics)


def _hold(module: nn.Module, name: str, value: Tensor, learn: bool) -> None:
    """Keep a value in the module: as a parameter if learnt, else as a buffer."""
    if learn:
        module.register_parameter(name, nn.Parameter(value))
    else:
        module.register_buffer(name, value)


# ---------------------------------------------------------------------------------------------------------------------
# Read-outs: `[T, B, ...] -> [B, ...]`, and the filter inside them


def firing_rate(spk: Tensor) -> Tensor:
    """Mean over time, `[T, B, ...] -> [B, ...]`, in [0, 1] for spikes."""
    return spk.mean(0)


def decayed_sum(x: Tensor, decay: float = 0.8) -> Tensor:
    """Membrane read-out of a neuron that never fires: `sum_t decay^(T-1-t) x[t]`, `[T, B, ...] -> [B, ...]`."""
    num_steps = x.shape[0]
    weights = decay ** torch.arange(num_steps - 1, -1, -1, device=x.device, dtype=torch.float32)
    return torch.tensordot(weights.to(x.dtype), x, dims=1)


def psp_trace(x: Tensor, tau: float = 2.0) -> Tensor:
    """Postsynaptic potential `PSP[t] = (1 - 1/tau) PSP[t-1] + x[t] / tau`, `[T, B, ...] -> [T, B, ...]`.

    Reference: Liu et al., arXiv:2308.10187, the PSP of the loss.
    """
    psp, trace = torch.zeros_like(x[0]), []
    for current in x.unbind(0):
        psp = (1 - 1 / tau) * psp + current / tau
        trace.append(psp)
    return torch.stack(trace)


def neuron_factory(neuron: str, **lif: Any) -> Callable[[], nn.Module]:
    """What builds a network's neurons: `lif` gives `LIF(**lif)`, `relu` the non-spiking twin (to be used at T = 1).

    Raises:
        InputError: any other name.
    """
    if neuron == "lif":
        return lambda: LIF(**lif)
    if neuron == "relu":
        return nn.ReLU
    raise InputError(f"neuron must be lif or relu; got {neuron!r}")

"""Neurons and surrogate gradients, exchanged with snnTorch; the only module that imports it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import snntorch
import torch
from snntorch import surrogate as snn
from torch import Tensor, nn

from spiking_vq.errors import InputError
from spiking_vq.neurons.lif import LIF
from spiking_vq.neurons.surrogates import SURROGATES
from spiking_vq.runtime.precision import state_type


def from_snntorch(leaky: snntorch.Leaky) -> LIF:
    """Convert a neuron of snnTorch to a layer with the spikes and gradients of a loop over `leaky` that starts at rest.

    Beta and threshold (learnt where they were), surrogate and reset carry over. Resets correspond as follows:

    - `zero`, with or without `reset_delay`: `zero`, detached or not. The delay only shows in the membrane that snnTorch
      returns, which is the one before the reset.
    - `subtract` with `reset_delay` (snnTorch's default): `delayed_subtract`, detached.
    - `subtract` without `reset_delay`: none. There a membrane that is still above threshold after its reset is reset
      once more before it may fire, so it can stay there and be silent.

    Raises:
        InputError: not a plain `snntorch.Leaky`, or an option that has no equal here.
    """
    if type(leaky) is not snntorch.Leaky:
        raise InputError(f"from_snntorch expects a snntorch.Leaky; got {type(leaky).__name__}")
    graded = leaky.graded_spikes_factor
    unsupported = {
        "inhibition": leaky.inhibition,
        "state_quant": leaky.state_quant,
        "surrogate_disable": leaky.surrogate_disable,
        "graded_spikes_factor": isinstance(graded, nn.Parameter) or (graded != 1).any(),
    }
    for option, is_set in unsupported.items():
        if is_set:
            raise InputError(f"snntorch.Leaky's {option} has no equal in LIF: build the Leaky without it")
    resets = {("zero", True): "zero", ("zero", False): "zero", ("subtract", True): "delayed_subtract"}
    reset = resets.get((leaky.reset_mechanism, leaky.reset_delay))
    if reset is None:
        raise InputError(
            f"reset_mechanism={leaky.reset_mechanism!r} with reset_delay={leaky.reset_delay} has no equal in LIF:"
            " use 'zero', or 'subtract' with reset_delay=True"
        )
    surrogate, scale, unit = _surrogate_from_snntorch(leaky.spike_grad)
    beta = leaky.beta.clamp(0, 1)
    if unit != 1 and (1 - beta != unit).any():
        raise InputError(
            f"this Leaky's surrogate was made for input scaled by {unit} = 1 - beta, and its beta is now"
            f" {beta.tolist()}: no LIF equals it. Set beta back, or give it the atan surrogate."
        )
    return LIF(
        beta,
        leaky.threshold * unit,
        learn_beta=isinstance(leaky.beta, nn.Parameter),
        learn_threshold=isinstance(leaky.threshold, nn.Parameter),
        reset=reset,
        detach_reset=leaky.reset_delay,
        scale_input=unit != 1,
        surrogate=surrogate,
        surrogate_scale=scale,
    )


def to_snntorch(lif: LIF, *, init_hidden: bool = False) -> snntorch.Leaky:
    """Convert a layer to a neuron of snnTorch that gives equal spikes and input gradients when stepped from rest.

    snnTorch knows neither a scaled input nor a spike exactly at threshold, so they move into the threshold:
    `scale_input` divides it by `1 - beta` (the membrane then counts in units of `1 - beta`), `fire_at_threshold` takes
    the next smaller float. Equality is exact but for rounding, of which there is none with a hard reset and `1 - beta`
    a power of two. If training goes on, the threshold no longer follows a learnt beta.

    Args:
        lif: the layer; its values are copied.
        init_hidden: the Leaky keeps its membrane and returns spikes alone, as a layer of an `nn.Sequential` must. By
            default (False) call it as `spk, mem = leaky(x, mem)`, with zeros for the first mem: without one it
            continues from its last call.

    Raises:
        InputError: a reset that snnTorch does not have, scaled input with several betas, or scales of the steps.
    """
    dynamics, beta = lif.dynamics, lif.beta.detach().clamp(0, 1)
    if lif.scales is not None:
        raise InputError("snnTorch knows no scale of the current at each step: export a network without tsm")
    if dynamics.reset == "subtract" and (beta != 1).any():
        raise InputError(
            "snnTorch subtracts the threshold after the decay (reset='delayed_subtract'), which equals"
            f" reset='subtract' at beta = 1 only; got beta {beta.tolist()}. Train with one of the other resets."
        )
    if dynamics.reset != "zero" and not dynamics.detach_reset:
        raise InputError(
            f"snnTorch always detaches reset={dynamics.reset!r}. Build the LIF with detach_reset=True and load its"
            " weights: its spikes are the same, and it can be exported."
        )
    unit = 1.0
    threshold = lif.threshold.detach().to(state_type(lif.threshold), copy=True)
    if dynamics.scale_input:
        if beta.numel() > 1 or beta == 1:
            raise InputError(
                f"scale_input can be exported for a single beta below 1; got {beta.tolist()}. Move the factor"
                " 1 - beta into the layer before, and use scale_input=False."
            )
        unit = (1 - beta).item()
        threshold = threshold / unit
    if dynamics.fire_at_threshold:
        threshold = torch.nextafter(threshold, torch.full_like(threshold, -torch.inf))
    return snntorch.Leaky(
        beta,
        threshold,
        spike_grad=_surrogate_to_snntorch(dynamics.surrogate, dynamics.scale, unit),
        init_hidden=init_hidden,
        learn_beta=isinstance(lif.beta, nn.Parameter),
        learn_threshold=isinstance(lif.threshold, nn.Parameter),
        reset_mechanism="zero" if dynamics.reset == "zero" else "subtract",
        reset_delay=dynamics.detach_reset,
    )


# snnTorch's surrogates are closures over their one parameter. It has no equal of our triangle and rectangle (its own
# `triangular` is negative above the threshold), nor of a scaled fast sigmoid: these travel in its `custom_surrogate`.


def _custom(surrogate: str, scale: float, unit: float, x: Tensor, grad: Tensor, spk: Tensor) -> Tensor:
    return grad * unit * SURROGATES[surrogate][0](unit * x, scale)


def _surrogate_to_snntorch(surrogate: str, scale: float, unit: float) -> Callable[[Tensor], Tensor]:
    """The `spike_grad` of snnTorch with derivative `unit * g(unit * x)`, g that of the named surrogate.

    `unit` is how much membrane of ours makes one of snnTorch's.
    """
    if surrogate == "atan":
        return snn.atan(scale * unit)
    if surrogate == "fast_sigmoid" and unit == 1:
        return snn.fast_sigmoid(scale)
    return snn.custom_surrogate(partial(_custom, surrogate, scale, unit))


def _surrogate_from_snntorch(spike_grad: Callable[[Tensor], Tensor]) -> tuple[str, float, float]:
    """Surrogate, scale and unit from which `_surrogate_to_snntorch` makes the derivative of `spike_grad`.

    Raises:
        InputError: there are none.
    """
    code = getattr(spike_grad, "__code__", None)
    for surrogate, make in (("atan", snn.atan), ("fast_sigmoid", snn.fast_sigmoid)):
        if code is make().__code__:
            return surrogate, float(_enclosed(spike_grad)), 1.0
    if code is snn.custom_surrogate(None).__code__:
        function = _enclosed(spike_grad)
        if isinstance(function, partial) and function.func is _custom:
            return function.args
    name = getattr(spike_grad, "__qualname__", repr(spike_grad)).removesuffix(".<locals>.inner")
    raise InputError(
        "spike_grad must be snntorch.surrogate.atan(alpha), snntorch.surrogate.fast_sigmoid(slope) or one that"
        f" to_snntorch made; got {name}, which has no equal here. Build the Leaky with one of these."
    )


def _enclosed(function: Callable) -> Any:
    (cell,) = function.__closure__
    return cell.cell_contents

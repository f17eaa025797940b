"""Surrogate gradients and neurons, exchanged with snnTorch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from snntorch import surrogate as snn
from torch import Tensor

from spiking_vq.errors import InputError
from spiking_vq.neurons.surrogates import SURROGATES

# snnTorch's surrogates are closures over their one parameter. It has no equal of our triangle and rectangle (its own
# `triangular` is negative above the threshold), nor of a scaled fast sigmoid: these travel in its `custom_surrogate`.


def _custom(surrogate: str, scale: float, unit: float, x: Tensor, grad: Tensor, spk: Tensor) -> Tensor:
    return grad * unit * SURROGATES[surrogate][0](unit * x, scale)


def surrogate_to_snntorch(surrogate: str, scale: float, unit: float = 1.0) -> Callable[[Tensor], Tensor]:
    """The `spike_grad` of snnTorch with derivative `unit * g(unit * x)`, g that of the named surrogate.

    `unit` is how much membrane of ours makes one of snnTorch's.
    """
    if surrogate == "atan":
        return snn.atan(scale * unit)
    if surrogate == "fast_sigmoid" and unit == 1:
        return snn.fast_sigmoid(scale)
    return snn.custom_surrogate(partial(_custom, surrogate, scale, unit))


def surrogate_from_snntorch(spike_grad: Callable[[Tensor], Tensor]) -> tuple[str, float, float]:
    """Surrogate, scale and unit whose `surrogate_to_snntorch` has the derivative of snnTorch's `spike_grad`.

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
        f" LIF.to_snntorch made; got {name}, which has no equal here. Build the Leaky with one of these."
    )


def _enclosed(function: Callable) -> Any:
    (cell,) = function.__closure__
    return cell.cell_contents

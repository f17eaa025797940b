"""Surrogate gradients: a step function forward, a bell curve backward; and their exchange with `snntorch.surrogate`.

`x` is the membrane minus the threshold throughout.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

from snntorch import surrogate as snn
from torch import Tensor

from spiking_vq.errors import InputError


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


# ---------------------------------------------------------------------------------------------------------------------
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

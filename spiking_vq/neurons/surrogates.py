"""Surrogate gradients: the derivative that replaces that of the step function in the backward pass.

`x` is the membrane minus the threshold, any shape.
"""

from __future__ import annotations

import math

from torch import Tensor


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
"""Name -> (derivative, default of its one shape parameter: alpha, slope, width, width)."""

"""Rounding to integers times a power of two, and the integers again."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from spiking_vq.errors import InputError, require

LEAST_EXPONENT, MOST_EXPONENT = -8, 20
"""Exponents that are tried."""

CLIPPING = 3
"""Largest number of exponents beyond the one at which nothing is clipped."""


def largest(bits: int) -> int:
    """The largest integer of a symmetric range of so many bits: the smallest is its negative."""
    return 2 ** (bits - 1) - 1


def best_exponents(weight: Tensor, bits: int, dim: int | None = 0, most: int = MOST_EXPONENT) -> Tensor:
    """Exponents e of the grids `k 2^-e`, `|k| <= 2^(bits-1) - 1`, with the least squared error; clipping is allowed.

    Args:
        weight: real numbers.
        bits: of the integers k, at least 2.
        dim: dimension of the output channels, each with an exponent of its own; None for one of all the numbers.
        most: largest exponent; default `MOST_EXPONENT`.

    Returns:
        int64 [C], or [1] for `dim=None`.
    """
    rows = _rows(weight.detach().double(), dim)
    top = rows.abs().amax(1).clamp(min=2.0**-MOST_EXPONENT)
    whole = (largest(bits) / top).log2().floor().clamp(LEAST_EXPONENT, most).long()
    tried = torch.stack([(whole + more).clamp(max=most) for more in range(CLIPPING + 1)])
    errors = [(_rounded(rows, bits, exponents.unsqueeze(1)) - rows).square().sum(1) for exponents in tried]
    return tried.gather(0, torch.stack(errors).argmin(0, keepdim=True)).squeeze(0)


def to_grid(weight: Tensor, exponents: Tensor, dim: int | None = 0, bits: int | None = None) -> Tensor:
    """The nearest `k 2^-e` to each number, of the same type; half-way numbers go to the even k.

    Args:
        weight: real numbers.
        exponents: e, integers [C], or [1] for `dim=None`.
        dim: dimension of the output channels; None for one exponent of all the numbers.
        bits: of the integers k; None (default) takes as many as they need, as for biases.
    """
    return _rounded(weight.double(), bits, along(exponents, weight, dim)).to(weight.dtype)


def along(exponents: Tensor, weight: Tensor, dim: int | None) -> Tensor:
    """Exponents [C] in the shape that broadcasts along dimension `dim` of a weight."""
    return exponents.view([-1 if index == dim else 1 for index in range(weight.dim())] if dim is not None else [])


class Integers(NamedTuple):
    """A synapse as integers: `weight = k 2^-e`, `bias = b 2^-e`.

    Attributes:
        weight: k, int32 of the weight's shape.
        exponents: e, int32 [C], one for each output channel; [1] where all numbers share one.
        bias: b, int32 [C]; None without a bias.
    """

    weight: Tensor
    exponents: Tensor
    bias: Tensor | None = None


def integers_of(weight: Tensor, bias: Tensor | None = None, dim: int | None = 0) -> Integers:
    """The integers and exponents of a synapse of a quantised network, exactly.

    The exponent of a channel is the smallest at which its weights and its bias are integers; 0 where all are 0. It may
    be smaller than the one the channel was rounded with; then k takes fewer bits.

    Args:
        weight: of a convolution [C, ...], a transposed one [c, C, ...] (`dim=1`), a `ChannelwisePositionLinear`
            [C, N, N], an embedding [rows, C] (`dim=1`), position embeddings [C, h, w], or a codebook (`dim=None`).
        bias: [C]; None (default) without one.
        dim: dimension of the output channels; None for one exponent of all the numbers.

    Raises:
        InputError: a number is not an integer times a power of two of at least `2^-24`, as those of real networks.
    """
    rows = _rows(weight.detach().double(), dim)
    if bias is not None:
        rows = torch.cat([rows, bias.detach().double().view(len(rows), -1)], 1)
    exponents = torch.full((len(rows),), 25, dtype=torch.long, device=rows.device)
    for exponent in range(24, LEAST_EXPONENT - 1, -1):
        scaled = rows * 2.0**exponent
        exponents[(scaled == scaled.round()).all(1)] = exponent
    exponents[(rows == 0).all(1)] = 0
    most = int(exponents.max())
    if most > 24:
        raise InputError("weights must be integers times a power of two; got real numbers: quantise the model first")
    k = (weight.detach().double() * 2.0 ** along(exponents, weight, dim)).int()
    b = None if bias is None else (bias.detach().double() * 2.0**exponents).int()
    return Integers(k, exponents.int(), b)


def require_bits(bits: int) -> None:
    """Raise `InputError` unless weights may have so many bits."""
    require(2 <= bits <= 8, "bits", "in 2..8", bits)


def _rows(weight: Tensor, dim: int | None) -> Tensor:
    """`[C, numbers of the channel]`, or `[1, all numbers]`."""
    return weight.reshape(1, -1) if dim is None else weight.movedim(dim, 0).flatten(1)


def _rounded(weight: Tensor, bits: int | None, exponents: Tensor) -> Tensor:
    """`k 2^-e` of numbers in float64."""
    scale = 2.0**exponents
    k = (weight * scale).round()
    return (k if bits is None else k.clamp(-largest(bits), largest(bits))) / scale

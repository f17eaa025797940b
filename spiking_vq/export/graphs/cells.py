"""Maps of several resolutions on one grid of positions.

NIR has no up-sampling and no transposed convolution. A map `[C, f h, f w]` is kept as `[f^2 C, h, w]` instead: the
channels of a position hold its cell of f x f pixels. Neurons do not mind where they lie; and every convolution between
such maps, transposed, strided or behind an up-sampling, is one plain convolution of the cells.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from spiking_vq.errors import InputError

REACH = 1
"""Positions around its own that an output reads: 3x3 taps."""


def to_cells(maps: Tensor, side: int) -> Tensor:
    """`[..., C, f h, f w]` to `[..., f^2 C, h, w]`, f the `side`."""
    return F.pixel_unshuffle(maps, side)


def to_pixels(cells: Tensor, side: int) -> Tensor:
    """`[..., f^2 C, h, w]` to `[..., C, f h, f w]`, f the `side`."""
    return F.pixel_shuffle(cells, side)


@torch.no_grad()
def convolution_of_cells(layer: Callable[[Tensor], Tensor], channels: int, side: int) -> tuple[Tensor, int]:
    """The convolution of cells that equals a linear layer, with zeros around the map as the layer has.

    It is read off the layer's answers to single pixels.

    Args:
        layer: linear map without bias, of float64 maps `[B, C, f h, f w]` to `[B, C', f' h, f' w]`, the same at all
            positions.
        channels: C.
        side: f.

    Returns:
        The weight `[f'^2 C', f^2 C, 3, 3]`, float64, and f'.

    Raises:
        InputError: an output reads pixels beyond the positions next to its own.
    """
    count, width = side**2 * channels, 4 * REACH + 1
    impulses = torch.zeros(count, count, width, width, dtype=torch.float64)
    impulses[range(count), range(count), 2 * REACH, 2 * REACH] = 1
    answers = layer(to_pixels(impulses, side))
    out_side, rest = divmod(answers.shape[-1], width)
    if rest:
        raise InputError(
            "a layer that halves maps cannot follow single pixels in an export: keep cells of 2 x 2 pixels"
        )
    answers = to_cells(answers, out_side)
    near = answers[..., REACH:-REACH, REACH:-REACH]
    if near.count_nonzero() != answers.count_nonzero():
        raise InputError("a convolution of more than 3x3 positions cannot be exported")
    return near.transpose(0, 1).flip(2, 3).contiguous(), out_side

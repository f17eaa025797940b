"""The 3x3 convolution of all networks, and its faster forms for training on a CPU."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from spiking_vq.runtime.running import running
from spiking_vq.runtime.winograd import TAPS, WinogradConvolution, num_tiles

MIN_CHANNEL_PAIRS = {torch.bfloat16: 128 * 256}
FEW_CHANNEL_PAIRS = 64 * 64
"""Smallest product of input and output channels for which a faster form is one: by type, and of any other type. Cores
that multiply bf16 matrices do so much faster than they transform."""

MIN_TILES = 128
"""Smallest number of Winograd's tiles, in all images together, for which the filtering is faster. Measured in fp32 on
AVX2, both passes of 256 to 256 channels: 1.2 to 2.3 times as fast with 128 tiles and more, 0.9 times with 32."""


class Conv3x3(nn.Conv2d):
    """3x3 convolution with zeros around the image.

    In training with many channels, on a CPU inside `run_with(compile=True)`, it takes Winograd's filtering where the
    images have many tiles, and `MatrixGradient` where they have few. In evaluation it takes neither, as the outputs of
    a trained network must not depend on how it runs.

    Args:
        in_channels, out_channels: C and C'.
        bias: add one; default false.
    """

    def __init__(self, in_channels: int, out_channels: int, bias: bool = False) -> None:
        super().__init__(in_channels, out_channels, TAPS, padding=1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """`[N, C, H, W]` to `[N, C', H, W]`, channels-last."""
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        many_channels = self.in_channels * self.out_channels >= MIN_CHANNEL_PAIRS.get(dtype, FEW_CHANNEL_PAIRS)
        if not (self.training and running().compile and kind == "cpu" and many_channels):
            return super().forward(x)
        many_tiles = x.shape[0] * math.prod(num_tiles(x.shape[2:])) >= MIN_TILES
        form = WinogradConvolution if many_tiles else MatrixGradient
        with torch.autocast(kind, enabled=False):
            rows = x.to(dtype).permute(0, 2, 3, 1).contiguous()
            y = form.apply(rows, self.weight)
            return (y if self.bias is None else y + self.bias.to(dtype)).permute(0, 3, 1, 2)


class MatrixGradient(torch.autograd.Function):
    """`apply(x, weight)`: images [N, H, W, C] and weights [C', C, 3, 3] to [N, H, W, C'].

    The weights' gradient is one product of matrices, of the outputs' gradient and each output's nine inputs. Measured
    in fp32 on AVX2, on grids of 4x4 and 8x8: 1.3 to 2.6 times as fast as oneDNN's.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        """The convolution of `x`."""
        ctx.save_for_backward(x, weight)
        return F.conv2d(_images(x), weight.to(x.dtype), padding=1).permute(0, 2, 3, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Gradients of `x` and of the weights; None where it is not needed."""
        x, weight = ctx.saved_tensors
        grad_x = grad_weight = None
        with torch.autocast(grad.device.type, enabled=False):
            if ctx.needs_input_grad[0]:
                grad_x = _input_gradient(grad, x, weight.to(x.dtype))
            if ctx.needs_input_grad[1]:
                grad_weight = grad.flatten(0, 2).mT @ neighbourhoods(x)
                grad_weight = grad_weight.view(-1, TAPS, TAPS, x.shape[-1]).permute(0, 3, 1, 2).to(weight.dtype)
        return grad_x, grad_weight


def neighbourhoods(x: Tensor) -> Tensor:
    """The 3x3 neighbourhood of each position of images [N, H, W, C], with zeros around them: [N H W, 9 C]."""
    tiles = F.pad(x, (0, 0, 1, 1, 1, 1)).unfold(1, TAPS, 1).unfold(2, TAPS, 1)  # [N, H, W, C, 3, 3]
    return tiles.permute(0, 1, 2, 4, 5, 3).reshape(-1, TAPS * TAPS * x.shape[-1])


def _images(rows: Tensor) -> Tensor:
    return rows.permute(0, 3, 1, 2)


def _input_gradient(grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    sides: Sequence[Any] = ([1, 1], [1, 1], [1, 1], False, [0, 0], 1)  # stride, padding, dilation, not transposed
    of_x, _, _ = torch.ops.aten.convolution_backward(
        _images(grad), _images(x), weight, None, *sides, [True, False, False]
    )
    return of_x.permute(0, 2, 3, 1)

"""3x3 convolutions with fewer products, by Winograd's minimal filtering F(4x4, 3x3).

Four by four outputs are computed from six by six inputs: inputs and weights are transformed, multiplied element by
element (36 products instead of 144), and transformed back: `y = A^T [(G w G^T) * (B^T x B)] A`, where the product over
channels is a matrix product for each of the 36 elements. A grid of 7x7, padded to 8x8, takes a third of the products.
Each transform takes a pass over memory, and that of the weights is paid once for all tiles: see `conv3x3.py` for where
this pays.

The result is the same up to rounding. In bf16 that is several times the convolution's own, though transformed spikes
stay exact.

Reference: Lavin and Gray, arXiv:1509.09308.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from spiking_vq.runtime.compiling import kernel
from spiking_vq.runtime.running import running

OUT, TAPS = 4, 3
TILE = OUT + TAPS - 1

POINTS = (Fraction(0), Fraction(1), Fraction(-1), Fraction(2), Fraction(-2))  # and infinity

Matrix = list[list[float]]


def cook_toom(points: Sequence[Fraction], num_taps: int) -> tuple[Matrix, Matrix, Matrix]:
    """The transforms `A^T` [m, n], `G` [n, r] and `B^T` [n, n] of F(m, r), m = n - r + 1.

    m outputs of a filter with r taps are coefficients of a product of polynomials, which its values at n - 1 points and
    at infinity determine.

    Args:
        points: n - 1 distinct numbers.
        num_taps: r.
    """
    n = len(points) + 1
    num_outputs = n - num_taps + 1

    def product(roots: Sequence[Fraction]) -> list[Fraction]:
        """Coefficients of `prod (x - root)`, the constant first."""
        coefficients = [Fraction(1)]
        for root in roots:
            shifted, scaled = [Fraction(0), *coefficients], [*(root * c for c in coefficients), Fraction(0)]
            coefficients = [a - b for a, b in zip(shifted, scaled, strict=True)]
        return coefficients

    outputs = [[point**i for point in points] + [Fraction(i == num_outputs - 1)] for i in range(num_outputs)]
    weights, inputs = [], []
    for point in points:
        others = [other for other in points if other != point]
        scale = Fraction(1)
        for other in others:
            scale *= point - other
        weights.append([point**i / scale for i in range(num_taps)])
        inputs.append([*product(others), Fraction(0)])
    weights.append([Fraction(i == num_taps - 1) for i in range(num_taps)])
    inputs.append(product(points))
    return tuple([[float(value) for value in row] for row in matrix] for matrix in (outputs, weights, inputs))


OUTPUTS, WEIGHTS, INPUTS = cook_toom(POINTS, TAPS)
GRADIENTS = [list(column) for column in zip(*OUTPUTS, strict=True)]


# Kernels: `[N, ...]` are images, P = N * tiles


def both_sides(matrix: Matrix, tile: list[list[Tensor]]) -> Tensor:
    """`matrix tile matrix^T` of a tile whose entries are tensors [...]; entries row by row, `[n * n, ...]`."""
    rows = [[_combination(row, column) for column in zip(*tile, strict=True)] for row in matrix]
    dtype = tile[0][0].dtype
    return torch.stack([_combination(other, row).to(dtype) for row in rows for other in matrix])


def _combination(factors: Sequence[float], terms: Sequence[Tensor]) -> Tensor:
    parts = []
    for factor, term in zip(factors, terms, strict=True):
        term = term.to(torch.promote_types(term.dtype, torch.float32))
        if factor:
            parts.append(term if factor == 1 else -term if factor == -1 else factor * term)
    return sum(parts[1:], parts[0])


def input_kernel(padded: Tensor) -> Tensor:
    """Overlapping tiles of `padded` [N, 4 a + 2, 4 b + 2, C], transformed: [36, P, C]."""
    tiles = padded.unfold(1, TILE, OUT).unfold(2, TILE, OUT)
    return both_sides(INPUTS, [[tiles[..., i, j] for j in range(TILE)] for i in range(TILE)]).flatten(1, 3)


def output_kernel(*products: Tensor) -> Tensor:
    """36 products [P, C], transformed back to the outputs of each tile: [16, P, C]."""
    return both_sides(OUTPUTS, [list(products[TILE * i : TILE * (i + 1)]) for i in range(TILE)])


def gradient_kernel(padded: Tensor) -> Tensor:
    """Tiles of the outputs' gradient, `padded` [N, 4 a, 4 b, C], transformed to the products' gradient: [36, P, C]."""
    tiles = padded.unfold(1, OUT, OUT).unfold(2, OUT, OUT)
    return both_sides(GRADIENTS, [[tiles[..., i, j] for j in range(OUT)] for i in range(OUT)]).flatten(1, 3)


# The convolution and its gradient, of channels-last images [N, H, W, C] and weights [C', C, 3, 3]


def convolve(x: Tensor, weight: Tensor, compile: bool) -> tuple[Tensor, Tensor]:
    """Convolution `[N, H, W, C']` of `x` with zeros around it; and the transformed x, [36, P, C]."""
    size = x.shape[1:3]
    inputs = kernel(input_kernel, None, compile)(_padded(x, border=1))
    tiles = kernel(output_kernel, None, compile)(*_products(inputs, weight))
    rows, columns = num_tiles(size)
    tiles = tiles.view(OUT, OUT, len(x), rows, columns, -1)
    y = x.new_empty(len(x), *size, weight.shape[0])
    for i in range(OUT):
        for j in range(OUT):
            pixels = y[:, i::OUT, j::OUT]
            pixels.copy_(tiles[i, j, :, : pixels.shape[1], : pixels.shape[2]])
    return y, inputs


def weight_gradient(inputs: Tensor, grad: Tensor, compile: bool) -> Tensor:
    """Gradient `[C', C, 3, 3]`, fp32 at least, from transformed inputs [36, P, C] and the outputs' [N, H, W, C']."""
    products = kernel(gradient_kernel, None, compile)(_padded(grad, border=0))
    transformed = torch.bmm(inputs.mT, products)  # [36, C, C']
    transformed = transformed.to(torch.promote_types(grad.dtype, torch.float32))
    taps = _weight_matrix(transformed).T @ transformed.flatten(1)
    return taps.view(TAPS, TAPS, inputs.shape[-1], grad.shape[-1]).permute(3, 2, 0, 1)


def num_tiles(size: Sequence[int]) -> tuple[int, int]:
    """Rows and columns of tiles that cover an image of a size (H, W)."""
    return -(-size[0] // OUT), -(-size[1] // OUT)


def _padded(x: Tensor, border: int) -> Tensor:
    """`x` [N, H, W, C] with `border` zeros before, and zeros after up to whole tiles and a border."""
    height, width = x.shape[1:3]
    rows, columns = num_tiles((height, width))
    padded = x.new_empty(len(x), OUT * rows + 2 * border, OUT * columns + 2 * border, x.shape[-1])
    padded[:, :border] = padded[:, border + height :] = 0
    padded[:, :, :border] = padded[:, :, border + width :] = 0
    padded[:, border : border + height, border : border + width] = x
    return padded


def _products(inputs: Tensor, weight: Tensor) -> Sequence[Tensor]:
    """Matrix products of transformed inputs [36, P, C] with the transformed weights [C', C, 3, 3]: 36 of [P, C']."""
    if inputs.dtype == torch.float32:  # as 1x1 convolutions: oneDNN is faster at these than MKL at products
        images = inputs.unsqueeze(1).unsqueeze(3).permute(0, 1, 4, 2, 3)  # 36 of [1, C, P, 1], channels-last
        filters = _transformed(weight.permute(2, 3, 0, 1))[..., None, None]
        return [F.conv2d(x, w)[0, :, :, 0].mT for x, w in zip(images, filters, strict=True)]
    return torch.bmm(inputs, _transformed(weight.permute(2, 3, 1, 0)).to(inputs.dtype)).unbind(0)


def _weight_matrix(like: Tensor) -> Tensor:
    """`G` on both sides of a filter, as a matrix [36, 9]."""
    matrix = torch.tensor(WEIGHTS, dtype=like.dtype, device=like.device)
    return torch.kron(matrix, matrix)


def _transformed(taps: Tensor) -> Tensor:
    """`G w G^T` of weights [3, 3, ...], the filter's dimensions first: [36, ...]."""
    return (_weight_matrix(taps) @ taps.reshape(TAPS * TAPS, -1)).view(TILE * TILE, *taps.shape[2:])


class WinogradConvolution(torch.autograd.Function):
    """`apply(x, weight)`: images [N, H, W, C] and weights [C', C, 3, 3] to [N, H, W, C']."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        """The convolution of `x`."""
        ctx.compile = running().compile
        y, inputs = convolve(x, weight, ctx.compile)
        ctx.save_for_backward(inputs, weight)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Gradients of `x` and of the weights; None where it is not needed."""
        inputs, weight = ctx.saved_tensors
        grad = grad.contiguous()
        grad_x = grad_weight = None
        with torch.autocast(grad.device.type, enabled=False):
            if ctx.needs_input_grad[0]:  # a convolution too, with the flipped weights
                grad_x, _ = convolve(grad, weight.flip(2, 3).transpose(0, 1), ctx.compile)
            if ctx.needs_input_grad[1]:
                grad_weight = weight_gradient(inputs, grad, ctx.compile).to(weight.dtype)
        return grad_x, grad_weight

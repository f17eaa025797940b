"""Rounding with feedback: the error of each weight is made up for by the weights of the same neuron that come after it.

Plain rounding takes the integer nearest to each weight. What counts is the neuron's current, though, a sum over inputs
that often spike together. With the inputs' second moments H, each weight is rounded in turn, and its error is spread
over the weights that are still real, so that `(w - q)^T H (w - q)` grows least. The mean of the error that remains goes
into the bias.

Reference: Frantar et al., arXiv:2210.17323 (GPTQ), after Hassibi and Stork, 1993 (optimal brain surgeon).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spiking_vq.layers.mixing import ChannelwisePositionLinear
from spiking_vq.quantisation.grid import largest
from spiking_vq.runtime.running import run_with

DAMPING = 0.01
"""Added to the diagonal of H, in units of its mean: inputs that were never seen must not get large weights."""

IMAGES = 16
"""Images, times steps, whose inputs are in memory at once."""


class Moments(NamedTuple):
    """Inputs of a synapse over all its positions, steps and images; n inputs of a neuron.

    G is the number of groups of neurons with inputs of their own: the channels of a `ChannelwisePositionLinear`, or 1.

    Attributes:
        second: sums of products, float64 [G, n, n].
        first: sums, float64 [G, n].
        count: number of samples.
    """

    second: Tensor
    first: Tensor
    count: int


@torch.no_grad()
def input_moments(model: nn.Module, run: Callable[[nn.Module], None]) -> dict[str, Moments]:
    """Measure the inputs of every synapse of a folded network while `run` calls it.

    Returns:
        Name of the weight in the state dict -> its inputs' moments.
    """
    moments: dict[str, Moments] = {}

    def add(name: str, layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        (x,) = inputs
        for part in (x.flatten(0, 1) if x.dim() == 5 else x).split(IMAGES):
            inputs = _inputs(layer, part)
            new = Moments((inputs @ inputs.mT).double(), inputs.sum(2).double(), inputs.shape[2])
            old = moments.get(name)
            moments[name] = new if old is None else Moments(*(a + b for a, b in zip(old, new, strict=True)))

    hooks = [
        module.register_forward_hook(partial(add, f"{name}.weight"))
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | ChannelwisePositionLinear)
    ]
    with run_with(unfolded=True):  # read-outs see spikes, too
        run(model)
    for hook in hooks:
        hook.remove()
    return moments


def round_with_feedback(layer: nn.Module, exponents: Tensor, bits: int, moments: Moments) -> tuple[Tensor, Tensor]:
    """Round the weights of a synapse.

    Args:
        layer: with the real weights; they stay.
        exponents: of its output channels [C].
        bits: of the integers.
        moments: of its inputs.

    Returns:
        The rounded weights, and the mean of the current that they lack [C].
    """
    weight = _rows(layer, layer.weight.detach().double())  # [G, neurons, n]
    scale = 2.0 ** exponents.double()
    scale = scale.view(-1, 1) if len(weight) > 1 else scale.view(1, -1)
    second = moments.second / moments.count
    damping = DAMPING * second.diagonal(dim1=1, dim2=2).mean(1).clamp(min=1e-9)
    second = second + torch.diag_embed(damping.unsqueeze(1).expand(-1, second.shape[1]))
    order = second.diagonal(dim1=1, dim2=2).mean(0).argsort(descending=True)  # those that spike most come first
    factor = torch.linalg.cholesky(torch.linalg.inv(second[:, order][:, :, order]), upper=True)
    rest, rounded = weight[:, :, order], torch.empty_like(weight)
    for index, column in enumerate(order):
        k = (rest[:, :, index] * scale).round().clamp(-largest(bits), largest(bits))
        rounded[:, :, column] = k / scale
        error = (rest[:, :, index] - rounded[:, :, column]) / factor[:, index, index].unsqueeze(1)
        rest[:, :, index + 1 :] -= error.unsqueeze(2) * factor[:, None, index, index + 1 :]
    lacking = ((weight - rounded) @ (moments.first / moments.count).unsqueeze(2)).squeeze(2)
    return _weight(layer, rounded).to(layer.weight.dtype), lacking.mean(1) if len(weight) > 1 else lacking[0]


def _inputs(layer: nn.Module, x: Tensor) -> Tensor:
    """The inputs of the neurons [G, n, samples] that a synapse's input `[B, C, h, w]` gives."""
    if isinstance(layer, ChannelwisePositionLinear):
        return x.flatten(2).permute(1, 2, 0)
    if not isinstance(layer, nn.ConvTranspose2d):
        columns = F.unfold(x, layer.kernel_size, padding=layer.padding, stride=layer.stride)
    else:  # a convolution of the image with zeros between its pixels
        (size, _), (pad, _), (more, _), (step, _) = (
            layer.kernel_size,
            layer.padding,
            layer.output_padding,
            layer.stride,
        )
        height, width = x.shape[2:]
        apart = x.new_zeros(*x.shape[:2], step * (height - 1) + 1, step * (width - 1) + 1)
        apart[:, :, ::step, ::step] = x
        border = size - 1 - pad
        columns = F.unfold(F.pad(apart, (border, border + more, border, border + more)), size)
    return columns.transpose(0, 1).flatten(1).unsqueeze(0)


def _rows(layer: nn.Module, weight: Tensor) -> Tensor:
    """Weights as `[G, neurons, n]`, the inputs as `_inputs` orders them."""
    if isinstance(layer, ChannelwisePositionLinear):
        return weight
    if isinstance(layer, nn.ConvTranspose2d):
        weight = weight.flip(2, 3).transpose(0, 1)
    return weight.flatten(1).unsqueeze(0)


def _weight(layer: nn.Module, rows: Tensor) -> Tensor:
    """The inverse of `_rows`."""
    if isinstance(layer, ChannelwisePositionLinear):
        return rows
    if isinstance(layer, nn.ConvTranspose2d):
        inputs, outputs, *size = layer.weight.shape
        return rows.view(outputs, inputs, *size).transpose(0, 1).flip(2, 3).contiguous()
    return rows.view(layer.weight.shape)

"""Bounds of the accumulators of a quantised network: how many bits its integers take at most."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from spiking_vq.layers.mixing import ChannelwisePositionLinear, GridMixer
from spiking_vq.layers.synapses import SpikingResidual
from spiking_vq.models.quantizers.vector import Quantizer
from spiking_vq.models.spike_generators import AdaptiveSpikeGenerator
from spiking_vq.models.token_denoiser import TokenDenoiser
from spiking_vq.models.vq_svae import VQSVAE
from spiking_vq.neurons.lif import LIF
from spiking_vq.quantisation.grid import along, integers_of
from spiking_vq.quantisation.parts import THRESHOLD_EXPONENT, synapse_of

EXACT_BITS = 24
"""Integers of so many bits, beside the sign, are exact in float32."""


class Current(NamedTuple):
    """Bounds of the input current of a layer's neurons, channel by channel, and its grid: multiples of `2^-exponents`.

    Attributes:
        low, high: least and largest value, float64 [C].
        exponents: int [C].
    """

    low: Tensor
    high: Tensor
    exponents: Tensor

    def __add__(self, other: Current) -> Current:
        """The sum of both."""
        exponents = torch.maximum(self.exponents, other.exponents)
        return Current(self.low + other.low, self.high + other.high, exponents)

    def bits(self, finer: int = 0) -> int:
        """Bits of the largest integer of all channels, on a grid finer by so many bits."""
        largest = torch.maximum(self.high, -self.low) * 2.0 ** (self.exponents + finer)
        return math.ceil(math.log2(max(largest.max().item(), 1)))


def accumulator_bits(network: VQSVAE | TokenDenoiser) -> dict[str, int]:
    """Bits, beside the sign, of the largest integer that each membrane and read-out can hold, whatever the spikes.

    A membrane that decays by `2^-n` a step has `n (T - 1)` fractional bits more than its current. Neurons that real
    pixels drive are left out.

    Args:
        network: quantised.

    Returns:
        Name of the neuron layer, or of the read-out's synapse -> bits.
    """
    names, bits = {module: name for name, module in network.named_modules()}, {}

    def note(neuron: LIF, current: Current | None) -> None:
        if current is not None:
            bits[names[neuron]] = _membrane_bits(neuron, current, network.T)

    if isinstance(network, TokenDenoiser):
        note(network.last_neuron, _follow(network.blocks, _embedded(network), note))
        synapse, averaged = network.readout, math.ceil(math.log2(network.T))
    else:
        _follow(network.encoder, None, note)
        generator = network.spike_generator
        if isinstance(generator, AdaptiveSpikeGenerator):
            note(generator.neuron, _generated(generator, network.quantizer))
        note(network.readout.neuron, _follow(network.decoder, None, note))
        synapse, averaged = network.readout.synapse, 0
    bits[names[synapse]] = _current_of(synapse, synapse.bias).bits(averaged)
    return bits


def _follow(
    layers: Iterable[nn.Module], current: Current | None, note: Callable[[LIF, Current | None], None]
) -> Current | None:
    """The current behind layers in a row; `note` is called with each neuron layer and its current. None: real numbers,
    or spikes."""
    for layer in layers:
        if isinstance(layer, LIF):
            note(layer, current)
            current = None
        elif isinstance(layer, SpikingResidual):
            branch = _follow(layer.branch, current, note)
            current = None if current is None else current + branch
        elif isinstance(layer, GridMixer):
            current = _current_of(layer.linear, layer.norm.bias)
        else:
            current = _current_of(synapse_of(layer), layer[1].bias)
    return current


def _membrane_bits(neuron: LIF, current: Current, num_steps: int) -> int:
    """Bits of a membrane after T steps, and of its threshold."""
    decay, threshold = float(neuron.beta), float(neuron.threshold)
    steps = sum(decay**step for step in range(num_steps))
    fine = -int(math.log2(decay)) * (num_steps - 1) if decay else 0
    on_grid = 0 if threshold == int(threshold) else THRESHOLD_EXPONENT
    grown = Current(steps * (current.low - threshold), steps * current.high, current.exponents.clamp(min=on_grid))
    return max(grown.bits(fine), grown._replace(high=grown.high.clamp(min=threshold)).bits(fine))


def _current_of(layer: nn.Module, bias: Tensor, sizes: Tensor | None = None, exponent: int = 0) -> Current:
    """The current of a synapse with any spikes as input; or with numbers of at most these sizes [c], on a grid."""
    dim = 1 if isinstance(layer, nn.ConvTranspose2d) else 0
    weight = layer.weight.detach().double().movedim(dim, 0)
    exponents = integers_of(layer.weight, bias, dim).exponents + exponent
    if sizes is not None:
        weight = weight * along(sizes, weight, 1)
        weight = torch.cat([weight, -weight], 1)
    if isinstance(layer, ChannelwisePositionLinear):  # each row is a neuron's
        low, high = weight.clamp(max=0).sum(2).amin(1), weight.clamp(min=0).sum(2).amax(1)
    else:
        low, high = weight.clamp(max=0).flatten(1).sum(1), weight.clamp(min=0).flatten(1).sum(1)
    return Current(low + bias.detach().double(), high + bias.detach().double(), exponents)


def _generated(generator: AdaptiveSpikeGenerator, quantizer: Quantizer) -> Current:
    """The current of the spike generator's neurons, a synapse of code vectors."""
    books = [book.detach().double() for book in quantizer.codebooks]
    sizes = [book.abs().amax(0) for book in books]
    exponent = max(0, *(int(integers_of(book, dim=None).exponents) for book in books))
    layer, norm = generator.current
    width = layer.in_channels
    together = sizes[0] if len(sizes) == 1 else torch.cat(sizes) if len(torch.cat(sizes)) == width else sum(sizes)
    return _current_of(layer, norm.bias, together, exponent)


def _embedded(network: TokenDenoiser) -> Current:
    """The current of the embeddings: of a row for each code, of the position, and of a label's rows."""

    def rows(weight: Tensor, dim: int, number: int) -> Current:
        values = weight.detach().double().movedim(dim, 0).flatten(1)
        exponents = integers_of(weight, dim=dim).exponents
        return Current(number * values.amin(1), number * values.amax(1), exponents)

    current = rows(network.token_embedding.weight, 1, network.num_codes) + rows(network.position_embedding, 0, 1)
    if network.labels is not None:
        current = current + rows(network.labels.weight, 1, network.labels.halvings + 1)
    return current

"""A chip in integers: decoder and denoiser of a quantised model in int64 alone, one weight a connection.

Each output channel has an exponent; a current is added to another by shifting the coarser one. A membrane that halves a
step has T - 1 fractional bits more than its current, so that nothing is ever rounded.
"""

from copy import deepcopy
from typing import NamedTuple

import torch
from torch import nn

from spiking_vq.layers.mixing import GridMixer
from spiking_vq.layers.synapses import SpikingResidual
from spiking_vq.neurons.lif import LIF
from spiking_vq.quantisation.grid import integers_of


class Current(NamedTuple):
    """`value 2^-exponents`: int64 [T, B, C, h, w], or [1, B, C, h, w] if it is the same at every step; int64 [C]."""

    value: torch.Tensor
    exponents: torch.Tensor

    def shifted(self, exponents):
        """The value on a finer grid."""
        assert (exponents >= self.exponents).all()
        return self.value << (exponents - self.exponents).view(-1, 1, 1)

    def __add__(self, other):
        finest = torch.maximum(self.exponents, other.exponents)
        return Current(self.shifted(finest) + other.shifted(finest), finest)

    def number(self):
        """The real number, float64."""
        return self.value.double() * 2.0 ** -self.exponents.view(-1, 1, 1).double()


class Chip:
    """Runs the layers of a network, and keeps the spikes of each of its neuron layers by name."""

    def __init__(self, network):
        self.network, self.num_steps, self.spikes = network, network.T, {}
        self.names = {module: name for name, module in network.named_modules()}

    def decode(self, tokens):
        """The read-out's input current of each step, [T, B, C, H, W], for tokens [B, 1, h, w]."""
        network = self.network
        vectors, shared, _ = integers_of(network.quantizer.codebook, dim=None)
        codes = vectors.long()[tokens[:, 0]].movedim(-1, 1).unsqueeze(0)
        codes, shared = codes << (-shared).clamp(min=0).long(), shared.clamp(min=0).long()
        current = synapse(network.spike_generator.current, codes, shared)
        spk = self.fire(network.spike_generator.neuron, current)
        last = self.fire(network.readout.neuron, self.run(network.decoder, spk))
        return layer(network.readout.synapse, last, network.readout.synapse.bias)

    def logits(self, tokens, labels=None):
        """Logits [B, K, h, w] of tokens [B, 1, h, w], float64."""
        network = self.network
        current = rows(network.token_embedding.weight, tokens[:, 0]) + Current(
            *(value.long() for value in integers_of(network.position_embedding)[:2])
        )
        if network.labels is not None:
            current = current + label_rows(network.labels, labels)
        last = self.fire(network.last_neuron, self.run(network.blocks, current))
        read = layer(network.readout, last, network.readout.bias)
        return read.number().sum(0) / self.num_steps

    def run(self, layers, x):
        """Spikes or a current through layers in a row."""
        for module in layers:
            if isinstance(module, LIF):
                x = self.fire(module, x)
            elif isinstance(module, SpikingResidual):
                x = x + self.run(module.branch, x)
            elif isinstance(module, GridMixer):
                x = mixer(module, x)
            else:
                x = synapse(module, x)
        return x

    def fire(self, neuron, current):
        """Spikes int64 [T, B, C, h, w]; the membrane is an integer, and decays without loss."""
        beta, dynamics = float(neuron.beta), neuron.dynamics
        halvings = {1.0: 0, 0.5: 1}[beta]
        whole, on_grid, _ = integers_of(neuron.threshold, dim=None)
        finer = current.exponents.clamp(min=int(on_grid)) + halvings * (self.num_steps - 1)
        threshold = (whole.long() << (finer - on_grid)).view(-1, 1, 1)
        inputs = current.shifted(finer)
        membrane, spikes = torch.zeros_like(inputs[0]), []
        for step in range(self.num_steps):
            assert (membrane & (2**halvings - 1) == 0).all()
            charged = (membrane >> halvings) + inputs[step if len(inputs) > 1 else 0]
            assert charged.abs().max() < 2**31
            spk = (charged >= threshold if dynamics.fire_at_threshold else charged > threshold).long()
            membrane = charged * (1 - spk) if dynamics.reset == "zero" else charged - threshold * spk
            spikes.append(spk)
        self.spikes[self.names[neuron]] = torch.stack(spikes)
        return self.spikes[self.names[neuron]]


def rows(weight, indices):
    """Rows of an embedding [rows, C] by indices [B, h, w], as a current."""
    k, exponents, _ = integers_of(weight, dim=1)
    return Current(k.long()[indices].movedim(-1, 1).unsqueeze(0), exponents.long())


def label_rows(embedding, labels):
    """The sum of the rows of labels int64 [B], as a current [1, B, C, 1, 1]."""
    k, exponents, _ = integers_of(embedding.weight, dim=1)
    integers = deepcopy(embedding).double()
    integers.weight.data = k.double()
    summed = integers(labels, len(labels)).long()
    return Current(summed[None, :, :, None, None], exponents.long())


def synapse(normed, x, shared=0):
    """A synapse and the bias of its folded norm; the input is an integer times `2^-shared`."""
    return layer(normed[0], x, normed[1].bias, shared)


def mixer(module, x):
    """Every position of a channel reads every other through a weight of its own."""
    k, exponents, bias = integers_of(module.linear.weight, module.norm.bias)
    flat = x.flatten(3).unsqueeze(3)  # [T, B, C, 1, N]
    return Current(((flat * k.long()).sum(-1)).view_as(x) + bias.long().view(-1, 1, 1), exponents.long())


def layer(module, x, bias, shared=0):
    """A convolution or a transposed one, tap by tap; `x` int64 [T, B, c, h, w]."""
    transposed = isinstance(module, nn.ConvTranspose2d)
    k, exponents, bias = integers_of(module.weight, bias, int(transposed))
    k, steps, (height, width) = k.long(), x.shape[:2], x.shape[3:]
    x = x.flatten(0, 1)
    (size, _), (stride, _), (pad, _) = module.kernel_size, module.stride, module.padding
    if transposed:
        more = module.output_padding[0]
        whole = [stride * (length - 1) + size + more for length in (height, width)]
        y = x.new_zeros(len(x), k.shape[1], *whole)
        for i in range(size):
            for j in range(size):
                y[:, :, i::stride, j::stride][:, :, :height, :width] += torch.einsum("co,bchw->bohw", k[:, :, i, j], x)
        y = y[:, :, pad : whole[0] - pad, pad : whole[1] - pad]
    else:
        x = nn.functional.pad(x, (pad, pad, pad, pad))
        taps = [
            torch.einsum("oc,bchw->bohw", k[:, :, i, j], x[:, :, i : i + height, j : j + width])
            for i in range(size)
            for j in range(size)
        ]
        y = sum(taps)
        assert stride == 1
    y = y.unflatten(0, steps) + (bias.long() << shared).view(-1, 1, 1)
    return Current(y, exponents.long() + shared)

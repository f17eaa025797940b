"""Spike generators: code vectors [B, D, h, w] to spike trains `[T, B, D, h, w]`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spiking_vq.layers.synapses import NeuronFactory, conv_norm, direct_coding
from spiking_vq.neurons.fused import LazyCurrent, as_current
from spiking_vq.randomness import uniform_noise
from spiking_vq.runtime.distributed import num_ranks, own_rows

ROUNDING = 1e-5
"""Largest relative error of a sum of T rates."""


class AdaptiveSpikeGenerator(nn.Module):
    """Learnt spikes: 1x1 convolution and batch norm of the constant code vector drive a neuron for T steps.

    Reference: Liu et al., arXiv:2308.10187, adaptive spike generator.
    """

    def __init__(self, embedding_dim: int, neuron: NeuronFactory) -> None:
        super().__init__()
        self.current = conv_norm(embedding_dim, embedding_dim, kernel_size=1)
        self.neuron = neuron()

    def forward(self, vectors: Tensor, num_steps: int, generator: torch.Generator | None = None) -> Tensor:
        """Spikes `[T, B, D, h, w]` of `vectors` [B, D, h, w]; `generator` is not used."""
        return self.neuron(direct_coding(self.input_current(vectors), num_steps))

    def input_current(self, vectors: Tensor) -> LazyCurrent:
        """The neurons' current `[1, B, D, h, w]`, the same at every step."""
        return self.current(vectors.unsqueeze(0))


class DirectSpikeGenerator(nn.Module):
    """The code vector itself drives a neuron for T steps, so that no synapse sees real numbers.

    An integrate-and-fire neuron with soft reset turns a firing rate of k / T into k spikes, evenly spread. The gradient
    goes straight through to the vector.
    """

    def __init__(self, embedding_dim: int, neuron: NeuronFactory) -> None:
        super().__init__()
        self.neuron = neuron()

    def forward(self, vectors: Tensor, num_steps: int, generator: torch.Generator | None = None) -> Tensor:
        """Spikes `[T, B, D, h, w]` of `vectors` [B, D, h, w]; `generator` is not used."""
        with torch.no_grad():  # a hair above, so that k times 1 / T reaches the threshold whatever the rounding
            spk = self.neuron(direct_coding(self.input_current(vectors), num_steps))
        return spk + (vectors - vectors.detach())  # the sum is exact: a synapse sees 0 and 1

    def input_current(self, vectors: Tensor) -> LazyCurrent:
        """The neurons' current `[1, B, D, h, w]`, the same at every step."""
        return as_current((1 + ROUNDING) * vectors.unsqueeze(0))


class PoissonSpikeGenerator(nn.Module):
    """Random spikes: at each step with the vector's entry, clamped to [0, 1], as probability.

    The gradient goes straight through to the probability.
    """

    def __init__(self, embedding_dim: int, neuron: NeuronFactory) -> None:
        super().__init__()

    def forward(self, vectors: Tensor, num_steps: int, generator: torch.Generator | None = None) -> Tensor:
        """Spikes `[T, B, D, h, w]` of `vectors` [B, D, h, w], drawn from `generator` on the CPU."""
        rate = vectors.clamp(0, 1).expand(num_steps, *vectors.shape)
        if self.training:  # all ranks draw for the whole batch, from generators in the same state
            batch = uniform_noise((len(vectors) * num_ranks(), num_steps, *vectors.shape[1:]), generator)
            uniform = own_rows(batch).transpose(0, 1)
        else:
            uniform = uniform_noise(rate.shape, generator)
        spk = (uniform.to(rate.device, non_blocking=True) < rate).to(rate.dtype)
        return rate + (spk - rate).detach()


class RepeatGenerator(nn.Module):
    """Ablation: the real-valued vector itself at every step, so that the decoder's first synapse is fed no spikes."""

    def __init__(self, embedding_dim: int, neuron: NeuronFactory) -> None:
        super().__init__()

    def forward(self, vectors: Tensor, num_steps: int, generator: torch.Generator | None = None) -> Tensor:
        """`vectors` [B, D, h, w] as `[T, B, D, h, w]`; `generator` is not used."""
        return vectors.expand(num_steps, *vectors.shape)


SPIKE_GENERATORS = {
    "adaptive": AdaptiveSpikeGenerator,
    "direct": DirectSpikeGenerator,
    "poisson": PoissonSpikeGenerator,
    "repeat": RepeatGenerator,
}

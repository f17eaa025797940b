"""Read-outs through a last synapse, whose weighted sum over time is a real-valued output."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from spiking_vq.layers.synapses import at_each_step
from spiking_vq.neurons.fused import LazyCurrent
from spiking_vq.neurons.readouts import decay_weights, weighted_sum
from spiking_vq.runtime.running import running


def read_out(
    synapse: nn.Module, weights: Sequence[float], *sources: Tensor | tuple[nn.Module, Tensor | LazyCurrent]
) -> Tensor:
    """`sum_t weights[t] synapse(spk[t])`, [B, C', H, W], fp32 at least outside autocast.

    The synapse is linear, so it is applied once to the weighted sum of its spikes, and its bias counts `sum(weights)`
    times. Inside `run_with(unfolded=True)` it is applied at every step.

    Args:
        synapse: linear layer of `[B, C, H, W]` with a bias [C'].
        weights: T numbers.
        sources: spikes `[T, B, c, H, W]`, together C channels; or pairs of a neuron layer and its input current, whose
            spikes then need not be stored.
    """
    if running().unfolded:
        spk = [source if isinstance(source, Tensor) else source[0](source[1]) for source in sources]
        return weighted_sum(at_each_step(synapse, torch.cat(spk, dim=2)), weights)
    sums = [
        weighted_sum(source, weights) if isinstance(source, Tensor) else source[0].integrate(source[1], weights)
        for source in sources
    ]
    read = synapse(torch.cat(sums, dim=1) if len(sums) > 1 else sums[0])
    more = sum(weights) - 1  # the synapse has added the bias once
    return read if abs(more) < 1e-6 else read + more * synapse.bias.view(-1, 1, 1)


class MembraneReadout(nn.Module):
    """Membrane potential of output neurons that never fire: `sum_t decay^(T-1-t) synapse(spk[t])`; see `read_out`.

    Args:
        neuron: last layer of neurons.
        synapse: linear layer of `[B, C, H, W]` with a bias [C'].
        decay: of the membrane, per step, in [0, 1]; default 0.8.
    """

    def __init__(self, neuron: nn.Module, synapse: nn.Module, decay: float = 0.8) -> None:
        super().__init__()
        self.neuron, self.synapse, self.decay = neuron, synapse, decay

    def forward(self, x: Tensor | LazyCurrent) -> Tensor:
        """Input currents `[T, B, C, H, W]` of the neurons to potentials [B, C', H, W], fp32 at least."""
        with torch.autocast(self.synapse.weight.device.type, enabled=False):
            return read_out(self.synapse, decay_weights(x.shape[0], self.decay), (self.neuron, x))

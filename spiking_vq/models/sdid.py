"""The published denoiser of stage 2, the spiking diffusion image decoder."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from spiking_vq.errors import require
from spiking_vq.layers.readout import read_out
from spiking_vq.layers.synapses import NeuronFactory, conv_norm, direct_coding
from spiking_vq.neurons.readouts import rate_weights
from spiking_vq.runtime.running import steps_of


class SDID(nn.Module):
    """The published spiking diffusion image decoder (3,101,504 parameters at K = 128).

    Two input planes, the token's index as a real number and the diffusion time, are presented unchanged at every step
    to five blocks of 3x3 convolution, batch norm and neuron (widths 1, 2, 4, 8 and 4 times `width`). The first block's
    spikes are concatenated to the last's; a 3x3 convolution gives logits, averaged over time. Only the first
    convolution's input is real-valued.

    Args:
        grid: (1, h, w): one code a position.
        codebook_size: K.
        T: number of spiking steps.
        neuron: builds the neuron layers.
        width: channels of the first block.

    Reference: Liu et al., arXiv:2308.10187, spiking diffusion image decoder.
    """

    def __init__(
        self, grid: tuple[int, int, int], codebook_size: int, T: int, neuron: NeuronFactory, width: int = 64
    ) -> None:
        super().__init__()
        require(grid[0] == 1, "model.num_codes of stage 1", "1 for the SDID", grid[0])
        require(width >= 1, "width", "at least 1", width)
        self.T = T
        widths = [width * factor for factor in (1, 2, 4, 8, 4)]
        self.stem = conv_norm(2, width)
        self.first_neuron = neuron()
        first, *others = (conv_norm(before, after) for before, after in pairwise(widths))
        self.blocks = nn.Sequential(first, *(module for synapse in others for module in (neuron(), synapse)))
        self.last_neuron = neuron()
        self.readout = nn.Conv2d(widths[-1] + width, codebook_size, 3, padding=1)
        self.to(memory_format=torch.channels_last)

    def forward(self, tokens: Tensor, t: Tensor) -> Tensor:
        """Logits [B, K, 1, h, w] of `tokens` [B, 1, h, w] in 0..K, K the mask, at diffusion times `t` [B]."""
        num_steps = steps_of(self)
        planes = self.input_current(tokens, t).to(self.readout.weight.dtype)
        first = self.first_neuron(direct_coding(self.stem(planes.unsqueeze(0)), num_steps))
        read = read_out(self.readout, rate_weights(num_steps), (self.last_neuron, self.blocks(first)), first)
        return self.as_logits(read)

    def input_current(self, tokens: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """The two planes [B, 2, h, w] that the stem reads at every step; arguments of `forward`, no `labels`."""
        return torch.cat([tokens, t.view(-1, 1, 1, 1).expand(tokens.shape)], dim=1)

    def as_logits(self, read: Tensor) -> Tensor:
        """The read-out [B, K, h, w] as logits [B, K, 1, h, w]."""
        return read.unsqueeze(2)

"""Stage 2: networks that see a partly masked grid of tokens and give logits for every place.

All are called as `denoiser(tokens [B, h, w] in 0..K with mask id K, t [B] in 1..N) -> logits [B, K, h, w]`; those that
know labels, as `denoiser(tokens, t, labels [B])` too.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from spiking_vq.attention import SpikingSelfAttention
from spiking_vq.errors import require
from spiking_vq.layers import (
    ClassEmbedding,
    GridMixer,
    NeuronFactory,
    SpikingResidual,
    conv_norm,
    direct_coding,
    read_out,
)
from spiking_vq.neurons import rate_weights
from spiking_vq.running import steps_of

MIXERS = {
    "grid": lambda grid, width, neuron: GridMixer(grid, width),
    "attention": lambda grid, width, neuron: SpikingSelfAttention(neuron, width),
}
"""How a place sees those that are far from it: name -> builds, for a grid, a width and neurons, a layer of spikes."""


class SDID(nn.Module):
    """The published spiking image decoder (3,101,504 parameters at K = 128).

    Two input planes, the token's index as one real number and the diffusion time, are presented unchanged at every step
    to five blocks of 3x3 convolution, batch norm and neuron (widths 1, 2, 4, 8 and 4 times `width`). The first block's
    spikes are concatenated to the last's; a 3x3 convolution gives logits, averaged over time. Only the first
    convolution's input is real-valued.

    Args:
        grid: (h, w), not used: the network is convolutional.
        codebook_size: K.
        T: number of spiking steps.
        neuron: builds the neuron layers.
        width: channels of the first block.

    Reference: Liu et al., arXiv:2308.10187, spiking diffusion image decoder.
    """

    def __init__(
        self, grid: tuple[int, int], codebook_size: int, T: int, neuron: NeuronFactory, width: int = 64
    ) -> None:
        super().__init__()
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
        """Logits [B, K, h, w] of `tokens` [B, h, w] at diffusion times `t` [B]."""
        planes = torch.stack([tokens, t.view(-1, 1, 1).expand(tokens.shape)], dim=1).to(self.readout.weight.dtype)
        num_steps = steps_of(self)
        first = self.first_neuron(direct_coding(self.stem(planes.unsqueeze(0)), num_steps))
        return read_out(self.readout, rate_weights(num_steps), (self.last_neuron, self.blocks(first)), first)


class TokenDenoiser(nn.Module):
    """Ours: token and position embeddings as input current, then pre-spike residual blocks; no time input.

    For absorbing diffusion the optimal prediction depends on the visible tokens only, so t is accepted and ignored.
    Each block adds to the residual current what a neuron's spikes give through a map over all places (`GridMixer`, or
    `SpikingSelfAttention`), then what they give through a 3x3 convolution. Twice as many neurons are read out as the
    residual current has channels. Every synapse is fed by spikes; real-valued are the embedding, which is a look-up,
    and the residual current, which is summed into the neurons' membranes and never crosses a synapse.

    Args:
        grid: (h, w).
        codebook_size: K.
        T: number of spiking steps.
        neuron: builds the neuron layers.
        width: channels of the residual current.
        num_blocks: number of blocks.
        mixer: `grid` or `attention`, a key of `MIXERS`.
        num_classes: labels it is told; None for none.
        styles: of each label, told with it.

    Reference: pre-spike residuals, Cao et al., arXiv:2306.17046; no time input, Ou et al., arXiv:2406.03736.
    """

    def __init__(
        self,
        grid: tuple[int, int],
        codebook_size: int,
        T: int,
        neuron: NeuronFactory,
        width: int = 128,
        num_blocks: int = 5,
        mixer: str = "grid",
        num_classes: int | None = None,
        styles: int = 1,
    ) -> None:
        super().__init__()
        require(width >= 1, "width", "at least 1", width)
        require(num_blocks >= 1, "num_blocks", "at least 1", num_blocks)
        require(mixer in MIXERS, "mixer", f"one of {', '.join(MIXERS)}", repr(mixer))
        self.T = T
        self.token_embedding = nn.Embedding(codebook_size + 1, width)
        self.position_embedding = nn.Parameter(torch.randn(width, *grid))
        self.labels = None if num_classes is None else ClassEmbedding(num_classes, width, styles)
        self.blocks = nn.Sequential(
            *(
                branch
                for _ in range(num_blocks)
                for branch in (
                    SpikingResidual(neuron, MIXERS[mixer](grid, width, neuron)),
                    SpikingResidual(neuron, conv_norm(width, width)),
                )
            ),
            neuron(),
            conv_norm(width, 2 * width, kernel_size=1),
        )
        self.last_neuron = neuron()
        self.readout = nn.Conv2d(2 * width, codebook_size, 1)
        self.to(memory_format=torch.channels_last)

    def forward(self, tokens: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """Logits [B, K, h, w] of `tokens` [B, h, w] and, where it knows labels, of these [B]; `t` is not used."""
        current = self.token_embedding(tokens).movedim(-1, 1) + self.position_embedding
        if self.labels is not None:
            current = current + self.labels(labels, len(tokens))[..., None, None]
        num_steps = steps_of(self)
        current = self.blocks(direct_coding(current.unsqueeze(0), num_steps))
        return read_out(self.readout, rate_weights(num_steps), (self.last_neuron, current))


DENOISERS = {"sdid": SDID, "token": TokenDenoiser}

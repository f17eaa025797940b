"""Our denoiser of stage 2: token and position embeddings, pre-spike residual blocks, no time input."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spiking_vq.errors import require, require_one_of
from spiking_vq.layers.labels import ClassEmbedding
from spiking_vq.layers.mixing import GridMixer, SpikingSelfAttention
from spiking_vq.layers.readout import read_out
from spiking_vq.layers.synapses import NeuronFactory, SpikingResidual, conv_norm, direct_coding
from spiking_vq.neurons.readouts import rate_weights
from spiking_vq.runtime.running import steps_of

MIXERS = {
    "grid": lambda grid, width, neuron: GridMixer(grid, width),
    "attention": lambda grid, width, neuron: SpikingSelfAttention(neuron, width),
}
"""Mixing over positions: name -> function of grid, width and neuron factory that builds a layer fed by spikes."""


class TokenDenoiser(nn.Module):
    """Token and position embeddings as input current, then pre-spike residual blocks.

    The embeddings of a position's G codes, each masked or visible by itself, are summed; G heads read it out.
    For absorbing diffusion the optimal prediction depends on the visible tokens only, so t is accepted and ignored.
    Each block has two residual branches, spikes through a map over all positions (`GridMixer` or
    `SpikingSelfAttention`) and spikes through a 3x3 convolution. Twice as many neurons are read out as the residual
    current has channels. Every synapse is fed by spikes; real-valued are the embedding, which is a look-up, and the
    residual current, which is summed into the neurons' membranes and never crosses a synapse.

    Args:
        grid: (G, h, w), codes a position and positions.
        codebook_size: K, number of classes of each code.
        T: number of spiking steps.
        neuron: builds the neuron layers.
        width: channels of the residual current.
        num_blocks: number of blocks.
        mixer: `grid` or `attention`, a key of `MIXERS`.
        num_classes: number of labels; None makes an unconditional network.
        styles: number of styles of each label, a power of two.

    Raises:
        InputError: a size below 1, or an unknown mixer.

    Reference: pre-spike residuals, Cao et al., arXiv:2306.17046; no time input, Ou et al., arXiv:2406.03736.
    """

    def __init__(
        self,
        grid: tuple[int, int, int],
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
        require_one_of("mixer", mixer, MIXERS)
        self.T = T
        self.num_codes, positions = grid[0], grid[1:]
        self.token_embedding = nn.Embedding(self.num_codes * (codebook_size + 1), width)
        self.token_embedding.weight.data *= self.num_codes**-0.5  # the sum of G embeddings has variance 1
        first = torch.arange(self.num_codes, device="cpu") * (codebook_size + 1)
        self.register_buffer("first_row", first.view(-1, 1, 1), persistent=False)
        self.position_embedding = nn.Parameter(torch.randn(width, *positions))
        self.labels = None if num_classes is None else ClassEmbedding(num_classes, width, styles)
        self.blocks = nn.Sequential(
            *(
                branch
                for _ in range(num_blocks)
                for branch in (
                    SpikingResidual(neuron, MIXERS[mixer](positions, width, neuron)),
                    SpikingResidual(neuron, conv_norm(width, width)),
                )
            ),
            neuron(),
            conv_norm(width, 2 * width, kernel_size=1),
        )
        self.last_neuron = neuron()
        self.readout = nn.Conv2d(2 * width, self.num_codes * codebook_size, 1)
        self.to(memory_format=torch.channels_last)

    def forward(self, tokens: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """Logits [B, K, G, h, w] of `tokens` [B, G, h, w] in 0..K, K the mask, with `labels` [B]; `t` is not used."""
        num_steps = steps_of(self)
        current = self.blocks(direct_coding(self.input_current(tokens, t, labels).unsqueeze(0), num_steps))
        return self.as_logits(read_out(self.readout, rate_weights(num_steps), (self.last_neuron, current)))

    def input_current(self, tokens: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """The embeddings' sum [B, C, h, w], the same at every step; arguments of `forward`."""
        current = self.token_embedding(tokens + self.first_row).sum(1).movedim(-1, 1) + self.position_embedding
        return current if self.labels is None else current + self.labels(labels, tokens.shape[0])[..., None, None]

    def as_logits(self, read: Tensor) -> Tensor:
        """The read-out [B, G K, h, w] as logits [B, K, G, h, w]."""
        return read.unflatten(1, (self.num_codes, -1)).transpose(1, 2)

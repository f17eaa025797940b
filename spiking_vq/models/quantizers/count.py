"""The quantiser without a codebook: spike counts are the codes."""

from __future__ import annotations

import torch
from torch import Tensor

from spiking_vq.errors import require
from spiking_vq.models.quantizers.vector import Quantized, Quantizer

MOST_CODES = 2**31 - 1
"""Largest number of classes of a code."""


class CountQuantizer(Quantizer):
    """The spike counts of the encoder are the codes: no codebook, no loss.

    The firing rate of a neuron over T steps has T + 1 levels by itself. The counts of D / G channels are the digits of
    one code of `(T + 1)^(D / G)` classes. Values that are not such rates, of neurons that do not spike, are rounded.

    Args:
        num_codes: G.
        codebook_size: K, `(T + 1)^(D / G)`.
        embedding_dim: D, a multiple of G.

    Raises:
        InputError: D is no multiple of G, or K not such a power.

    Reference: finite scalar quantisation, Mentzer et al., arXiv:2309.15505, whose levels are here those of a rate.
    """

    def __init__(self, num_codes: int, codebook_size: int, embedding_dim: int) -> None:
        super().__init__()
        require(embedding_dim % num_codes == 0, "embedding_dim", f"a multiple of num_codes, {num_codes}", embedding_dim)
        fewer = f"in 1..{MOST_CODES}, which more num_codes keep to"
        require(1 <= codebook_size <= MOST_CODES, "codebook_size", fewer, codebook_size)
        digits = embedding_dim // num_codes
        levels = round(codebook_size ** (1 / digits))
        power = f"the number of levels of a spike count, T + 1, to the power of embedding_dim / num_codes, {digits}"
        require(levels >= 2 and levels**digits == codebook_size, "codebook_size", power, codebook_size)
        self.num_codes, self.codebook_size, self.levels = num_codes, codebook_size, levels
        self.register_buffer("units", levels ** torch.arange(digits, device="cpu"), persistent=False)

    def forward(self, z: Tensor) -> Quantized:
        """See `Quantizer.forward`; firing rates [B, D, h, w] in [0, 1] stay as they are."""
        tokens = self.nearest(z)
        return Quantized(self.lookup(tokens).to(z.dtype) + (z - z.detach()), tokens, z.new_zeros(()))

    def nearest(self, z: Tensor) -> Tensor:
        """See `Quantizer.nearest`."""
        counts = (z.float() * (self.levels - 1)).round().clamp(0, self.levels - 1).long()
        return (counts.unflatten(1, (self.num_codes, -1)) * self.units.view(-1, 1, 1)).sum(2)

    def lookup(self, tokens: Tensor) -> Tensor:
        """See `Quantizer.lookup`: firing rates."""
        counts = tokens.unsqueeze(2) // self.units.view(-1, 1, 1) % self.levels
        return counts.flatten(1, 2).to(torch.get_default_dtype()) / (self.levels - 1)

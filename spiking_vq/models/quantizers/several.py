"""Quantisers of several codes a position, each a `VectorQuantizer`: of slices of the vector, or coarse to fine."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from spiking_vq.errors import require
from spiking_vq.models.quantizers.vector import Quantized, Quantizer, VectorQuantizer


class SeveralQuantizers(Quantizer):
    """G quantisers of one code each; a subclass says what each of them sees.

    Args:
        num_codes: G.
        codebook_size: K, number of codes in each.
        width: length of their code vectors.
        options: of each `VectorQuantizer`.
    """

    def __init__(self, num_codes: int, codebook_size: int, width: int, **options: float) -> None:
        super().__init__()
        self.parts = nn.ModuleList(VectorQuantizer(codebook_size, width, **options) for _ in range(num_codes))
        self.num_codes, self.codebook_size = num_codes, codebook_size
        self.commitment_cost = self.parts[0].commitment_cost

    @property
    def codebooks(self) -> Sequence[Tensor]:
        """The code vectors of each quantiser, [K, width]."""
        return [part.codebook for part in self.parts]


class ProductQuantizer(SeveralQuantizers):
    """G codes a position, each of its own slice of the vector.

    Args:
        num_codes: G, number of slices and of codebooks.
        codebook_size: K, number of codes in each.
        embedding_dim: D, a multiple of G.
        options: of each `VectorQuantizer`.

    Raises:
        InputError: D is no multiple of G, or as `VectorQuantizer`.

    Reference: Jegou et al., doi:10.1109/TPAMI.2010.57.
    """

    def __init__(self, num_codes: int, codebook_size: int, embedding_dim: int, **options: float) -> None:
        require(embedding_dim % num_codes == 0, "embedding_dim", f"a multiple of num_codes, {num_codes}", embedding_dim)
        super().__init__(num_codes, codebook_size, embedding_dim // num_codes, **options)

    def forward(self, z: Tensor) -> Quantized:
        """See `Quantizer.forward`."""
        made = [part(rows) for part, rows in zip(self.parts, z.chunk(self.num_codes, 1), strict=True)]
        vectors, tokens, losses = zip(*made, strict=True)
        return Quantized(torch.cat(vectors, 1), torch.cat(tokens, 1), sum(losses) / self.num_codes)

    def nearest(self, z: Tensor) -> Tensor:
        """See `Quantizer.nearest`."""
        slices = zip(self.parts, z.chunk(self.num_codes, 1), strict=True)
        return torch.cat([part.nearest(rows) for part, rows in slices], 1)

    def lookup(self, tokens: Tensor) -> Tensor:
        """See `Quantizer.lookup`."""
        slices = zip(self.parts, tokens.split(1, 1), strict=True)
        return torch.cat([part.lookup(codes) for part, codes in slices], 1)

    def update(self, z: Tensor, tokens: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """See `Quantizer.update`."""
        slices = zip(self.parts, z.chunk(self.num_codes, 1), tokens.split(1, 1), strict=True)
        return sum(part.update(rows, codes, generator) for part, rows, codes in slices)


class ResidualQuantizer(SeveralQuantizers):
    """G codes a position, coarse to fine: each is the nearest to what the codes before it leave.

    Args:
        num_codes: G, number of levels and of codebooks.
        codebook_size: K, number of codes in each.
        width: D.
        options: of each `VectorQuantizer`.

    Reference: Lee et al., arXiv:2203.01941.
    """

    def forward(self, z: Tensor) -> Quantized:
        """See `Quantizer.forward`; the loss is the mean over the levels."""
        rest, tokens, losses = z, [], []
        for level in self.parts:
            coded = level(rest)
            rest = rest - coded.vectors.detach()
            tokens.append(coded.tokens)
            losses.append(coded.loss)
        return Quantized(z - rest.detach(), torch.cat(tokens, 1), sum(losses) / self.num_codes)

    def nearest(self, z: Tensor) -> Tensor:
        """See `Quantizer.nearest`; greedy, level by level."""
        tokens = []
        for level in self.parts:
            tokens.append(level.nearest(z))
            z = z - level.lookup(tokens[-1])
        return torch.cat(tokens, 1)

    def lookup(self, tokens: Tensor) -> Tensor:
        """See `Quantizer.lookup`."""
        levels = zip(self.parts, tokens.split(1, 1), strict=True)
        return sum(level.lookup(codes) for level, codes in levels)

    def update(self, z: Tensor, tokens: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """See `Quantizer.update`."""
        restarts = tokens.new_zeros(())
        for level, codes in zip(self.parts, tokens.split(1, 1), strict=True):
            coarse = level.lookup(codes)  # before the update
            restarts = restarts + level.update(z, codes, generator)
            z = z - coarse
        return restarts

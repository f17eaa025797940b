"""Quantisers: from the encoder's vectors [B, D, h, w] to tokens [B, G, h, w], G codes a position, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spiking_vq.errors import InputError, require, require_one_of
from spiking_vq.randomness import normal_noise, permutation
from spiking_vq.runtime.distributed import all_rows, sum_over_ranks

MOST_CODES = 2**31 - 1
"""Largest number of classes of a code."""


class Quantized(NamedTuple):
    """Output of a quantiser for vectors `z` [B, D, h, w].

    Attributes:
        vectors: quantised vectors [B, D, h, w]; their gradient goes straight through to `z`.
        tokens: their codes [B, G, h, w] in 0..K-1.
        loss: `MSE(q, sg z) + commitment_cost * MSE(z, sg q)`; the first term only where gradients train the codes.
    """

    vectors: Tensor
    tokens: Tensor
    loss: Tensor


class Quantizer(nn.Module):
    """A quantiser with G codes a position, each of K classes.

    Attributes:
        num_codes: G.
        codebook_size: K.
        commitment_cost: weight of the term that ties the encoder to its codes.
        codebooks: the code vectors that it holds.
    """

    num_codes: int
    codebook_size: int
    commitment_cost: float = 0.0
    codebooks: Sequence[Tensor] = ()

    def forward(self, z: Tensor) -> Quantized:
        """Quantise `z` [B, D, h, w]."""
        raise NotImplementedError

    def nearest(self, z: Tensor) -> Tensor:
        """Tokens [B, G, h, w] of the quantised vectors nearest to `z` [B, D, h, w]."""
        raise NotImplementedError

    def lookup(self, tokens: Tensor) -> Tensor:
        """Quantised vectors [B, D, h, w] of `tokens` [B, G, h, w] in 0..K-1."""
        raise NotImplementedError

    def update(self, z: Tensor, tokens: Tensor, generator: torch.Generator | None = None) -> int:
        """After a training step, let codes that are moving averages learn from its vectors.

        Several ranks average over the vectors of all of them, so that their codebooks stay the same.

        Args:
            z: the encoder's vectors of this rank's batch [B, D, h, w].
            tokens: their codes [B, G, h, w].
            generator: draws the restart vectors, on CPU; in the same state on all ranks. None: torch's global one.

        Returns:
            Number of restarted codes.
        """
        return 0


class VectorQuantizer(Quantizer):
    """One code a position: the nearest code vector by Euclidean distance, with the straight-through gradient.

    The codebook learns by gradient (`ema_decay = 0`), or each code as an exponential moving average of the vectors
    assigned to it, with restarts: a code whose average use has fallen below `restart_below` (vectors a batch) takes the
    value of a vector of the present batch.

    Args:
        codebook_size: K, number of codes.
        embedding_dim: D.
        commitment_cost: weight of the term that ties the encoder to its code.
        ema_decay: decay per batch of the moving averages, in [0, 1); 0 learns by gradient.
        restart_below: smallest average use of a code, in vectors a batch; 0 never restarts. Needs `ema_decay`.

    Raises:
        InputError: a size below 1, `ema_decay` outside [0, 1), or `restart_below` without it.

    Reference: van den Oord et al., arXiv:1711.00937 (loss, appendix A.1 for the averages); Dhariwal et al.,
        arXiv:2005.00341 (restarts).
    """

    def __init__(
        self,
        codebook_size: int,
        embedding_dim: int,
        commitment_cost: float = 0.25,
        ema_decay: float = 0.0,
        restart_below: float = 0.0,
    ) -> None:
        super().__init__()
        require(codebook_size >= 1, "codebook_size", "at least 1", codebook_size)
        require(embedding_dim >= 1, "embedding_dim", "at least 1", embedding_dim)
        require(0 <= ema_decay < 1, "ema_decay", "in [0, 1)", ema_decay)
        if restart_below and not ema_decay:
            raise InputError(
                "restart_below needs an ema_decay greater than 0: codes that learn by gradient have no use count"
            )
        self.num_codes, self.codebook_size = 1, codebook_size
        self.commitment_cost, self.ema_decay, self.restart_below = commitment_cost, ema_decay, restart_below
        codebook = torch.randn(codebook_size, embedding_dim)
        if ema_decay:
            self.register_buffer("codebook", codebook)
            self.register_buffer("use", torch.ones(codebook_size))
            self.register_buffer("total", codebook.clone())
        else:
            self.codebook = nn.Parameter(codebook)

    @property
    def codebooks(self) -> Sequence[Tensor]:
        """The code vectors [K, D]."""
        return [self.codebook]

    def forward(self, z: Tensor) -> Quantized:
        """Quantise `z` [B, D, h, w]."""
        z = z.to(self.codebook.dtype)
        tokens = self.nearest(z)
        codes = self.lookup(tokens)
        loss = self.commitment_cost * F.mse_loss(z, codes.detach())
        if not self.ema_decay:
            loss = loss + F.mse_loss(codes, z.detach())
        return Quantized(codes.detach() + (z - z.detach()), tokens, loss)

    def nearest(self, z: Tensor) -> Tensor:
        """See `Quantizer.nearest`; the lowest code where several tie."""
        rows, codes = _rows(z.to(self.codebook.dtype)), self.codebook
        with torch.autocast(z.device.type, enabled=False):  # bf16 does not distinguish near codes
            # |z - c|^2 without |z|^2, which is the same for every code
            distances = codes.square().sum(1) - 2 * rows @ codes.T
        return distances.argmin(1).view(z.shape[0], 1, *z.shape[2:])

    def lookup(self, tokens: Tensor) -> Tensor:
        """See `Quantizer.lookup`."""
        return F.embedding(tokens.squeeze(1), self.codebook).movedim(-1, 1)

    @torch.no_grad()
    def update(self, z: Tensor, tokens: Tensor, generator: torch.Generator | None = None) -> int:
        """Take one step of the moving averages, if there are any, then restart idle codes; see `Quantizer.update`."""
        if not self.ema_decay:
            return 0
        z = z.to(self.codebook.dtype)
        rows, ids = _rows(z), tokens.flatten()
        count = torch.zeros_like(self.use).index_add_(0, ids, torch.ones_like(ids, dtype=self.use.dtype))
        total = torch.zeros_like(self.total).index_add_(0, ids, rows)
        self.use.lerp_(sum_over_ranks(count), 1 - self.ema_decay)
        self.total.lerp_(sum_over_ranks(total), 1 - self.ema_decay)
        idle = (self.use < self.restart_below).nonzero().flatten()
        if len(idle):
            rows = _rows(all_rows(z))
            idle = idle[: len(rows)]
            # distinct positions; rows of flat background are identical, so jitter keeps the restarted codes apart
            chosen = permutation(len(rows), generator)[: len(idle)].to(rows.device)
            noise = normal_noise((len(idle), rows.shape[1]), generator).to(rows.device)
            self.total[idle] = rows[chosen] + 0.01 * rows.std(correction=0).clamp(min=0.1) * noise
            self.use[idle] = 1.0
        self.codebook.copy_(self.total / self.use.clamp(min=1e-6).unsqueeze(1))
        return len(idle)


class ProductQuantizer(Quantizer):
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
        super().__init__()
        require(embedding_dim % num_codes == 0, "embedding_dim", f"a multiple of num_codes, {num_codes}", embedding_dim)
        width = embedding_dim // num_codes
        self.parts = nn.ModuleList(VectorQuantizer(codebook_size, width, **options) for _ in range(num_codes))
        self.num_codes, self.codebook_size = num_codes, codebook_size
        self.commitment_cost = self.parts[0].commitment_cost

    @property
    def codebooks(self) -> Sequence[Tensor]:
        """The code vectors of each slice, [K, D / G]."""
        return [part.codebook for part in self.parts]

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

    def update(self, z: Tensor, tokens: Tensor, generator: torch.Generator | None = None) -> int:
        """See `Quantizer.update`."""
        slices = zip(self.parts, z.chunk(self.num_codes, 1), tokens.split(1, 1), strict=True)
        return sum(part.update(rows, codes, generator) for part, rows, codes in slices)


class ResidualQuantizer(Quantizer):
    """G codes a position, coarse to fine: each is the nearest to what the codes before it leave.

    Args:
        num_codes: G, number of levels and of codebooks.
        codebook_size: K, number of codes in each.
        embedding_dim: D.
        options: of each `VectorQuantizer`.

    Reference: Lee et al., arXiv:2203.01941.
    """

    def __init__(self, num_codes: int, codebook_size: int, embedding_dim: int, **options: float) -> None:
        super().__init__()
        self.levels = nn.ModuleList(VectorQuantizer(codebook_size, embedding_dim, **options) for _ in range(num_codes))
        self.num_codes, self.codebook_size = num_codes, codebook_size
        self.commitment_cost = self.levels[0].commitment_cost

    @property
    def codebooks(self) -> Sequence[Tensor]:
        """The code vectors of each level, [K, D]."""
        return [level.codebook for level in self.levels]

    def forward(self, z: Tensor) -> Quantized:
        """See `Quantizer.forward`; the loss is the mean over the levels."""
        rest, tokens, losses = z, [], []
        for level in self.levels:
            coded = level(rest)
            rest = rest - coded.vectors.detach()
            tokens.append(coded.tokens)
            losses.append(coded.loss)
        return Quantized(z - rest.detach(), torch.cat(tokens, 1), sum(losses) / self.num_codes)

    def nearest(self, z: Tensor) -> Tensor:
        """See `Quantizer.nearest`; greedy, level by level."""
        tokens = []
        for level in self.levels:
            tokens.append(level.nearest(z))
            z = z - level.lookup(tokens[-1])
        return torch.cat(tokens, 1)

    def lookup(self, tokens: Tensor) -> Tensor:
        """See `Quantizer.lookup`."""
        levels = zip(self.levels, tokens.split(1, 1), strict=True)
        return sum(level.lookup(codes) for level, codes in levels)

    def update(self, z: Tensor, tokens: Tensor, generator: torch.Generator | None = None) -> int:
        """See `Quantizer.update`."""
        restarts = 0
        for level, codes in zip(self.levels, tokens.split(1, 1), strict=True):
            coarse = level.lookup(codes)  # before the update
            restarts += level.update(z, codes, generator)
            z = z - coarse
        return restarts


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
        digits = embedding_dim // num_codes
        levels = round(codebook_size ** (1 / digits))
        power = f"the number of levels of a spike count, T + 1, to the power of embedding_dim / num_codes, {digits}"
        require(levels >= 2 and levels**digits == codebook_size, "codebook_size", power, codebook_size)
        require(codebook_size <= MOST_CODES, "codebook_size", f"at most {MOST_CODES}; more num_codes", codebook_size)
        self.num_codes, self.codebook_size, self.levels = num_codes, codebook_size, levels
        self.register_buffer("units", levels ** torch.arange(digits, device="cpu"), persistent=False)

    def forward(self, z: Tensor) -> Quantized:
        """See `Quantizer.forward`; rates [B, D, h, w] in [0, 1] stay as they are."""
        tokens = self.nearest(z)
        return Quantized(z + (self.lookup(tokens).to(z.dtype) - z).detach(), tokens, z.new_zeros(()))

    def nearest(self, z: Tensor) -> Tensor:
        """See `Quantizer.nearest`."""
        counts = (z.float() * (self.levels - 1)).round().clamp(0, self.levels - 1).long()
        return (counts.unflatten(1, (self.num_codes, -1)) * self.units.view(-1, 1, 1)).sum(2)

    def lookup(self, tokens: Tensor) -> Tensor:
        """See `Quantizer.lookup`: firing rates."""
        counts = tokens.unsqueeze(2) // self.units.view(-1, 1, 1) % self.levels
        return counts.flatten(1, 2).to(torch.get_default_dtype()) / (self.levels - 1)


QUANTIZERS = {
    "vq": VectorQuantizer,
    "product": ProductQuantizer,
    "residual": ResidualQuantizer,
    "count": CountQuantizer,
}


def build_quantizer(
    quantizer: str, num_codes: int, codebook_size: int, embedding_dim: int, **options: float
) -> Quantizer:
    """The quantiser of a name in `QUANTIZERS`; `options` are those of `VectorQuantizer`.

    Raises:
        InputError: another name, or sizes that do not fit.
    """
    require_one_of("quantizer", quantizer, QUANTIZERS)
    require(num_codes >= 1, "num_codes", "at least 1", num_codes)
    if quantizer == "count":
        return CountQuantizer(num_codes, codebook_size, embedding_dim)
    if quantizer == "vq":
        require(num_codes == 1, "num_codes", "1 with quantizer=vq", num_codes)
        return VectorQuantizer(codebook_size, embedding_dim, **options)
    return QUANTIZERS[quantizer](num_codes, codebook_size, embedding_dim, **options)


def _rows(z: Tensor) -> Tensor:
    """`[B, D, h, w] -> [B*h*w, D]`."""
    return z.movedim(1, -1).flatten(0, -2)

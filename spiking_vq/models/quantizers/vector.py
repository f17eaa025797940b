"""The interface of quantisers, and the one of a single code a position: the nearest of K code vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spiking_vq.errors import InputError, require
from spiking_vq.randomness import normal_noise, permutation
from spiking_vq.runtime.distributed import all_rows, sum_over_ranks


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

    def update(self, z: Tensor, tokens: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """After a training step, let codes that are moving averages learn from its vectors.

        Several ranks average over the vectors of all of them, so that their codebooks stay the same.

        Args:
            z: the encoder's vectors of this rank's batch [B, D, h, w].
            tokens: their codes [B, G, h, w].
            generator: draws the restart vectors, on CPU; in the same state on all ranks. None: torch's global one.

        Returns:
            Number of restarted codes, an int64 scalar on the device of `z`.
        """
        return tokens.new_zeros(())


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
    def update(self, z: Tensor, tokens: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Take one step of the moving averages, if there are any, then restart idle codes; see `Quantizer.update`."""
        restarts = super().update(z, tokens, generator)
        if not self.ema_decay:
            return restarts
        z = z.to(self.codebook.dtype)
        rows, ids = _rows(z), tokens.flatten()
        count = torch.zeros_like(self.use).index_add_(0, ids, torch.ones_like(ids, dtype=self.use.dtype))
        total = torch.zeros_like(self.total).index_add_(0, ids, rows)
        self.use.lerp_(sum_over_ranks(count), 1 - self.ema_decay)
        self.total.lerp_(sum_over_ranks(total), 1 - self.ema_decay)
        if self.restart_below:
            restarts = self._restart(_rows(all_rows(z)), generator)
        self.codebook.copy_(self.total / self.use.clamp(min=1e-6).unsqueeze(1))
        return restarts

    def _restart(self, rows: Tensor, generator: torch.Generator | None) -> Tensor:
        """Let idle codes take the values of distinct rows [n, D], n of them at most; returns their number.

        A vector is drawn for every code, as the host does not know which are idle: on a GPU it would have to wait.
        """
        idle = self.use < self.restart_below
        number = idle.cumsum(0) - 1  # of each idle code among them
        idle &= number < len(rows)
        slot = number.clamp(0, len(rows) - 1)
        order, noise = permutation(len(rows), generator), normal_noise(self.total.shape, generator)
        order, noise = (drawn.to(rows.device, non_blocking=True) for drawn in (order, noise))
        # rows of flat background are identical, so jitter keeps the restarted codes apart
        restarted = rows[order[slot]] + 0.01 * rows.std(correction=0).clamp(min=0.1) * noise[slot]
        self.total.copy_(restarted.where(idle.unsqueeze(1), self.total))
        self.use.masked_fill_(idle, 1.0)
        return idle.sum()


def _rows(z: Tensor) -> Tensor:
    """`[B, D, h, w] -> [B*h*w, D]`."""
    return z.movedim(1, -1).flatten(0, -2)

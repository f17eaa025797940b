"""Exchange between the processes that train one network; a single process is the only rank.

Each process is a rank and holds the same number of rows of the batch: of R ranks, rank r has the rows r, r + R, r + 2R
and so on. So a quantity that is spread evenly over the batch, such as the diffusion time, is spread evenly over each
rank's rows.
"""

from __future__ import annotations

import torch
from torch import Tensor, distributed


def num_ranks() -> int:
    """Number of processes in torch's default process group; 1 if there is none."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """Number of this process, in 0..ranks-1."""
    return distributed.get_rank() if num_ranks() > 1 else 0


def own_rows(x: Tensor) -> Tensor:
    """This rank's rows `[N / ranks, ...]` of `x` [N, ...]; N is a multiple of the number of ranks."""
    return x[rank() :: num_ranks()]


def stacked(x: Tensor) -> Tensor:
    """Stack all ranks' `x` [...] to `[ranks, ...]`."""
    if num_ranks() == 1:
        return x.unsqueeze(0)
    every = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(num_ranks())]
    distributed.all_gather(every, x.contiguous())
    return torch.stack(every)


def mean_over_ranks(x: Tensor) -> Tensor:
    """Mean of all ranks' `x` [...]."""
    return stacked(x).mean(0)


def sum_over_ranks(x: Tensor) -> Tensor:
    """Sum of all ranks' `x` [...]."""
    return stacked(x).sum(0)


def all_rows(x: Tensor) -> Tensor:
    """All ranks' rows of `x` [n, ...] in order, `[ranks * n, ...]`."""
    return stacked(x).transpose(0, 1).flatten(0, 1)

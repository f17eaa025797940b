"""In which call of a sampler each position is unmasked: orders, schedules, and the plan of the batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

ORDERS = ("bernoulli", "random", "halton")


class Schedule(NamedTuple):
    """How the positions are spread over the calls, both from [0, 1] to [0, 1] and each the other's inverse.

    Attributes:
        share: of the positions, unmasked after this part of the calls.
        part: of the calls, after which this share of the positions is unmasked.
    """

    share: Callable[[Tensor], Tensor]
    part: Callable[[Tensor], Tensor]


UNMASK_SCHEDULES = {
    "linear": Schedule(lambda part: part, lambda share: share),
    "cosine": Schedule(
        lambda part: 1 - torch.cos(math.pi / 2 * part), lambda share: 2 / math.pi * torch.arccos(1 - share)
    ),
}
"""`linear`: as many in every call; `cosine`: few at first, when little is known (MaskGIT, arXiv:2202.04200)."""

ROUNDING = 1e-9
"""What rounding may take from an integer."""


def unmask_schedule(
    order: str, order_noise: Tensor, free: Tensor, sample_steps: int, schedule: str = "linear"
) -> Tensor:
    """Decide in which of S = sample_steps calls each free position is unmasked.

    "bernoulli" is the paper's rule at the times t_c = N (1 - c / S): call c unmasks each still masked position with
    probability (t_c - t_{c+1}) / t_c = 1 / (S - c), which is 1 / t for S = N. A position is thus unmasked in call c
    with probability prod_{j<c} (1 - 1 / (S - j)) * 1 / (S - c) = (S - c) / S * 1 / (S - c) = 1 / S: its call is
    uniform over 0..S-1. For S = N about 36 % of the calls unmask nothing in a given image.

    "random" ranks the free positions by a random permutation, "halton" by `halton_order`; both split the ranks over the
    calls as evenly as possible. With fewer free positions than calls, the first calls unmask one each.

    That is the schedule "linear". Any other bends the row of calls: the positions that come up after a share s of them
    all are unmasked when its part of s of the calls is over.

    Args:
        order: one of `ORDERS`.
        order_noise: [B, N], uniform in [0, 1).
        free: bool [B, h, w], the positions to unmask.
        sample_steps: S in 1..N.
        schedule: a key of `UNMASK_SCHEDULES`.

    Returns:
        int64 [B, h, w] in 0..S-1, -1 where not free.
    """
    part = UNMASK_SCHEDULES[schedule].part
    if order == "bernoulli":
        call = (part(order_noise) * sample_steps).long()
    else:
        score = order_noise
        if order == "halton":
            score = halton_order(tuple(free.shape[1:])).argsort().to(order_noise).expand_as(order_noise)
        # Stable, so that ties, rare in 24-bit noise, fall the same way in every batch and on every device.
        by_score = score.masked_fill(~free.flatten(1), math.inf).argsort(dim=1, stable=True)
        num_free = free.sum((1, 2)).clamp(min=1)[:, None]
        rank = by_score.argsort(dim=1).clamp(max=num_free - 1)  # those that are not free come last
        call = (part(rank / num_free.double()) * num_free.clamp(max=sample_steps) + ROUNDING).long()
    return call.view_as(free).masked_fill(~free, -1)


def call_plan(unmask_call: Tensor, batch_size: int, idle: int) -> tuple[Tensor, Tensor]:
    """Which image, in which of its calls, has each place of the batch in each round.

    An image takes the place that is free first and keeps it for all its calls, one a round; calls in which it unmasks
    nothing do not occur. So with the Bernoulli order of N calls about a third of the work is never done.

    Args:
        unmask_call: int64 [n, ...], the calls in which something of an image is drawn, or -1.
        batch_size: places.
        idle: the call of a place without an image.

    Returns:
        rows, calls: int64 [rounds, batch_size]. A row from n on, n + place, is that of a place without an image.
    """
    places: list[list[tuple[int, int]]] = [[] for _ in range(batch_size)]
    for row, calls in enumerate(unmask_call.flatten(1).tolist()):
        free = min(range(batch_size), key=lambda place: len(places[place]))
        places[free] += [(row, call) for call in sorted(set(calls) - {-1})]
    rounds = max(map(len, places))
    for place, jobs in enumerate(places):
        jobs += [(len(unmask_call) + place, idle)] * (rounds - len(jobs))
    rows, calls = torch.tensor(places, dtype=torch.int64, device="cpu").view(batch_size, rounds, 2).permute(2, 1, 0)
    return rows, calls


def halton_order(grid: tuple[int, int]) -> Tensor:
    """Order the cells of a grid by the first visit of the Halton sequence: any run of cells is spread over the grid.

    Point i is (radical inverse of i in base 2, in base 3) in [0, 1)^2 and visits cell (floor(h y), floor(w x)).

    Args:
        grid: (h, w).

    Returns:
        int64 [h * w], a permutation: the flat index of the cell at each rank.

    Reference:
        Halton scheduler, Besnier et al., arXiv:2503.17076.
    """
    height, width = grid
    cells: dict[int, None] = {}  # a dict is an ordered set
    index = 0
    while len(cells) < height * width:
        index += 1
        cells[scaled_radical_inverse(index, 2, height) * width + scaled_radical_inverse(index, 3, width)] = None
    return torch.tensor(list(cells), device="cpu")


def scaled_radical_inverse(index: int, base: int, size: int) -> int:
    """Return floor(size * 0.d0 d1 d2 ...) in base `base`, d0 the lowest digit of the index; exact, in integers."""
    numerator, denominator = 0, 1
    while index:
        index, digit = divmod(index, base)
        numerator, denominator = numerator * base + digit, denominator * base
    return size * numerator // denominator

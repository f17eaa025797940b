"""The plan of the absorbing sampler: in which call each position is drawn, and which images share a call."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class UnmaskSchedule(NamedTuple):
    """How the positions are spread over the calls; both functions map [0, 1] to [0, 1], each the other's inverse.

    Attributes:
        share: share of the calls made -> share of the positions unmasked.
        inverse: share of the positions unmasked -> share of the calls made.
    """

    share: Callable[[Tensor], Tensor]
    inverse: Callable[[Tensor], Tensor]


UNMASK_SCHEDULES = {
    "linear": UnmaskSchedule(lambda calls: calls, lambda share: share),
    "cosine": UnmaskSchedule(
        lambda calls: 1 - torch.cos(math.pi / 2 * calls), lambda share: 2 / math.pi * torch.arccos(1 - share)
    ),
}
"""`linear`: as many in every call; `cosine`: few at first, when little is known (MaskGIT, arXiv:2202.04200)."""

ROUNDING = 1e-9
"""Largest error of a product that should be an integer."""

SCORES: dict[str, Callable[[Tensor, tuple[int, int]], Tensor]] = {
    "random": lambda noise, grid: noise,
    "halton": lambda noise, grid: halton_order(grid).argsort().expand_as(noise),
    "positions": lambda noise, grid: noise[:, :1].argsort(dim=2, stable=True).argsort(dim=2).expand_as(noise),
    "levels": lambda noise, grid: noise.double() + torch.arange(noise.shape[1], device="cpu").view(-1, 1),
}
"""Order -> score [n, G, h w] of uniform noise [n, G, h w] and the grid (h, w): tokens are unmasked by ascending score,
those of equal score by ascending code."""

ORDERS = ("bernoulli", *SCORES)
"""Orders of unmasking, see `unmask_calls`. `random` ranks each code by itself, `positions` all codes of a position
together, `levels` code 0 of all positions before code 1, and so on; with one code a position these three are the same.
`halton` ranks positions by `halton_order`, and `bernoulli` ranks nothing."""


class Plan(NamedTuple):
    """Work of each call of the denoiser: one entry a call and, in it, one for each slot of the batch.

    Attributes:
        rows: int64 [calls, slots], the image; n + slot where the slot has none of the n images.
        t: int64 [calls, slots], the time that the denoiser is given.
        chosen: bool [calls, slots, G, h, w], the positions to draw; none where the slot has no image.
        temperature: float32 [calls, slots, 1, 1, 1, 1], of the softmax they are drawn from.
    """

    rows: Tensor
    t: Tensor
    chosen: Tensor
    temperature: Tensor


def unmask_calls(order: str, order_noise: Tensor, free: Tensor, sample_steps: int, schedule: str = "linear") -> Tensor:
    """Decide in which of S = sample_steps calls each free position is unmasked.

    "bernoulli" is the paper's rule at the times t_c = N (1 - c / S): call c unmasks each still masked position with
    probability (t_c - t_{c+1}) / t_c = 1 / (S - c), which is 1 / t for S = N. A position is thus unmasked in call c
    with probability prod_{j<c} (1 - 1 / (S - j)) * 1 / (S - c) = (S - c) / S * 1 / (S - c) = 1 / S: its call is
    uniform over 0..S-1. For S = N about 36 % of the calls unmask nothing in a given image.

    The other orders rank the free tokens, see `SCORES`, and split the ranks over the calls as evenly as possible. With
    fewer free tokens than calls, the first calls unmask one each.

    This is the schedule "linear". Any other replaces a position's share of the row of positions by `inverse` of it.

    Args:
        order: one of `ORDERS`.
        order_noise: [n, N], uniform in [0, 1).
        free: bool [n, G, h, w], the positions to unmask.
        sample_steps: S in 1..N.
        schedule: a key of `UNMASK_SCHEDULES`.

    Returns:
        int64 [n, G, h, w] in 0..S-1, -1 where not free.
    """
    inverse = UNMASK_SCHEDULES[schedule].inverse
    if order == "bernoulli":
        call = (inverse(order_noise) * sample_steps).long()
    else:
        score = SCORES[order](order_noise.unflatten(1, (free.shape[1], -1)), tuple(free.shape[2:])).flatten(1)
        # Stable, so that ties, rare in 24-bit noise, fall the same way in every batch and on every device.
        by_score = score.double().masked_fill(~free.flatten(1), math.inf).argsort(dim=1, stable=True)
        num_free = free.sum((1, 2, 3)).clamp(min=1)[:, None]
        rank = by_score.argsort(dim=1).clamp(max=num_free - 1)  # those that are not free come last
        call = (inverse(rank / num_free.double()) * num_free.clamp(max=sample_steps) + ROUNDING).long()
    return call.view_as(free).masked_fill(~free, -1)


def call_times(num_positions: int, sample_steps: int, schedule: str = "linear") -> Tensor:
    """Times of the S calls: t = ceil(N (1 - share)), where `share` is the schedule's after c of the S calls.

    Args:
        num_positions: N.
        sample_steps: S in 1..N.
        schedule: a key of `UNMASK_SCHEDULES`.

    Returns:
        int64 [S] in 1..N, descending.
    """
    calls = torch.arange(sample_steps, device="cpu")
    share = UNMASK_SCHEDULES[schedule].share(calls.double() / sample_steps)
    return num_positions - (num_positions * share + ROUNDING).long()


def plan_calls(unmask_call: Tensor, times: Tensor, temperatures: tuple[float, float], slots: int) -> Plan:
    """Pack the calls of all images into batches of `slots` images.

    An image skips the calls in which it unmasks nothing, as their output would not be used; it keeps its slot until it
    is done, then the next image takes it. So with the Bernoulli order of N calls about a third of the work is saved.

    The temperature goes in equal steps from an image's first call to its last. An image that is partly known starts on
    the way, at the share that is known.

    Args:
        unmask_call: int64 [n, G, h, w], the call in which each position is drawn, -1 for never; see `unmask_calls`.
        times: int64 [S]; see `call_times`.
        temperatures: of the first and of the last call.
        slots: images in a batch; an image's slot does not depend on the images after it.
    """
    n, idle = len(unmask_call), len(times)  # `idle` is the call of a slot without an image
    jobs: list[list[tuple[int, int]]] = [[] for _ in range(slots)]
    for row, calls in enumerate(unmask_call.flatten(1).tolist()):
        slot = min(range(slots), key=lambda slot: len(jobs[slot]))
        jobs[slot] += [(row, call) for call in sorted(set(calls) - {-1})]
    length = max(map(len, jobs))
    for slot, own in enumerate(jobs):
        own += [(n + slot, idle)] * (length - len(own))
    rows, calls = torch.tensor(jobs, dtype=torch.int64, device="cpu").view(slots, length, 2).permute(2, 1, 0)

    images = rows.clamp(max=n - 1)
    last_call, known = unmask_call.amax((1, 2, 3))[images], (1 - (unmask_call >= 0).float().mean((1, 2, 3)))[images]
    progress = known + (1 - known) * (calls.float() / last_call.clamp(min=1)).clamp(max=1)
    first, last = temperatures
    return Plan(
        rows,
        torch.cat([times, times.new_ones(1)])[calls],
        unmask_call[images] == calls[..., None, None, None],
        (first + (last - first) * progress)[..., None, None, None, None],
    )


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

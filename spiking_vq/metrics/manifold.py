"""Fidelity, diversity and memorisation from nearest neighbours among sets of features."""

from __future__ import annotations

import torch
from torch import Tensor

from spiking_vq.errors import require
from spiking_vq.metrics.features import check_features

CHUNK = 512
"""Rows whose distances to all others are held at once."""


def precision_recall(real: Tensor, generated: Tensor, k: int = 3) -> tuple[float, float]:
    """Shares of generated rows that lie among the real ones, and of real rows that lie among the generated.

    A row lies among others if it is no further from one of them than that one's k-th nearest neighbour among them.

    Args:
        real: features [N, D], N > k.
        generated: features [M, D], M > k.
        k: number of the neighbour.

    Returns:
        Precision and recall, each in [0, 1].

    Raises:
        InputError: other shapes, too few rows, or features that are not finite.

    Reference: Kynkaanniemi et al., arXiv:1904.06991, equations 1 and 2.
    """
    precision = (balls_around(real, generated, k) > 0).double().mean().item()
    recall = (balls_around(generated, real, k) > 0).double().mean().item()
    return precision, recall


def density_coverage(real: Tensor, generated: Tensor, k: int = 5) -> tuple[float, float]:
    """How many real neighbourhoods a generated row lies in, over k, and the share of those with a generated row.

    Less easily misled by outliers than precision and recall; both are 1 in the mean for equal laws and many rows, but
    for coverage's `1 - 2^-k`.

    Args:
        real: features [N, D], N > k.
        generated: features [M, D].
        k: a row's neighbourhood reaches to its k-th nearest neighbour.

    Returns:
        Density, at least 0, and coverage in [0, 1].

    Raises:
        InputError: other shapes, too few rows, or features that are not finite.

    Reference: Naeem et al., arXiv:2002.09797, equations 3 and 5.
    """
    density = balls_around(real, generated, k).double().mean().item() / k
    inside = [
        distances(rows, generated).min(1).values <= radius
        for rows, radius in zip(real.split(CHUNK), radii(real, k).split(CHUNK), strict=True)
    ]
    return density, torch.cat(inside).double().mean().item()


def authenticity(training: Tensor, generated: Tensor) -> float:
    """Share of rows that are not nearer to a training row than that one's nearest fellow: 1 for nothing memorised.

    Held-out real rows give what to compare it with.

    Args:
        training: [N, D], N >= 2.
        generated: [M, D].

    Returns:
        In [0, 1].

    Raises:
        InputError: other shapes, or features that are not finite.

    Reference: Alaa et al., arXiv:2102.08921, section 3.3.
    """
    check_features(training, generated)
    to_training, whom = nearest(generated, training)
    rows, places = whom.unique(return_inverse=True)
    among_training = torch.cat([distances(training[part], training).kthvalue(2).values for part in rows.split(CHUNK)])
    return (to_training >= among_training[places]).double().mean().item()


def nearest(rows: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Distance [N] of each of `rows` [N, D] to the nearest of `others` [M, D], and the number [N] of that one."""
    found = [distances(part, others).min(1) for part in rows.split(CHUNK)]
    return torch.cat([values for values, _ in found]), torch.cat([indices for _, indices in found])


def balls_around(centres: Tensor, rows: Tensor, k: int) -> Tensor:
    """In how many of the balls around `centres` [N, D], out to their k-th nearest fellow, each of `rows` [M, D] lies.

    Returns:
        int64 [M], in 0..N.
    """
    check_features(centres, rows)
    radius = radii(centres, k)
    return torch.cat([(distances(part, centres) <= radius).sum(1) for part in rows.split(CHUNK)])


def radii(rows: Tensor, k: int) -> Tensor:
    """Distance [N] of each of `rows` [N, D] to its k-th nearest fellow."""
    require(1 <= k < len(rows), "k", f"at least 1 and below the number of rows, {len(rows)}", k)
    return torch.cat([distances(part, rows).kthvalue(k + 1).values for part in rows.split(CHUNK)])  # the first: itself


def distances(rows: Tensor, others: Tensor) -> Tensor:
    """Euclidean distances [N, M], float64, in which the squares' cancellation does not show."""
    return torch.cdist(rows.double(), others.double())

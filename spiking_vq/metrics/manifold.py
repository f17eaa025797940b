"""Fidelity, diversity and memorisation from nearest neighbours among sets of features."""

from __future__ import annotations

import torch
from torch import Tensor

from spiking_vq.errors import require
from spiking_vq.metrics.features import check_features

CHUNK = 512
"""Number of rows whose distances to all others are computed at once."""


def precision_recall(real: Tensor, generated: Tensor, k: int = 3) -> tuple[float, float]:
    """Fraction of generated rows inside the manifold of the real rows, and of real rows inside that of the generated.

    The manifold of a set of rows is the union of the balls around them that reach to their k-th nearest neighbours.

    Args:
        real: features [N, D], N > k.
        generated: features [M, D], M > k.
        k: number of the neighbour; default 3.

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
    """Mean number of real rows' balls around a generated row, over k, and the fraction of balls with a generated row.

    A ball reaches to the k-th nearest neighbour of its row. Outliers mislead these less than precision and recall. For
    equal distributions and many rows the expected density is 1, the expected coverage `1 - 2^-k`.

    Args:
        real: features [N, D], N > k.
        generated: features [M, D].
        k: number of the neighbour; default 5.

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
    """Fraction of generated rows not nearer to their nearest training row than that row's nearest training neighbour.

    It is 1 if no image is memorised. Compare it with the authenticity of held-out real rows.

    Args:
        training: features [N, D], N >= 2.
        generated: features [M, D].

    Returns:
        The fraction in [0, 1].

    Raises:
        InputError: other shapes, or features that are not finite.

    Reference: Alaa et al., arXiv:2102.08921, section 3.3.
    """
    check_features(training, generated)
    to_training, neighbours = nearest(generated, training)
    rows, indices = neighbours.unique(return_inverse=True)
    among_training = torch.cat([distances(training[part], training).kthvalue(2).values for part in rows.split(CHUNK)])
    return (to_training >= among_training[indices]).double().mean().item()


def nearest(rows: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Distance [N] of each of `rows` [N, D] to the nearest of `others` [M, D], and the index [N] of that row."""
    chunks = [distances(part, others).min(1) for part in rows.split(CHUNK)]
    return torch.cat([values for values, _ in chunks]), torch.cat([indices for _, indices in chunks])


def balls_around(centres: Tensor, rows: Tensor, k: int) -> Tensor:
    """Number, int64 [M] in 0..N, of balls around `centres` [N, D] that contain each of `rows` [M, D].

    A ball reaches to the k-th nearest neighbour of its centre.
    """
    check_features(centres, rows)
    radius = radii(centres, k)
    return torch.cat([(distances(part, centres) <= radius).sum(1) for part in rows.split(CHUNK)])


def radii(rows: Tensor, k: int) -> Tensor:
    """Distance [N] of each of `rows` [N, D] to its k-th nearest neighbour among them."""
    require(1 <= k < len(rows), "k", f"at least 1 and below the number of rows, {len(rows)}", k)
    return torch.cat([distances(part, rows).kthvalue(k + 1).values for part in rows.split(CHUNK)])  # the 1st is itself


def distances(rows: Tensor, others: Tensor) -> Tensor:
    """Euclidean distances [N, M], in float64, which hides the cancellation of squares."""
    return torch.cdist(rows.double(), others.double())

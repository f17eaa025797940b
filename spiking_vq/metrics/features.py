"""What distances between sets of features have in common."""

from __future__ import annotations

from torch import Tensor

from spiking_vq.errors import InputError


def check_features(features_a: Tensor, features_b: Tensor) -> None:
    """Raise `InputError` unless these are two sets of features [N, D] and [M, D], N and M at least 2."""
    shapes = [list(features.shape) for features in (features_a, features_b)]
    if any(len(shape) != 2 or shape[0] < 2 for shape in shapes) or shapes[0][1] != shapes[1][1]:
        raise InputError(f"expected features [N, D] and [M, D], N and M at least 2; got {shapes[0]} and {shapes[1]}")

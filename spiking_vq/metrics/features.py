"""Check of the features that distances are computed from."""

from __future__ import annotations

import torch
from torch import Tensor

from spiking_vq.errors import InputError, described


def check_features(features_a: Tensor, features_b: Tensor) -> None:
    """Raise `InputError` unless these are two sets of finite features [N, D] and [M, D], N and M at least 2."""
    both = (features_a, features_b)
    if not all(isinstance(features, Tensor) and features.is_floating_point() for features in both):
        raise InputError(f"expected floating-point torch tensors of features; got {' and '.join(map(described, both))}")
    shapes = [list(features.shape) for features in both]
    if any(len(shape) != 2 or shape[0] < 2 for shape in shapes) or shapes[0][1] != shapes[1][1]:
        raise InputError(f"expected features [N, D] and [M, D], N and M at least 2; got {shapes[0]} and {shapes[1]}")
    bad = [int((~torch.isfinite(features)).any(1).sum()) for features in both]
    if any(bad):
        rows = " and ".join(f"{count} of {shape[0]} rows" for count, shape in zip(bad, shapes, strict=True))
        raise InputError(f"features must be finite; {rows} are not: look at the images and weights that they are from")

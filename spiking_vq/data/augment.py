"""Images turned, stretched, sheared and shifted a little, each in its own way: more to learn from than there is."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from spiking_vq.errors import require
from spiking_vq.randomness import uniform_noise


def random_affine(
    n: int,
    generator: torch.Generator,
    *,
    degrees: float = 0.0,
    stretch: float = 0.0,
    shear: float = 0.0,
    shift: float = 0.0,
) -> Tensor:
    """Maps `[n, 2, 3]` of places in the new image to places in the old, in units of half its size, for `warp`.

    Args:
        n: number of maps.
        generator: on CPU.
        degrees: each is turned by an angle uniform in [-degrees, degrees].
        stretch: height and width are each scaled by a factor whose logarithm is uniform in [-stretch, stretch].
        shear: rows are shifted against each other by a factor uniform in [-shear, shear].
        shift: both ways, uniform in [-shift, shift], parts of the image's size.

    Raises:
        InputError: one of them is negative.
    """
    limits = {"degrees": degrees, "stretch": stretch, "shear": shear, "shift": shift}
    for name, limit in limits.items():
        require(limit >= 0, name, "at least 0", limit)
    angle, tall, wide, sheared, down, right = (2 * uniform_noise((6, n), generator) - 1).unbind()
    angle, tall, wide = math.radians(degrees) * angle, (stretch * tall).exp(), (stretch * wide).exp()
    across = torch.stack([angle.cos() * wide, shear * sheared - angle.sin() * tall, 2 * shift * right], dim=1)
    along = torch.stack([angle.sin() * wide, angle.cos() * tall, 2 * shift * down], dim=1)
    return torch.stack([across, along], dim=1)


def warp(images: Tensor, maps: Tensor) -> Tensor:
    """Images [B, C, H, W] in [0, 1] moved by `maps` [B, 2, 3], values between pixels bicubic, borders repeated."""
    places = F.affine_grid(maps.to(images), list(images.shape), align_corners=False)
    moved = F.grid_sample(images, places, mode="bicubic", padding_mode="border", align_corners=False)
    return moved.clamp(0, 1)

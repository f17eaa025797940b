"""Augmentation: random rotation, stretch, shear, shift and horizontal flips of images."""

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
    """Draw affine maps `[n, 2, 3]` for `warp`, from positions in the new image to positions in the old.

    Positions are in units of half the image's size. Every limit is 0 by default.

    Args:
        n: number of maps.
        generator: on CPU.
        degrees: the angle of rotation is uniform in [-degrees, degrees].
        stretch: height and width are each scaled by a factor whose logarithm is uniform in [-stretch, stretch].
        shear: rows are shifted against each other by a factor uniform in [-shear, shear].
        shift: both shifts are uniform in [-shift, shift], in parts of the image's size.

    Raises:
        InputError: a limit is negative.
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
    """Transform images [B, C, H, W] in [0, 1] by `maps` [B, 2, 3]: bicubic between pixels, borders repeated."""
    positions = F.affine_grid(maps.to(images, non_blocking=True), list(images.shape), align_corners=False)
    return F.grid_sample(images, positions, mode="bicubic", padding_mode="border", align_corners=False).clamp(0, 1)


def random_flips(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images [B, C, H, W], each mirrored left to right with probability 1/2; `generator` on their device."""
    mirrored = uniform_noise((len(images), 1, 1, 1), generator, images.device) < 0.5
    return torch.where(mirrored, images.flip(3), images)

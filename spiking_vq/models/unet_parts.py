"""What both spiking U-Nets share: the time embedding and the check of sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from spiking_vq.errors import InputError, require


def sinusoid(t: Tensor, num_features: int) -> Tensor:
    """Sines and cosines of the diffusion times `t` [B], wave lengths from 2 pi to about 20,000 pi; float32 [B, E].

    Reference: Vaswani et al., arXiv:1706.03762, section 3.5.
    """
    half = torch.arange(0, num_features, 2, device=t.device, dtype=torch.float64)
    angles = t.double().unsqueeze(1) * torch.exp(-math.log(10_000) * half / num_features)
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)[:, :num_features].float()


def check_sizes(
    image_shape: Sequence[int], T: int, width: int, multipliers: Sequence[int], num_blocks: int, patch_size: int
) -> None:
    """Raise `InputError` unless a U-Net of these sizes can be built."""
    require(T >= 1, "T, the number of spiking steps,", "at least 1", T)
    require(width >= 2 and width % 2 == 0, "width", "even, at least 2", width)
    require(num_blocks >= 1, "num_blocks", "at least 1", num_blocks)
    require(patch_size >= 1, "patch_size", "at least 1", patch_size)
    require(
        len(multipliers) >= 1 and min(multipliers) >= 1, "multipliers", "at least one, each at least 1", multipliers
    )
    _, height, width = image_shape
    halvings = len(multipliers) - 1
    divisor = patch_size * 2**halvings
    if height % divisor or width % divisor:
        raise InputError(
            f"image height and width must be multiples of {divisor}, as patches are {patch_size}x{patch_size} pixels"
            f" and {len(multipliers)} levels halve them {halvings} times; got {height}x{width}. Set image_size,"
            " patch_size, or fewer multipliers."
        )

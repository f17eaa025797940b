"""Parts that both spiking U-Nets share: sizes and the time embedding's input."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from spiking_vq.errors import require, require_multiples


def sinusoid(t: Tensor, num_features: int, to_the_end: bool = False) -> Tensor:
    """Sines and cosines of the times `t` [B] at the frequencies `10000^(-i / n)`, i = 0..E/2 - 1; float32 [B, E].

    Args:
        t: diffusion times.
        num_features: E, even.
        to_the_end: n is E/2 - 1, so that the last frequency is 1e-4; by default n is E/2.

    Reference: Vaswani et al., arXiv:1706.03762, section 3.5.
    """
    half = num_features // 2
    exponents = torch.arange(half, device=t.device, dtype=torch.float64) / max(half - to_the_end, 1)
    angles = t.double().unsqueeze(1) * torch.exp(-math.log(10_000) * exponents)
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1).float()


class SpikingUNet(nn.Module):
    """Base of the spiking U-Nets. Their `forward` takes labels as `ClassEmbedding` does; None is unconditional.

    Args:
        image_shape: (C, H, W); H and W multiples of `patch_size * 2^(levels - 1)`.
        T: number of spiking steps.
        width: channels of the first level, even.
        multipliers: the width of each level is this multiple of `width`.
        num_blocks: blocks a level.
        patch_size: side of the square of pixels that is one position of the first level; 1 as published.

    Raises:
        InputError: sizes that do not fit.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        T: int,
        width: int,
        multipliers: Sequence[int],
        num_blocks: int,
        patch_size: int,
    ) -> None:
        super().__init__()
        require(T >= 1, "T, the number of spiking steps,", "at least 1", T)
        require(width >= 2 and width % 2 == 0, "width", "even, at least 2", width)
        require(num_blocks >= 1, "num_blocks", "at least 1", num_blocks)
        require(patch_size >= 1, "patch_size", "at least 1", patch_size)
        require(min(multipliers, default=0) >= 1, "multipliers", "at least one, each at least 1", multipliers)
        channels, *size = image_shape
        halvings = len(multipliers) - 1
        divisor = patch_size * 2**halvings
        reason = (
            f"patches are {patch_size}x{patch_size} pixels and {len(multipliers)} levels halve them {halvings} times"
        )
        require_multiples(*size, divisor, reason, "patch_size or multipliers")
        self.image_shape, self.T, self.width, self.patch_size = tuple(image_shape), T, width, patch_size
        self.num_channels, self.num_features = channels * patch_size**2, 4 * width  # of patches; of the time embedding

    def time_features(self, t: Tensor) -> Tensor:
        """Input [B, width] of the time embedding, of the type of the weights, for diffusion times `t` [B]."""
        return sinusoid(t, self.width).to(self.head.weight.dtype)

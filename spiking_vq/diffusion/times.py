"""Diffusion times of a batch, and noise of single images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def stratified_times(n: int, diffusion_steps: int, device: torch.device, generator: torch.Generator | None) -> Tensor:
    """Draw n times evenly spaced over the cycle 1..N from one random offset, each of them uniform over 1..N.

    t_b = floor((offset + b N) / n) mod N + 1, the offset uniform over 0..n N - 1: each t_b alone is exactly uniform,
    and among the n every time comes up floor(n / N) or ceil(n / N) times.

    Returns:
        int64 [n] in 1..N.
    """
    offset = torch.randint(n * diffusion_steps, (1,), generator=generator, device=device)
    return (offset + diffusion_steps * torch.arange(n, device=device)) // n % diffusion_steps + 1


def normal_noise(shape: Sequence[int], generators: Sequence[torch.Generator]) -> Tensor:
    """Standard normal noise [B, *shape], float32 on the CPU, every image from its own generator."""
    return torch.stack([torch.randn(tuple(shape), generator=generator, device="cpu") for generator in generators])

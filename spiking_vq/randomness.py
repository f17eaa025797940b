"""Random numbers that depend on their seeds alone: not on torch's default type or device, and not on the platform."""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Sequence
from enum import IntEnum

import torch
from torch import Tensor


class Stream(IntEnum):
    """Random streams of a training run: `mix_seed(config.seed, Stream.BATCHES)`."""

    BATCHES = 1
    TRAINING = 2
    VALIDATION = 3


class ImageStream(IntEnum):
    """Random streams of a generated image in addition to its sampler's: `mix_seed(image_seed, ImageStream.LABEL)`."""

    SPIKES = 1
    LABEL = 2
    STYLE = 3


def mix_seed(*parts: int) -> int:
    """Mix integers into one seed, so that neighbouring parts such as (seed, epoch) give unrelated streams.

    The first 63 bits of BLAKE2b over the parts in decimal: the same on every platform and Python version. The order
    and the number of parts matter. About a microsecond a call.

    torch's CPU generator uses only the low 32 bits of a seed: of 100,000 seeds about one pair draws the same stream.

    Args:
        *parts: Integers of any size and sign.

    Returns:
        An integer in 0..2^63-1, which every `torch.Generator` accepts.
    """
    # operator.index takes NumPy's integers and enums too but refuses to truncate a float.
    text = ",".join([str(operator.index(part)) for part in parts])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def uniform_noise(
    shape: Sequence[int], generator: torch.Generator | None, device: torch.device | str = "cpu"
) -> Tensor:
    """Noise uniform in [0, 1), float32 of the given shape; the generator is on the device."""
    return torch.rand(tuple(shape), generator=generator, device=device, dtype=torch.float32)


def normal_noise(shape: Sequence[int], generator: torch.Generator | None) -> Tensor:
    """Standard normal noise, float32 of the given shape on the CPU."""
    return torch.randn(tuple(shape), generator=generator, device="cpu", dtype=torch.float32)


def permutation(n: int, generator: torch.Generator | None) -> Tensor:
    """A random order of 0..n-1, int64 [n] on the CPU."""
    return torch.randperm(n, generator=generator, device="cpu")


def stratified_times(n: int, diffusion_steps: int, device: torch.device, generator: torch.Generator | None) -> Tensor:
    """Draw n times evenly spaced over the cycle 1..N from one random offset, each of them uniform over 1..N.

    t_b = floor((offset + b N) / n) mod N + 1, the offset uniform over 0..n N - 1: each t_b alone is exactly uniform,
    and among the n every time comes up floor(n / N) or ceil(n / N) times.

    Returns:
        int64 [n] in 1..N.
    """
    offset = torch.randint(n * diffusion_steps, (1,), generator=generator, device=device)
    return (offset + diffusion_steps * torch.arange(n, device=device)) // n % diffusion_steps + 1

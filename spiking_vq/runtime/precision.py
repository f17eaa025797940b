"""Which numbers a network computes with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

PRECISIONS = ("fp32", "bf16", "fp64")


def parameter_type(precision: str) -> torch.dtype:
    """Type of the parameters: fp64 for `fp64`, else fp32."""
    return torch.float64 if precision == "fp64" else torch.float32


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """What synapses compute with: bf16 for `bf16`, else the parameters' type; membranes are never in bf16."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


@contextmanager
def usual_defaults() -> Iterator[None]:
    """Inside the block torch makes float32 tensors on the CPU, whatever defaults other code has set.

    For building networks to train, whose initial weights depend on both. The default type is the whole process's.
    """
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.device("cpu"):
            yield
    finally:
        torch.set_default_dtype(dtype)


# Kernels


def state_type(x: Tensor) -> torch.dtype:
    """What accumulates over time does so in fp32 at least: spikes are exact in bf16, membranes are not."""
    return torch.promote_types(x.dtype, torch.float32)

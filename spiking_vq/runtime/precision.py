"""Number formats that a network computes with."""

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
    """Autocast block in which synapses compute in bf16 for `bf16`, else in the parameters' type; membranes never do."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


@contextmanager
def usual_defaults() -> Iterator[None]:
    """Inside the block torch makes float32 tensors on the CPU, whatever defaults other code has set.

    For building networks to train, whose initial weights depend on both. The default type belongs to the whole process.
    """
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.device("cpu"):
            yield
    finally:
        torch.set_default_dtype(dtype)


def state_type(x: Tensor) -> torch.dtype:
    """Type of sums over time of `x`, such as membranes: x's own, but fp32 at least. Spikes alone are exact in bf16."""
    return torch.promote_types(x.dtype, torch.float32)

"""Which numbers a network computes with."""

from __future__ import annotations

import torch

PRECISIONS = ("fp32", "bf16", "fp64")


def parameter_type(precision: str) -> torch.dtype:
    """Type of the parameters: fp64 for `fp64`, else fp32."""
    return torch.float64 if precision == "fp64" else torch.float32


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """What synapses compute with: bf16 for `bf16`, else the parameters' type; membranes are never in bf16."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")

"""Read-outs: spikes `[T, B, ...]` to real values `[B, ...]` in fp32 at least, and the filter inside them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from spiking_vq.runtime.precision import state_type


def weighted_sum(x: Tensor, weights: Sequence[float]) -> Tensor:
    """`sum_t weights[t] x[t]`, `[T, B, ...] -> [B, ...]`, fp32 at least."""
    # filled on x's device: a GPU would wait for a copy, and could not repeat it in a graph
    row = torch.stack([torch.full((), weight, dtype=state_type(x), device=x.device) for weight in weights])
    return _over_time(row.unsqueeze(0), x).squeeze(0)


def rate_weights(num_steps: int) -> list[float]:
    """Weights of the mean over time."""
    return [1 / num_steps] * num_steps


def decay_weights(num_steps: int, decay: float = 0.8) -> list[float]:
    """Weights `decay^(T-1-t)` of the membrane potential of a neuron that never fires; decay in [0, 1]."""
    return [decay ** (num_steps - 1 - t) for t in range(num_steps)]


def firing_rate(spk: Tensor) -> Tensor:
    """Mean over time, `[T, B, ...] -> [B, ...]`, in [0, 1] for spikes."""
    return spk.mean(0, dtype=state_type(spk))


def decayed_sum(x: Tensor, decay: float = 0.8) -> Tensor:
    """Membrane read-out of a neuron that never fires: `sum_t decay^(T-1-t) x[t]`, `[T, B, ...] -> [B, ...]`."""
    return weighted_sum(x, decay_weights(len(x), decay))


def psp_trace(x: Tensor, tau: float = 2.0) -> Tensor:
    """Postsynaptic potential `PSP[t] = (1 - 1/tau) PSP[t-1] + x[t] / tau`, `[T, B, ...] -> [T, B, ...]`.

    Reference: Liu et al., arXiv:2308.10187, the PSP of the loss.
    """
    steps = torch.arange(len(x), dtype=torch.float64, device=x.device)
    age = steps.unsqueeze(1) - steps
    return _over_time(torch.where(age < 0, 0.0, (1 - 1 / tau) ** age.clamp(min=0) / tau), x)


def _over_time(matrix: Tensor, x: Tensor) -> Tensor:
    """`y[s] = sum_t matrix[s, t] x[t]`, in fp32 at least: the memory of a filter needs more digits than bf16 has."""
    matrix = matrix.to(state_type(x))
    with torch.autocast(x.device.type, enabled=False):
        return torch.tensordot(matrix, x.to(matrix.dtype), dims=1)

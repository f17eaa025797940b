"""Kernels of a neuron layer: batch norm, residual sum and the scan over time in one pass over memory each way.

They are plain functions of rows, tensors `[S, N, C]` of N positions and C channels; S is T, or 1 for a tensor that is
the same at every step. They run compiled, once for each kind of layer, or as they are: see `runtime.compiling`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from spiking_vq.neurons.dynamics import Dynamics, scan_backward, scan_forward
from spiking_vq.runtime.precision import state_type


@dataclass(frozen=True)
class LayerKind:
    """Everything a kernel depends on except tensors.

    Attributes:
        dynamics: rules of the neuron; None computes the input current only.
        num_steps: T.
        normed: the current has a batch norm.
        residual_steps: S of the residual current; 0 if there is none.
        keep: return the current too.
        learnt: gradients of beta and threshold are wanted.
        weights: T weights of a sum of the spikes over time, returned instead of the spikes; None returns the spikes.
    """

    dynamics: Dynamics | None
    num_steps: int
    normed: bool
    residual_steps: int
    keep: bool
    learnt: bool
    weights: tuple[float, ...] | None = None


class Saved(NamedTuple):
    """Tensors of a layer that its backward pass needs; None where the layer has none.

    x, residual and kept, the current if it was returned, [S, N, C]; scale and shift of the batch norm, and the mean and
    rstd in them, [C]; mem before the first step [N, C]; beta and threshold, scalars or [N, C].
    """

    x: Tensor
    scale: Tensor | None
    shift: Tensor | None
    mean: Tensor | None
    rstd: Tensor | None
    residual: Tensor | None
    kept: Tensor | None
    mem: Tensor | None
    beta: Tensor | None
    threshold: Tensor | None


def statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance [C] of the rows of `x` [S, N, C], in one pass, relative to one of the rows."""
    origin = x[0, 0].to(state_type(x))
    rows = x.to(origin.dtype) - origin
    # each step first: a sum over all rows at once would leave no work for more than C / 32 cores
    mean, square = rows.mean(1).mean(0), rows.square().mean(1).mean(0)
    return mean + origin, (square - mean.square()).clamp(min=0)


def _currents(
    kind: LayerKind, x: Tensor, scale: Tensor | None, shift: Tensor | None, residual: Tensor | None
) -> list[Tensor]:
    """Input current [N, C] of each step; of the first step only if all are the same."""

    def at(t: int, of: Tensor) -> Tensor:
        return of[t if len(of) > 1 else 0].to(state_type(x))

    currents = [at(t, x) for t in range(max(len(x), kind.residual_steps))]
    if kind.normed:
        currents = [current * scale + shift for current in currents]
    if residual is not None:
        currents = [current + at(t, residual) for t, current in enumerate(currents)]
    return currents


def _each(currents: list[Tensor], num_steps: int) -> list[Tensor]:
    return currents if len(currents) == num_steps else currents * num_steps


def forward_kernel(
    kind: LayerKind,
    x: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    residual: Tensor | None,
    mem: Tensor | None,
    beta: Tensor | None,
    threshold: Tensor | None,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Forward pass of a layer; the arguments are those of `Saved`.

    Returns:
        Spikes [T, N, C], or their weighted sum over time [1, N, C]; membrane after the last step [N, C]; current
        [S, N, C] if the kind keeps it.
    """
    currents = _currents(kind, x, scale, shift, residual)
    kept = torch.stack(currents) if kind.keep else None
    if kind.dynamics is None:
        return None, None, kept
    steps = scan_forward(_each(currents, kind.num_steps), mem, beta, threshold, kind.dynamics)
    if kind.weights is None:
        spk = torch.stack([step.spk.to(x.dtype) for step in steps])
    else:
        weighted = [weight * step.spk for weight, step in zip(kind.weights, steps, strict=True)]
        spk = sum(weighted[1:], weighted[0]).unsqueeze(0)
    return spk, steps[-1].mem, kept


def backward_kernel(kind: LayerKind, *tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """Backward pass of a layer up to its batch norm.

    Args:
        kind: of the layer.
        tensors: the fields of `Saved`, then the gradients of the three results of `forward_kernel`.

    Returns:
        Gradient of the normed x [S, N, C], and of the residual too if it has the same S; sums of this gradient over the
        steps, plain and times the normed x before weight and bias [N, C]; gradient of the residual if it has another S;
        gradients of mem, beta and threshold [N, C].
    """
    saved, (grad_spk, grad_mem, grad_kept) = Saved(*tensors[:-3]), tensors[-3:]
    x, kept, mem = saved.x, saved.kept, saved.mem
    if kept is None:
        currents = _currents(kind, x, saved.scale, saved.shift, saved.residual)
    else:
        currents = list(kept.unbind(0))
    if kind.dynamics is not None:
        each = _each(currents, kind.num_steps)
        grad_each = [grad.to(each[0].dtype) for grad in grad_spk.unbind(0)]
        if kind.weights is not None:
            grad_each = [weight * grad_each[0] for weight in kind.weights]
        grads = scan_backward(each, mem, saved.beta, saved.threshold, kind.dynamics, grad_each, grad_mem, kind.learnt)
        grad_currents = grads.currents
        if len(currents) == 1:
            grad_currents = [sum(grad_currents[1:], grad_currents[0])]
    else:
        grad_currents = [torch.zeros_like(current) for current in currents]
    if grad_kept is not None:
        grad_currents = [grad + other for grad, other in zip(grad_currents, grad_kept.unbind(0), strict=True)]

    total = sum(grad_currents[1:], grad_currents[0])
    grad_x = grad_currents if len(x) == len(grad_currents) else [total]
    sums = None, None
    if kind.normed:
        product = [grad * (at.to(total.dtype) - saved.mean) for grad, at in zip(grad_x, x.unbind(0), strict=True)]
        sums = total, sum(product[1:], product[0]) * saved.rstd
    grad_type = state_type(x) if kind.residual_steps else x.dtype
    grad_residual = None
    if kind.residual_steps not in (0, len(grad_x)):
        grad_residual = torch.stack(grad_currents if kind.residual_steps > 1 else [total])
    learnt = (grads.beta, grads.threshold) if kind.learnt else (None, None)
    grad_mem = grads.mem if mem is not None and kind.dynamics is not None else None
    return torch.stack([grad.to(grad_type) for grad in grad_x]), *sums, grad_residual, grad_mem, *learnt


def norm_backward_kernel(
    grad: Tensor, x: Tensor, scale: Tensor, mean: Tensor, rstd: Tensor, grad_mean: Tensor, product_mean: Tensor
) -> Tensor:
    """Gradient of x [S, N, C] through a batch norm and its statistics.

    `grad` is the gradient of the normed x [S, N, C]; the means over its rows are plain, and times the normed x [C].
    """
    normed = (x.to(mean.dtype) - mean) * rstd
    return (scale * (grad.to(mean.dtype) - grad_mean - normed * product_mean)).to(x.dtype)


def scale_kernel(grad: Tensor, x: Tensor, scale: Tensor) -> Tensor:
    """Gradient of x [S, N, C] through a batch norm whose mean and variance are constants."""
    return (scale * grad).to(x.dtype)

"""Neurons over whole layers: batch norm, residual sum and the scan over time in one pass over memory each way.

A synapse's output becomes a neuron's input current by batch norm and, in residual networks, a sum. Each of these by
itself reads and writes a tensor of `[T, B, C, H, W]` and keeps it for the backward pass, and the arithmetic is nothing
beside that traffic. So a `Current` is only described, and computed inside the scan that reads it; what is kept for the
backward pass is the synapse's output alone, from which the membranes are computed again.

The kernels are plain functions of tensors [S, N, C], N places and C channels, S = T steps or, of what is the same at
every step, S = 1. They are compiled, once for each kind of layer, T and types, or run as they are; see `compiling`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from spiking_vq.neurons.dynamics import Dynamics, scan_backward, scan_forward
from spiking_vq.runtime.compiling import kernel
from spiking_vq.runtime.distributed import mean_over_ranks, stacked
from spiking_vq.runtime.precision import state_type
from spiking_vq.runtime.running import running


class Norm(NamedTuple):
    """Batch norm of a current: `(x - mean) * rstd * weight + bias`, all [C].

    `from_batch` says that mean and rstd are those of the very x, so that the gradient goes through them;
    `synchronised`, that they are those of all ranks' x together.
    """

    weight: Tensor
    bias: Tensor
    mean: Tensor
    rstd: Tensor
    from_batch: bool
    synchronised: bool = False


class Current:
    """Input current of a neuron layer, `norm(x) + residual`, not computed before it is read.

    Args:
        x: `[T, B, C, ...]`, or `[1, B, C, ...]` if it is the same at every step.
        norm: batch norm of x; None takes x as it is.
        residual: a current to add, `[T, B, C, ...]` or `[1, B, C, ...]`.
        num_steps: T.
    """

    def __init__(
        self, x: Tensor, norm: Norm | None = None, residual: Tensor | None = None, num_steps: int | None = None
    ) -> None:
        self.x, self.norm, self.residual = x, norm, residual
        self.num_steps = max(len(x), 0 if residual is None else len(residual)) if num_steps is None else num_steps
        self.keep, self._value = False, None

    @property
    def shape(self) -> torch.Size:
        """`[T, B, C, ...]`."""
        return torch.Size([self.num_steps, *self.x.shape[1:]])

    def value(self) -> Tensor:
        """The current itself, `[T, B, C, ...]`, or `[1, B, C, ...]` if it is the same at every step.

        It costs a pass of its own, unless a neuron has read it with `keep` set and computed it on the way.
        """
        if self.norm is None and self.residual is None:
            return self.x
        if self._value is None:
            self.keep = True
            read(self, None)
        return self._value


def as_current(x: Tensor | Current) -> Current:
    """A current that is known already, `[T, B, ...]`, in the form of those that are not."""
    return x if isinstance(x, Current) else Current(x)


@dataclass(frozen=True)
class Plan:
    """What kind of layer a kernel is for.

    Attributes:
        dynamics: of the neuron; None if there is none.
        num_steps: T.
        normed: the current has a batch norm.
        residual_steps: S of the residual current; 0 if there is none.
        keep: hand out the current too.
        learnt: gradients of beta and threshold are wanted.
        weights: hand out the sum of the spikes over time with these weights instead of the spikes.
    """

    dynamics: Dynamics | None
    num_steps: int
    normed: bool
    residual_steps: int
    keep: bool
    learnt: bool
    weights: tuple[float, ...] | None = None


def statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance [C] of the rows of `x` [S, N, C], in one pass, about one of the rows."""
    origin = x[0, 0].to(state_type(x))
    rows = x.to(origin.dtype) - origin
    # step by step first: a sum over all rows at once would leave no work for more than C / 32 cores
    mean, square = rows.mean(1).mean(0), rows.square().mean(1).mean(0)
    return mean + origin, (square - mean.square()).clamp(min=0)


def _currents(
    plan: Plan, x: Tensor, scale: Tensor | None, shift: Tensor | None, residual: Tensor | None
) -> list[Tensor]:
    """Input current [N, C] of each step, or of the one that stands for all."""

    def at(t: int, of: Tensor) -> Tensor:
        return of[t if len(of) > 1 else 0].to(state_type(x))

    currents = [at(t, x) for t in range(max(len(x), plan.residual_steps))]
    if plan.normed:
        currents = [current * scale + shift for current in currents]
    if residual is not None:
        currents = [current + at(t, residual) for t, current in enumerate(currents)]
    return currents


def forward_kernel(
    plan: Plan,
    x: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    residual: Tensor | None,
    mem: Tensor | None,
    beta: Tensor | None,
    threshold: Tensor | None,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The forward pass of a layer.

    Returns:
        Spikes [T, N, C], or their weighted sum over time [1, N, C]; the membrane after the last step [N, C]; the
        current [S, N, C] if it is to be kept.
    """
    currents = _currents(plan, x, scale, shift, residual)
    kept = torch.stack(currents) if plan.keep else None
    if plan.dynamics is None:
        return None, None, kept
    steps = scan_forward(_each(currents, plan.num_steps), mem, beta, threshold, plan.dynamics)
    if plan.weights is None:
        spk = torch.stack([step.spk.to(x.dtype) for step in steps])
    else:
        weighted = [weight * step.spk for weight, step in zip(plan.weights, steps, strict=True)]
        spk = sum(weighted[1:], weighted[0]).unsqueeze(0)
    return spk, steps[-1].mem, kept


def backward_kernel(
    plan: Plan,
    x: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    mean: Tensor | None,
    rstd: Tensor | None,
    residual: Tensor | None,
    kept: Tensor | None,
    mem: Tensor | None,
    beta: Tensor | None,
    threshold: Tensor | None,
    grad_spk: Tensor | None,
    grad_mem: Tensor | None,
    grad_kept: Tensor | None,
) -> tuple[Tensor | None, ...]:
    """The backward pass of a layer up to its batch norm.

    Returns:
        Gradient of the normed x [S, N, C], and of the residual too if they have the same S; its sums over the steps,
        plain and times the normed x before weight and bias [N, C]; the gradient of the residual if its S is another;
        the gradients of mem, beta and threshold [N, C].
    """
    currents = _currents(plan, x, scale, shift, residual) if kept is None else list(kept.unbind(0))
    if plan.dynamics is not None:
        each = _each(currents, plan.num_steps)
        grad_each = [grad.to(each[0].dtype) for grad in grad_spk.unbind(0)]
        if plan.weights is not None:
            grad_each = [weight * grad_each[0] for weight in plan.weights]
        grads = scan_backward(each, mem, beta, threshold, plan.dynamics, grad_each, grad_mem, plan.learnt)
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
    if plan.normed:
        product = [grad * (at.to(total.dtype) - mean) for grad, at in zip(grad_x, x.unbind(0), strict=True)]
        sums = total, sum(product[1:], product[0]) * rstd
    grad_type = state_type(x) if plan.residual_steps else x.dtype
    grad_residual = None
    if plan.residual_steps not in (0, len(grad_x)):
        grad_residual = torch.stack(grad_currents if plan.residual_steps > 1 else [total])
    learnt = (grads.beta, grads.threshold) if plan.learnt else (None, None)
    grad_mem = grads.mem if mem is not None and plan.dynamics is not None else None
    return torch.stack([grad.to(grad_type) for grad in grad_x]), *sums, grad_residual, grad_mem, *learnt


def norm_backward_kernel(
    grad: Tensor, x: Tensor, scale: Tensor, mean: Tensor, rstd: Tensor, grad_mean: Tensor, product_mean: Tensor
) -> Tensor:
    """Gradient of x [S, N, C] from that of the normed x, and its means over the rows with 1 and with x normed [C]."""
    normed = (x.to(mean.dtype) - mean) * rstd
    return (scale * (grad.to(mean.dtype) - grad_mean - normed * product_mean)).to(x.dtype)


def scale_kernel(grad: Tensor, x: Tensor, scale: Tensor) -> Tensor:
    """Gradient of x [S, N, C] where mean and variance are constants."""
    return (scale * grad).to(x.dtype)


def _each(currents: list[Tensor], num_steps: int) -> list[Tensor]:
    return currents if len(currents) == num_steps else currents * num_steps


# Differentiable


def batch_statistics(x: Tensor, synchronised: bool = False) -> tuple[Tensor, Tensor]:
    """Mean and biased variance [C], fp32 at least, of `x` `[S, B, C, ...]` over all but the channels.

    With `synchronised`, of all ranks' x together.
    """
    with torch.autocast(x.device.type, enabled=False):
        mean, var = kernel(statistics, None, running().compile)(_channel_rows(x.detach()))
    if synchronised:
        means, variances = stacked(torch.stack([mean, var])).unbind(1)
        mean, var = means.mean(0), variances.mean(0) + means.var(0, correction=0)
    return mean, var


class _Scan(torch.autograd.Function):
    """The kernels as one differentiable function."""

    @staticmethod
    def forward(
        ctx: Any,
        plan: Plan,
        norm: Norm | None,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        mem: Tensor | None,
        beta: Tensor | None,
        threshold: Tensor | None,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        scale = shift = mean = rstd = None
        if norm is not None:
            mean, rstd = norm.mean, norm.rstd
            scale = weight * rstd
            shift = bias - mean * scale
        ctx.plan, ctx.compile = plan, running().compile
        ctx.from_batch = norm is not None and norm.from_batch
        ctx.synchronised = norm is not None and norm.synchronised
        ctx.set_materialize_grads(False)
        spk, last, kept = kernel(forward_kernel, plan, ctx.compile)(x, scale, shift, residual, mem, beta, threshold)
        ctx.save_for_backward(x, scale, shift, mean, rstd, None if plan.keep else residual, kept, mem, beta, threshold)
        return spk, last, kept

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_spk: Tensor | None, grad_mem: Tensor | None, grad_kept: Tensor | None) -> tuple:
        x, scale, shift, mean, rstd, residual, kept, mem, beta, threshold = ctx.saved_tensors
        plan = ctx.plan
        if plan.dynamics is not None and grad_spk is None:
            grad_spk = x.new_zeros(plan.num_steps if plan.weights is None else 1, *x.shape[1:])
        grad, total, product, grad_residual, grad_mem, grad_beta, grad_threshold = kernel(
            backward_kernel, plan, ctx.compile
        )(x, scale, shift, mean, rstd, residual, kept, mem, beta, threshold, grad_spk, grad_mem, grad_kept)
        if plan.normed:  # summed here: a compiled kernel would write the terms of these sums into memory first
            total, product = total.sum(0), product.sum(0)
        grad_x = grad
        if ctx.from_batch:
            means = torch.stack([total, product]) / (len(x) * x.shape[1])
            means = mean_over_ranks(means) if ctx.synchronised else means
            grad_x = kernel(norm_backward_kernel, None, ctx.compile)(grad, x, scale, mean, rstd, *means)
        elif plan.normed:
            grad_x = kernel(scale_kernel, None, ctx.compile)(grad, x, scale)
        elif grad.dtype != x.dtype:
            grad_x = grad.to(x.dtype)
        if plan.residual_steps and grad_residual is None:
            grad_residual = grad
        learnt = (
            None if not plan.learnt or like is None else (got.sum() if like.dim() == 0 else got).to(like.dtype)
            for got, like in ((grad_beta, beta), (grad_threshold, threshold))
        )
        return None, None, grad_x, product, total, grad_residual, grad_mem, *learnt


# From layers' shapes to rows and back


def read(
    current: Current,
    dynamics: Dynamics | None,
    beta: Tensor | None = None,
    threshold: Tensor | None = None,
    mem: Tensor | None = None,
    weights: Sequence[float] | None = None,
) -> tuple[Tensor | None, Tensor | None]:
    """Run a layer of neurons over its input current.

    Args:
        current: `[T, B, ...]`.
        dynamics: of the neuron; None computes the current alone.
        beta, threshold: of a shape that broadcasts against `[B, ...]`.
        mem: membrane before the first step, `[B, ...]`; None is rest.
        weights: T numbers; see the first result.

    Returns:
        Spikes `[T, B, ...]` of x's type, or with `weights` their sum over time, `[1, B, ...]`, fp32 at least; and the
        membrane after the last step `[B, ...]`.
    """
    x, norm = current.x, current.norm
    by_channel = norm is not None or (x.dim() > 2 and x.movedim(2, -1).is_contiguous())
    to_rows = _channel_rows if by_channel else _flat_rows

    def from_rows(rows: Tensor) -> Tensor:
        if not by_channel:
            return rows.view(len(rows), *x.shape[1:])
        batch, _, *space = x.shape[1:]
        return rows.unflatten(1, (batch, *space)).movedim(-1, 2)

    def per_place(value: Tensor | None) -> Tensor | None:
        if value is None or value.numel() == 1:
            return value if value is None else value.reshape(())
        return to_rows(value.expand(1, *x.shape[1:])).squeeze(0)

    learnt = [value for value in (beta, threshold) if value is not None and value.requires_grad]
    plan = Plan(
        dynamics=dynamics,
        num_steps=current.num_steps,
        normed=norm is not None,
        residual_steps=0 if current.residual is None else len(current.residual),
        keep=current.keep,
        learnt=bool(learnt) and torch.is_grad_enabled(),
        weights=None if weights is None else tuple(weights),
    )
    with torch.autocast(x.device.type, enabled=False):
        spk, last, kept = _Scan.apply(
            plan,
            norm,
            to_rows(x),
            None if norm is None else norm.weight,
            None if norm is None else norm.bias,
            None if current.residual is None else to_rows(current.residual).to(state_type(x)),
            None if mem is None else to_rows(mem.unsqueeze(0)).squeeze(0).to(state_type(x)),
            per_place(beta),
            per_place(threshold),
        )
    if kept is not None:
        current._value = from_rows(kept)
    if dynamics is None:
        return None, None
    return from_rows(spk), from_rows(last.unsqueeze(0)).squeeze(0)


def _channel_rows(x: Tensor) -> Tensor:
    """`[S, B, C, ...] -> [S, N, C]`; a view if `x` is channels-last."""
    return x.movedim(2, -1).flatten(1, -2)


def _flat_rows(x: Tensor) -> Tensor:
    """`[S, ...] -> [S, 1, M]`."""
    return x.reshape(len(x), 1, -1)

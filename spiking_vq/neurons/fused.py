"""Neurons over whole layers: batch norm, residual sum and the scan over time as one differentiable function.

A synapse's output becomes a neuron's input current by batch norm and, in residual networks, a sum. Each alone would
read, write and keep for the backward pass a tensor `[T, B, C, H, W]`, which takes far longer than its arithmetic. So a
`LazyCurrent` only describes the current, which the scan computes on the way; only the synapse's output is kept for the
backward pass, which computes the membranes again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from spiking_vq.neurons.dynamics import Dynamics
from spiking_vq.neurons.kernels import (
    LayerKind,
    Saved,
    backward_kernel,
    forward_kernel,
    norm_backward_kernel,
    scale_kernel,
    statistics,
)
from spiking_vq.runtime.compiling import kernel
from spiking_vq.runtime.distributed import mean_over_ranks, stacked
from spiking_vq.runtime.precision import state_type
from spiking_vq.runtime.running import running


class Norm(NamedTuple):
    """Batch norm of a current: `(x - mean) * rstd * weight + bias`, all [C].

    `from_batch`: mean and rstd are those of x itself, so the gradient goes through them; `synchronised`: they are those
    of all ranks' x together.
    """

    weight: Tensor
    bias: Tensor
    mean: Tensor
    rstd: Tensor
    from_batch: bool
    synchronised: bool = False


class LazyCurrent:
    """Input current of a neuron layer, `norm(x) + residual`, not computed before it is read.

    Args:
        x: `[T, B, C, ...]`, or `[1, B, C, ...]` if it is the same at every step.
        norm: batch norm of x; None (default) takes x itself.
        residual: current to add, `[T, B, C, ...]` or `[1, B, C, ...]`; None (default) adds nothing.
        num_steps: T; None (default) takes the larger number of steps of x and residual.

    Attributes:
        keep: the neurons that read the current store its value too; default False.
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

        It takes a pass of its own, unless neurons have read the current with `keep` set.
        """
        if self.norm is None and self.residual is None:
            return self.x
        if self._value is None:
            self.keep = True
            run_neurons(self, None)
        return self._value


def as_current(x: Tensor | LazyCurrent) -> LazyCurrent:
    """A tensor `[T, B, ...]` as a `LazyCurrent`."""
    return x if isinstance(x, LazyCurrent) else LazyCurrent(x)


def batch_statistics(x: Tensor, synchronised: bool = False) -> tuple[Tensor, Tensor]:
    """Mean and biased variance [C], fp32 at least, of `x` `[S, B, C, ...]` over all dimensions but the channels.

    With `synchronised` (default False), of all ranks' x together.
    """
    with torch.autocast(x.device.type, enabled=False):
        mean, var = kernel(statistics, None, running().compile)(_channel_rows(x.detach()))
    if synchronised:
        means, variances = stacked(torch.stack([mean, var])).unbind(1)
        mean, var = means.mean(0), variances.mean(0) + means.var(0, correction=0)
    return mean, var


def run_neurons(
    current: LazyCurrent,
    dynamics: Dynamics | None,
    beta: Tensor | None = None,
    threshold: Tensor | None = None,
    mem: Tensor | None = None,
    weights: Sequence[float] | None = None,
) -> tuple[Tensor | None, Tensor | None]:
    """Run a layer of neurons over its input current.

    Args:
        current: `[T, B, ...]`.
        dynamics: rules of the neuron; None computes the current only.
        beta, threshold: broadcast against `[B, ...]`.
        mem: membrane before the first step, `[B, ...]`; None (default) is rest.
        weights: T weights of a sum of the spikes over time; None (default) does not sum.

    Returns:
        Spikes `[T, B, ...]` of x's type, or their weighted sum `[1, B, ...]`, fp32 at least; and the membrane after the
        last step `[B, ...]`.
    """
    x, norm, residual = current.x, current.norm, current.residual
    by_channel = norm is not None or (x.dim() > 2 and x.movedim(2, -1).is_contiguous())
    to_rows = _channel_rows if by_channel else _flat_rows

    def from_rows(rows: Tensor) -> Tensor:
        if not by_channel:
            return rows.view(len(rows), *x.shape[1:])
        batch, _, *space = x.shape[1:]
        return rows.unflatten(1, (batch, *space)).movedim(-1, 2)

    def per_neuron(value: Tensor | None) -> Tensor | None:
        if value is None:
            return None
        return value.reshape(()) if value.numel() == 1 else to_rows(value.expand(1, *x.shape[1:])).squeeze(0)

    learnt = any(value is not None and value.requires_grad for value in (beta, threshold))
    kind = LayerKind(
        dynamics=dynamics,
        num_steps=current.num_steps,
        normed=norm is not None,
        residual_steps=0 if residual is None else len(residual),
        keep=current.keep,
        learnt=learnt and torch.is_grad_enabled(),
        weights=None if weights is None else tuple(weights),
    )
    with torch.autocast(x.device.type, enabled=False):
        spk, last, kept = _Scan.apply(
            kind,
            norm,
            to_rows(x),
            *((None, None) if norm is None else (norm.weight, norm.bias)),
            None if residual is None else to_rows(residual).to(state_type(x)),
            None if mem is None else to_rows(mem.unsqueeze(0)).squeeze(0).to(state_type(x)),
            per_neuron(beta),
            per_neuron(threshold),
        )
    if kept is not None:
        current._value = from_rows(kept)
    return (None, None) if dynamics is None else (from_rows(spk), from_rows(last.unsqueeze(0)).squeeze(0))


class _Scan(torch.autograd.Function):
    """The kernels as one differentiable function of x, the norm's weight and bias, residual, mem, beta, threshold."""

    @staticmethod
    def forward(
        ctx: Any, kind: LayerKind, norm: Norm | None, *tensors: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight, bias, residual, *state = tensors
        scale = shift = mean = rstd = None
        if norm is not None:
            mean, rstd = norm.mean, norm.rstd
            scale = weight * rstd
            shift = bias - mean * scale
        ctx.kind, ctx.compile = kind, running().compile
        ctx.from_batch = norm is not None and norm.from_batch
        ctx.synchronised = norm is not None and norm.synchronised
        ctx.set_materialize_grads(False)
        spk, last, kept = kernel(forward_kernel, kind, ctx.compile)(x, scale, shift, residual, *state)
        ctx.save_for_backward(*Saved(x, scale, shift, mean, rstd, None if kind.keep else residual, kept, *state))
        return spk, last, kept

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_spk: Tensor | None, grad_mem: Tensor | None, grad_kept: Tensor | None) -> tuple:
        kind, saved = ctx.kind, Saved(*ctx.saved_tensors)
        x = saved.x
        if kind.dynamics is not None and grad_spk is None:
            grad_spk = x.new_zeros(kind.num_steps if kind.weights is None else 1, *x.shape[1:])
        grad, total, product, grad_residual, grad_mem, grad_beta, grad_threshold = kernel(
            backward_kernel, kind, ctx.compile
        )(*saved, grad_spk, grad_mem, grad_kept)
        if kind.normed:  # summed here: a compiled kernel would write the terms of these sums into memory first
            total, product = total.sum(0), product.sum(0)
        grad_x = grad
        if ctx.from_batch:
            means = torch.stack([total, product]) / (len(x) * x.shape[1])
            means = mean_over_ranks(means) if ctx.synchronised else means
            norm = saved.scale, saved.mean, saved.rstd
            grad_x = kernel(norm_backward_kernel, None, ctx.compile)(grad, x, *norm, *means)
        elif kind.normed:
            grad_x = kernel(scale_kernel, None, ctx.compile)(grad, x, saved.scale)
        elif grad.dtype != x.dtype:
            grad_x = grad.to(x.dtype)
        if kind.residual_steps and grad_residual is None:
            grad_residual = grad
        learnt = (
            None if not kind.learnt or like is None else (got.sum() if like.dim() == 0 else got).to(like.dtype)
            for got, like in ((grad_beta, saved.beta), (grad_threshold, saved.threshold))
        )
        return None, None, grad_x, product, total, grad_residual, grad_mem, *learnt


def _channel_rows(x: Tensor) -> Tensor:
    """`[S, B, C, ...] -> [S, N, C]`; a view if `x` is channels-last."""
    return x.movedim(2, -1).flatten(1, -2)


def _flat_rows(x: Tensor) -> Tensor:
    """`[S, ...] -> [S, 1, M]`."""
    return x.reshape(len(x), 1, -1)

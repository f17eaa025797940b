"""Leaky integrate-and-fire neurons over all time steps.

Spikes are `[T, B, ...]`. Every call starts from rest unless a membrane is given; nothing survives a call.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from spiking_vq.errors import InputError, require
from spiking_vq.neurons.dynamics import Dynamics
from spiking_vq.neurons.fused import LazyCurrent, as_current, run_neurons
from spiking_vq.neurons.readouts import weighted_sum
from spiking_vq.runtime.precision import state_type
from spiking_vq.runtime.running import running


class LIF(nn.Module):
    """A layer of leaky integrate-and-fire neurons over all time steps; `beta = 1` is integrate-and-fire.

    Args:
        beta: membrane decay per step, in [0, 1], default 0.5; a number or a tensor that broadcasts against `[B, ...]`.
        threshold: firing threshold, greater than 0, default 1; a number or a tensor that broadcasts against `[B, ...]`.
        learn_beta: make beta a parameter (used clamped to [0, 1]); default False.
        learn_threshold: make threshold a parameter; default False.
        num_scales: T for a learnable scale of the input current at each of the T steps, 1 at the start (the
            temporal-wise spiking mechanism, TSM, of SDM: arXiv:2408.16467); 0 (default) for none.
        dynamics: fields of `Dynamics`: reset, detach_reset, scale_input, fire_at_threshold, surrogate, surrogate_scale.

    Raises:
        InputError: beta outside [0, 1], threshold not positive, an unknown name, or `scale_input` with beta = 1, which
            would multiply every current by 0.
    """

    def __init__(
        self,
        beta: float | Tensor = 0.5,
        threshold: float | Tensor = 1.0,
        *,
        learn_beta: bool = False,
        learn_threshold: bool = False,
        num_scales: int = 0,
        **dynamics: Any,
    ) -> None:
        super().__init__()
        self.scales = nn.Parameter(torch.ones(num_scales)) if num_scales else None
        self.dynamics = Dynamics(**dynamics)
        beta, threshold = (torch.as_tensor(value, dtype=torch.float32).detach().clone() for value in (beta, threshold))
        if not ((beta >= 0) & (beta <= 1)).all():
            raise InputError(f"beta must lie in [0, 1]; got {beta.tolist()}")
        if self.dynamics.scale_input and (beta == 1).any():
            raise InputError("scale_input multiplies the input by 1 - beta, 0 at beta = 1: use scale_input=False")
        if not (threshold > 0).all():
            raise InputError(f"threshold must be greater than 0; got {threshold.tolist()}")
        _hold(self, "beta", beta, learn_beta)
        _hold(self, "threshold", threshold, learn_threshold)

    def forward(self, x: Tensor | LazyCurrent) -> Tensor:
        """Spikes `[T, B, ...]` in {0, 1} of the input current `[T, B, ...]`, starting from rest."""
        return self.scan(x)[0]

    def integrate(self, x: Tensor | LazyCurrent, weights: Sequence[float]) -> Tensor:
        """`sum_t weights[t] spk[t]`, `[B, ...]`, fp32 at least, of the spikes of `forward`, which are not stored.

        A linear read-out applies to this sum once instead of T times.
        """
        counted_by_sum = len(set(weights)) == 1
        counters = self._own(running().counters)
        if self._own(running().observers) or (counters and not counted_by_sum):
            return weighted_sum(self(x), weights)
        summed = self._scan(x, weights=weights)[0].squeeze(0)
        for count in counters:
            count(summed.sum() / weights[0], len(weights) * summed.numel())
        return summed

    def scan(self, x: Tensor | LazyCurrent, mem: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """State-in, state-out form of `forward`.

        Args:
            x: input current `[T, B, ...]`, any real values.
            mem: membrane before the first step, `[B, ...]`; None (default) is rest (0).

        Returns:
            Spikes `[T, B, ...]` in {0, 1}, of x's type; and the membrane after the last step `[B, ...]`, in fp32 at
            least. Two scans with this state handed on equal one over all steps.
        """
        spk, mem = self._scan(x, mem)
        for observe in self._own(running().observers):
            observe(spk)
        for count in self._own(running().counters):
            count(spk.sum(dtype=torch.float32), spk.numel())
        return spk, mem

    def _own(self, blocks: Sequence[Mapping[nn.Module, Callable]]) -> list[Callable]:
        """Observers, or counters, of this layer in all blocks."""
        return [block[self] for block in blocks if self in block]

    def _scan(
        self, x: Tensor | LazyCurrent, mem: Tensor | None = None, weights: Sequence[float] | None = None
    ) -> tuple[Tensor, Tensor]:
        if len(x.shape) < 2 or x.shape[0] == 0:
            raise InputError(f"LIF expects input current [T, B, ...], T at least 1; got shape {tuple(x.shape)}")
        if mem is not None and mem.shape != x.shape[1:]:
            raise InputError(f"LIF expects a membrane {tuple(x.shape[1:])} for this input; got {tuple(mem.shape)}")
        if weights is not None and len(weights) != x.shape[0]:
            raise InputError(f"LIF expects a weight for each of the {x.shape[0]} steps; got {len(weights)}")
        current = as_current(x)
        if self.scales is not None:
            current = as_current(self._scaled(current))
        shift = running().threshold_shift
        threshold = self.threshold + shift if shift else self.threshold
        state = {"dtype": state_type(current.x), "device": current.x.device}
        return run_neurons(
            current, self.dynamics, self.beta.clamp(0, 1).to(**state), threshold.to(**state), mem, weights
        )

    def _scaled(self, x: LazyCurrent) -> Tensor:
        """The current `[T, B, ...]`, each step multiplied by its scale."""
        if len(self.scales) != x.num_steps:
            raise InputError(f"LIF has scales for {len(self.scales)} steps; got a current of {x.num_steps}")
        value = x.value()
        return value * self.scales.to(value.dtype).view(-1, *[1] * (value.dim() - 1))


def check_threshold_shift(model: nn.Module, shift: float) -> None:
    """Check that every `LIF` of a model keeps a threshold above 0 when `shift` is added to it.

    Raises:
        InputError: a threshold would not stay above 0.

    Reference: threshold guidance, Cao et al., arXiv:2306.17046, section 4.3.
    """
    thresholds = [module.threshold.min().item() for module in model.modules() if isinstance(module, LIF)]
    lowest = min(thresholds, default=math.inf)
    require(lowest + shift > 0, "threshold_shift", f"greater than {-lowest:g}, so that thresholds stay above 0", shift)


def _hold(module: nn.Module, name: str, value: Tensor, learn: bool) -> None:
    """Register a value in the module: as a parameter if learnt, else as a buffer."""
    if learn:
        module.register_parameter(name, nn.Parameter(value))
    else:
        module.register_buffer(name, value)

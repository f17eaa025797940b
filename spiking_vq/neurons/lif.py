"""Leaky integrate-and-fire neurons over all time steps.

Spiking activity is `[T, B, ...]`; every call starts from rest unless a membrane is handed in. Nothing survives a call.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import snntorch
import torch
from torch import Tensor, nn

from spiking_vq.errors import InputError, require
from spiking_vq.neurons.dynamics import Dynamics
from spiking_vq.neurons.fused import Current, as_current, read
from spiking_vq.neurons.readouts import weighted_sum
from spiking_vq.neurons.snntorch_exchange import surrogate_from_snntorch, surrogate_to_snntorch
from spiking_vq.runtime.precision import state_type
from spiking_vq.runtime.running import running


def lif_scan(
    x: Tensor | Current,
    mem: Tensor | None = None,
    *,
    beta: Tensor | float,
    threshold: Tensor | float = 1.0,
    dynamics: Dynamics = Dynamics(),  # noqa: B008 (frozen)
    weights: Sequence[float] | None = None,
) -> tuple[Tensor, Tensor]:
    """Run the neuron over all steps of `x`, from state to state.

    The membrane is kept in fp32 (or fp64) whatever the input's type: spikes are exact in bf16, membranes are not.

    Args:
        x: input current `[T, B, ...]`, any real value; or a `Current`, which says how to compute it.
        mem: membrane before the first step, `[B, ...]`; None is rest (0).
        beta: decay per step in [0, 1]; a number or a tensor that broadcasts against `[B, ...]`.
        threshold: firing threshold, greater than 0; a number or a tensor that broadcasts against `[B, ...]`.
        dynamics: reset, tie, scaling and surrogate.
        weights: T numbers with which the spikes are summed over time, before they are ever stored; None does not.

    Returns:
        spk: spikes `[T, B, ...]` in {0, 1}, of x's type; or their weighted sum `[1, B, ...]`, fp32 at least.
        mem: membrane after the last step `[B, ...]`. A scan cut in two, the state handed on, equals the whole.
    """
    current = as_current(x)
    state, device = state_type(current.x), current.x.device
    beta, threshold = (torch.as_tensor(value, dtype=state, device=device) for value in (beta, threshold))
    return read(current, dynamics, beta, threshold, mem, weights)


class LIF(nn.Module):
    """A layer of leaky integrate-and-fire neurons over all time steps; `beta = 1` is integrate-and-fire.

    Args:
        beta: membrane decay per step, in [0, 1]; a number, or a tensor that broadcasts against `[B, ...]`.
        threshold: firing threshold, greater than 0; likewise.
        learn_beta: make beta a parameter (used clamped to [0, 1]).
        learn_threshold: make threshold a parameter.
        num_scales: T for a learnable scale of the input current at each of the T steps, 1 at the start (the
            temporal-wise spiking mechanism, TSM, of SDM: arXiv:2408.16467); 0 for none.
        reset, detach_reset, scale_input, fire_at_threshold, surrogate, surrogate_scale: see `Dynamics`.

    Raises:
        InputError: beta outside [0, 1], threshold not positive, an unknown name, or `scale_input` with beta = 1, which
            lets no current in.
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

    def forward(self, x: Tensor | Current) -> Tensor:
        """Spikes `[T, B, ...]` in {0, 1} of the input current `[T, B, ...]`, starting from rest."""
        return self.scan(x)[0]

    def integrate(self, x: Tensor | Current, weights: Sequence[float]) -> Tensor:
        """`sum_t weights[t] spk[t]`, `[B, ...]`, fp32 at least, of the spikes that `forward` gives.

        For what is read out by a linear map: no spike is stored, and each needs one application instead of T.
        """
        counted_by_sum = len(set(weights)) == 1
        counters = self._own(running().counters)
        if self._own(running().observers) or (counters and not counted_by_sum):
            return weighted_sum(self(x), weights)
        summed = self._scan(x, weights=weights)[0].squeeze(0)
        for count in counters:
            count(summed.sum() / weights[0], len(weights) * summed.numel())
        return summed

    def scan(self, x: Tensor | Current, mem: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The state-in, state-out form: `(x [T, B, ...], mem [B, ...]) -> (spk [T, B, ...], mem [B, ...])`."""
        spk, mem = self._scan(x, mem)
        for observe in self._own(running().observers):
            observe(spk)
        for count in self._own(running().counters):
            count(spk.sum(dtype=torch.float32), spk.numel())
        return spk, mem

    def _own(self, blocks: Sequence[Mapping[nn.Module, Callable]]) -> list[Callable]:
        """This layer's observers, or counters, of all blocks."""
        return [block[self] for block in blocks if self in block]

    def _scan(
        self, x: Tensor | Current, mem: Tensor | None = None, weights: Sequence[float] | None = None
    ) -> tuple[Tensor, Tensor]:
        if len(x.shape) < 2 or x.shape[0] == 0:
            raise InputError(f"LIF expects input current [T, B, ...], T at least 1; got shape {tuple(x.shape)}")
        if mem is not None and mem.shape != x.shape[1:]:
            raise InputError(f"LIF expects a membrane {tuple(x.shape[1:])} for this input; got {tuple(mem.shape)}")
        if weights is not None and len(weights) != x.shape[0]:
            raise InputError(f"LIF expects a weight for each of the {x.shape[0]} steps; got {len(weights)}")
        if self.scales is not None:
            x = self._scaled(as_current(x))
        shift = running().threshold_shift
        threshold = self.threshold + shift if shift else self.threshold
        return lif_scan(
            x, mem, beta=self.beta.clamp(0, 1), threshold=threshold, dynamics=self.dynamics, weights=weights
        )

    def _scaled(self, x: Current) -> Tensor:
        """The current `[T, B, ...]`, each step by its own scale."""
        if len(self.scales) != x.num_steps:
            raise InputError(f"LIF has scales for {len(self.scales)} steps; got a current of {x.num_steps}")
        value = x.value()
        return value * self.scales.to(value.dtype).view(-1, *[1] * (value.dim() - 1))

    @classmethod
    def from_snntorch(cls, leaky: snntorch.Leaky) -> LIF:
        """The same neuron as a layer over all steps: spikes and gradients of a loop over `leaky`, starting from rest.

        Beta and threshold (learnt where they were), surrogate and reset carry over. Resets correspond as follows:

        - `zero`, with or without `reset_delay`: `zero`, detached or not. The delay only shows in the membrane that
          snnTorch hands out, which is the one before the reset.
        - `subtract` with `reset_delay` (snnTorch's default): `delayed_subtract`, detached.
        - `subtract` without `reset_delay`: none. There a membrane that is still above threshold after its reset is
          reset once more before it may fire, so it can stay there and be silent.

        Raises:
            InputError: not a plain `snntorch.Leaky`, or an option that has no equal here.
        """
        if type(leaky) is not snntorch.Leaky:
            raise InputError(f"from_snntorch expects a snntorch.Leaky; got {type(leaky).__name__}")
        graded = leaky.graded_spikes_factor
        unsupported = {
            "inhibition": leaky.inhibition,
            "state_quant": leaky.state_quant,
            "surrogate_disable": leaky.surrogate_disable,
            "graded_spikes_factor": isinstance(graded, nn.Parameter) or (graded != 1).any(),
        }
        for option, is_set in unsupported.items():
            if is_set:
                raise InputError(f"snntorch.Leaky's {option} has no equal in LIF: build the Leaky without it")
        resets = {("zero", True): "zero", ("zero", False): "zero", ("subtract", True): "delayed_subtract"}
        reset = resets.get((leaky.reset_mechanism, leaky.reset_delay))
        if reset is None:
            raise InputError(
                f"reset_mechanism={leaky.reset_mechanism!r} with reset_delay={leaky.reset_delay} has no equal in LIF:"
                " use 'zero', or 'subtract' with reset_delay=True"
            )
        surrogate, scale, unit = surrogate_from_snntorch(leaky.spike_grad)
        beta = leaky.beta.clamp(0, 1)
        if unit != 1 and (1 - beta != unit).any():
            raise InputError(
                f"this Leaky's surrogate was made for input scaled by {unit} = 1 - beta, and its beta is now"
                f" {beta.tolist()}: no LIF equals it. Set beta back, or give it the atan surrogate."
            )
        return cls(
            beta,
            leaky.threshold * unit,
            learn_beta=isinstance(leaky.beta, nn.Parameter),
            learn_threshold=isinstance(leaky.threshold, nn.Parameter),
            reset=reset,
            detach_reset=leaky.reset_delay,
            scale_input=unit != 1,
            surrogate=surrogate,
            surrogate_scale=scale,
        )

    def to_snntorch(self, *, init_hidden: bool = False) -> snntorch.Leaky:
        """The same neuron for a loop of snnTorch's: stepped from rest, it gives equal spikes and input gradients.

        snnTorch knows neither a scaled input nor a spike exactly at threshold, so they move into the threshold:
        `scale_input` divides it by `1 - beta` (the membrane then counts in units of `1 - beta`), `fire_at_threshold`
        takes the next smaller float. Equality is exact but for rounding, of which there is none with a hard reset and
        `1 - beta` a power of two. If training goes on, the threshold no longer follows a learnt beta.

        Args:
            init_hidden: as in `snntorch.Leaky`: it keeps the membrane itself and returns spikes alone, as a layer of an
                `nn.Sequential` must. Otherwise call it as `spk, mem = leaky(x, mem)`, with zeros for the first mem:
                without one it goes on from its last call.

        Raises:
            InputError: a reset that snnTorch does not have, scaled input with several betas, or scales of the steps.
        """
        dynamics, beta = self.dynamics, self.beta.detach().clamp(0, 1)
        if self.scales is not None:
            raise InputError("snnTorch knows no scale of the current at each step: export a network without tsm")
        if dynamics.reset == "subtract" and (beta != 1).any():
            raise InputError(
                "snnTorch subtracts the threshold after the decay (reset='delayed_subtract'), which equals"
                f" reset='subtract' at beta = 1 only; got beta {beta.tolist()}. Train with one of the other resets."
            )
        if dynamics.reset != "zero" and not dynamics.detach_reset:
            raise InputError(
                f"snnTorch always detaches reset={dynamics.reset!r}. Build the LIF with detach_reset=True and load its"
                " weights: its spikes are the same, and it can be exported."
            )
        unit = 1.0
        threshold = self.threshold.detach().to(state_type(self.threshold), copy=True)
        if dynamics.scale_input:
            if beta.numel() > 1 or beta == 1:
                raise InputError(
                    f"scale_input can be exported for a single beta below 1; got {beta.tolist()}. Move the factor"
                    " 1 - beta into the layer before, and use scale_input=False."
                )
            unit = (1 - beta).item()
            threshold = threshold / unit
        if dynamics.fire_at_threshold:
            threshold = torch.nextafter(threshold, torch.full_like(threshold, -torch.inf))
        return snntorch.Leaky(
            beta,
            threshold,
            spike_grad=surrogate_to_snntorch(dynamics.surrogate, dynamics.scale, unit),
            init_hidden=init_hidden,
            learn_beta=isinstance(self.beta, nn.Parameter),
            learn_threshold=isinstance(self.threshold, nn.Parameter),
            reset_mechanism="zero" if dynamics.reset == "zero" else "subtract",
            reset_delay=dynamics.detach_reset,
        )


def check_threshold_shift(model: nn.Module, shift: float) -> None:
    """See that every `LIF` of a model still has a threshold above 0 when `shift` is added to it.

    Raises:
        InputError: one has not.

    Reference: threshold guidance, Cao et al., arXiv:2306.17046, section 4.3.
    """
    thresholds = [module.threshold.min().item() for module in model.modules() if isinstance(module, LIF)]
    lowest = min(thresholds, default=math.inf)
    require(lowest + shift > 0, "threshold_shift", f"greater than {-lowest:g}, so that thresholds stay above 0", shift)


def _hold(module: nn.Module, name: str, value: Tensor, learn: bool) -> None:
    """Keep a value in the module: as a parameter if learnt, else as a buffer."""
    if learn:
        module.register_parameter(name, nn.Parameter(value))
    else:
        module.register_buffer(name, value)

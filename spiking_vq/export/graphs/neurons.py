"""Neurons of ours as neurons of NIR, exactly.

NIR's neurons reset to a value and fire above their threshold. Ours may subtract the threshold, and fire at it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from spiking_vq.errors import InputError, require_one_of
from spiking_vq.export.graphs.graph import Neurons
from spiking_vq.neurons.lif import LIF

FORMS = ("standard", "feedback")
"""How a subtracting reset is written: in the node's metadata, or with standard nodes only, by a synapse that leads the
spikes back."""

NEVER = 2.0**90
"""Time constant, in steps, of a state that does not decay: `v - v / NEVER` is v in every precision. A power of two, so
that products with its inverse are exact."""


class NeuronForm(NamedTuple):
    """A layer of neurons in NIR's words.

    Attributes:
        neurons: the layer.
        feedback: weight of the synapse from each neuron to itself, one step late; 0 for none.
    """

    neurons: Neurons
    feedback: float = 0.0


def just_below(threshold: float) -> float:
    """The next smaller float32: to be above it is to reach the threshold, for every float32."""
    return float(np.nextafter(np.float32(threshold), np.float32(0)))


def neuron_form(lif: LIF, shape: tuple[int, int, int], form: str) -> NeuronForm:
    """Translate a layer of ours.

    With decay beta, NIR's membrane is `(1 - beta)` times ours, and so is its threshold: `tau = 1 / (1 - beta)` scales
    the current by `1 - beta`, and r = 1 is the only resistance that all receivers understand. With `scale_input` both
    are equal. An integrate-and-fire neuron with a hard reset becomes, in the form `feedback`, a `CubaLIF` without
    decay, as receivers do not agree on `IF`. A subtracting reset becomes, in that form, a `CubaLIF` whose synapse
    integrates, `I[t] = beta I[t-1] + x[t] - beta threshold spk[t-1]`, and whose membrane forgets, so that the hard
    reset has nothing to erase.

    Args:
        lif: the layer.
        shape: (C, H, W) of its map.
        form: one of `FORMS`.

    Raises:
        InputError: scales for each step, several thresholds or decays in a layer, or another form.
    """
    require_one_of("form", form, FORMS)
    if lif.scales is not None:
        raise InputError("neurons with a scale for each step (tsm) cannot be exported: NIR's neurons are always alike")
    if lif.beta.numel() > 1 or lif.threshold.numel() > 1:
        raise InputError("neurons of one layer must share beta and threshold to be exported: receivers expect one each")
    beta, theta, dynamics = lif.beta.clamp(0, 1).item(), lif.threshold.item(), lif.dynamics
    fires_above = just_below(theta) if dynamics.fire_at_threshold else theta
    if form == "feedback" and dynamics.reset != "zero":
        late = theta if dynamics.reset == "delayed_subtract" else beta * theta
        gain = 1 - beta if dynamics.scale_input else 1.0
        tau, w_in = (NEVER, NEVER) if beta == 1 else (1 / (1 - beta), gain / (1 - beta))
        # the synapse multiplies all that it reads by w_in / tau, the spikes that come back too
        return NeuronForm(Neurons("CubaLIF", shape, fires_above, tau_syn=tau, w_in=w_in), -late / gain)
    if dynamics.reset == "delayed_subtract":
        raise InputError("reset delayed_subtract cannot be exported in the form standard: take form=feedback")
    soft = {"reset": "subtract", "amount": theta} if dynamics.reset == "subtract" else {}
    if beta == 1:
        if form == "feedback":
            return NeuronForm(Neurons("CubaLIF", shape, fires_above, r=NEVER, tau_mem=NEVER))
        return NeuronForm(Neurons("IF", shape, fires_above, **soft))
    scale = 1.0 if dynamics.scale_input else 1 - beta
    soft = {name: value * scale if name == "amount" else value for name, value in soft.items()}
    return NeuronForm(Neurons("LIF", shape, fires_above * scale, tau_mem=1 / (1 - beta), **soft))

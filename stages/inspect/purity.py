"""Firing rates of layers, and which synapses are fed by anything but spikes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spiking_vq.energy import LayerCost, total


def firing_rates(costs: Mapping[str, LayerCost], stage: str) -> dict[str, float]:
    """Layer -> firing rate of the neurons of a stage; `all` is their mean weighted by the number of neurons."""
    neurons = {name: cost for name, cost in costs.items() if cost.kind == "neuron" and name.startswith(f"{stage}.")}
    rates = {name.removeprefix(f"{stage}."): cost.firing_rate for name, cost in neurons.items()}
    return rates | {"all": total(neurons.values()).firing_rate}


def purity(costs: Mapping[str, LayerCost]) -> dict[str, Any]:
    """Synapses that real numbers feed, each with its share of all operations of synapses, and the verdict."""
    synapses = {name: cost for name, cost in costs.items() if cost.is_connection and cost.slots}
    work = {name: cost.accumulates + cost.multiplies for name, cost in synapses.items()}
    operations = sum(work.values()) or 1.0  # nothing spikes and nothing is real-valued
    shares = {name: work[name] / operations for name, cost in synapses.items() if cost.input_bits > 1}
    return {
        "synapses": len(synapses),
        "real_valued": {name: {"share_of_operations": share} for name, share in shares.items()},
        "verdict": purity_verdict(len(synapses), len(shares), sum(shares.values())),
    }


def purity_verdict(synapses: int, real: int, share: float) -> str:
    """Whether a network is purely spiking, as a sentence."""
    if not real:
        return f"Purely spiking: all {synapses} synapses are fed by 0 and 1 only."
    return f"Not purely spiking: {real} of {synapses} synapses are fed by real numbers, {share:.1%} of the operations."

"""How much a network spikes, layer by layer, counted by observers while it computes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from spiking_vq.neurons import LIF


@dataclass
class LayerActivity:
    """Counts of one neuron layer over all calls.

    Attributes:
        spikes: number of spikes.
        slots: number of places for one: neurons x steps x images.
    """

    spikes: float = 0.0
    slots: int = 0

    def count(self, spk: Tensor) -> None:
        """Add the spikes of one call."""
        self.spikes += spk.sum(dtype=torch.float64).item()
        self.slots += spk.numel()

    @property
    def firing_rate(self) -> float:
        """Spikes per neuron and step, in [0, 1]; nan before the first call."""
        return self.spikes / self.slots if self.slots else float("nan")


@contextmanager
def record_activity(model: nn.Module) -> Iterator[dict[str, LayerActivity]]:
    """Count the spikes of every `LIF` layer of `model` inside the block.

    Yields:
        Layer name -> its counts, in the order of the modules, filled as the model computes.
    """
    neurons = {name: module for name, module in model.named_modules() if isinstance(module, LIF)}
    activity = {name: LayerActivity() for name in neurons}
    try:
        for name, neuron in neurons.items():
            neuron.observer = activity[name].count
        yield activity
    finally:
        for neuron in neurons.values():
            neuron.observer = None

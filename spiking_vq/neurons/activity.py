"""Spiking activity of a network, counted layer by layer while it computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from spiking_vq.errors import require
from spiking_vq.neurons.lif import LIF
from spiking_vq.runtime.running import run_with


@dataclass
class LayerActivity:
    """Counts of one neuron layer over all calls.

    Attributes:
        spikes: number of spikes.
        slots: largest possible number: neurons x steps x images.
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
    activity = {name: LayerActivity() for name, module in model.named_modules() if isinstance(module, LIF)}
    with observed(model, lambda name, spk: activity[name].count(spk)):
        yield activity


@contextmanager
def mean_firing_rate(model: nn.Module) -> Iterator[Callable[[], Tensor]]:
    """Measure the mean firing rate of all neurons of `model` inside the block, with its gradient.

    Yields:
        Function that returns the rate over all calls so far, a float32 scalar in [0, 1]. It raises `InputError` if no
        neuron has computed yet.
    """
    spikes: list[Tensor] = []
    slots: list[int] = []

    def count(fired: Tensor, num_slots: int) -> None:
        spikes.append(fired)
        slots.append(num_slots)

    def rate() -> Tensor:
        require(len(slots) > 0, "neurons that fire", "at least one that computed", 0)
        return torch.stack(spikes).sum() / sum(slots)

    counters = {module: count for module in model.modules() if isinstance(module, LIF)}
    with run_with(counters=counters):
        yield rate


@contextmanager
def observed(model: nn.Module, observer: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Call `observer` inside the block with the name and the spikes `[T, B, ...]` of every call of a `LIF` layer."""
    neurons = {module: partial(observer, name) for name, module in model.named_modules() if isinstance(module, LIF)}
    with run_with(observers=neurons):
        yield

"""How much a network spikes, layer by layer, counted by hooks while it computes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

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
    activity: dict[str, LayerActivity] = {}
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, LIF):
            layer = activity[name] = LayerActivity()
            handles.append(module.register_forward_hook(_counting(layer)))
    try:
        yield activity
    finally:
        for handle in handles:
            handle.remove()


def _counting(layer: LayerActivity) -> Any:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...], spk: Tensor) -> None:
        layer.spikes += spk.sum(dtype=torch.float64).item()
        layer.slots += spk.numel()

    return hook

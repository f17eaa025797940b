"""Our own receiver: a graph run step by step, spikes and all, in the precision that it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from spiking_vq.errors import require
from spiking_vq.export.graphs.graph import INPUT, OUTPUT, Convolution, Graph, Neurons, Node
from spiking_vq.runtime.running import running

Observer = Callable[[int, str, Tensor], None]
"""Called with the step, the name of a neuron layer (or `input`), and its spikes `[B, C, H, W]`."""


Convolve = Callable[[str, Tensor], Tensor]
"""Function of a synapse's name and its input `[B, C, H, W]` that returns its output."""

Fire = Callable[[str, Tensor, Any], tuple[Tensor, Any]]
"""Function of a layer's name, its input `[B, C, H, W]` and its state, None at rest, that returns spikes and state."""


class Receiver(nn.Module):
    """A graph as a network; it starts from rest at every call, and computes in the type of its input.

    Args:
        graph: to run, with its weights in float64.

    Attributes:
        observers: called with every layer's spikes, and with the input.
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph, self.observers = graph, []
        self._cast: dict[tuple[torch.dtype, torch.device], dict[str, Node]] = {}

    def forward(self, x: Tensor, num_steps: int) -> Tensor:
        """Outputs `[T, B, C', H', W']` for inputs `[T, B, C, H, W]`, or `[1, B, C, H, W]` if always the same.

        Raises:
            InputError: inside a block with shifted thresholds, which are part of the graph.
        """
        shift = running().threshold_shift
        require(not shift, "threshold_shift", "0 in an exported network, whose thresholds are fixed", shift)
        nodes = self._nodes(x.dtype, x.device)
        return self._run(x, num_steps, lambda name, x: nodes[name](x), lambda name, *given: nodes[name].step(*given))

    def _run(self, x: Tensor, num_steps: int, convolve: Convolve, fire: Fire) -> Tensor:
        """The outputs of all steps, by functions of a node's name that compute its synapses and its neurons."""
        nodes = self.graph.nodes
        sources = {name: self.graph.sources(name) for name in (*nodes, OUTPUT)}
        states, late, outputs = {}, {}, []
        for step in range(num_steps):
            made = {INPUT: x[step] if len(x) > 1 else x[0]}
            self._tell(step, INPUT, made[INPUT])
            for name, node in nodes.items():
                total = x.new_zeros(x.shape[1], *node.input_shape)
                for source in sources[name]:
                    value = made.get(source, late.get(source))
                    total = total if value is None else total + value  # nothing comes late at the first step
                if isinstance(node, Neurons):
                    made[name], states[name] = fire(name, total, states.get(name))
                    self._tell(step, name, made[name])
                else:
                    made[name] = convolve(name, total)
            late = made
            outputs.append(sum(made[source] for source in sources[OUTPUT]))
        return torch.stack(outputs)

    def _nodes(self, dtype: torch.dtype, device: torch.device) -> dict[str, Node]:
        """The graph's nodes with weights of this type on this device."""
        if (dtype, device) not in self._cast:
            self._cast[dtype, device] = {
                name: replace(node, weight=node.weight.to(device, dtype), bias=node.bias.to(device, dtype))
                if isinstance(node, Convolution)
                else node
                for name, node in self.graph.nodes.items()
            }
        return self._cast[dtype, device]

    def _tell(self, step: int, name: str, spk: Tensor) -> None:
        for observe in self.observers:
            observe(step, name, spk)

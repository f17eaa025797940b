"""Our own receiver: a graph run step by step, spikes and all, in the precision that it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from spiking_vq.export.graph import INPUT, OUTPUT, Convolution, Graph, Neurons

Observer = Callable[[int, str, Tensor], None]
"""Called with the step, the name of a neuron layer (or `input`), and its spikes `[B, C, H, W]`."""


class Receiver(nn.Module):
    """A graph as a network; it starts from rest at every call.

    Args:
        graph: to run.

    Attributes:
        observers: called with every layer's spikes, and with the input.
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph, self.observers = graph, []
        for name, node in graph.nodes.items():
            if isinstance(node, Convolution):
                self.register_buffer(f"{name}_weight", node.weight)
                self.register_buffer(f"{name}_bias", node.bias)

    def forward(self, x: Tensor, num_steps: int) -> Tensor:
        """Outputs `[T, B, C', H', W']` for inputs `[T, B, C, H, W]`, or `[1, B, C, H, W]` if always the same."""
        nodes = {name: self._node(name) for name in self.graph.nodes}
        sources = {name: self.graph.sources(name) for name in (*nodes, OUTPUT)}
        states, late, outputs = {}, {}, []
        x = x.to(self._dtype(x))
        for step in range(num_steps):
            made = {INPUT: x[step] if len(x) > 1 else x[0]}
            self._tell(step, INPUT, made[INPUT])
            for name, node in nodes.items():
                brought = [made.get(source, late.get(source)) for source in sources[name]]
                total = x.new_zeros(x.shape[1], *node.input_shape)
                for value in brought:
                    total = total if value is None else total + value  # nothing comes late at the first step
                if isinstance(node, Neurons):
                    made[name], states[name] = node.step(total, states.get(name))
                    self._tell(step, name, made[name])
                else:
                    made[name] = node(total)
            late = made
            outputs.append(sum(made[source] for source in sources[OUTPUT]))
        return torch.stack(outputs)

    def _node(self, name: str) -> Convolution | Neurons:
        """The node with this module's weights, which may have been moved or cast."""
        node = self.graph.nodes[name]
        if isinstance(node, Neurons):
            return node
        return replace(node, weight=getattr(self, f"{name}_weight"), bias=getattr(self, f"{name}_bias"))

    def _dtype(self, x: Tensor) -> torch.dtype:
        return next(self.buffers(), x).dtype

    def _tell(self, step: int, name: str, spk: Tensor) -> None:
        for observe in self.observers:
            observe(step, name, spk)

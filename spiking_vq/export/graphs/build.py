"""Building the graph of a network, layer by layer: what each of our modules becomes."""

from __future__ import annotations

from collections.abc import Callable
from functools import singledispatchmethod
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spiking_vq.errors import InputError
from spiking_vq.export.graphs.cells import convolution_of_cells
from spiking_vq.export.graphs.graph import INPUT, OUTPUT, Convolution, Graph, Node
from spiking_vq.export.graphs.neurons import neuron_form
from spiking_vq.layers.mixing import GridMixer, SpikingSelfAttention
from spiking_vq.layers.synapses import NormedSynapse, SpikingResidual
from spiking_vq.neurons.lif import LIF

LARGEST_GRID = 14 * 14
"""Positions of the largest grid whose mixers are exported: a file stores 2 N^2 numbers a channel."""


class Signal(NamedTuple):
    """What a layer reads: a sum of nodes' outputs.

    Attributes:
        nodes: their names.
        shape: (C, H, W) of the map.
        side: of the cells of pixels that share a position, see `spiking_vq.export.graphs.cells`.
    """

    nodes: tuple[str, ...]
    shape: tuple[int, int, int]
    side: int = 1

    @property
    def channels(self) -> int:
        """Channels of a pixel."""
        return self.shape[0] // self.side**2


class GraphBuilder:
    """Adds the layers of a network with folded batch norms (see `fold_batch_norms`) to a graph.

    Args:
        input_shape: (C, H, W) of what the graph reads.
        form: of the neurons, see `spiking_vq.export.graphs.neurons`.
        names: module -> name of its node.
    """

    def __init__(self, input_shape: tuple[int, int, int], form: str, names: dict[nn.Module, str]) -> None:
        self.graph, self.form, self.names = Graph(tuple(input_shape)), form, names
        self.input = Signal((INPUT,), tuple(input_shape))

    def finish(self, *signals: Signal) -> Graph:
        """The graph, whose output is the sum of these signals."""
        if len(signals) > 1 or len(signals[0].nodes) > 1:  # several edges to the output are a tuple to some receivers
            channels, *size = signals[0].shape
            unit = torch.eye(channels, dtype=torch.float64)[..., None, None]
            add = Convolution(unit, torch.zeros(channels, dtype=torch.float64), size)
            signals = (self.node("sum", add, *signals),)
        self.graph.edges.append((signals[0].nodes[0], OUTPUT))
        self.graph.check()
        return self.graph

    def node(self, name: str, node: Node, *signals: Signal, side: int = 1) -> Signal:
        """Add a node that reads the sum of signals."""
        name = name.replace(".", "_")  # nodes become attributes of modules in most receivers
        self.graph.nodes[name] = node
        self.graph.edges += [(source, name) for signal in signals for source in signal.nodes]
        return Signal((name,), node.output_shape, side)

    @singledispatchmethod
    def add(self, module: nn.Module, signal: Signal) -> Signal:
        """Add a module that reads a signal; return what it gives.

        Raises:
            InputError: a module that NIR has no nodes for.
        """
        raise InputError(f"{type(module).__name__} has no form in NIR: this network cannot be exported")

    @add.register
    def _(self, module: nn.Sequential, signal: Signal) -> Signal:
        for part in module:
            signal = self.add(part, signal)
        return signal

    @add.register
    def _(self, module: LIF, signal: Signal) -> Signal:
        return self.neurons(module, signal, self.names[module])

    @add.register
    def _(self, module: NormedSynapse, signal: Signal) -> Signal:
        synapse, norm = module
        return self.synapse(synapse, signal, norm.bias, self.names[synapse])

    @add.register
    def _(self, module: SpikingResidual, signal: Signal) -> Signal:
        branch = self.add(module.branch, signal)
        return signal._replace(nodes=signal.nodes + branch.nodes)

    @add.register
    def _(self, module: SpikingSelfAttention, signal: Signal) -> Signal:
        raise InputError("mixer=attention cannot be exported: NIR has no product of spikes. Train one with mixer=grid.")

    @add.register
    def _(self, module: GridMixer, signal: Signal) -> Signal:
        """A map over all positions, channel by channel: to 49 numbers at a single position, and back to the grid."""
        channels, *size = signal.shape
        positions = size[0] * size[1]
        if positions > LARGEST_GRID or signal.side > 1:
            raise InputError(
                f"a mixer over {size[0]}x{size[1]} positions cannot be exported: it would store"
                f" {2 * channels * positions**2:,} weights. Use a coarser grid (one more of model.channels in stage 1)."
            )
        if size[0] != size[1]:
            raise InputError(f"a mixer over a grid that is not square, {size[0]}x{size[1]}, cannot be exported")
        name = self.names[module.linear]
        maps = module.linear.weight.double().expand(channels, positions, positions)  # of each channel, or of all
        gather = maps.reshape(channels * positions, 1, *size)
        gathered = Convolution(gather, torch.zeros(len(gather), dtype=torch.float64), size, groups=channels)
        # output pixel j of a padded single pixel sees tap N - 1 - j
        spread = torch.eye(positions, dtype=torch.float64).flip(1).view(positions, *size)
        spread = module.norm.weight.double().view(-1, 1, 1, 1) * spread
        back = Convolution(spread, module.norm.bias.double(), (1, 1), padding=size[0] - 1, groups=channels)
        return self.node(f"{name}_spread", back, self.node(f"{name}_gather", gathered, signal))

    def neurons(self, module: LIF, signal: Signal, name: str) -> Signal:
        """Add a layer of neurons under a name."""
        name = name.replace(".", "_")
        layer, feedback = neuron_form(module, signal.shape, self.form)
        if feedback:
            channels = signal.shape[0]
            weight = feedback * torch.eye(channels, dtype=torch.float64).view(channels, channels, 1, 1)
            back = Convolution(weight, torch.zeros(channels, dtype=torch.float64), signal.shape[1:])
            late = self.node(f"{name}_reset", back, Signal((name,), signal.shape))
            signal = signal._replace(nodes=signal.nodes + late.nodes)
        return self.node(name, layer, signal, side=signal.side)

    def synapse(self, layer: nn.Module, signal: Signal, bias: Tensor | None, name: str) -> Signal:
        """Add a convolution, transposed convolution, or up-sampling with a convolution behind it.

        Args:
            layer: it; its own bias is left out.
            signal: that it reads.
            bias: [C'] to add.
            name: of the node.
        """
        if isinstance(layer, nn.Conv2d) and signal.side == 1:
            weight, side, options = layer.weight.double(), 1, {"stride": layer.stride[0], "padding": layer.padding[0]}
        else:
            options = {"padding": 1}
            weight, side = convolution_of_cells(_without_bias(layer), signal.channels, signal.side)
        out_channels = len(weight) // side**2
        bias = torch.zeros(out_channels) if bias is None else bias.detach()
        bias = bias.double().repeat_interleave(side**2)
        made = Convolution(weight.detach(), bias, signal.shape[1:], **options)
        return self.node(name, made, signal, side=side)


def _without_bias(layer: nn.Module) -> Callable[[Tensor], Tensor]:
    """The layer's linear part, in float64."""

    def linear(x: Tensor) -> Tensor:
        for part in layer if isinstance(layer, nn.Sequential) else [layer]:
            if isinstance(part, nn.ConvTranspose2d):
                weight, options = part.weight.double(), (part.stride, part.padding, part.output_padding)
                x = F.conv_transpose2d(x, weight, None, *options)
            elif isinstance(part, nn.Conv2d):
                x = F.conv2d(x, part.weight.double(), None, part.stride, part.padding)
            else:
                x = part(x)
        return x

    return linear

"""The graph of the small U-Net, `SDDPMUNet`.

All levels share the coarsest level's grid of positions, see `cells`. A concatenation is two nodes whose synapses meet
in the same neurons. The embedding of the diffusion time is a current of its own for every block, which the host
computes; it comes in next to the image, as more channels. The head does not spike: it stays on the host.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from spiking_vq.export.graphs.build import GraphBuilder, Signal
from spiking_vq.export.graphs.graph import Convolution, Graph
from spiking_vq.layers.synapses import NormedSynapse
from spiking_vq.models.sddpm import PreSpikeBlock, SDDPMUNet


def blocks_of(unet: SDDPMUNet) -> list[PreSpikeBlock]:
    """The blocks with a time embedding, in the order of their channels in the graph's input."""
    return [module for module in unet.modules() if isinstance(module, PreSpikeBlock)]


def num_halvings(unet: SDDPMUNet) -> int:
    """How often the levels halve the map."""
    return sum(isinstance(layer, nn.Sequential) for layer in unet.down)


def unet_graph(unet: SDDPMUNet, form: str) -> Graph:
    """From patches and the blocks' time currents `[f^2 C + sum C_b, h, w]` to the last block's currents, in cells.

    Args:
        unet: with folded batch norms.
        form: of the neurons, see `spiking_vq.export.graphs.neurons`.
    """
    side = 2 ** num_halvings(unet)
    _, *size = unet.image_shape
    h, w = (pixels // unet.patch_size // side for pixels in size)
    widths = [block.time.out_features for block in blocks_of(unet)]
    num_channels = side**2 * unet.num_channels
    names = {module: name for name, module in unet.named_modules()}
    builder = GraphBuilder((num_channels + sum(widths), h, w), form, names)
    times, first = {}, num_channels
    for block, width in zip(blocks_of(unet), widths, strict=True):
        times[block] = slice(first, first + width)
        first += width
    patches = _selected(builder, "patches", slice(0, num_channels), 1)._replace(side=side)
    x = builder.add(unet.entry, builder.add(unet.stem, patches))
    skips = [x]
    for layer in (*unet.down, *unet.middle):
        x = _block(builder, layer, [x], times) if isinstance(layer, PreSpikeBlock) else builder.add(layer, x)
        skips.append(x)
    del skips[len(skips) - len(unet.middle) :]
    for layer in unet.up:
        is_block = isinstance(layer, PreSpikeBlock)
        x = _block(builder, layer, [x, skips.pop()], times) if is_block else builder.add(layer, x)
    return builder.finish(x)


def _block(
    builder: GraphBuilder, block: PreSpikeBlock, parts: Sequence[Signal], times: dict[PreSpikeBlock, slice]
) -> Signal:
    """A block that reads the concatenation of signals."""
    spikes = _each(builder, block.first_neuron, parts)
    first = _convolved(builder, block.first, spikes, builder.names[block.first[0]])
    repeats = first.side**2
    time = _selected(builder, f"{builder.names[block]}.time", times[block], repeats)
    charged = first._replace(nodes=first.nodes + time.nodes)
    branch = builder.add(block.second, builder.add(block.second_neuron, charged))
    if isinstance(block.shortcut, nn.Identity):
        (whole,) = parts
        return whole._replace(nodes=whole.nodes + branch.nodes)
    direct = _convolved(builder, block.shortcut, parts, builder.names[block.shortcut])
    return direct._replace(nodes=direct.nodes + branch.nodes)


def _each(builder: GraphBuilder, neuron: nn.Module, parts: Sequence[Signal]) -> list[Signal]:
    """A layer of neurons over the concatenation of signals: a node for each of several."""
    name = builder.names[neuron]
    if len(parts) == 1:
        return [builder.add(neuron, parts[0])]
    return [builder.neurons(neuron, part, f"{name}_part{index}") for index, part in enumerate(parts)]


def _convolved(builder: GraphBuilder, layer: nn.Module, parts: Sequence[Signal], name: str) -> Signal:
    """A convolution of the concatenation of signals: a node for each, which add up."""
    conv, bias = (layer[0], layer[1].bias) if isinstance(layer, NormedSynapse) else (layer, layer.bias)
    made = []
    for index, weight in enumerate(conv.weight.split([part.channels for part in parts], dim=1)):
        own = nn.Conv2d(weight.shape[1], len(weight), weight.shape[2:], padding=conv.padding, bias=False)
        own.weight = nn.Parameter(weight.detach(), requires_grad=False)
        suffix = f"_part{index}" if len(parts) > 1 else ""
        made.append(builder.synapse(own, parts[index], None if index else bias, name + suffix))
    return made[0]._replace(nodes=tuple(node for signal in made for node in signal.nodes))


def _selected(builder: GraphBuilder, name: str, channels: slice, repeats: int) -> Signal:
    """Some channels of the input, each `repeats` times."""
    chosen = range(channels.start, channels.stop)
    weight = torch.zeros(repeats * len(chosen), builder.input.shape[0], dtype=torch.float64)
    for row, channel in enumerate(chosen):
        weight[row * repeats : (row + 1) * repeats, channel] = 1
    bias: Tensor = torch.zeros(len(weight), dtype=torch.float64)
    return builder.node(name, Convolution(weight[..., None, None], bias, builder.input.shape[1:]), builder.input)

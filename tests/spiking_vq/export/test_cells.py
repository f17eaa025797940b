"""Convolutions of cells equal the layers that they stand for, borders included."""

import pytest
import torch
from torch import nn

from spiking_vq.errors import InputError
from spiking_vq.export.graphs.build import GraphBuilder, Signal
from spiking_vq.export.graphs.cells import convolution_of_cells, to_cells, to_pixels
from spiking_vq.export.graphs.graph import INPUT, Convolution
from spiking_vq.export.receivers.own import Receiver
from spiking_vq.runtime.conv3x3 import Conv3x3

GRID = (3, 5)
"""Positions; odd, so that a border lies elsewhere than in the middle of a cell."""

NAMES = {"transposed": (1, 2), "plain": (2, 2), "doubling": (1, 2), "strided": (2, 1), "wide": (2, 2)}
"""Layer -> sides of the cells before and behind it."""


def built(kind, channels=2, out_channels=3):
    return {
        "transposed": lambda: nn.ConvTranspose2d(
            channels, out_channels, 3, stride=2, padding=1, output_padding=1, bias=False
        ),
        "plain": lambda: Conv3x3(channels, out_channels),
        "doubling": lambda: nn.Sequential(nn.Upsample(scale_factor=2), Conv3x3(channels, out_channels)),
        "strided": lambda: nn.Conv2d(channels, out_channels, 3, stride=2, padding=1, bias=False),
        "wide": lambda: nn.Conv2d(channels, out_channels, 5, padding=2, bias=False),
    }[kind]().double()


def as_graph(layers, channels, side=1):
    """A graph of layers one behind the other; it reads and gives cells."""
    shape = (channels * side**2, *GRID)
    builder = GraphBuilder(shape, "standard", {})
    signal = Signal((INPUT,), shape, side)
    for index, layer in enumerate(layers):
        signal = builder.synapse(layer, signal, None, f"layer.{index}")
    return builder.finish(signal), signal.side


def run(graph, x):
    """One step of a graph."""
    with torch.no_grad():
        return Receiver(graph)(x.unsqueeze(0), 1)[0]


def test_a_cell_holds_the_pixels_of_its_position():
    maps = torch.arange(16.0).view(1, 1, 4, 4)
    cells = to_cells(maps, 2)
    assert cells[0, :, 0, 1].tolist() == [2, 3, 6, 7]
    assert torch.equal(to_pixels(cells, 2), maps)


@pytest.mark.parametrize("doublings", [1, 2, 3])
def test_successive_transposed_convolutions(doublings):
    widths = [3, 2, 2, 1][: doublings + 1]
    layers = [built("transposed", *pair) for pair in zip(widths, widths[1:], strict=False)]
    graph, side = as_graph(layers, widths[0])
    x = torch.randn(2, widths[0], *GRID, dtype=torch.float64)
    assert side == 2**doublings
    made = to_pixels(run(graph, x), side)
    assert made.shape == (2, widths[-1], 3 * side, 5 * side)
    torch.testing.assert_close(made, nn.Sequential(*layers)(x).detach(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", NAMES)
def test_a_layer_of_cells(kind):
    (before, after), layer = NAMES[kind], built(kind)
    graph, side = as_graph([layer], 2, before)
    assert side == after
    x = torch.randn(2, 2, 3 * before, 5 * before, dtype=torch.float64)
    made = to_pixels(run(graph, to_cells(x, before)), after)
    torch.testing.assert_close(made, layer(x).detach(), rtol=0, atol=1e-12)


def test_a_bias_is_that_of_every_pixel_of_a_cell():
    layer = built("transposed")
    builder = GraphBuilder((2, *GRID), "standard", {})
    bias = torch.tensor([1.0, -2.0, 0.5])
    graph = builder.finish(builder.synapse(layer, builder.input, bias, "layer"))
    x = torch.randn(1, 2, *GRID, dtype=torch.float64)
    made = to_pixels(run(graph, x), 2)
    torch.testing.assert_close(made, (layer(x) + bias.view(-1, 1, 1)).detach(), rtol=0, atol=1e-12)


def test_cells_of_one_pixel_keep_the_layer_as_it_is():
    layer = built("strided")
    graph, side = as_graph([layer], 2)
    (node,) = graph.nodes.values()
    assert isinstance(node, Convolution)
    assert (side, node.stride, node.padding, node.output_shape) == (1, 2, 1, (3, 2, 3))
    assert torch.equal(node.weight, layer.weight)


@pytest.mark.parametrize("taps", [5, 7])
def test_a_kernel_that_reaches_beyond_the_next_position_is_refused(taps):
    layer = nn.Conv2d(2, 2, taps, padding=taps // 2, bias=False).double()
    with pytest.raises(InputError, match="more than 3x3 positions"):
        convolution_of_cells(layer, 2, 1)


def test_halving_cells_of_one_pixel_is_refused():
    with pytest.raises(InputError, match="keep cells of 2 x 2 pixels"):
        convolution_of_cells(built("strided"), 2, 1)

"""A mixer as two grouped convolutions, and the grouped convolutions themselves."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from spiking_vq.errors import InputError
from spiking_vq.export.graphs.build import LARGEST_GRID, GraphBuilder, Signal
from spiking_vq.export.graphs.graph import INPUT, Convolution
from spiking_vq.export.receivers.own import Receiver
from spiking_vq.layers.folding import fold_batch_norms, separate_connections
from spiking_vq.layers.mixing import GridMixer, SpikingSelfAttention
from spiking_vq.neurons.lif import LIF

CHANNELS = 3


def folded_mixer(grid, separate=False):
    mixer = GridMixer(grid, CHANNELS).double()
    for value in (mixer.norm.running_mean, mixer.norm.running_var, mixer.norm.weight, mixer.norm.bias):
        nn.init.uniform_(value, 0.3, 2)
    fold_batch_norms(mixer.eval())
    return separate_connections(nn.Sequential(mixer))[0] if separate else mixer


def graph_of(mixer, grid):
    names = {module: name for name, module in nn.ModuleDict({"mixer": mixer}).named_modules()}
    builder = GraphBuilder((CHANNELS, *grid), "standard", names)
    return builder.finish(builder.add(mixer, builder.input))


@pytest.mark.parametrize("separate", [False, True], ids=["shared", "per channel"])
@pytest.mark.parametrize("side", [1, 2, 3, 5])
@torch.no_grad()
def test_gather_and_spread_are_the_mixer(side, separate):
    mixer = folded_mixer((side, side), separate)
    if separate:
        mixer.linear.weight.mul_(torch.tensor([1.0, 2.0, -3.0]).view(-1, 1, 1))  # so that channels differ
    graph = graph_of(mixer, (side, side))
    assert list(graph.nodes) == ["mixer_linear_gather", "mixer_linear_spread"]
    spk = torch.randint(2, (1, 4, CHANNELS, side, side)).double()
    torch.testing.assert_close(Receiver(graph)(spk, 1), mixer(spk).value(), rtol=0, atol=1e-12)


@torch.no_grad()
def test_a_position_reads_every_other():
    """Hand-made: output j is 10 times input 0 at j = 3, and nothing elsewhere."""
    mixer = folded_mixer((2, 2))
    mixer.linear.weight.zero_()
    mixer.linear.weight[3, 0] = 10.0
    mixer.norm.weight.fill_(1.0)
    mixer.norm.bias.zero_()
    spk = torch.zeros(1, 1, CHANNELS, 2, 2)
    spk[0, 0, 1, 0, 0] = 1
    made = Receiver(graph_of(mixer, (2, 2)))(spk, 1)
    assert made[0, 0, 1].tolist() == [[0, 0], [0, 10]]
    assert made[0, 0, [0, 2]].count_nonzero() == 0


@pytest.mark.parametrize(
    ("grid", "told"),
    [
        ((15, 15), "a mixer over 15x15 positions cannot be exported: it would store 303,750 weights"),
        ((2, 3), "a grid that is not square, 2x3"),
    ],
)
def test_grids_that_cannot_be_exported(grid, told):
    with pytest.raises(InputError, match=told):
        graph_of(folded_mixer(grid), grid)


def test_the_largest_grid_is_exported():
    assert LARGEST_GRID == 14 * 14
    graph = graph_of(folded_mixer((14, 14)), (14, 14))
    assert graph.nodes["mixer_linear_gather"].weight.shape == (CHANNELS * 196, 1, 14, 14)


def test_a_mixer_of_cells_is_refused():
    mixer = folded_mixer((2, 2))
    builder = GraphBuilder((4 * CHANNELS, 2, 2), "standard", {})
    with pytest.raises(InputError, match="a mixer over 2x2 positions cannot"):
        builder.add(mixer, Signal((INPUT,), (4 * CHANNELS, 2, 2), side=2))


def test_attention_is_refused():
    with pytest.raises(InputError, match="mixer=attention cannot be exported.*mixer=grid"):
        GraphBuilder((4, 2, 2), "standard", {}).add(SpikingSelfAttention(LIF, 4), Signal((INPUT,), (4, 2, 2)))


def test_a_module_without_a_form_is_refused_by_its_name():
    with pytest.raises(InputError, match="Softmax has no form in NIR"):
        GraphBuilder((4, 2, 2), "standard", {}).add(nn.Softmax(), Signal((INPUT,), (4, 2, 2)))


CONVOLUTIONS = {
    "to a single pixel": {"taps": (3, 4), "size": (3, 4)},
    "to a single pixel, padded": {"taps": (5, 5), "size": (3, 3), "padding": 1},
    "to a single pixel, strided": {"taps": (3, 3), "size": (4, 4), "stride": 2},
    "from a single pixel": {"taps": (3, 3), "size": (1, 1), "padding": 2},
    "from a single pixel, oblong": {"taps": (3, 5), "size": (1, 1), "padding": 4},
    "from a single pixel, in part": {"taps": (5, 5), "size": (1, 1), "padding": 3},
    "from a single pixel to one": {"taps": (3, 3), "size": (1, 1), "padding": 1},
    "on a map": {"taps": (3, 3), "size": (4, 5), "padding": 1, "stride": 2},
    "on a map, tight": {"taps": (1, 1), "size": (2, 2)},
}


@pytest.mark.parametrize(("groups", "inside", "outside"), [(1, 2, 3), (3, 1, 4), (3, 2, 2), (2, 3, 1)])
@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_a_grouped_convolution_is_torchs(kind, groups, inside, outside):
    """`inside` and `outside` are channels of a group."""
    options = dict(CONVOLUTIONS[kind])
    taps, size = options.pop("taps"), options.pop("size")
    weight = torch.randn(groups * outside, inside, *taps, dtype=torch.float64)
    node = Convolution(weight, torch.randn(groups * outside, dtype=torch.float64), size, **options, groups=groups)
    x = torch.randn(2, groups * inside, *size, dtype=torch.float64)
    expected = F.conv2d(x, weight, node.bias, **options, groups=groups)
    assert node.input_shape == tuple(x.shape[1:])
    assert node.output_shape == tuple(expected.shape[1:])
    torch.testing.assert_close(node(x), expected, rtol=0, atol=1e-12)

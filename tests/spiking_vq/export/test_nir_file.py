"""Graphs and their files: what is checked, what is refused, and that a file holds a graph exactly."""

from dataclasses import fields, replace

import pytest
import torch

from spiking_vq.errors import InputError
from spiking_vq.export import nir_file
from spiking_vq.export.graphs.build import GraphBuilder
from spiking_vq.export.graphs.graph import DT, INPUT, OUTPUT, Convolution, Graph, Neurons
from spiking_vq.export.nir_file import from_nir, read_nir, to_nir, write_nir
from spiking_vq.export.receivers.own import Receiver
from spiking_vq.layers.synapses import conv_norm
from spiking_vq.neurons.lif import LIF

nir = pytest.importorskip("nir")
h5py = pytest.importorskip("h5py")

SIZE = (2, 2)


def convolution(channels, out_channels, size=SIZE, **options):
    weight = torch.randn(out_channels, channels, 3, 3, dtype=torch.float64)
    return Convolution(weight, torch.randn(out_channels, dtype=torch.float64), size, **{"padding": 1} | options)


def chain(*nodes, shape):
    """A graph of nodes a, b, c... one behind the other."""
    names = "abcdef"[: len(nodes)]
    edges = list(zip([INPUT, *names], [*names, OUTPUT], strict=True))
    return Graph(shape, dict(zip(names, nodes, strict=True)), edges)


def assert_same_graph(one, other):
    """Equal nodes and edges; the order of nodes that do not read each other is free."""
    assert one.input_shape == other.input_shape
    assert one.nodes.keys() == other.nodes.keys()
    assert sorted(one.edges) == sorted(other.edges)
    for name, node in one.nodes.items():
        found = other.nodes[name]
        assert type(node) is type(found)
        for field in fields(node):
            value, again = getattr(node, field.name), getattr(found, field.name)
            if isinstance(value, torch.Tensor):
                assert torch.equal(value, again), f"{name}.{field.name}"
            else:
                assert value == again, f"{name}.{field.name}"


@pytest.fixture
def networks():
    """Function that gives the graph of a small network with a residual sum, in a form."""

    def make(form, reset="subtract", beta=1.0):
        layers = {"first": LIF(beta, reset=reset), "synapse": conv_norm(3, 3), "second": LIF(beta, 0.7, reset=reset)}
        names = {layers["synapse"][0]: "synapse", layers["first"]: "first", layers["second"]: "second"}
        builder = GraphBuilder((3, *SIZE), form, names)
        first = builder.add(layers["first"], builder.input)
        current = builder.add(layers["synapse"], first)
        current = current._replace(nodes=(INPUT, *current.nodes))
        return builder.finish(builder.add(layers["second"], current))

    return make


# ---------------------------------------------------------------- graphs


def test_maps_flow_along_the_edges():
    graph = chain(convolution(2, 3, stride=2), Neurons("IF", (3, 1, 1), 1.0), shape=(2, *SIZE))
    graph.check()
    assert graph.output_shape() == (3, 1, 1)
    assert graph.neurons() == ["b"]
    assert graph.sources("b") == ["a"]


@pytest.mark.parametrize(
    ("nodes", "shape", "told"),
    [
        ((convolution(2, 3), convolution(2, 3)), (2, *SIZE), r"maps \(3, 2, 2\) from a to b, which takes \(2, 2, 2\)"),
        ((convolution(2, 3),), (1, *SIZE), r"maps \(1, 2, 2\) from input to a, which takes \(2, 2, 2\)"),
        ((convolution(2, 3, stride=2), convolution(3, 3)), (2, *SIZE), r"maps \(3, 1, 1\) from a to b"),
        ((convolution(2, 3), Neurons("LIF", (3, 2, 1), 1.0)), (2, *SIZE), r"to b, which takes \(3, 2, 1\)"),
    ],
)
def test_edges_between_unlike_maps_are_refused(nodes, shape, told):
    with pytest.raises(InputError, match=told):
        chain(*nodes, shape=shape).check()


@pytest.mark.parametrize("edge", [("a", "nowhere"), ("nowhere", "a"), ("nowhere", OUTPUT), (INPUT, OUTPUT)])
def test_edges_to_nowhere_are_refused(edge):
    graph = chain(convolution(2, 3), shape=(2, *SIZE))
    graph.edges.insert(0, edge)
    with pytest.raises(InputError, match="the graph"):
        graph.check()


# ---------------------------------------------------------------- there and back


@pytest.mark.parametrize(
    ("form", "reset", "beta"),
    [
        ("standard", "subtract", 1.0),
        ("standard", "subtract", 0.5),
        ("standard", "zero", 0.5),
        ("feedback", "subtract", 1.0),
        ("feedback", "delayed_subtract", 0.5),
        ("feedback", "zero", 1.0),
    ],
)
def test_a_file_holds_the_graph(networks, tmp_path, form, reset, beta):
    graph = networks(form, reset, beta)
    write_nir(tmp_path / "graph.nir", graph)
    again = read_nir(tmp_path / "graph.nir")
    assert_same_graph(graph, again)
    x = 2 * torch.randn(4, 3, 3, *SIZE, dtype=torch.float64)
    made = Receiver(graph)(x, 4)
    assert 0 < made.mean() < 1
    assert torch.equal(Receiver(again)(x, 4), made)


def test_a_soft_reset_stands_in_the_metadata(networks, tmp_path):
    write_nir(tmp_path / "graph.nir", networks("standard"))
    node = nir.read(str(tmp_path / "graph.nir"), type_check=False).nodes["second"]
    assert type(node) is nir.IF
    assert node.metadata["reset"] in ("subtract", b"subtract")
    assert node.metadata["reset_amount"] == pytest.approx(0.7)
    assert node.v_threshold.shape == (3, *SIZE)
    assert (node.r == 1 / DT).all()


def test_the_feedback_form_is_of_standard_nodes_only(networks):
    graph = to_nir(networks("feedback"))
    assert {type(node) for node in graph.nodes.values()} == {nir.Input, nir.Output, nir.Conv2d, nir.CubaLIF}
    assert not any(node.metadata for name, node in graph.nodes.items() if name not in (INPUT, OUTPUT))
    assert {("first", "first_reset"), ("first_reset", "first")} <= set(graph.edges)


def test_readers_that_know_no_v_reset_can_read_a_file(networks, tmp_path):
    """Those of nir 1.0.4; a file that has it, of zeros, is read as well."""
    graph = networks("standard")
    write_nir(tmp_path / "without.nir", graph)
    nir.write(str(tmp_path / "with.nir"), to_nir(graph))
    found = {}
    for name in ("with", "without"):
        with h5py.File(tmp_path / f"{name}.nir") as file:
            found[name] = "v_reset" in file["node/nodes/first"]
        assert_same_graph(read_nir(tmp_path / f"{name}.nir"), graph)
    assert found == {"with": True, "without": False}


def test_weights_are_stored_short_where_that_is_exact(tmp_path):
    short = convolution(1, 1)
    short = replace(short, weight=short.weight.float().double(), bias=torch.full((1,), 0.1, dtype=torch.float64))
    write_nir(tmp_path / "graph.nir", chain(short, shape=(1, *SIZE)))
    node = nir.read(str(tmp_path / "graph.nir"), type_check=False).nodes["a"]
    assert (node.weight.dtype, node.bias.dtype) == ("float32", "float64")
    assert node.bias[0] == 0.1


def test_grouped_convolutions_can_be_read(tmp_path):
    graph = chain(convolution(1, 4, groups=2), shape=(2, *SIZE))
    write_nir(tmp_path / "graph.nir", graph)
    again = read_nir(tmp_path / "graph.nir")
    assert_same_graph(again, graph)
    assert again.nodes["a"].groups == 2


def test_nodes_come_in_an_order_in_which_they_can_run():
    """Named against the order; the residual edge leads past the second node."""
    graph = Graph((2, *SIZE))
    graph.nodes = {"m": convolution(2, 2), "z": Neurons("IF", (2, *SIZE), 1.0), "a": convolution(2, 2)}
    graph.edges = [(INPUT, "z"), ("z", "m"), ("m", "a"), ("z", "a"), ("a", OUTPUT)]
    assert list(from_nir(to_nir(graph)).nodes) == ["z", "m", "a"]


# ---------------------------------------------------------------- what is refused


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="no file at .*none.nir: export a model"):
        read_nir(tmp_path / "none.nir")


def test_a_truncated_file(networks, tmp_path):
    path = tmp_path / "graph.nir"
    write_nir(path, networks("standard"))
    whole = path.read_bytes()
    for length in (0, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"graph.nir is no .nir file, or a damaged one"):
            read_nir(path)


def test_files_of_another_kind(tmp_path):
    (tmp_path / "text.nir").write_text("a neuron")
    with h5py.File(tmp_path / "other.nir", "w") as file:
        file["weights"] = [1.0, 2.0]
    for name in ("text", "other"):
        with pytest.raises(InputError, match=f"{name}.nir is no .nir file"):
            read_nir(tmp_path / f"{name}.nir")


def test_a_circle_of_three_nodes():
    """Only a layer of neurons and the synapse that leads its spikes back may form a circle."""
    neurons, there, back = Neurons("IF", (2, *SIZE), 1.0), convolution(2, 2), convolution(2, 2)
    graph = Graph((2, *SIZE), {"n": neurons, "t": there, "u": back})
    graph.edges = [(INPUT, "n"), ("n", "t"), ("t", "u"), ("u", "n"), ("n", OUTPUT)]
    with pytest.raises(InputError, match="a circle through n, t, u"):
        from_nir(to_nir(graph))


@pytest.mark.parametrize("field", ["v_threshold", "tau", "r"])
def test_unlike_neurons_in_a_layer(field):
    made = to_nir(chain(Neurons("LIF", (2, *SIZE), 1.0, tau_mem=2.0), shape=(2, *SIZE)))
    getattr(made.nodes["a"], field)[1, 0, 1] *= 2
    with pytest.raises(InputError, match=f"node a: neurons of a layer must be alike; {field} differs"):
        from_nir(made)


@pytest.mark.parametrize("field", ["v_reset", "v_leak"])
def test_other_resting_potentials(field):
    made = to_nir(chain(Neurons("LIF", (2, *SIZE), 1.0, tau_mem=2.0), shape=(2, *SIZE)))
    getattr(made.nodes["a"], field)[:] = 0.5
    with pytest.raises(InputError, match="node a: expected v_reset and v_leak 0"):
        from_nir(made)


@pytest.mark.parametrize("option", [{"dilation": 2}, {"stride": (1, 2)}, {"padding": (0, 1)}])
def test_convolutions_that_ours_are_not(option):
    made = to_nir(chain(convolution(2, 2), shape=(2, *SIZE)))
    options = {"input_shape": SIZE, "stride": 1, "padding": 1, "dilation": 1, "groups": 1} | option
    made.nodes["a"] = nir.Conv2d(weight=made.nodes["a"].weight, bias=made.nodes["a"].bias, **options)
    with pytest.raises(InputError, match="node a: expected one stride and padding for both sides, no dilation"):
        from_nir(made)


def test_nodes_that_our_networks_do_not_have(tmp_path):
    made = to_nir(chain(Neurons("LIF", (2, *SIZE), 1.0), shape=(2, *SIZE)))
    made.nodes["a"] = nir.Flatten({"input": (2, *SIZE)}, 0, -1)
    with pytest.raises(InputError, match="node a is a Flatten, which our networks do not have"):
        from_nir(made)


def test_ends_of_other_names():
    made = to_nir(chain(Neurons("LIF", (2, *SIZE), 1.0), shape=(2, *SIZE)))
    made.nodes["in"] = made.nodes.pop(INPUT)
    made.edges = [("in", "a"), ("a", OUTPUT)]
    with pytest.raises(InputError, match="expected a graph with nodes named input and output"):
        from_nir(made)


def test_without_the_package(monkeypatch, tmp_path):
    monkeypatch.setattr(nir_file, "find_spec", lambda name: None)
    for call in (lambda: read_nir(tmp_path / "a.nir"), lambda: write_nir(tmp_path / "a.nir", Graph((1, 1, 1)))):
        with pytest.raises(InputError, match=r"needs the package nir: .*spiking_vq\[export\]"):
            call()

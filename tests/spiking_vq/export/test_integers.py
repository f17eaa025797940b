"""Graphs of quantised models in integer arithmetic."""

import pytest
import torch
from tiny_models import results_in, tiny

import spiking_vq
from spiking_vq.errors import InputError
from spiking_vq.export.check import graph_of, own_agreement
from spiking_vq.export.graphs.graph import Convolution, Graph, Neurons
from spiking_vq.export.nir_folder import INTEGERS, read_integers
from spiking_vq.export.receivers.integers import IntegerReceiver, tables
from spiking_vq.export.receivers.own import Receiver
from spiking_vq.pipelines.latent import LatentPipeline
from spiking_vq.quantisation.model import quantise_model
from stages.__main__ import main

pytest.importorskip("nir")


@pytest.fixture
def exported(tmp_path):
    """Folder of a small quantised model."""
    pipeline = tiny(conditional=True)
    return LatentPipeline(*quantise_model(pipeline.model, pipeline.config, 8)).export(tmp_path / "export")


def by_integers(folder, part, change=None):
    """How far a part agrees in integers, some of which may be changed."""
    model = spiking_vq.load(folder, precision="fp64").model
    integers = read_integers(folder, part)
    if change:
        change(integers)
    receiver = IntegerReceiver(graph_of(model, part).graph, integers)
    examples, expected = results_in(folder)
    return own_agreement(model, part, examples, expected[part], receiver), receiver


@pytest.mark.parametrize("part", ["decoder", "denoiser"])
def test_spikes_are_those_of_the_network(exported, part):
    row, receiver = by_integers(exported, part)
    assert (row.differ, row.output < 1e-9) == (0, True)
    assert 8 < receiver.accumulator_bits <= 32
    weights = [value for name, value in read_integers(exported, part).items() if name.endswith("/weight")]
    assert {value.dtype for value in weights} == {torch.int8}


@pytest.mark.parametrize("part", ["decoder", "denoiser"])
def test_one_bit_of_another_threshold_shows(exported, part):
    def bias(integers):
        name = next(name for name in integers if name.endswith("/bias"))
        integers[name] += 40

    assert by_integers(exported, part, bias)[0].differ > 0


def test_verify_runs_the_integers(exported, capsys):
    main(["verify", str(exported), "receivers=false", f"results={exported.parent / 'results'}"])
    said = capsys.readouterr().out
    assert "decoder    integers, accumulators of" in said
    assert "denoiser   integers, accumulators of" in said
    assert said.endswith("verified\n")
    (report,) = exported.parent.rglob("export-nir-standard.json")
    assert '"accumulator_bits"' in report.read_text()


def test_integers_that_were_left_behind_are_not_read(exported, capsys):
    tiny(conditional=True).export(exported)
    assert (exported / INTEGERS).is_file()
    main(["verify", str(exported), "receivers=false"])
    assert "integers" not in capsys.readouterr().out


def test_a_model_of_real_weights_has_no_integers(tmp_path):
    folder = tiny().export(tmp_path)
    assert not (folder / INTEGERS).exists()
    graph = graph_of(spiking_vq.load(folder).model, "decoder").graph
    with pytest.raises(InputError, match="quantise the model first"):
        tables(graph)


def one_neuron(threshold, **neuron):
    """A weight of 3/8 to a neuron."""
    graph = Graph((1, 1, 1))
    graph.nodes["weight"] = Convolution(torch.full((1, 1, 1, 1), 3 / 8).double(), torch.zeros(1).double(), (1, 1))
    graph.nodes["neuron"] = Neurons(shape=(1, 1, 1), threshold=threshold, **neuron)
    graph.edges = [("input", "weight"), ("weight", "neuron"), ("neuron", "output")]
    return graph


def test_arithmetic_by_hand():
    # in eighths: 3, 6, 9 -> fires at 8, 1 remains; 4, 7, 10 -> fires, 2 remains
    graph = one_neuron(0.99, kind="IF", reset="subtract", amount=1.0)
    receiver = IntegerReceiver(graph, tables(graph))
    spk = receiver(torch.ones(1, 1, 1, 1, 1), 6)
    assert spk.flatten().tolist() == [0, 0, 1, 0, 0, 1]
    assert receiver.peak == 10
    assert receiver.accumulator_bits == 5  # with its sign
    # v halves at each step: 3/16, 9/32, 21/64 with r = 1
    leaky = one_neuron(20.5 / 64, kind="LIF", tau_mem=2.0)
    assert IntegerReceiver(leaky, tables(leaky))(torch.ones(1, 1, 1, 1, 1), 3).flatten().tolist() == [0, 0, 1]
    assert Receiver(leaky)(torch.ones(1, 1, 1, 1, 1).double(), 3).flatten().tolist() == [0, 0, 1]


def test_real_inputs_are_refused():
    graph = one_neuron(0.99, kind="IF")
    with pytest.raises(InputError, match="integers times a power of two; got real numbers"):
        IntegerReceiver(graph, tables(graph))(torch.full((1, 1, 1, 1, 1), 0.1).double(), 2)

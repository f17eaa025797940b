"""Other libraries run the exported graphs, spike for spike, in the form that they know."""

import warnings

import pytest
import torch
from tiny_models import PAPER, results_in, tiny
from torch import nn

import spiking_vq
from spiking_vq.export.check import graph_of, stock_agreement
from spiking_vq.export.graphs.graph import Convolution, Graph
from spiking_vq.export.receivers.own import Receiver
from spiking_vq.export.receivers.stock import RECEIVERS, groups_mended, run_stock, ungrouped

pytest.importorskip("nir")
pytest.importorskip("nirtorch")

PARTS = ("decoder", "encoder", "denoiser")
FORM = {name: receiver.forms[0] for name, receiver in RECEIVERS.items()}


def installed(name):
    """The receiver of this name; skips where it is not installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip(RECEIVERS[name].package)
    return RECEIVERS[name]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Function that gives the model of an export, its examples and results: `exported(form, model)`."""
    made = {}

    def get(form, model="vq"):
        if (form, model) not in made:
            folder = tmp_path_factory.mktemp(form)
            options = {"paper": {"lif": PAPER, "denoiser": "sdid", "denoiser_lif": PAPER}, "vq": {"conditional": True}}
            tiny(**options[model]).export(folder, form=form)
            made[form, model] = (spiking_vq.load(folder).model, *results_in(folder))
        return made[form, model]

    return get


def agreement(receiver, model, examples, expected, part, graph=None):
    graph = graph_of(model, part).graph if graph is None else graph
    return stock_agreement(receiver, graph, model, part, examples, expected[part])


@pytest.mark.parametrize("part", ["decoder", "encoder"])
@pytest.mark.parametrize("name", RECEIVERS)
def test_stage_1_runs_as_it_is(exported, name, part):
    row = agreement(installed(name), *exported(FORM[name]), part)
    assert row.slots > 100
    assert row.differ == 0
    assert row.output < 1e-5


@pytest.mark.parametrize("name", ["snnTorch", "Norse", "SpikingJelly"])
def test_the_denoiser_runs_with_its_groups_mended(exported, name):
    with groups_mended():
        row = agreement(installed(name), *exported("feedback"), "denoiser")
    assert row.differ == 0
    assert row.output < 1e-4


@pytest.mark.parametrize("name", ["snnTorch", "Norse", "SpikingJelly"])
def test_the_denoiser_runs_without_groups(exported, name):
    model, examples, expected = exported("feedback")
    graph = ungrouped(graph_of(model, "denoiser").graph)
    row = agreement(installed(name), model, examples, expected, "denoiser", graph)
    assert row.differ == 0
    assert row.output < 1e-4


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("name", ["snnTorch", "Norse", "SpikingJelly"])
def test_the_published_networks_run_as_they_are(exported, name, part):
    """They have no grouped convolutions and no soft resets. Norse computes the denoiser's sum of two read-outs before
    the second one, so that its logits lack it."""
    row = agreement(installed(name), *exported("feedback", "paper"), part)
    assert row.differ == 0
    assert row.output < 1e-4 or (name, part) == ("Norse", "denoiser")


@pytest.mark.parametrize("name", ["snnTorch", "Norse", "SpikingJelly"])
def test_receivers_that_know_no_soft_reset_fail_or_differ_on_the_standard_form(exported, name):
    receiver = installed(name)
    try:
        row = agreement(receiver, *exported("standard"), "decoder")
    except Exception:  # of any kind: the library's own
        return
    assert row.differ > 0


def test_without_groups_a_graph_is_the_same(exported):
    model, examples, _ = exported("standard")
    graph = graph_of(model, "denoiser").graph
    dense = ungrouped(graph)
    dense.check()
    grouped = [name for name, node in graph.nodes.items() if getattr(node, "groups", 1) > 1]
    assert len(grouped) == 2
    assert not any(getattr(node, "groups", 1) > 1 for node in dense.nodes.values())
    for name in grouped:
        assert dense.nodes[name].weight.numel() == 6 * graph.nodes[name].weight.numel()  # six channels
        assert dense.nodes[name].weight.count_nonzero() == graph.nodes[name].weight.count_nonzero()
    x = torch.randn(1, 3, *graph.input_shape, dtype=torch.float64)
    torch.testing.assert_close(Receiver(dense)(x, 3), Receiver(graph)(x, 3), rtol=0, atol=1e-12)


def test_mending_ends_with_its_block():
    own = nn.Conv2d.__init__
    with groups_mended():
        conv = nn.Conv2d(1, 6, 3, groups=3, padding=1)
    assert conv.weight.shape == (6, 1, 3, 3)
    assert conv.in_channels == 3
    assert nn.Conv2d.__init__ is own
    with pytest.raises(ValueError, match="groups"), groups_mended():
        nn.Conv2d(1, 5, 3, groups=3)
    assert nn.Conv2d.__init__ is own


@pytest.mark.parametrize("name", RECEIVERS)
def test_a_receiver_gives_a_map_of_every_step(name):
    """A convolution that doubles, of an input that is the same at every step."""
    receiver = installed(name)
    node = Convolution(torch.full((1, 1, 1, 1), 2.0), torch.zeros(1), (2, 2))
    graph = Graph((1, 2, 2), {"twice": node}, [("input", "twice"), ("twice", "output")])
    run = run_stock(receiver, graph, torch.ones(1, 3, 1, 2, 2), 4)
    assert run.output.shape == (4, 3, 1, 2, 2)
    assert (run.output == 2).all()
    assert run.spikes == {}

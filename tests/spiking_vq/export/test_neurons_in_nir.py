"""Neurons in NIR's words spike as ours do, membranes exactly at threshold included."""

from dataclasses import replace

import pytest
import torch

from spiking_vq.errors import InputError
from spiking_vq.export.graphs.build import GraphBuilder
from spiking_vq.export.graphs.graph import Neurons
from spiking_vq.export.graphs.neurons import FORMS, just_below, neuron_form
from spiking_vq.export.nir_file import from_nir, to_nir
from spiking_vq.export.receivers.own import Receiver
from spiking_vq.neurons.dynamics import RESETS, Dynamics, scan_forward
from spiking_vq.neurons.lif import LIF

T, SHAPE = 6, (2, 3, 3)
WRITTEN = [(form, reset) for form in FORMS for reset in RESETS if (form, reset) != ("standard", "delayed_subtract")]
"""Forms and the resets that they can write."""

DECAYS = [(0.0, False), (0.0, True), (0.5, False), (0.5, True), (0.75, False), (0.75, True), (1.0, False)]
"""beta and scale_input; the input of an integrate-and-fire neuron is never scaled."""


def graph_of(lif, form, shape=SHAPE):
    builder = GraphBuilder(shape, form, {lif: "neuron"})
    return builder.finish(builder.add(lif, builder.input))


def dyadic(dtype, low=-4, high=12):
    """Currents that are multiples of an eighth, so that every membrane is exact in float32."""
    return torch.randint(low, high, (T, 64, *SHAPE)).to(dtype) / 8


def scanned(lif, x):
    beta, threshold = lif.beta.to(x.dtype), lif.threshold.to(x.dtype)
    return scan_forward(list(x), None, beta, threshold, lif.dynamics)


def differing(graph, x, steps):
    """Number of spikes of a graph that are not those of a scan."""
    return sum((spk != step.spk).sum().item() for spk, step in zip(Receiver(graph)(x, T), steps, strict=True))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("form", "reset"), WRITTEN)
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("beta", "scale_input"), DECAYS)
def test_every_neuron_spikes_as_ours_where_membranes_hit_the_threshold(beta, scale_input, ties, reset, form, dtype):
    lif = LIF(beta, reset=reset, scale_input=scale_input, fire_at_threshold=ties)
    x = dyadic(dtype) / (1 - beta if scale_input else 1)
    steps = scanned(lif, x)
    charged = torch.stack([step.charged for step in steps])
    assert (charged[1:] == 1).any(), "no membrane is exactly at threshold"
    assert 0.1 < torch.stack([step.spk for step in steps]).mean() < 0.9
    graph = graph_of(lif, form)
    assert differing(graph, x, steps) == 0
    assert differing(from_nir(to_nir(graph)), x, steps) == 0  # in seconds and back
    other_rule = scanned(LIF(beta, reset=reset, scale_input=scale_input, fire_at_threshold=not ties), x)
    assert differing(graph, x, other_rule) > 0


@pytest.mark.parametrize(("form", "reset"), WRITTEN)
@pytest.mark.parametrize(("beta", "threshold"), [(0.3, 0.7), (0.5, 1.3), (0.9, 0.5), (1.0, 0.3)])
def test_other_decays_and_thresholds(beta, threshold, reset, form):
    for scale_input in {False, beta < 1}:
        lif = LIF(beta, threshold, reset=reset, scale_input=scale_input, fire_at_threshold=True)
        x = torch.randn(T, 64, *SHAPE, dtype=torch.float64) / (1 - beta if scale_input else 1)
        assert torch.stack([step.spk for step in scanned(lif, x)]).mean() > 0.05
        assert differing(graph_of(lif, form), x, scanned(lif, x)) == 0
        assert torch.equal(Receiver(graph_of(lif, form))(x, T), lif(x))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("beta", [0.5, 1.0])
def test_a_soft_reset_keeps_what_a_hard_one_erases(beta, form):
    """Current 1.75 once: a membrane of 1.75 fires and keeps 0.75, with which 0.5 or more fires again at beta 1."""
    lif = LIF(beta, reset="subtract")
    x = torch.zeros(4, 1, 1, 1, 1)
    x[:, 0, 0, 0, 0] = torch.tensor([1.75, 0.5, 0.0, 0.75])
    spk = Receiver(graph_of(lif, form, (1, 1, 1)))(x, 4).flatten().tolist()
    assert spk == ([1, 1, 0, 0] if beta == 1 else [1, 0, 0, 0])  # 1.75, 1.25, 0.25, 1: at, not above


def test_a_constant_current_is_presented_at_every_step():
    graph = graph_of(LIF(1.0, reset="subtract"), "feedback", (1, 1, 1))
    spk = Receiver(graph)(torch.full((1, 1, 1, 1, 1), 0.375), 8)
    assert spk.flatten().tolist() == [0, 0, 1, 0, 0, 1, 0, 0]  # at 1.125 and 1.25; the last membrane is 1, not above


def test_the_largest_float_below_a_threshold():
    assert just_below(1.0) == 1 - 2**-24
    assert just_below(0.5) == 0.5 - 2**-25
    for threshold in (1.0, 0.7, 3.0):
        value = torch.tensor(just_below(threshold), dtype=torch.float32)
        assert value.item() == just_below(threshold)  # a float32
        assert value < torch.tensor(threshold)


@pytest.mark.parametrize(
    ("options", "form", "kind", "feedback"),
    [
        ({"beta": 1.0}, "standard", "IF", 0),
        ({"beta": 1.0, "reset": "subtract"}, "standard", "IF", 0),
        ({"beta": 0.5, "reset": "subtract"}, "standard", "LIF", 0),
        ({"beta": 0.5}, "feedback", "LIF", 0),
        ({"beta": 1.0}, "feedback", "CubaLIF", 0),
        ({"beta": 1.0, "reset": "subtract", "threshold": 0.75}, "feedback", "CubaLIF", -0.75),
        ({"beta": 0.5, "reset": "subtract"}, "feedback", "CubaLIF", -0.5),
        ({"beta": 0.5, "reset": "subtract", "scale_input": True}, "feedback", "CubaLIF", -1),
        ({"beta": 0.5, "reset": "delayed_subtract"}, "feedback", "CubaLIF", -1),
    ],
)
def test_which_nodes_a_neuron_becomes(options, form, kind, feedback):
    made = neuron_form(LIF(**options), SHAPE, form)
    assert (made.neurons.kind, made.feedback) == (kind, feedback)
    assert (made.neurons.reset == "subtract") == (form == "standard" and options.get("reset") == "subtract")


def test_a_leaky_neuron_has_its_current_and_threshold_scaled():
    """tau = 2 scales the current by 1/2: so must the threshold be, and what a reset subtracts."""
    lif = LIF(0.5, 1.5, reset="subtract")
    expected = Neurons("LIF", SHAPE, threshold=0.75, tau_mem=2.0, reset="subtract", amount=0.75)
    assert neuron_form(lif, SHAPE, "standard").neurons == expected
    scaled = replace(expected, threshold=1.5, amount=1.5)
    assert neuron_form(LIF(0.5, 1.5, reset="subtract", scale_input=True), SHAPE, "standard").neurons == scaled


@pytest.mark.parametrize(
    ("options", "form", "told"),
    [
        ({"reset": "delayed_subtract"}, "standard", "delayed_subtract.*take form=feedback"),
        ({"num_scales": 4}, "standard", "a scale for each step"),
        ({"num_scales": 4}, "feedback", "a scale for each step"),
        ({"threshold": torch.ones(2, 1, 1)}, "standard", "must share beta and threshold"),
        ({"beta": torch.full((2, 1, 1), 0.5)}, "feedback", "must share beta and threshold"),
        ({}, "soft", "form must be one of standard, feedback.*'soft'"),
    ],
)
def test_what_nir_has_no_neuron_for(options, form, told):
    with pytest.raises(InputError, match=told):
        neuron_form(LIF(**options), SHAPE, form)


def test_learnt_values_are_those_that_the_network_computes_with():
    """A learnt decay is used clamped to [0, 1]."""
    lif = LIF(0.5, learn_beta=True, learn_threshold=True)
    lif.beta.data.fill_(1.25)
    lif.threshold.data.fill_(0.5)
    made = neuron_form(lif, SHAPE, "standard").neurons
    assert (made.kind, made.threshold) == ("IF", 0.5)
    assert made.reset == Dynamics().reset == "zero"

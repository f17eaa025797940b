"""snnTorch as the oracle, both ways."""

import copy
import re
from functools import partial
from pathlib import Path

import pytest
import snntorch
import torch
from snntorch import surrogate
from time_courses import assert_same, noise, spikes_and_gradients, train_of
from torch import nn

import spiking_vq
from spiking_vq.errors import InputError
from spiking_vq.neurons.lif import LIF, Dynamics
from spiking_vq.neurons.snntorch_exchange import from_snntorch, to_snntorch
from spiking_vq.neurons.surrogates import SURROGATES


def snntorch_loop(leaky, x):
    mem, spikes = torch.zeros_like(x[0]), []
    for current in x:
        spk, mem = leaky(current, mem)
        spikes.append(spk)
    return torch.stack(spikes)


@pytest.mark.parametrize("spike_grad", [None, surrogate.atan(3.0), surrogate.fast_sigmoid(slope=4)])
@pytest.mark.parametrize("beta", [0, 0.8, 1.0])
@pytest.mark.parametrize(("mechanism", "delay"), [("zero", True), ("zero", False), ("subtract", True)])
def test_from_snntorch(mechanism, delay, beta, spike_grad):
    leaky = snntorch.Leaky(
        float(beta),
        threshold=0.75,
        spike_grad=spike_grad,
        learn_beta=True,
        learn_threshold=True,
        reset_mechanism=mechanism,
        reset_delay=delay,
    )
    lif = from_snntorch(leaky)
    x = noise(12, 3, 20)
    assert_same(
        spikes_and_gradients(lif, x, lif.beta, lif.threshold),
        spikes_and_gradients(lambda x: snntorch_loop(leaky, x), x, leaky.beta, leaky.threshold),
    )


@pytest.mark.parametrize("detach_reset", [False, True])
@pytest.mark.parametrize("fire_at_threshold", [False, True])
@pytest.mark.parametrize("scale_input", [False, True])
@pytest.mark.parametrize("name", SURROGATES)
def test_to_snntorch_and_back(name, scale_input, fire_at_threshold, detach_reset):
    lif = LIF(
        0.75,
        scale_input=scale_input,
        fire_at_threshold=fire_at_threshold,
        detach_reset=detach_reset,
        surrogate=name,
        surrogate_scale=1.6,  # puts no membrane on an edge of the rectangle
    )
    leaky = to_snntorch(lif)
    assert type(leaky) is snntorch.Leaky
    x = noise(8, 3, 20, scale=8).round().float() / (2 if scale_input else 8)  # all sums exact, so ties are plenty
    ours = spikes_and_gradients(lif, x)
    assert_same(ours, spikes_and_gradients(lambda x: snntorch_loop(leaky, x), x))
    assert_same(ours, spikes_and_gradients(from_snntorch(leaky), x))
    tie_rule_flipped = copy.copy(lif)
    tie_rule_flipped.dynamics = Dynamics(scale_input=scale_input, fire_at_threshold=not fire_at_threshold)
    assert not torch.equal(tie_rule_flipped(x), ours[0])


@pytest.mark.parametrize(
    "options",
    [
        {"beta": 0.9, "reset": "delayed_subtract", "detach_reset": True, "fire_at_threshold": True},
        {"beta": 1.0, "reset": "subtract", "detach_reset": True},  # equal to the delayed one at beta = 1 only
        {"beta": 0.9, "threshold": 0.6, "scale_input": True},  # 1 - beta is no power of two
    ],
)
def test_to_snntorch_within_rounding(options):
    lif, x = LIF(**options), noise(8, 3, 50, scale=4)  # seeded: no membrane so near the threshold that rounding tells
    leaky = to_snntorch(lif)
    assert_same(spikes_and_gradients(lif, x), spikes_and_gradients(lambda x: snntorch_loop(leaky, x), x))


def test_conversion_keeps_values_per_neuron_and_what_is_learnt():
    beta, threshold = torch.tensor([0.2, 0.9]).view(2, 1, 1), torch.tensor([0.5, 1.5]).view(2, 1, 1)
    lif = LIF(beta, threshold, learn_beta=True)
    leaky = to_snntorch(lif)
    for neuron in (leaky, from_snntorch(leaky)):
        assert torch.equal(neuron.beta, beta)
        assert torch.equal(neuron.threshold, threshold)
        assert [name for name, _ in neuron.named_parameters()] == ["beta"]
        assert neuron.beta.data_ptr() != lif.beta.data_ptr()  # a copy, which may be trained on
        assert neuron.threshold.data_ptr() != lif.threshold.data_ptr()
    x = noise(6, 4, 2, 3, 3)
    assert torch.equal(snntorch_loop(leaky, x), lif(x).float())


def test_snntorch_clamps_beta_in_its_forward():
    assert from_snntorch(snntorch.Leaky(1.5)).beta == 1


def test_exported_neuron_steps_in_a_sequential():
    lif, x = LIF(), noise(6, 4, 5)
    net = nn.Sequential(to_snntorch(lif, init_hidden=True))
    assert torch.equal(torch.stack([net(current) for current in x]), lif(x).float())


def test_why_subtract_without_delay_is_refused():
    # A membrane that is still above threshold after its reset: ours fires it down, snnTorch's never fires again.
    leaky = snntorch.Leaky(1.0, reset_mechanism="subtract", reset_delay=False)
    x = train_of(3.5, 0, 0, 0, 0)
    assert snntorch_loop(leaky, x).squeeze(1).tolist() == [1, 1, 0, 0, 0]
    assert LIF(1.0, reset="subtract")(x).squeeze(1).tolist() == [1, 1, 1, 0, 0]


@pytest.mark.parametrize(
    "options",
    [
        {"inhibition": True},
        {"state_quant": lambda mem: mem},
        {"surrogate_disable": True},
        {"graded_spikes_factor": 2.0},
        {"learn_graded_spikes_factor": True},
        {"reset_mechanism": "none"},
        {"reset_mechanism": "subtract", "reset_delay": False},
        {"spike_grad": surrogate.triangular()},
        {"spike_grad": surrogate.sigmoid()},
        {"spike_grad": surrogate.custom_surrogate(lambda x, grad, spk: grad)},
        {"spike_grad": surrogate.custom_surrogate(partial(torch.mul))},
        {"spike_grad": surrogate.atan},  # not called
        {"spike_grad": nn.Sigmoid()},
    ],
)
@pytest.mark.filterwarnings("ignore:Inhibition")
def test_snntorch_options_without_equal(options):
    leaky = snntorch.Leaky(0.5, **options)
    with pytest.raises(InputError, match=list(options)[-1].removeprefix("learn_")):
        from_snntorch(leaky)


def test_only_a_plain_leaky_is_taken():
    with pytest.raises(InputError, match="got Lapicque"):
        from_snntorch(snntorch.Lapicque(0.5))


def test_scaled_surrogate_whose_beta_has_moved():
    leaky = to_snntorch(LIF(0.5, scale_input=True, surrogate="triangle"))
    leaky.beta.fill_(0.6)
    with pytest.raises(InputError, match="Set beta back"):
        from_snntorch(leaky)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reset": "subtract", "detach_reset": True}, "reset='delayed_subtract'"),
        ({"reset": "subtract", "beta": 1.0}, "detach_reset=True"),
        ({"reset": "delayed_subtract"}, "detach_reset=True"),
        ({"scale_input": True, "beta": torch.tensor([0.5, 0.6])}, "scale_input=False"),
        ({"num_scales": 3}, "tsm"),
    ],
)
def test_neurons_without_equal_in_snntorch(options, message):
    with pytest.raises(InputError, match=message):
        to_snntorch(LIF(**options))


def test_neuron_learnt_shut_cannot_be_exported():
    lif = LIF(0.5, scale_input=True, learn_beta=True)
    nn.init.ones_(lif.beta)
    with pytest.raises(InputError, match="below 1"):
        to_snntorch(lif)


def test_nothing_else_in_the_library_loads_snntorch():
    importing = {
        path.name: re.findall(
            r"^\s*(?:from|import) (snntorch|spiking_vq\.neurons\.snntorch_exchange)\b", path.read_text(), re.M
        )
        for path in Path(spiking_vq.__file__).parent.rglob("*.py")
    }
    assert {name for name, modules in importing.items() if modules} == {"snntorch_exchange.py"}

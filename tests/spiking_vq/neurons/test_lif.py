"""The papers' recurrences by hand, snnTorch as the oracle, and the promise that a forward is a function."""

import copy
import math
from functools import partial

import pytest
import snntorch
import torch
from snntorch import surrogate
from torch import nn

from spiking_vq.errors import InputError
from spiking_vq.neurons.fused import Current
from spiking_vq.neurons.lif import LIF, Dynamics, lif_scan
from spiking_vq.neurons.readouts import decayed_sum, firing_rate, psp_trace
from spiking_vq.neurons.twins import neuron_factory

SPIKING_DIFFUSION = {"beta": 0.5, "scale_input": True, "fire_at_threshold": True}
SDDPM = {"beta": 1.0, "fire_at_threshold": True, "surrogate": "rectangle"}
FSDDIM = {"beta": 0.8, "detach_reset": True, "surrogate": "triangle"}


def train_of(*values):
    """One neuron's time course as `[T, 1]`."""
    return torch.tensor(values, dtype=torch.float64).unsqueeze(1)


def noise(*shape, seed=0, scale=1.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def membranes(lif, x):
    """The membrane after every step, by handing the state on."""
    mem, trace = None, []
    for current in x.split(1):
        _, mem = lif.scan(current, mem)
        trace.append(mem)
    return torch.stack(trace)


def snntorch_loop(leaky, x):
    mem, spikes = torch.zeros_like(x[0]), []
    for current in x:
        spk, mem = leaky(current, mem)
        spikes.append(spk)
    return torch.stack(spikes)


def spikes_and_gradients(run, x, *parameters):
    """Spikes of `run(x)`, and gradients of a weighted sum of them with respect to `x` and `parameters`."""
    x = x.clone().requires_grad_()
    spk = run(x)
    weights = torch.randint(-8, 9, spk.shape, generator=torch.Generator().manual_seed(1))  # exact in any float type
    return spk, *torch.autograd.grad((spk * weights).sum(), (x, *parameters))


def assert_same(ours, theirs):
    assert torch.equal(ours[0].double(), theirs[0].double())
    assert 0 < ours[0].mean() < 1
    for mine, other in zip(ours[1:], theirs[1:], strict=True):
        # snnTorch passes gradients through float32 where they meet a spike.
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------------------------------------------------------------
# The three papers, by hand


@pytest.mark.parametrize(
    ("options", "x", "spk", "mem"),
    [
        (SPIKING_DIFFUSION, [1, 1, 3, 0, 4, 1], [0, 0, 1, 0, 1, 0], [0.5, 0.75, 0, 0, 0, 0.5]),  # h[2] = 1.875
        (SPIKING_DIFFUSION, [2, 2, 2, 2], [1, 1, 1, 1], [0, 0, 0, 0]),  # a tie at every step
        ({**SPIKING_DIFFUSION, "fire_at_threshold": False}, [2, 2, 2, 2], [0, 1, 0, 1], [1, 0, 1, 0]),
        (SDDPM, [0.5, 0.25, 0.5, 0.75, 0.25, 0.5], [0, 0, 1, 0, 1, 0], [0.5, 0.75, 0, 0.75, 0, 0.5]),
        (FSDDIM, [0.5, 0.7, 1, 0.1, 0.5], [0, 1, 0, 0, 1], [0.5, 0, 1, 0.9, 0]),  # h[2] = 1 ties and does not fire
    ],
)
def test_papers_traces(options, x, spk, mem):
    lif = LIF(**options)
    assert lif(train_of(*x)).squeeze(1).tolist() == spk
    torch.testing.assert_close(membranes(lif, train_of(*x)), train_of(*mem), rtol=1e-6, atol=0)


def test_subtractions_by_hand():
    x = train_of(7, 0, 0, 0)
    soft, delayed = LIF(0.5, threshold=2.0, reset="subtract"), LIF(0.5, threshold=2.0, reset="delayed_subtract")
    assert soft(x).squeeze(1).tolist() == [1, 1, 0, 0]
    assert membranes(soft, x).squeeze(1).tolist() == [5, 0.5, 0.25, 0.125]
    assert delayed(x).squeeze(1).tolist() == [1, 0, 0, 0]
    assert membranes(delayed, x).squeeze(1).tolist() == [7, 1.5, 0.75, 0.375]


def lif_gradient(options, *x):
    x = train_of(*x).requires_grad_()
    return torch.autograd.grad(LIF(**options)(x).sum(), x)[0]


def test_fsddim_gradient_by_hand():
    # h = 0.5, 1.1 (spike), 1, 0.9, 1.22; the triangle there: 0, 0.8, 1, 0.8, 0.56; nothing passes the detached reset.
    gradient = lif_gradient(FSDDIM, 0.5, 0.7, 1, 0.1, 0.5)
    expected = train_of(0.8 * 0.8, 0.8, 1 + 0.8 * (0.8 + 0.8 * 0.56), 0.8 + 0.8 * 0.56, 0.56)
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("reset", ["zero", "subtract", "delayed_subtract"])
@pytest.mark.parametrize("detach_reset", [False, True])
def test_reset_gradient_by_hand(reset, detach_reset):
    # Membranes 1.25 (spike), then h, with the triangle of width 1: derivative 1 - |h - 1|.
    x1, x2, beta = 1.25, 0.5, 0.5
    gradient = lif_gradient(
        {"beta": beta, "reset": reset, "detach_reset": detach_reset, "surrogate": "triangle", "surrogate_scale": 1.0},
        x1,
        x2,
    )
    first = 0.75
    h = {"zero": x2, "subtract": beta * (x1 - 1) + x2, "delayed_subtract": beta * x1 + x2 - 1}[reset]
    second = 1 - abs(h - 1)
    through_membrane = {"zero": 0, "subtract": beta, "delayed_subtract": beta}[reset]
    through_reset = {"zero": -beta * x1, "subtract": -beta, "delayed_subtract": -1}[reset] * first
    dh_dx1 = through_membrane + (0 if detach_reset else through_reset)
    torch.testing.assert_close(gradient, train_of(first + second * dh_dx1, second))


def test_learnt_beta_and_threshold_by_hand():
    # Without spikes h[1] = beta x0 + x1 and d spk = g(h - threshold) (dh - d threshold), g the triangle of width 1.
    options = {"detach_reset": True, "surrogate": "triangle", "surrogate_scale": 1.0}
    lif = LIF(0.5, 1.5, learn_beta=True, learn_threshold=True, **options)
    lif(train_of(0.75, 0.875)).sum().backward()
    g0, g1 = 0.25, 0.75
    assert lif.beta.grad.item() == g1 * 0.75
    assert lif.threshold.grad.item() == -g0 - g1


# ---------------------------------------------------------------------------------------------------------------------
# Surrogates

CLOSED_FORMS = {
    "atan": lambda x, alpha: alpha / (2 * (1 + (math.pi * alpha * x / 2) ** 2)),
    "fast_sigmoid": lambda x, slope: 1 / (1 + slope * abs(x)) ** 2,
    "triangle": lambda x, width: max(0, 1 - abs(x) / width),
    "rectangle": lambda x, width: (1 if abs(x) < width / 2 else 0) / width,
}
DEFAULTS = {"atan": 2, "fast_sigmoid": 25, "triangle": 0.5, "rectangle": 1}


def derivative(spike, x):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(spike(x).sum(), x)[0]


@pytest.mark.parametrize("scale", [None, 0.75])
@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_surrogate_closed_form(name, scale):
    x = torch.linspace(-1, 1, 33, dtype=torch.float64)  # holds 0 and the edges of the default widths
    dynamics = Dynamics(surrogate=name, surrogate_scale=scale)
    expected = [CLOSED_FORMS[name](value, scale or DEFAULTS[name]) for value in x.tolist()]
    torch.testing.assert_close(
        dynamics.surrogate_derivative(x + 1, torch.tensor(1.0)), torch.tensor(expected, dtype=x.dtype)
    )


@pytest.mark.parametrize(
    ("name", "scale", "oracle"),
    [
        ("atan", None, surrogate.atan()),
        ("atan", 3.0, surrogate.atan(3.0)),
        ("fast_sigmoid", None, surrogate.fast_sigmoid()),
        ("fast_sigmoid", 5.0, surrogate.fast_sigmoid(5.0)),
    ],
)
def test_surrogate_is_snntorchs(name, scale, oracle):
    x = noise(100)
    dynamics = Dynamics(surrogate=name, surrogate_scale=scale)
    torch.testing.assert_close(dynamics.surrogate_derivative(x, torch.tensor(0.0)), derivative(oracle, x))


# ---------------------------------------------------------------------------------------------------------------------
# snnTorch as the oracle, both ways


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
    lif = LIF.from_snntorch(leaky)
    x = noise(12, 3, 20)
    assert_same(
        spikes_and_gradients(lif, x, lif.beta, lif.threshold),
        spikes_and_gradients(lambda x: snntorch_loop(leaky, x), x, leaky.beta, leaky.threshold),
    )


@pytest.mark.parametrize("detach_reset", [False, True])
@pytest.mark.parametrize("fire_at_threshold", [False, True])
@pytest.mark.parametrize("scale_input", [False, True])
@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_to_snntorch_and_back(name, scale_input, fire_at_threshold, detach_reset):
    lif = LIF(
        0.75,
        scale_input=scale_input,
        fire_at_threshold=fire_at_threshold,
        detach_reset=detach_reset,
        surrogate=name,
        surrogate_scale=1.6,  # puts no membrane on an edge of the rectangle
    )
    leaky = lif.to_snntorch()
    assert type(leaky) is snntorch.Leaky
    x = noise(8, 3, 20, scale=8).round().float() / (2 if scale_input else 8)  # all sums exact, so ties are plenty
    ours = spikes_and_gradients(lif, x)
    assert_same(ours, spikes_and_gradients(lambda x: snntorch_loop(leaky, x), x))
    assert_same(ours, spikes_and_gradients(LIF.from_snntorch(leaky), x))
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
    leaky = lif.to_snntorch()
    assert_same(spikes_and_gradients(lif, x), spikes_and_gradients(lambda x: snntorch_loop(leaky, x), x))


def test_conversion_keeps_values_per_neuron_and_what_is_learnt():
    beta, threshold = torch.tensor([0.2, 0.9]).view(2, 1, 1), torch.tensor([0.5, 1.5]).view(2, 1, 1)
    lif = LIF(beta, threshold, learn_beta=True)
    leaky = lif.to_snntorch()
    for neuron in (leaky, LIF.from_snntorch(leaky)):
        assert torch.equal(neuron.beta, beta)
        assert torch.equal(neuron.threshold, threshold)
        assert [name for name, _ in neuron.named_parameters()] == ["beta"]
        assert neuron.beta.data_ptr() != lif.beta.data_ptr()  # a copy, which may be trained on
        assert neuron.threshold.data_ptr() != lif.threshold.data_ptr()
    x = noise(6, 4, 2, 3, 3)
    assert torch.equal(snntorch_loop(leaky, x), lif(x).float())


def test_snntorch_clamps_beta_in_its_forward():
    assert LIF.from_snntorch(snntorch.Leaky(1.5)).beta == 1


def test_exported_neuron_steps_in_a_sequential():
    lif, x = LIF(), noise(6, 4, 5)
    net = nn.Sequential(lif.to_snntorch(init_hidden=True))
    assert torch.equal(torch.stack([net(current) for current in x]), lif(x).float())


def test_why_subtract_without_delay_is_refused():
    # A membrane that is still above threshold after its reset: ours fires it down, snnTorch's never fires again.
    leaky = snntorch.Leaky(1.0, reset_mechanism="subtract", reset_delay=False)
    x = train_of(3.5, 0, 0, 0, 0)
    assert snntorch_loop(leaky, x).squeeze(1).tolist() == [1, 1, 0, 0, 0]
    assert LIF(1.0, reset="subtract")(x).squeeze(1).tolist() == [1, 1, 1, 0, 0]


# ---------------------------------------------------------------------------------------------------------------------
# A forward is a function


@pytest.mark.parametrize("reset", ["zero", "subtract", "delayed_subtract"])
def test_cut_in_two_equals_whole(reset):
    lif = LIF(0.9, reset=reset, learn_beta=True).double()

    def whole(x):
        spk, mem = lif.scan(x)
        return torch.cat([spk, mem.unsqueeze(0)])

    def cut(x):
        first, mem = lif.scan(x[:3])
        second, mem = lif.scan(x[3:], mem)
        return torch.cat([first, second, mem.unsqueeze(0)])

    x = noise(8, 2, 30)
    for a, b in zip(spikes_and_gradients(whole, x, lif.beta), spikes_and_gradients(cut, x, lif.beta), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_nothing_survives_a_call():
    lif, x = LIF(0.9, learn_beta=True), noise(5, 4, 3)
    before = copy.deepcopy(lif.state_dict())
    spk = lif(x)
    spk.sum().backward()
    assert torch.equal(lif(x), spk)
    assert torch.equal(lif(x[:, :2]), spk[:, :2])  # another batch size
    assert torch.equal(lif(x[:3]), spk[:3])  # another number of steps
    assert torch.equal(copy.deepcopy(lif)(x), spk)
    assert lif.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in lif.state_dict().items())


def test_layer_holds_values_not_graphs():
    source = nn.Parameter(torch.tensor(0.5))
    lif = LIF(source, learn_beta=False)
    assert not lif.beta.requires_grad
    with torch.no_grad():
        source.fill_(0.9)
    assert lif.beta == 0.5


def test_scan_takes_plain_numbers_and_the_layer_clamps_beta():
    x = noise(6, 2, 10)
    lif = LIF(1.0, 0.5, learn_beta=True)
    assert torch.equal(lif(x), lif_scan(x, beta=1.0, threshold=0.5)[0])
    with torch.no_grad():
        lif.beta.fill_(1.5)  # where an optimiser might take it
    assert torch.equal(lif(x), lif_scan(x, beta=1.0, threshold=0.5)[0])


def test_bf16_current_gives_the_spikes_of_fp32():
    lif, x = LIF(0.9), noise(50, 4, 20, scale=0.5).bfloat16()
    spk, mem = lif.scan(x)
    expected_spk, expected_mem = lif.scan(x.float())
    assert (spk.dtype, mem.dtype) == (torch.bfloat16, torch.float32)
    assert torch.equal(spk.float(), expected_spk)
    assert torch.equal(mem, expected_mem)


# ---------------------------------------------------------------------------------------------------------------------
# Read-outs


def test_readouts_by_hand():
    spk = train_of(1, 0, 1, 1)
    assert firing_rate(spk).item() == 0.75
    assert decayed_sum(spk, 0.5).item() == 0.125 + 0.5 + 1
    assert decayed_sum(spk).item() == pytest.approx(0.8**3 + 0.8 + 1, abs=1e-15)
    assert psp_trace(spk).squeeze(1).tolist() == [0.5, 0.25, 0.625, 0.8125]
    assert psp_trace(spk, tau=4.0)[1].item() == 0.75 * 0.25


@pytest.mark.parametrize("readout", [firing_rate, decayed_sum, psp_trace])
def test_readouts_of_bf16_are_in_fp32(readout):
    x = noise(16, 3, 5).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(readout(x), readout(x.double()).float())


# ---------------------------------------------------------------------------------------------------------------------
# Errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": 1.1}, "beta must lie in"),
        ({"beta": torch.tensor([0.5, -0.1])}, "beta must lie in"),
        ({"beta": math.nan}, "beta must lie in"),
        ({"threshold": 0.0}, "threshold must be greater than 0"),
        ({"reset": "none"}, "reset must be one of zero, "),
        ({"surrogate": "sigmoid"}, "surrogate must be one of atan, "),
        ({"surrogate_scale": 0.0}, "surrogate_scale must be greater than 0"),
        ({"beta": 1.0, "scale_input": True}, "use scale_input=False"),
    ],
)
def test_impossible_neurons(options, message):
    with pytest.raises(InputError, match=message):
        LIF(**options)


def test_impossible_inputs():
    for shape in ((4,), (0, 4)):
        with pytest.raises(InputError, match="T, B"):
            LIF()(torch.zeros(shape))
    with pytest.raises(InputError, match=r"membrane \(2, 3\)"):
        LIF().scan(torch.zeros(4, 2, 3), torch.zeros(3))
    with pytest.raises(InputError, match="lif, relu or quantised"):
        neuron_factory("gelu")


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
        LIF.from_snntorch(leaky)


def test_only_a_plain_leaky_is_taken():
    with pytest.raises(InputError, match="got Lapicque"):
        LIF.from_snntorch(snntorch.Lapicque(0.5))


def test_scaled_surrogate_whose_beta_has_moved():
    leaky = LIF(0.5, scale_input=True, surrogate="triangle").to_snntorch()
    leaky.beta.fill_(0.6)
    with pytest.raises(InputError, match="Set beta back"):
        LIF.from_snntorch(leaky)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reset": "subtract", "detach_reset": True}, "reset='delayed_subtract'"),
        ({"reset": "subtract", "beta": 1.0}, "detach_reset=True"),
        ({"reset": "delayed_subtract"}, "detach_reset=True"),
        ({"scale_input": True, "beta": torch.tensor([0.5, 0.6])}, "scale_input=False"),
    ],
)
def test_neurons_without_equal_in_snntorch(options, message):
    with pytest.raises(InputError, match=message):
        LIF(**options).to_snntorch()


def test_neuron_learnt_shut_cannot_be_exported():
    lif = LIF(0.5, scale_input=True, learn_beta=True)
    nn.init.ones_(lif.beta)
    with pytest.raises(InputError, match="below 1"):
        lif.to_snntorch()


def test_neuron_factory():
    assert neuron_factory("lif", beta=0.9)().beta == pytest.approx(0.9)
    x = noise(1, 3, 4)
    assert torch.equal(neuron_factory("relu", beta=0.9)()(x), x.relu())


def test_quantised_relu_rounds_and_passes_the_clamps_gradient():
    x = torch.tensor([[-0.5, 0.1, 0.2, 0.5, 0.9, 1.7]], requires_grad=True)
    y = neuron_factory("quantised", 2, beta=0.9)()(x)
    torch.testing.assert_close(y, torch.tensor([[0.0, 0.0, 1 / 3, 2 / 3, 1.0, 1.0]]))  # 0.5 * 3 rounds to even
    y.sum().backward()
    assert x.grad.tolist() == [[0, 1, 1, 1, 1, 0]]


def test_scales_of_the_steps():
    """TSM: each step's current times a learnt number, 1 at the start."""
    x = torch.rand(3, 2, 5, requires_grad=True) * 2
    plain, scaled = LIF(beta=0.9), LIF(beta=0.9, num_scales=3)
    assert torch.equal(scaled(x), plain(x))
    with torch.no_grad():
        scaled.scales.copy_(torch.tensor([0.5, 2.0, 1.0]))
    assert torch.equal(scaled(x), plain(x * torch.tensor([0.5, 2.0, 1.0]).view(3, 1, 1)))
    static = Current(x[:1].detach(), num_steps=3)  # the same at every step, but for the scales
    assert torch.equal(scaled(static), plain(x[:1].expand(3, -1, -1) * scaled.scales.view(3, 1, 1)))
    scaled(x).sum().backward()
    assert (scaled.scales.grad != 0).all()
    with pytest.raises(InputError, match="scales for 3 steps; got a current of 2"):
        scaled(x[:2])
    with pytest.raises(InputError, match="tsm"):
        scaled.to_snntorch()

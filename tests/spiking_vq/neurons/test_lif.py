"""The papers' recurrences by hand, and the promise that a forward is a function."""

import copy
import math

import pytest
import torch
from time_courses import noise, spikes_and_gradients, train_of
from torch import nn

from spiking_vq.errors import InputError
from spiking_vq.neurons.fused import LazyCurrent
from spiking_vq.neurons.lif import LIF

SPIKING_DIFFUSION = {"beta": 0.5, "scale_input": True, "fire_at_threshold": True}
SDDPM = {"beta": 1.0, "fire_at_threshold": True, "surrogate": "rectangle"}
FSDDIM = {"beta": 0.8, "detach_reset": True, "surrogate": "triangle"}


def membranes(lif, x):
    """The membrane after every step, by handing the state on."""
    mem, trace = None, []
    for current in x.split(1):
        _, mem = lif.scan(current, mem)
        trace.append(mem)
    return torch.stack(trace)


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


def test_a_learnt_beta_is_clamped():
    x = noise(6, 2, 10)
    lif = LIF(1.0, 0.5, learn_beta=True)
    with torch.no_grad():
        lif.beta.fill_(1.5)  # where an optimiser might take it
    assert torch.equal(lif(x), LIF(1.0, 0.5)(x))


def test_bf16_current_gives_the_spikes_of_fp32():
    lif, x = LIF(0.9), noise(50, 4, 20, scale=0.5).bfloat16()
    spk, mem = lif.scan(x)
    expected_spk, expected_mem = lif.scan(x.float())
    assert (spk.dtype, mem.dtype) == (torch.bfloat16, torch.float32)
    assert torch.equal(spk.float(), expected_spk)
    assert torch.equal(mem, expected_mem)


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


def test_scales_of_the_steps():
    """TSM: each step's current times a learnt number, 1 at the start."""
    x = torch.rand(3, 2, 5, requires_grad=True) * 2
    plain, scaled = LIF(beta=0.9), LIF(beta=0.9, num_scales=3)
    assert torch.equal(scaled(x), plain(x))
    with torch.no_grad():
        scaled.scales.copy_(torch.tensor([0.5, 2.0, 1.0]))
    assert torch.equal(scaled(x), plain(x * torch.tensor([0.5, 2.0, 1.0]).view(3, 1, 1)))
    static = LazyCurrent(x[:1].detach(), num_steps=3)  # the same at every step, but for the scales
    assert torch.equal(scaled(static), plain(x[:1].expand(3, -1, -1) * scaled.scales.view(3, 1, 1)))
    scaled(x).sum().backward()
    assert (scaled.scales.grad != 0).all()
    with pytest.raises(InputError, match="scales for 3 steps; got a current of 2"):
        scaled(x[:2])

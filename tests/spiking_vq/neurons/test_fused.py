"""The fused scan against the same network written the plain way: torch's batch norm, a sum, a loop over the steps."""

from contextlib import nullcontext
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from time_courses import a_norm

from spiking_vq.errors import InputError
from spiking_vq.layers.synapses import conv_norm, direct_coding, up_conv_norm
from spiking_vq.neurons.activity import observed
from spiking_vq.neurons.dynamics import RESETS, Dynamics
from spiking_vq.neurons.fused import LazyCurrent
from spiking_vq.neurons.kernels import statistics
from spiking_vq.neurons.lif import LIF
from spiking_vq.neurons.surrogates import SURROGATES

T, B, C = 5, 3, 4
SHAPE = (T, B, C, 6, 7)


class Heaviside(torch.autograd.Function):
    @staticmethod
    def forward(ctx, h, fired, derivative):
        ctx.save_for_backward(derivative)
        return fired.to(h.dtype)

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.saved_tensors[0], None, None


def plain_fire(dynamics, h, threshold):
    derivative, default = SURROGATES[dynamics.surrogate]
    x = (h - threshold).detach()
    fired = x >= 0 if dynamics.fire_at_threshold else x > 0
    return Heaviside.apply(h - threshold, fired, derivative(x, dynamics.surrogate_scale or default))


def plain_scan(x, mem, beta, threshold, dynamics):
    """The recurrence of `Dynamics`, a step at a time, differentiated by torch."""
    spikes = []
    for current in x:
        h = beta * mem + ((1 - beta) * current if dynamics.scale_input else current)
        if dynamics.reset == "delayed_subtract":
            spk = plain_fire(dynamics, mem, threshold)
            h = h - threshold * (spk.detach() if dynamics.detach_reset else spk)
        spk = plain_fire(dynamics, h, threshold)
        spikes.append(spk)
        reset = spk.detach() if dynamics.detach_reset else spk
        mem = {"zero": h * (1 - reset), "subtract": h - threshold * reset, "delayed_subtract": h}[dynamics.reset]
    return torch.stack(spikes), mem


def plain_norm(x, norm):
    folded = F.batch_norm(
        x.flatten(0, 1), norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.training, 0.1, norm.eps
    )
    return folded.unflatten(0, x.shape[:2])


def noise(*shape, scale=1.0):
    return (scale * torch.randn(*shape, dtype=torch.float64)).requires_grad_()


def sharing_weights(norm):
    """A second batch norm with the same parameters and running statistics of its own."""
    other = a_norm(C).train(norm.training)
    other.load_state_dict(norm.state_dict())
    other.weight, other.bias = norm.weight, norm.bias
    return other


def assert_same(results, expected, inputs):
    """Outputs, and gradients of a random weighting of them, to 1e-10."""
    weights = [torch.randn_like(output) for output in expected]
    for result, right in zip(results, expected, strict=True):
        torch.testing.assert_close(result, right, rtol=0, atol=1e-10)
    got, right = (
        torch.autograd.grad(
            sum((weight * output).sum() for weight, output in zip(weights, outputs, strict=True)),
            inputs,
            retain_graph=True,
        )
        for outputs in (results, expected)
    )
    for mine, other in zip(got, right, strict=True):
        assert (other != 0).any()
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-10)


EVERY_OPTION = list(product(RESETS, [False, True], [False, True], [False, True], SURROGATES))


@pytest.mark.parametrize(("reset", "detach", "scaled", "inclusive", "surrogate"), EVERY_OPTION)
def test_every_neuron_equals_the_plain_form(reset, detach, scaled, inclusive, surrogate):
    dynamics = {
        "reset": reset,
        "detach_reset": detach,
        "scale_input": scaled,
        "fire_at_threshold": inclusive,
        "surrogate": surrogate,
        "surrogate_scale": 0.9,
    }
    lif = LIF(0.7, 0.8, learn_beta=True, learn_threshold=True, **dynamics).double()
    x, mem = noise(*SHAPE, scale=2.0), noise(*SHAPE[1:])
    expected = plain_scan(x, mem, lif.beta, lif.threshold, Dynamics(**dynamics))
    assert 0.05 < expected[0].mean() < 0.95
    assert_same(lif.scan(x, mem), expected, [x, mem, lif.beta, lif.threshold])


@pytest.mark.parametrize("reset", RESETS)
def test_the_gradient_of_the_membrane_alone(reset):
    lif = LIF(0.7, learn_beta=True, learn_threshold=reset != "zero", reset=reset).double()
    x, mem = noise(*SHAPE, scale=2.0), noise(*SHAPE[1:])
    _, expected = plain_scan(x, mem, lif.beta, lif.threshold, lif.dynamics)
    assert_same([lif.scan(x, mem)[1]], [expected], [x, mem, *lif.parameters()])


@pytest.mark.parametrize("shape", [(C, 1, 1), (B, C, 6, 7), (1, 1, 7)])
def test_a_beta_and_threshold_for_each_channel_or_neuron(shape):
    lif = LIF(torch.rand(shape), 0.5 + torch.rand(shape), learn_beta=True, learn_threshold=True).double()
    x, mem = noise(*SHAPE), noise(*SHAPE[1:])
    expected = plain_scan(x, mem, lif.beta, lif.threshold, lif.dynamics)
    inputs = [x, mem, lif.beta, lif.threshold]
    assert_same(lif.scan(x, mem), expected, inputs)
    channels_last = x.movedim(2, -1).contiguous().movedim(-1, 2)
    assert_same(lif.scan(channels_last, mem), expected, inputs)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize(("steps", "residual_steps"), [(T, 0), (1, 0), (T, T), (T, 1), (1, T), (1, 1)])
def test_norm_residual_and_neuron_equal_the_plain_form(training, channels_last, steps, residual_steps):
    norm, lif = a_norm(C).train(training), LIF(0.7, scale_input=True, learn_beta=True).double()
    norm.running_mean.uniform_(-1, 1), norm.running_var.uniform_(0.5, 2)
    x = noise(steps, *SHAPE[1:], scale=3.0)
    residual = noise(residual_steps, *SHAPE[1:]) if residual_steps else None
    inputs = [x, norm.weight, norm.bias, lif.beta, *([residual] if residual_steps else [])]

    current = plain_norm(x, norm)  # moves the running statistics, hence before ours
    current = (current if residual is None else current + residual).expand(T, -1, -1, -1, -1)
    spk, mem = plain_scan(current, torch.zeros(SHAPE[1:]).double(), lif.beta, lif.threshold, lif.dynamics)
    norm_of = sharing_weights(norm)
    mine = x.movedim(2, -1).contiguous().movedim(-1, 2) if channels_last else x
    ours = direct_coding(LazyCurrent(mine, norm_of(mine).norm, residual), T)
    ours.keep = True
    result = lif.scan(ours)
    whole = max(steps, residual_steps)
    assert_same([*result, ours.value()], [spk, mem, current[:whole]], inputs)

    alone = LazyCurrent(mine, norm_of(mine).norm, residual, T)
    assert_same([alone.value()], [current[:whole]], [i for i in inputs if i is not lif.beta])


@pytest.mark.parametrize("watched", [False, True])
def test_spikes_summed_over_time_before_they_are_stored(watched):
    norm, lif, x, weights = (
        a_norm(C),
        LIF(0.7, scale_input=True).double(),
        noise(*SHAPE, scale=3.0),
        [0.3, 0, 2, -1, 0.5],
    )
    spikes = []
    spk, _ = plain_scan(plain_norm(x, norm), torch.zeros(SHAPE[1:]), lif.beta, lif.threshold, lif.dynamics)
    expected = torch.einsum("t,tbchw->bchw", torch.tensor(weights, dtype=torch.float64), spk)
    with observed(lif, lambda _, spk: spikes.append(spk)) if watched else nullcontext():
        summed = lif.integrate(sharing_weights(norm)(x), weights)
    assert_same([summed], [expected], [x, norm.weight, norm.bias])
    assert [torch.equal(seen, spk) for seen in spikes] == [True] * watched


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("build", [conv_norm, up_conv_norm])
def test_the_synapses_bias_is_a_bias(build, training):
    """As in a convolution with bias before torch's batch norm: outputs, running statistics, and gradients."""
    layer, x = build(3, C).double().train(training), noise(T, B, 3, 6, 7)
    conv, norm = layer
    torch.nn.init.normal_(norm.synapse_bias)
    plain = torch.nn.BatchNorm2d(C).double().train(training)
    plain.load_state_dict({key: value for key, value in norm.state_dict().items() if key != "synapse_bias"})
    currents = conv(x.flatten(0, 1)) + norm.synapse_bias.view(-1, 1, 1)
    expected = plain(currents).unflatten(0, (T, B))
    inputs = [x, conv.weight, *([] if training else [norm.synapse_bias])]
    assert_same([layer(x).value()], [expected], inputs)
    torch.testing.assert_close(norm.running_mean, plain.running_mean)
    torch.testing.assert_close(norm.running_var, plain.running_var)
    if training:  # optimisers treat a gradient of 0 and a missing one differently
        (gradient,) = torch.autograd.grad(layer(x).value().sum(), norm.synapse_bias)
        assert torch.equal(gradient, torch.zeros(C))


def test_a_weight_for_each_step():
    with pytest.raises(InputError, match="each of the 5 steps; got 3"):
        LIF().integrate(noise(*SHAPE), [1, 2, 3])


def test_running_statistics_are_torchs():
    ours, theirs, x = a_norm(C), torch.nn.BatchNorm2d(C).double(), noise(*SHAPE)
    for _ in range(3):
        ours(x), theirs(x.flatten(0, 1))
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.running_var, theirs.running_var)
    assert ours.num_batches_tracked == theirs.num_batches_tracked


def test_statistics_survive_a_mean_far_from_zero():
    x = 1000 + torch.randn(4, 500, 3)
    mean, var = statistics(x)
    torch.testing.assert_close(mean, x.mean((0, 1)))
    torch.testing.assert_close(var, x.double().var((0, 1), correction=0).float(), rtol=1e-3, atol=0)


def test_statistics_of_bf16_are_in_fp32():
    x = (5 + torch.randn(4, 500, 3)).bfloat16()
    for result, expected in zip(statistics(x), statistics(x.float()), strict=True):
        assert result.dtype == torch.float32
        assert torch.equal(result, expected)


def test_float32_spikes_are_those_of_float64_but_at_the_threshold():
    lif, x = LIF(0.7, scale_input=True), 2 * torch.randn(SHAPE)
    spk, exact = lif(x), LIF(0.7, scale_input=True).double()(x.double())
    mem, clear = torch.zeros(SHAPE[1:]).double(), torch.ones(SHAPE[1:], dtype=torch.bool)
    for step in range(T):
        h = 0.7 * mem + 0.3 * x[step].double()
        clear &= (h - 1).abs() > 1e-4  # from the first doubtful spike on, the two may part
        assert torch.equal(spk[step][clear].double(), exact[step][clear])
        mem = h * (1 - exact[step])
    assert clear.float().mean() > 0.9


def test_bf16_spikes_are_those_of_the_rounded_current():
    lif, x = LIF(0.7, scale_input=True), 2 * torch.randn(SHAPE).bfloat16()
    spk, mem = lif.scan(x)
    assert (spk.dtype, mem.dtype) == (torch.bfloat16, torch.float32)
    assert torch.equal(spk.float(), lif(x.float()))


@pytest.mark.parametrize("steps", [T, 1])
def test_the_residual_of_bf16_synapses_has_an_unrounded_gradient(steps):
    lif, x = LIF(0.7), (2 * torch.randn(SHAPE)).bfloat16()
    residual = torch.randn(steps, *SHAPE[1:]).requires_grad_()
    weights = torch.randint(-8, 9, SHAPE)  # exact in bf16

    def gradient(x):
        return torch.autograd.grad((lif(LazyCurrent(x, None, residual)) * weights).sum(), residual)[0]

    assert torch.equal(gradient(x), gradient(x.float()))
    assert (gradient(x) != gradient(x).bfloat16()).any()


def test_the_backward_pass_keeps_the_synapses_output_alone():
    norm, lif, x = a_norm(C), LIF(), noise(*SHAPE)
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda saved: sizes.append(saved.numel()) or saved, lambda s: s):
        lif(norm(x))
    assert sum(sizes) < x.numel() + 20 * C

import pytest
import torch
from awake import LIF_OPTIONS, wake

from spiking_vq.errors import InputError
from spiking_vq.layers.mixing import (
    AttentionProduct,
    ChannelwisePositionLinear,
    GridMixer,
    SpikingSelfAttention,
)
from spiking_vq.neurons.activity import observed
from spiking_vq.neurons.twins import neuron_factory

T, B = 2, 3


def binary(*shape):
    return (torch.rand(shape) < 0.4).float()


def attention(num_channels=8, num_heads=2):
    torch.manual_seed(0)
    return SpikingSelfAttention(neuron_factory("lif", **LIF_OPTIONS), num_channels, num_heads)


def test_attended_by_its_formula():
    q, k, v = (binary(T, B, 2, 4, 5) for _ in range(3))
    expected = torch.zeros(T, B, 2, 4, 5)
    for here in range(5):
        for there in range(5):
            coincidences = (q[..., here] * k[..., there]).sum(-1, keepdim=True)
            expected[..., here] += coincidences * v[..., there]
    assert torch.equal(AttentionProduct()(q, k, v), expected)


def test_heads_are_channels_side_by_side():
    module, seen = wake(attention(), binary(T, B, 8, 2, 3)), []
    module.attended.register_forward_hook(lambda module, inputs, output: seen.append((*inputs, output)))
    fired, gathered = [], []
    module.norm.register_forward_hook(lambda module, inputs, output: gathered.append(inputs[0]))
    with observed(module.neuron, lambda _, spk: fired.append(spk)):
        module(binary(T, B, 8, 2, 3))
    q, k, v, attended = seen[0]
    assert q.shape == (T, B, 2, 4, 6)
    assert attended.any()
    assert torch.equal(torch.cat([x.reshape(T, B, 8, 2, 3) for x in (q, k, v)], dim=2), fired[0])
    assert torch.equal(gathered[0], attended.reshape(T, B, 8, 2, 3))


def test_attention_reads_content_not_position():
    module = wake(attention(), binary(T, B, 8, 2, 3))
    spk, order = binary(T, B, 8, 2, 3), torch.randperm(6)

    def permuted(x):
        return x.flatten(3)[..., order].view_as(x)

    seen = module(spk).value()
    assert (seen.std((0, 1, 3, 4)) > 0).any()
    torch.testing.assert_close(module(permuted(spk)).value(), permuted(seen))


def test_a_weight_for_each_channel_and_pair_of_positions_by_its_formula():
    module, spk = ChannelwisePositionLinear(8, 6), binary(T, B, 8, 2, 3)
    module.weight.data.normal_()
    assert module.weight.shape == (8, 6, 6)
    seen = module(spk)
    expected = torch.zeros(T, B, 8, 6)
    for here in range(6):
        for there in range(6):
            expected[..., here] += module.weight[:, here, there] * spk.flatten(3)[..., there]
    torch.testing.assert_close(seen, expected.view_as(spk))
    assert seen.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)


def test_every_position_reaches_every_other():
    module = wake(attention(), binary(T, B, 8, 2, 3))
    spk = binary(T, B, 8, 2, 3).requires_grad_()
    (grad,) = torch.autograd.grad(module(spk).value()[..., 0, 0].square().sum(), spk)
    assert (grad.abs().sum((0, 1, 2)) > 0).all()


def test_heads_divide_the_channels():
    with pytest.raises(InputError, match="multiple of the 3 heads.*8"):
        attention(8, 3)


def test_grid_mixer_by_brute_force():
    mixer = GridMixer((2, 3), 4).eval()
    mixer.norm.running_mean.uniform_(), mixer.norm.running_var.uniform_(1, 2)
    x, weight, norm = binary(T, B, 4, 2, 3), mixer.linear.weight, mixer.norm
    expected = torch.zeros(T, B, 4, 2, 3)
    for to in range(6):
        for source in range(6):
            expected[..., to // 3, to % 3] += weight[to, source] * x[..., source // 3, source % 3]
    shape = (4, 1, 1)
    expected = (expected - norm.running_mean.view(shape)) / (norm.running_var.view(shape) + norm.eps).sqrt()
    torch.testing.assert_close(mixer(x).value(), expected)


def test_grid_mixer_reaches_everywhere_and_mixes_no_channels():
    mixer = GridMixer((3, 3), 4).eval()  # in training, batch norm would connect all positions
    x = binary(T, B, 4, 3, 3).requires_grad_()
    for position in range(9):
        (grad,) = torch.autograd.grad(mixer(x).value()[1, 0, 2].flatten()[position], x)
        assert (grad[1, 0, 2] != 0).all()
        grad[1, 0, 2] = 0
        assert (grad == 0).all()  # no other step, image or channel

import pytest
import torch
from conftest import LIF_OPTIONS, wake

from spiking_vq.activity import observed
from spiking_vq.errors import InputError
from spiking_vq.layers.mixing import AttentionProduct, SpikingSelfAttention
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


def test_places_are_told_apart_by_what_they_hold_alone():
    module = wake(attention(), binary(T, B, 8, 2, 3))
    spk, order = binary(T, B, 8, 2, 3), torch.randperm(6)

    def permuted(x):
        return x.flatten(3)[..., order].view_as(x)

    seen = module(spk).value()
    assert (seen.std((0, 1, 3, 4)) > 0).any()
    torch.testing.assert_close(module(permuted(spk)).value(), permuted(seen))


def test_every_place_reaches_every_other():
    module = wake(attention(), binary(T, B, 8, 2, 3))
    spk = binary(T, B, 8, 2, 3).requires_grad_()
    (grad,) = torch.autograd.grad(module(spk).value()[..., 0, 0].square().sum(), spk)
    assert (grad.abs().sum((0, 1, 2)) > 0).all()


def test_heads_divide_the_channels():
    with pytest.raises(InputError, match="multiple of the 3 heads.*8"):
        attention(8, 3)

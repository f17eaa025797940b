import pytest
import torch

from spiking_vq.layers.synapses import SpikingResidual, conv_norm, direct_coding, fold_time, unfold_time, up_conv_norm
from spiking_vq.neurons.lif import LIF

T, B = 3, 2


def binary(*shape):
    return (torch.rand(*shape) < 0.5).float()


def test_fold_and_unfold_are_inverse():
    x = torch.randn(T, B, 4, 5, 5)
    folded = fold_time(x)
    assert folded.shape == (T * B, 4, 5, 5)
    assert torch.equal(folded[1 * B + 0], x[1, 0])
    assert torch.equal(unfold_time(folded, T), x)


@pytest.mark.parametrize(
    ("layer", "size"),
    [
        (conv_norm(4, 6), (8, 12)),
        (conv_norm(4, 6, 1), (8, 12)),
        (conv_norm(4, 6, stride=2), (4, 6)),
        (up_conv_norm(4, 6), (16, 24)),
    ],
)
def test_sizes(layer, size):
    assert layer(torch.rand(T, B, 4, 8, 12)).shape == (T, B, 6, *size)


@pytest.mark.parametrize("build", [conv_norm, up_conv_norm])
def test_batch_norm_follows_the_synapses(build):
    currents = build(4, 6)(3 + torch.rand(T, B, 4, 8, 8)).value()
    var, mean = torch.var_mean(currents, dim=(0, 1, 3, 4), correction=0)
    torch.testing.assert_close(mean, torch.zeros(6), atol=1e-5, rtol=0)
    torch.testing.assert_close(var, torch.ones(6), atol=1e-2, rtol=0)


@pytest.mark.parametrize("training", [True, False])
def test_gain_of_the_batch_norm(training):
    plain, scaled = conv_norm(4, 6).train(training), conv_norm(4, 6, gain=0.7).train(training)
    torch.nn.init.uniform_(plain[1].weight, 0.5, 2), torch.nn.init.normal_(plain[1].synapse_bias)
    scaled.load_state_dict(plain.state_dict())
    x = torch.rand(T, B, 4, 8, 8)
    torch.testing.assert_close(scaled(x).value(), 0.7 * plain(x).value())


def test_a_constant_current_is_convolved_once():
    """Static then expanded equals repeated then convolved; only the running variance knows the number of samples."""
    static = conv_norm(4, 6).double()
    repeated = conv_norm(4, 6).double()
    repeated.load_state_dict(static.state_dict())
    x = torch.randn(1, B, 4, 5, 5, dtype=torch.float64)

    torch.testing.assert_close(
        direct_coding(static(x), T).value().expand(T, -1, -1, -1, -1), repeated(x.repeat(T, 1, 1, 1, 1)).value()
    )
    n = B * 5 * 5
    torch.testing.assert_close(static[1].running_mean, repeated[1].running_mean)
    static_var, repeated_var = (layer[1].running_var - 0.9 for layer in (static, repeated))  # 0.1 x unbiased variance
    torch.testing.assert_close(static_var * (n - 1) / n, repeated_var * (T * n - 1) / (T * n))

    repeated.load_state_dict(static.state_dict())
    static.eval(), repeated.eval()
    torch.testing.assert_close(
        direct_coding(static(x), T).value().expand(T, -1, -1, -1, -1), repeated(x.repeat(T, 1, 1, 1, 1)).value()
    )


def test_direct_coding_presents_the_same_at_every_step_without_copying():
    x, lif = 3 * torch.rand(1, B, 4), LIF()
    coded = direct_coding(x, T)
    assert coded.shape == (T, B, 4)
    assert coded.value().data_ptr() == x.data_ptr()
    assert torch.equal(lif(coded), lif(x.repeat(T, 1, 1)))


def test_residual_adds_currents():
    first, second = conv_norm(4, 8), conv_norm(8, 4)
    block = SpikingResidual(lambda: LIF(scale_input=False), first, second)
    x, lif = 2 * torch.randn(T, B, 4, 5, 5), LIF(scale_input=False)
    branch = second(lif(first(lif(x))))
    torch.testing.assert_close(block(x).value(), x + branch.value())
    assert (branch.value()[:, 0] != branch.value()[:, 1]).any()


def test_residual_feeds_synapses_with_spikes():
    seen = []
    layers = [conv_norm(4, 8), conv_norm(8, 4)]
    for layer in layers:
        layer.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    SpikingResidual(LIF, *layers)(3 * torch.randn(T, B, 4, 5, 5))
    assert [spk.unique().tolist() for spk in seen] == [[0, 1], [0, 1]]

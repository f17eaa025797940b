import pytest
import torch

from spiking_vq.layers.mixing import GridMixer
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


# ---------------------------------------------------------------- GridMixer


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
    mixer = GridMixer((3, 3), 4).eval()  # in training, batch norm would tie all places together
    x = binary(T, B, 4, 3, 3).requires_grad_()
    for place in range(9):
        (grad,) = torch.autograd.grad(mixer(x).value()[1, 0, 2].flatten()[place], x)
        assert (grad[1, 0, 2] != 0).all()
        grad[1, 0, 2] = 0
        assert (grad == 0).all()  # no other step, image or channel

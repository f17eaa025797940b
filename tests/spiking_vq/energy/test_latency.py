"""The longest path of synapses, counted by hand."""

import pytest
import torch
from torch import nn

from spiking_vq.checkpoint.build import build_model
from spiking_vq.config.options import DenoiserOptions
from spiking_vq.energy import longest_path
from spiking_vq.layers.mixing import SpikingSelfAttention
from spiking_vq.layers.synapses import SpikingResidual, conv_norm
from spiking_vq.neurons.lif import LIF


def test_a_branch_is_longer_than_its_shortcut():
    block = SpikingResidual(LIF, conv_norm(4, 6), conv_norm(6, 4))
    net = nn.ModuleList([block, LIF(), nn.Linear(5, 3, bias=False)]).eval()

    def call():
        return net[2](net[1](net[0](torch.rand(3, 2, 4, 5, 5))))

    assert longest_path(block, lambda: block(torch.rand(3, 2, 4, 5, 5)).value()) == 2
    assert longest_path(net, call) == 3


def test_the_longest_of_parallel_paths():
    a, b, c = (nn.Linear(4, 4) for _ in range(3))
    net = nn.ModuleList([a, b, c])
    x = torch.rand(2, 4)
    assert longest_path(net, lambda: c(x) + b(a(x))) == 2
    assert longest_path(net, lambda: c(x) + b(x) + a(x)) == 1
    assert longest_path(net, lambda: a(a(a(x)))) == 3


def test_attention_is_a_synapse_too():
    net = SpikingSelfAttention(LIF, 8).eval()
    assert longest_path(net, lambda: net(torch.rand(2, 1, 8, 3, 3)).value()) == 3


@pytest.mark.parametrize(("blocks", "mixer", "path"), [(1, "grid", 4), (3, "grid", 8), (2, "attention", 10)])
def test_of_a_denoiser(absorbing_config, blocks, mixer, path):
    """A block has a mixer and a convolution; two synapses follow."""
    absorbing_config.model = DenoiserOptions("token", width=8, num_blocks=blocks, mixer=mixer)
    denoiser = build_model(absorbing_config).eval().denoiser
    tokens, t = torch.zeros(1, 1, 3, 3).long(), torch.ones(1).long()
    with torch.no_grad():
        assert longest_path(denoiser, lambda: denoiser(tokens, t)) == path


def test_the_parameters_stay_as_they_were():
    net = nn.Linear(4, 4)
    net.bias.requires_grad_(False)
    assert longest_path(net, lambda: net(torch.rand(2, 4))) == 1
    assert (net.weight.requires_grad, net.bias.requires_grad, net.weight.grad) == (True, False, None)
    with torch.no_grad():
        assert not net(torch.rand(2, 4)).requires_grad

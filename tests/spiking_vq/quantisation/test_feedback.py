"""Rounding with feedback: outputs are nearer to the real ones than by rounding to the nearest."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from spiking_vq.layers.mixing import ChannelwisePositionLinear
from spiking_vq.layers.synapses import at_each_step
from spiking_vq.quantisation.feedback import input_moments, round_with_feedback
from spiking_vq.quantisation.grid import along, best_exponents, largest, to_grid
from spiking_vq.quantisation.model import quantise_model
from spiking_vq.runtime.conv3x3 import Conv3x3

LAYERS = {
    "convolution": lambda: Conv3x3(4, 6),
    "strided": lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False),
    "pointwise": lambda: nn.Conv2d(4, 6, 1, bias=False),
    "doubling": lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, bias=False),
    "transposed": lambda: nn.ConvTranspose2d(4, 6, 3, padding=1, bias=False),
    "mixer": lambda: ChannelwisePositionLinear(4, 36),
}


def correlated_spikes():
    """Spikes [2, 40, 4, 6, 6] of neighbours and channels that fire together."""
    drive = nn.functional.avg_pool2d(torch.randn(80, 1, 8, 8), 3, stride=1)
    return (drive + 0.1 * torch.randn(80, 4, 6, 6) > 0.2).float().unflatten(0, (2, 40))


@pytest.mark.parametrize("kind", LAYERS)
def test_currents_are_nearer_to_the_real_ones(kind):
    net, spk, bits = nn.Sequential(LAYERS[kind]()), correlated_spikes(), 3
    layer = net[0]
    nn.init.normal_(layer.weight)
    dim = 1 if isinstance(layer, nn.ConvTranspose2d) else 0

    def run(network):
        network(spk) if kind == "mixer" else at_each_step(network, spk)

    moments = input_moments(net, run)["0.weight"]
    exponents = best_exponents(layer.weight, bits, dim)
    weight, lacking = round_with_feedback(layer, exponents, bits, moments)
    k = weight.double() * 2.0 ** along(exponents, weight, dim)
    assert torch.equal(k, k.round())
    assert k.abs().max() <= largest(bits)

    def current(values):
        other = deepcopy(layer)
        other.weight.data = values
        return (other(spk) if kind == "mixer" else at_each_step(other, spk)).detach().double()

    real, ours, nearest = map(current, (layer.weight.data, weight, to_grid(layer.weight.data, exponents, dim, bits)))
    mean = (real - ours).mean((0, 1, 3, 4))
    torch.testing.assert_close(lacking, mean, rtol=1e-4, atol=1e-5)
    ours = ours + lacking.view(-1, 1, 1)
    assert (ours - real).square().mean() < 0.7 * (nearest - real).square().mean()


def test_a_model_is_rounded_with_feedback_where_it_runs(latent_model, absorbing_config):
    tokens = torch.randint(8, (64, 1, 3, 3))
    nearest, _ = quantise_model(latent_model, absorbing_config, 3)
    model, _ = quantise_model(latent_model, absorbing_config, 3, lambda network: network.vq_svae.decode(tokens))
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, nearest.state_dict()[name])}
    assert {"vq_svae.decoder.0.0.weight", "vq_svae.decoder.0.1.bias"} <= changed
    assert not [
        name for name in changed if not name.startswith(("vq_svae.decoder", "vq_svae.readout", "vq_svae.spike"))
    ]

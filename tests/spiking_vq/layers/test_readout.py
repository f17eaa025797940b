import torch
from torch import nn

from spiking_vq.layers.readout import read_out
from spiking_vq.neurons.lif import LIF
from spiking_vq.runtime.running import run_with


def test_read_out_of_several_sources():
    synapse, lif, weights = nn.Conv2d(5, 2, 3, padding=1), LIF(), [0.5, 1.0, 2.0]
    current, spk = 3 * torch.rand(3, 2, 3, 4, 4), (torch.rand(3, 2, 2, 4, 4) < 0.5).float()
    folded = read_out(synapse, weights, (lif, current), spk)
    with run_with(unfolded=True):
        torch.testing.assert_close(read_out(synapse, weights, (lif, current), spk), folded)
    both = torch.cat([lif(current), spk], dim=2)
    expected = sum(weight * synapse(step) for weight, step in zip(weights, both, strict=True))
    torch.testing.assert_close(folded, expected)

"""Folded networks compute what they did before."""

import copy

import pytest
import torch
from torch import nn

from spiking_vq.layers.folding import fold_batch_norms, separate_connections
from spiking_vq.layers.mixing import GridMixer
from spiking_vq.layers.synapses import BatchNorm, NormedSynapse, conv_norm, up_conv_norm
from spiking_vq.runtime.conv3x3 import Conv3x3

SYNAPSES = {
    "convolution": lambda: conv_norm(3, 5, gain=0.7),
    "strided": lambda: conv_norm(3, 5, stride=2),
    "transposed": lambda: up_conv_norm(3, 5),
    "doubling": lambda: NormedSynapse(nn.Sequential(nn.Upsample(scale_factor=2), Conv3x3(3, 5)), 5),
    "mixer": lambda: GridMixer((4, 4), 3),
    "bare norm": lambda: BatchNorm(3, gain=0.7),
}


@pytest.mark.parametrize("kind", SYNAPSES)
def test_folded_current_is_the_same(kind):
    torch.manual_seed(0)
    module = nn.Sequential(SYNAPSES[kind]()).double()
    for part in module.modules():
        if isinstance(part, BatchNorm):
            for value, low in ((part.running_mean, -1), (part.running_var, 0.3), (part.weight, -1), (part.bias, -1)):
                nn.init.uniform_(value, low, 2)
            if part.synapse_bias is not None:
                nn.init.uniform_(part.synapse_bias)
    folded = fold_batch_norms(copy.deepcopy(module).eval())
    x = torch.randint(2, (2, 3, 3, 4, 4)).double()
    current = folded(x)
    torch.testing.assert_close(current.value(), module.eval()(x).value(), rtol=1e-12, atol=1e-12)
    assert (current.norm.mean == 0).all()
    assert (current.norm.rstd == 1).all()
    assert (current.norm.weight == 1).all() == isinstance(module[0], NormedSynapse)


def test_separate_connections_hold_the_gain_of_their_channel():
    torch.manual_seed(0)
    mixer = GridMixer((4, 4), 3).double().eval()
    nn.init.uniform_(mixer.norm.weight, -1, 2)
    nn.init.uniform_(mixer.norm.bias)
    folded = separate_connections(fold_batch_norms(copy.deepcopy(mixer)))
    assert folded.linear.weight.shape == (3, 16, 16)
    x = torch.randint(2, (2, 3, 3, 4, 4)).double()
    current = folded(x)
    torch.testing.assert_close(current.value(), mixer(x).value(), rtol=1e-12, atol=1e-12)
    assert (current.norm.weight == 1).all()
    again = separate_connections(copy.deepcopy(folded))
    assert torch.equal(again.linear.weight, folded.linear.weight)


def test_a_folded_norm_takes_no_statistics():
    norm = fold_batch_norms(nn.Sequential(BatchNorm(3)).eval())[0]
    x = torch.randn(2, 3, 3, 4, 4)
    assert torch.equal(norm.train()(x).value(), norm.eval()(x).value())
    assert norm.num_batches_tracked == 0

import math

import pytest
import torch
from torch import nn

from spiking_vq.errors import InputError
from spiking_vq.neurons.activity import mean_firing_rate, record_activity
from spiking_vq.neurons.lif import LIF


def integrator():
    return LIF(beta=1.0, threshold=1.0, reset="zero", scale_input=False, fire_at_threshold=True)


def tiny():
    """Two layers of two neurons; currents (0.5, 0) make the first fire at every second step, its spikes the second."""
    net = nn.Sequential(integrator(), nn.Linear(2, 2, bias=False), integrator())
    net[1].weight.data = torch.tensor([[1.0, 0.0], [0.5, 0.0]])
    return net


def test_rates_by_hand():
    net, x = tiny(), torch.tensor([0.5, 0.0]).expand(4, 1, 2)
    with record_activity(net) as activity:
        assert math.isnan(activity["0"].firing_rate)
        net(x)
    # first layer 0101 and 0000; second layer 0101 and (0.5 at steps 2 and 4) 0001
    assert list(activity) == ["0", "2"]
    assert [(layer.spikes, layer.slots) for layer in activity.values()] == [(2, 8), (3, 8)]
    assert [layer.firing_rate for layer in activity.values()] == [0.25, 0.375]


def test_the_mean_rate_has_a_gradient():
    net = tiny()
    x = torch.tensor([0.5, 0.0]).expand(4, 1, 2).clone().requires_grad_()
    with mean_firing_rate(net) as rate:
        with pytest.raises(InputError, match="neurons that fire must be at least one that computed"):
            rate()
        net(x)
        net(x)
    assert rate().item() == 5 / 16  # as in the test by hand; the second call repeats the first
    (gradient,) = torch.autograd.grad(rate(), x)
    assert gradient.sum() > 0  # more current, more spikes
    counted = rate().item()
    net(x)
    assert rate().item() == counted  # outside the block nothing is counted


def test_counts_add_up_over_calls():
    net = tiny()
    with record_activity(net) as activity:
        net(torch.tensor([0.5, 0.0]).expand(4, 1, 2))
        net(torch.tensor([1.0, 1.0]).expand(2, 3, 2))
    assert (activity["0"].spikes, activity["0"].slots) == (2 + 12, 8 + 12)


def test_counting_ends_with_the_block():
    net, x = tiny(), torch.ones(4, 1, 2)
    with pytest.raises(RuntimeError, match="stop"), record_activity(net) as activity:
        net(x)
        raise RuntimeError("stop")
    before = activity["0"].slots
    net(x)
    assert activity["0"].slots == before == 8


def test_names_are_those_of_the_modules(vq_svae, images):
    with record_activity(vq_svae) as activity:
        vq_svae(images)
    assert list(activity) == [name for name, module in vq_svae.named_modules() if isinstance(module, LIF)]
    assert activity["encoder.0"].slots == 2 * 6 * 4 * 6 * 6  # T, images, channels, height, width
    assert all(0 < layer.firing_rate < 1 for layer in activity.values())


def test_a_network_without_spikes_has_no_activity():
    with record_activity(nn.Sequential(nn.ReLU())) as activity:
        assert activity == {}


@pytest.mark.parametrize("weights", [[0.25] * 4, [0.5, 0.6, 0.8, 1.0]], ids=["equal", "decaying"])
def test_neurons_whose_spikes_are_only_summed_are_counted_too(weights):
    lif, x = LIF(beta=0.9), torch.rand(4, 3, 5, requires_grad=True)
    with mean_firing_rate(nn.Sequential(lif)) as measured:
        summed = lif.integrate(x, weights)
    rate = measured()
    rate.backward()
    counted, x.grad = x.grad, None
    spk = lif(x)
    spk.mean().backward()
    torch.testing.assert_close(summed, lif.integrate(x, weights))
    torch.testing.assert_close(rate, spk.mean())
    torch.testing.assert_close(counted, x.grad)
    assert 0 < rate < 1

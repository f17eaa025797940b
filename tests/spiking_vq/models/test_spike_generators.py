"""Spike trains of code vectors, by each generator."""

import pytest
import torch
from torch import nn

from spiking_vq.models.spike_generators import SPIKE_GENERATORS, DirectSpikeGenerator
from spiking_vq.neurons.lif import LIF
from spiking_vq.neurons.twins import neuron_factory

D = 4
INTEGRATE = neuron_factory("lif", beta=1.0, reset="subtract", fire_at_threshold=True)
"""Integrate-and-fire with soft reset."""


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", SPIKE_GENERATORS)
def test_spike_generators_have_one_shape_and_pass_a_gradient(name):
    vectors = torch.rand(3, D, 2, 5, requires_grad=True)
    generate = SPIKE_GENERATORS[name](D, LIF)
    spk = generate(vectors, 6, seeded())
    assert spk.shape == (6, 3, D, 2, 5)
    (spk * torch.randn_like(spk)).sum().backward()
    assert (vectors.grad != 0).any()


def test_adaptive_drives_a_neuron_with_a_constant_current():
    generate, vectors = SPIKE_GENERATORS["adaptive"](D, LIF), 3 * torch.randn(3, D, 2, 5)
    conv, norm = generate.current
    spk = generate(vectors, 6)
    assert torch.equal(spk, LIF()(norm(conv(vectors).unsqueeze(0)).value().repeat(6, 1, 1, 1, 1)))
    assert 0 < spk.mean() < 1
    spk.sum().backward()
    assert all((weight.grad != 0).any() for weight in (conv.weight, norm.weight, norm.bias))
    assert (norm.synapse_bias.grad == 0).all()
    assert isinstance(conv, nn.Conv2d)
    assert conv.kernel_size == (1, 1)


def test_poisson_rate_is_the_clamped_vector():
    values = torch.tensor([-1.0, 0.0, 0.25, 0.5, 0.9, 1.0, 2.0])
    rates = values.clamp(0, 1)
    steps = 4000
    vectors = values.view(1, -1, 1, 1).clone().requires_grad_()
    spk = SPIKE_GENERATORS["poisson"](7, LIF)(vectors, steps, seeded())
    assert set(spk.unique().tolist()) == {0.0, 1.0}
    error = (spk.mean(0).flatten() - rates).abs()
    assert (error <= 4 * (rates * (1 - rates) / steps).sqrt()).all()
    assert (spk[1:] != spk[:-1]).any()

    spk.sum().backward()  # straight through to the rate, which is flat outside [0, 1]
    assert vectors.grad.flatten()[[0, 2, 3, 4, 6]].tolist() == [0, steps, steps, steps, 0]


def test_poisson_depends_on_the_generator_alone():
    generate, vectors = SPIKE_GENERATORS["poisson"](D, LIF), torch.rand(3, D, 2, 5)
    first = generate(vectors, 6, seeded())
    torch.rand(5)
    assert torch.equal(first, generate(vectors, 6, seeded()))
    assert not torch.equal(first, generate(vectors, 6, seeded(1)))


def test_repeat_repeats():
    vectors = torch.randn(3, D, 2, 5)
    assert torch.equal(SPIKE_GENERATORS["repeat"](D, LIF)(vectors, 6), vectors.repeat(6, 1, 1, 1, 1))


# ---------------------------------------------------------------- direct


@pytest.mark.parametrize("steps", [*range(1, 9), 16, 31])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_direct_turns_a_rate_of_k_of_t_into_k_spikes(steps, dtype):
    """Whatever the rounding of 1 / T, by the mean of spikes or by a division."""
    counts = torch.arange(steps + 1)
    trains = (torch.arange(steps).view(-1, 1) < counts).to(dtype)
    for rates in (trains.mean(0), counts.to(dtype) / steps, counts.to(dtype) * (1 / steps)):
        spk = DirectSpikeGenerator(steps + 1, INTEGRATE)(rates.view(1, -1, 1, 1), steps)
        assert spk.sum(0).flatten().tolist() == counts.tolist()
        assert set(spk.unique().tolist()) <= {0.0, 1.0}


def test_direct_spreads_the_spikes_evenly():
    spk = DirectSpikeGenerator(3, INTEGRATE)(torch.tensor([0.25, 0.5, 0.75]).view(1, 3, 1, 1), 8).view(8, 3).T
    assert spk.tolist() == [[0, 0, 0, 1] * 2, [0, 1] * 4, [0, 1, 1, 1] * 2]


def test_directs_gradient_goes_straight_through():
    vectors = torch.rand(3, D, 2, 5, requires_grad=True)
    spk = DirectSpikeGenerator(D, INTEGRATE)(vectors, 6)
    weight = torch.randn_like(spk)
    (spk * weight).sum().backward()
    torch.testing.assert_close(vectors.grad, weight.sum(0))


def test_directs_spikes_are_0_and_1_whatever_the_vector():
    """Also where the gradient is wanted, and of vectors so large that 1 is lost in their rounding."""
    vectors = torch.tensor([-1e6, -0.3, 0.0, 0.1, 1 / 3, 1.7, 100.3, 1e9]).view(1, -1, 1, 1).requires_grad_()
    assert DirectSpikeGenerator(8, INTEGRATE)(vectors, 5).unique().tolist() == [0.0, 1.0]


def test_direct_passes_vectors_on_to_the_twins():
    vectors = torch.tensor([-0.5, 0.0, 0.25, 0.5, 1.0, 3.0]).view(1, -1, 1, 1).requires_grad_()
    passed = DirectSpikeGenerator(6, neuron_factory("relu"))(vectors, 1)
    torch.testing.assert_close(passed, vectors.relu().unsqueeze(0), rtol=2e-5, atol=0)
    few_bits = DirectSpikeGenerator(6, neuron_factory("quantised", 2))(vectors, 1)
    expected = [0.0, 0.0, 1 / 3, 2 / 3, 1.0, 1.0]
    assert few_bits.flatten().tolist() == pytest.approx(expected)
    few_bits.sum().backward()
    assert torch.equal(vectors.grad, torch.ones_like(vectors))


def test_direct_has_no_weights():
    assert not list(DirectSpikeGenerator(D, INTEGRATE).parameters())

"""The activations of the non-spiking twins."""

import pytest
import torch
from time_courses import noise

from spiking_vq.errors import InputError
from spiking_vq.neurons.twins import neuron_factory


def test_neuron_factory():
    assert neuron_factory("lif", beta=0.9)().beta == pytest.approx(0.9)
    x = noise(1, 3, 4)
    assert torch.equal(neuron_factory("relu", beta=0.9)()(x), x.relu())
    with pytest.raises(InputError, match="lif, relu or quantised"):
        neuron_factory("gelu")


def test_quantised_relu_rounds_and_passes_the_clamps_gradient():
    x = torch.tensor([[-0.5, 0.1, 0.2, 0.5, 0.9, 1.7]], requires_grad=True)
    y = neuron_factory("quantised", 2, beta=0.9)()(x)
    torch.testing.assert_close(y, torch.tensor([[0.0, 0.0, 1 / 3, 2 / 3, 1.0, 1.0]]))  # 0.5 * 3 rounds to even
    y.sum().backward()
    assert x.grad.tolist() == [[0, 1, 1, 1, 1, 0]]

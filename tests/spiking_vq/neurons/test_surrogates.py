"""Surrogate gradients against their formulas and snnTorch."""

import math

import pytest
import torch
from snntorch import surrogate
from time_courses import noise

from spiking_vq.neurons.dynamics import Dynamics

CLOSED_FORMS = {
    "atan": lambda x, alpha: alpha / (2 * (1 + (math.pi * alpha * x / 2) ** 2)),
    "fast_sigmoid": lambda x, slope: 1 / (1 + slope * abs(x)) ** 2,
    "triangle": lambda x, width: max(0, 1 - abs(x) / width),
    "rectangle": lambda x, width: (1 if abs(x) < width / 2 else 0) / width,
}
DEFAULTS = {"atan": 2, "fast_sigmoid": 25, "triangle": 0.5, "rectangle": 1}


def derivative(spike, x):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(spike(x).sum(), x)[0]


@pytest.mark.parametrize("scale", [None, 0.75])
@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_surrogate_closed_form(name, scale):
    x = torch.linspace(-1, 1, 33, dtype=torch.float64)  # holds 0 and the edges of the default widths
    dynamics = Dynamics(surrogate=name, surrogate_scale=scale)
    expected = [CLOSED_FORMS[name](value, scale or DEFAULTS[name]) for value in x.tolist()]
    torch.testing.assert_close(
        dynamics.surrogate_derivative(x + 1, torch.tensor(1.0)), torch.tensor(expected, dtype=x.dtype)
    )


@pytest.mark.parametrize(
    ("name", "scale", "oracle"),
    [
        ("atan", None, surrogate.atan()),
        ("atan", 3.0, surrogate.atan(3.0)),
        ("fast_sigmoid", None, surrogate.fast_sigmoid()),
        ("fast_sigmoid", 5.0, surrogate.fast_sigmoid(5.0)),
    ],
)
def test_surrogate_is_snntorchs(name, scale, oracle):
    x = noise(100)
    dynamics = Dynamics(surrogate=name, surrogate_scale=scale)
    torch.testing.assert_close(dynamics.surrogate_derivative(x, torch.tensor(0.0)), derivative(oracle, x))

"""Winograd's filtering against torch's convolution: values and gradients."""

from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F

from spiking_vq.runtime import winograd
from spiking_vq.runtime.running import run_with
from spiking_vq.runtime.winograd import cook_toom

SIZES = [(7, 7), (8, 8), (4, 4), (5, 6), (3, 9), (1, 1)]


def both(size, dtype=torch.float64, channels=(5, 6), reference=torch.float64):
    """Outputs and gradients of the filtering in `dtype` and of torch in `reference`, on random spikes."""
    torch.manual_seed(0)
    spk = torch.rand(3, channels[0], *size) < 0.3
    weight = (torch.randn(channels[1], channels[0], 3, 3) / 10).to(dtype)
    grad = torch.randn(3, channels[1], *size).to(dtype)

    def of(run, kind):
        x, w = spk.to(kind).requires_grad_(), weight.to(kind).requires_grad_()
        y = run(x, w)
        return [y.detach(), *torch.autograd.grad(y, (x, w), grad.to(kind))]

    def filtered(x, w):
        rows = x.permute(0, 2, 3, 1).contiguous()
        return winograd.WinogradConvolution.apply(rows, w).permute(0, 3, 1, 2)

    return zip(of(filtered, dtype), of(lambda x, w: F.conv2d(x, w, padding=1), reference), strict=True)


@pytest.mark.parametrize("num_outputs", [2, 3, 4])
def test_one_dimension_by_hand(num_outputs):
    points = [Fraction(0), Fraction(1), Fraction(-1), Fraction(1, 2), Fraction(-2)][: num_outputs + 1]
    outputs, weights, inputs = (torch.tensor(m, dtype=torch.float64) for m in cook_toom(points, 3))
    x, w = torch.randn(num_outputs + 2).double(), torch.randn(3).double()
    y = outputs @ ((weights @ w) * (inputs @ x))
    torch.testing.assert_close(y, torch.stack([x[i : i + 3] @ w for i in range(num_outputs)]))


@pytest.mark.parametrize("size", SIZES)
def test_it_is_the_convolution(size):
    for got, expected in both(size):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-11)


@pytest.mark.slow  # the C++ compiler takes minutes
def test_compiled_it_is_the_convolution():
    with run_with(compile=True):
        for got, expected in both((7, 7)):
            torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("dtype, error", [(torch.float32, 2e-6), (torch.bfloat16, 0.04)])
def test_rounding(dtype, error):
    for got, expected in both((7, 7), dtype, (64, 64)):
        assert got.dtype == dtype
        assert 0 < (got.double() - expected).std() < error * expected.std()

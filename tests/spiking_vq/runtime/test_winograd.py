"""Winograd's filtering against torch's convolution: values, gradients, and when it is used."""

from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F

from spiking_vq.layers.synapses import conv_norm
from spiking_vq.runtime import winograd
from spiking_vq.runtime.running import run_with
from spiking_vq.runtime.winograd import Conv3x3, cook_toom

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
        return winograd._Convolution.apply(rows, w).permute(0, 3, 1, 2)

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


@pytest.fixture
def calls(monkeypatch):
    """Types of the images that were filtered, one for each convolution; the kernels run as they are."""
    seen, whole = [], winograd.convolve

    def watched(x, weight, compile):
        seen.append(x.dtype)
        return whole(x, weight, compile)

    monkeypatch.setattr(winograd, "convolve", watched)
    monkeypatch.setattr(winograd, "kernel", lambda function, kind, compile: function)
    monkeypatch.setattr(winograd, "FEW_CHANNEL_PAIRS", 4 * 6)
    monkeypatch.setattr(winograd, "MIN_CHANNEL_PAIRS", {})
    monkeypatch.setattr(winograd, "MIN_TILES", 8)
    return seen


def test_gradients_of_the_layer(calls):
    conv, x = Conv3x3(4, 6), torch.rand(2, 4, 7, 7).requires_grad_()
    grad = torch.randn(2, 6, 7, 7)
    with run_with(compile=True):
        y = conv(x)
    with torch.autocast("cpu", torch.bfloat16):  # which the backward pass ignores
        got = torch.autograd.grad(y, (x, conv.weight), grad)
    expected = torch.autograd.grad(F.conv2d(x, conv.weight, padding=1), (x, conv.weight), grad)
    assert len(calls) == 2
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("channels, expected", [((4, 6), True), ((4, 5), False)])
@pytest.mark.parametrize("compile", [True, False])
def test_it_is_used_among_compiled_kernels_on_wide_layers(calls, channels, expected, compile):
    with run_with(compile=compile):
        y = Conv3x3(*channels)(torch.rand(2, channels[0], 7, 7))
    assert bool(calls) == (expected and compile)
    assert y.is_contiguous(memory_format=torch.channels_last) or not calls


@pytest.mark.parametrize(("images", "size", "expected"), [(2, (7, 7), True), (1, (7, 7), False), (1, (5, 13), True)])
def test_it_is_used_on_many_tiles(calls, images, size, expected):
    with run_with(compile=True):
        Conv3x3(4, 6)(torch.rand(images, 4, *size))
    assert bool(calls) == expected


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_used_in_training_only(calls, training, dtype):
    conv, x = Conv3x3(4, 6).train(training), torch.rand(2, 4, 7, 7)
    with run_with(compile=True), torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        y = conv(x)
        expected = F.conv2d(x, conv.weight, padding=1)
    assert y.dtype == dtype
    assert calls == ([dtype] if training else [])
    assert torch.equal(y, expected) == (not training)
    torch.testing.assert_close(y, expected, rtol=0.1, atol=0.05)


def test_only_3x3_convolutions_of_stride_1_are_built_for_it():
    assert isinstance(conv_norm(4, 6)[0], Conv3x3)
    assert not isinstance(conv_norm(4, 6, stride=2)[0], Conv3x3)
    assert not isinstance(conv_norm(4, 6, kernel_size=1)[0], Conv3x3)

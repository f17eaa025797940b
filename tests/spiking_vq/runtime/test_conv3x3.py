"""The 3x3 convolution against torch's: values and gradients of its forms, and when each is used."""

import pytest
import torch
import torch.nn.functional as F

from spiking_vq.layers.synapses import conv_norm
from spiking_vq.runtime import conv3x3, winograd
from spiking_vq.runtime.conv3x3 import Conv3x3, MatrixGradient
from spiking_vq.runtime.running import run_with

SIZES = [(4, 4), (3, 5), (1, 1)]


@pytest.fixture
def calls(monkeypatch):
    """Types of the images that were filtered, one for each convolution; the kernels run as they are."""
    seen, whole = [], winograd.convolve

    def watched(x, weight, compile):
        seen.append(x.dtype)
        return whole(x, weight, compile)

    monkeypatch.setattr(winograd, "convolve", watched)
    monkeypatch.setattr(winograd, "kernel", lambda function, kind, compile: function)
    monkeypatch.setattr(conv3x3, "FEW_CHANNEL_PAIRS", 4 * 6)
    monkeypatch.setattr(conv3x3, "MIN_CHANNEL_PAIRS", {})
    monkeypatch.setattr(conv3x3, "MIN_TILES", 8)
    return seen


@pytest.mark.parametrize(("images", "filtered"), [(2, 2), (1, 0)])
@pytest.mark.parametrize("bias", [True, False])
def test_gradients_of_the_layer(calls, images, filtered, bias):
    """Of the filtering, which two convolutions take, forward and backward; and of few tiles, which take none."""
    conv, x = Conv3x3(4, 6, bias).to(memory_format=torch.channels_last), torch.rand(images, 4, 7, 7).requires_grad_()
    leaves, grad = (x, *conv.parameters()), torch.randn(images, 6, 7, 7)
    with run_with(compile=True):
        y = conv(x)
    with torch.autocast("cpu", torch.bfloat16):  # which the backward pass ignores
        got = torch.autograd.grad(y, leaves, grad)
    again = F.conv2d(x, conv.weight, conv.bias, padding=1)
    expected = torch.autograd.grad(again, leaves, grad)
    assert len(calls) == filtered
    torch.testing.assert_close((y, *got), (again, *expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_the_matrix_gradient_is_that_of_the_convolution(size):
    torch.manual_seed(0)
    x, weight = torch.rand(2, *size, 5).double().requires_grad_(), torch.randn(6, 5, 3, 3).double().requires_grad_()
    assert torch.autograd.gradcheck(MatrixGradient.apply, (x, weight))
    expected = F.conv2d(x.permute(0, 3, 1, 2), weight, padding=1).permute(0, 2, 3, 1)
    torch.testing.assert_close(MatrixGradient.apply(x, weight), expected)
    for leaf in (x, weight):  # each alone, as where the other is frozen
        grad = torch.rand_like(expected)
        (alone,) = torch.autograd.grad(MatrixGradient.apply(x, weight), leaf, grad)
        torch.testing.assert_close(alone, *torch.autograd.grad(expected, leaf, grad, retain_graph=True))


@pytest.mark.parametrize("channels, expected", [((4, 6), True), ((4, 5), False)])
@pytest.mark.parametrize("compile", [True, False])
def test_the_filtering_is_used_among_compiled_kernels_on_wide_layers(calls, channels, expected, compile):
    with run_with(compile=compile):
        y = Conv3x3(*channels)(torch.rand(2, channels[0], 7, 7))
    assert bool(calls) == (expected and compile)
    assert y.is_contiguous(memory_format=torch.channels_last) or not calls


@pytest.mark.parametrize(("images", "channels", "expected"), [(1, 6, 1), (2, 6, 0), (1, 5, 0)])
def test_the_matrix_gradient_is_used_on_few_tiles_of_wide_layers(calls, monkeypatch, images, channels, expected):
    seen, whole = [], conv3x3.neighbourhoods
    monkeypatch.setattr(conv3x3, "neighbourhoods", lambda x: seen.append(x.shape) or whole(x))
    with run_with(compile=True):
        Conv3x3(4, channels)(torch.rand(images, 4, 7, 7)).sum().backward()
    assert len(seen) == expected


@pytest.mark.parametrize(("images", "size", "expected"), [(2, (7, 7), True), (1, (7, 7), False), (1, (5, 13), True)])
def test_the_filtering_is_used_on_many_tiles(calls, images, size, expected):
    with run_with(compile=True):
        Conv3x3(4, 6)(torch.rand(images, 4, *size))
    assert bool(calls) == expected


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_filtering_is_used_in_training_only(calls, training, dtype):
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

"""Compiled kernels: the same function, compiled once for each kind of layer."""

from itertools import product

import pytest
import torch
from time_courses import a_norm

from spiking_vq.neurons.lif import LIF
from spiking_vq.runtime import compiling
from spiking_vq.runtime.running import run_with

T, B, C = 5, 3, 4


@pytest.fixture
def counted(monkeypatch):
    """Names of the kernels that were compiled, by a backend that runs them as they are."""
    names, compile = [], torch.compile

    def counting(function, **options):
        names.append(function.__name__)
        return compile(function, backend="eager", **options)

    compiling._compiled_kernel.cache_clear()
    monkeypatch.setattr(torch, "compile", counting)
    yield names
    compiling._compiled_kernel.cache_clear()


def layer(x, norm, lif):
    x = x.clone().requires_grad_()
    spk = lif(norm(x))
    return spk, *torch.autograd.grad((spk * torch.arange(spk.shape[-1])).sum(), [x, norm.weight, norm.bias])


def test_compiled_is_the_same_function_whatever_the_size(counted):
    norm, lif = a_norm(C), LIF(0.7, scale_input=True)
    for size in (6, 9, 4):
        x = 2 * torch.randn(T, B, C, size, size).double()
        plain = layer(x, norm, lif)
        with run_with(compile=True):
            for mine, other in zip(layer(x, norm, lif), plain, strict=True):
                torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-10)
    assert sorted(counted) == ["backward_kernel", "forward_kernel", "norm_backward_kernel", "statistics"]


def test_kernels_are_traced_once_whatever_their_tensors_are_views_of(counted):
    """Torch would trace anew for a view of something else, or a tensor that asks for a gradient, and soon give up."""
    norm, lif = a_norm(C), LIF(0.7)
    torch._dynamo.reset()
    with run_with(compile=True), torch._dynamo.config.patch(error_on_recompile=True):
        for size, train, shape in product((6, 9), (True, False), ("whole", "view", "part")):
            x = torch.randn(T, B, C, size, size).double().requires_grad_(train)
            views = {"view": x.flatten(0, 1).unflatten(0, (T, B)), "part": torch.cat([x, x], 1)[:, :B]}
            norm.train(train)
            with torch.set_grad_enabled(train):
                spk = lif(norm(views.get(shape, x)))
            if train:
                (spk * torch.rand_like(spk)).sum().backward()


def test_nothing_is_compiled_outside_the_block(counted):
    norm, lif, x = a_norm(C), LIF(), torch.randn(T, B, C, 6, 7).double()
    with run_with(compile=True):
        pass
    with run_with(compile=False):
        layer(x, norm, lif)
    layer(x, norm, lif)
    assert counted == []

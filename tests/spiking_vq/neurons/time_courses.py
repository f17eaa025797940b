"""Inputs and batch norms of neurons, and the comparison of two implementations in spikes and gradients."""

import torch

from spiking_vq.layers.synapses import BatchNorm


def train_of(*values):
    """One neuron's time course as `[T, 1]`."""
    return torch.tensor(values, dtype=torch.float64).unsqueeze(1)


def noise(*shape, seed=0, scale=1.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def spikes_and_gradients(run, x, *parameters):
    """Spikes of `run(x)`, and gradients of a weighted sum of them with respect to `x` and `parameters`."""
    x = x.clone().requires_grad_()
    spk = run(x)
    weights = torch.randint(-8, 9, spk.shape, generator=torch.Generator().manual_seed(1))  # exact in any float type
    return spk, *torch.autograd.grad((spk * weights).sum(), (x, *parameters))


def assert_same(ours, theirs):
    assert torch.equal(ours[0].double(), theirs[0].double())
    assert 0 < ours[0].mean() < 1
    for mine, other in zip(ours[1:], theirs[1:], strict=True):
        # snnTorch passes gradients through float32 where they meet a spike.
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)


def a_norm(num_channels):
    """A batch norm in float64 with random weight and bias."""
    norm = BatchNorm(num_channels).double()
    torch.nn.init.uniform_(norm.weight, 0.5, 2)
    torch.nn.init.uniform_(norm.bias, -0.5, 1)
    return norm

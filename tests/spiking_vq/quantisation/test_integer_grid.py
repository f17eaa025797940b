"""Rounding to integers times a power of two, and the integers again."""

import pytest
import torch

from spiking_vq.errors import InputError
from spiking_vq.quantisation.grid import along, best_exponents, integers_of, largest, to_grid


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("dim", [0, 1, None])
def test_the_exponent_is_the_best_of_all(bits, dim):
    weight = torch.randn(6, 4, 3, 3) * torch.logspace(-3, 1, 6).view(-1, 1, 1, 1)
    chosen = best_exponents(weight, bits, dim)

    def errors(exponents):
        squares = (to_grid(weight, exponents, dim, bits) - weight).double().square()
        return squares.sum() if dim is None else squares.movedim(dim, 0).flatten(1).sum(1)

    others = torch.stack([errors(torch.full_like(chosen, exponent)) for exponent in range(-8, 21)])
    torch.testing.assert_close(errors(chosen), others.amin(0))
    k = to_grid(weight, chosen, dim, bits).double() * 2.0 ** along(chosen, weight, dim)
    assert torch.equal(k, k.round())
    assert k.abs().max() <= largest(bits)


def test_one_large_weight_is_clipped_for_the_sake_of_the_others():
    weight = torch.cat([torch.full((1, 1000), 0.1), torch.tensor([[2.0]])], 1)
    assert best_exponents(weight, 4).item() == 3
    assert to_grid(weight, torch.tensor([3]), bits=4)[0, -1] == 7 / 8


def test_the_largest_exponent_is_kept_to():
    assert best_exponents(torch.full((1, 5), 1e-3), 8, most=10).item() == 10
    assert best_exponents(torch.zeros(1, 5), 8, most=10).item() == 10


@pytest.mark.parametrize("dim", [0, 1, None])
def test_integers_come_back(dim):
    weight = torch.randn(5, 5, 2, 2) * torch.logspace(-2, 2, 5).view(-1, 1, 1, 1)
    exponents = best_exponents(weight, 6, dim)
    rounded = to_grid(weight, exponents, dim, 6)
    bias = None if dim is None else to_grid(10 * torch.randn(5), exponents)
    k, found, b = integers_of(rounded, bias, dim)
    assert (k.dtype, found.dtype) == (torch.int32, torch.int32)
    assert torch.equal(k / 2.0 ** along(found, weight, dim), rounded)
    assert bias is None or torch.equal(b / 2.0**found, bias)
    assert (found <= exponents).all()
    halved = rounded.double() * 2.0 ** (along(found, weight, dim) - 1)
    whole = (halved == halved.round()).movedim(dim or 0, 0).flatten(1).all(1)
    assert bias is not None or not (whole.all() if dim is None else whole.any())  # a smaller exponent would not do


def test_a_bias_may_need_a_finer_grid_than_the_weights():
    k, exponents, b = integers_of(torch.tensor([[0.5, -1.0]]), torch.tensor([0.375]))
    assert (k.tolist(), exponents.tolist(), b.tolist()) == ([[4, -8]], [3], [3])
    assert integers_of(torch.zeros(2, 3)).exponents.tolist() == [0, 0]


def test_real_weights_are_no_integers():
    with pytest.raises(InputError, match="quantise the model first"):
        integers_of(torch.rand(3, 3) / 3)

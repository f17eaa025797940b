"""Spike counts as codes: digits in base T + 1, and rates back."""

import pytest
import torch

from spiking_vq.errors import InputError
from spiking_vq.models.quantizers import build_quantizer
from spiking_vq.neurons.readouts import firing_rate
from spiking_vq.neurons.twins import neuron_factory


def counting(T, G=2, digits=3):
    return build_quantizer("count", G, (T + 1) ** digits, G * digits)


def spikes(T, channels, dtype=torch.float32):
    """Spikes of integrate-and-fire neurons driven by random currents."""
    neuron = neuron_factory("lif", beta=1.0, reset="subtract", fire_at_threshold=True)()
    return neuron(2 * torch.rand(T, 5, channels, 2, 3)).to(dtype)


@pytest.mark.parametrize("T", range(1, 9))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_tokens_are_the_spike_counts(T, dtype):
    """The counts of a code's channels are its digits in base T + 1, the first channel's the lowest."""
    spk = spikes(T, 6, dtype)
    tokens = counting(T).nearest(firing_rate(spk))
    assert tokens.shape == (5, 2, 2, 3)
    assert tokens.dtype == torch.int64
    counts = spk.sum(0).long().view(5, 2, 3, 2, 3)
    assert torch.equal(tokens, sum((T + 1) ** digit * counts[:, :, digit] for digit in range(3)))
    assert len(tokens.unique()) > 5


@pytest.mark.parametrize("T", range(1, 9))
def test_lookup_gives_the_rates_back(T):
    spk = spikes(T, 6)
    quantizer, rates = counting(T), firing_rate(spk)
    torch.testing.assert_close(quantizer.lookup(quantizer.nearest(rates)), rates)
    out = quantizer(rates)
    torch.testing.assert_close(out.vectors, rates)
    assert torch.equal(out.vectors, quantizer.lookup(out.tokens))
    assert torch.equal(out.tokens, quantizer.nearest(rates))


@pytest.mark.parametrize(("T", "digits"), [(1, 4), (2, 3), (4, 2), (7, 1)])
def test_every_code_comes_back(T, digits):
    quantizer = counting(T, 2, digits)
    tokens = torch.arange(quantizer.codebook_size).view(1, 1, -1, 1).expand(1, 2, -1, 1)
    rates = quantizer.lookup(tokens)
    assert rates.shape == (1, 2 * digits, quantizer.codebook_size, 1)
    assert torch.equal(quantizer.nearest(rates), tokens)
    assert sorted(set((rates * T).round().flatten().tolist())) == list(range(T + 1))


def test_the_gradient_goes_straight_through_and_nothing_is_learnt():
    quantizer, z = counting(4), torch.rand(5, 6, 2, 3, requires_grad=True)
    out = quantizer(z)
    weight = torch.randn_like(z)
    ((out.vectors * weight).sum() + out.loss).backward()
    torch.testing.assert_close(z.grad, weight)
    assert out.loss.item() == 0
    assert quantizer.commitment_cost == 0
    assert not list(quantizer.codebooks)
    assert not quantizer.state_dict()  # nothing to save
    assert quantizer.update(z.detach(), out.tokens) == 0


def test_values_that_are_no_rates_are_rounded_and_clamped():
    quantizer = build_quantizer("count", 1, 5, 1)
    z = torch.tensor([-3.0, -0.01, 0.12, 0.13, 0.6, 0.95, 1.2, 50.0]).view(8, 1, 1, 1)
    out = quantizer(z)
    assert out.tokens.flatten().tolist() == [0, 0, 0, 1, 2, 4, 4, 4]
    assert out.vectors.flatten().tolist() == [0, 0, 0, 0.25, 0.5, 1, 1, 1]


@pytest.mark.parametrize("digits", [6, 13])
def test_a_large_number_of_classes_takes_no_memory(digits):
    """5^13 classes are 1.2 billion."""
    quantizer = counting(4, 1, digits)
    rates = firing_rate(spikes(4, digits))
    out = quantizer(rates)
    assert torch.equal(quantizer.lookup(out.tokens), rates)
    assert out.tokens.max() < quantizer.codebook_size == 5**digits
    assert sum(buffer.numel() for buffer in quantizer.buffers()) == digits


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((2, 25, 5), "embedding_dim must be a multiple of num_codes, 2; got 5"),
        (
            (1, 24, 2),
            r"codebook_size must be the number of levels of a spike count, T \+ 1, to the power of .* 2; got 24",
        ),
        ((1, 1, 2), "codebook_size must be the number of levels.*; got 1"),
        ((1, 5**14, 14), r"codebook_size must be in 1\.\.2147483647, which more num_codes keep to; got 6103515625"),
        ((1, 10**400, 400), "codebook_size must be in 1"),
    ],
)
def test_sizes_that_do_not_fit(arguments, message):
    with pytest.raises(InputError, match=message):
        build_quantizer("count", *arguments)

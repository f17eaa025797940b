import pytest
import torch

from spiking_vq.metrics.codebook import perplexity


def test_perplexity_of_one_code_by_hand():
    tokens = torch.tensor([3, 3, 5, 7]).view(2, 1, 1, 2)  # shares 1/2, 1/4, 1/4: 1.5 bits
    assert perplexity(tokens).item() == pytest.approx(2**1.5)
    assert perplexity(torch.full((4, 1, 2, 2), 6)).item() == 1
    assert perplexity(torch.arange(30).view(5, 1, 2, 3)).item() == pytest.approx(30)


def test_perplexity_of_several_codes_is_their_geometric_mean():
    """The same number of one code means another class than of the other."""
    first, second = torch.tensor([0, 1]).repeat(8), torch.arange(16) % 8
    tokens = torch.stack([first, second]).view(2, 4, 2, 2).movedim(0, 1)
    assert perplexity(tokens).item() == pytest.approx((2 * 8) ** 0.5)
    assert perplexity(tokens.flip(1)).item() == pytest.approx(4)


def test_perplexity_counts_what_occurs():
    """With a billion classes, an array of them would not fit into memory."""
    tokens = torch.tensor([2**40, 1, 2**40, 1]).view(1, 1, 2, 2)
    assert perplexity(tokens).item() == pytest.approx(2)

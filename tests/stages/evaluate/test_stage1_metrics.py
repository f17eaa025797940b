import pytest
import torch

from stages.evaluate.measures import stage1_metrics


@pytest.mark.parametrize("codebook_size", [8, 5**13])
def test_use_of_several_codes_by_hand(codebook_size):
    """The first code uses two classes evenly, the second four; 12 tokens an image."""
    first, second = torch.arange(24) % 2, torch.arange(24) % 4
    tokens = torch.stack([first.view(4, 2, 3), second.view(4, 2, 3)], dim=1)
    images = torch.full((4, 1, 12, 12), 51, dtype=torch.uint8)
    found = stage1_metrics(images / 255 + 0.1, tokens, images, codebook_size)
    assert found["mse"] == pytest.approx(0.01)
    assert (found["num_images"], found["codebook_size"], found["codes_a_position"]) == (4, codebook_size, 2)
    assert found["codes_used"] == 2 + 4
    assert found["perplexity"] == pytest.approx(8**0.5)
    bits = {8: 3.0, 5**13: 30.185}[codebook_size]
    assert found["bits_per_image"] == pytest.approx(12 * bits, abs=1e-2)

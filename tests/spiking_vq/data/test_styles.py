"""Styles: equal parts of the images of a label, of like images; and how a network is told them."""

import pytest
import torch
import torch.nn.functional as F

from spiking_vq.data.datasets import load_dataset
from spiking_vq.data.official import Split
from spiking_vq.data.styles import with_styles
from spiking_vq.errors import InputError
from spiking_vq.layers.labels import ClassEmbedding


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits", "data", image_size=8)


def test_one_style_is_the_label(digits):
    assert all(map(torch.equal, with_styles(digits.train, digits.val, 1), (digits.train.labels, digits.val.labels)))


def test_styles_split_labels_into_equal_parts(digits):
    told, val = with_styles(digits.train, digits.val, 8)
    assert torch.equal(told // 8, digits.train.labels)
    assert torch.equal(val // 8, digits.val.labels)
    counts = told.bincount(minlength=80).view(10, 8)
    assert (counts.amax(1) - counts.amin(1)).max() <= 1
    assert torch.equal(with_styles(digits.train, digits.val, 4)[0], told // 2)  # more styles are parts of fewer
    assert torch.equal(with_styles(digits.train, digits.train, 8)[1], told)  # decided by the training images


def test_images_of_a_style_are_alike(digits):
    rows = F.avg_pool2d(digits.train.images.double(), 2).flatten(1)

    def spread(cells):
        return sum((rows[cells == cell] - rows[cells == cell].mean(0)).square().sum() for cell in cells.unique())

    told, _ = with_styles(digits.train, digits.val, 8)
    shuffled = told.clone()
    for label in range(10):
        own = (told // 8 == label).nonzero()[:, 0]
        shuffled[own] = told[own[torch.randperm(len(own), generator=torch.Generator().manual_seed(0))]]
    assert spread(told) < 0.75 * spread(shuffled)


def test_images_that_are_all_the_same_are_split_too():
    same = Split(torch.full((8, 1, 4, 4), 7, dtype=torch.uint8), torch.zeros(8, dtype=torch.int64))
    told, val = with_styles(same, same, 4)
    assert set(told.tolist()) | set(val.tolist()) <= set(range(4))


def test_more_styles_than_images_are_refused(digits):
    with pytest.raises(InputError, match="styles must be at most 1[0-9]{2}, .* got 256"):
        with_styles(digits.train, digits.val, 256)


def test_the_vector_of_a_style_is_the_sum_of_its_halvings():
    embedding = ClassEmbedding(3, 5, styles=4)
    rows = embedding.weight.detach()
    assert rows.shape == (3 + 6 + 12 + 1, 5)
    expected = torch.stack([rows[0] + rows[3] + rows[9], rows[1] + rows[5] + rows[14], 3 * rows[21]])
    torch.testing.assert_close(embedding(torch.tensor([0, 5, 12]), 3), expected)
    torch.testing.assert_close(embedding(None, 2), 3 * rows[[21, 21]])
    plain = ClassEmbedding(3, 5)
    torch.testing.assert_close(plain(torch.tensor([2, 3]), 2), plain.weight[2:])

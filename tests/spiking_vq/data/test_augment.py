import math

import pytest
import torch

from spiking_vq.data.augment import random_affine, random_flips, warp
from spiking_vq.errors import InputError


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_nothing_moves_by_default():
    maps = random_affine(3, seeded())
    assert torch.equal(maps, torch.eye(2, 3).expand(3, 2, 3))
    images = torch.rand(3, 2, 5, 6)
    torch.testing.assert_close(warp(images, maps), images)


def test_shift_is_in_parts_of_the_image():
    maps = random_affine(4000, seeded(), shift=0.25)
    moved = maps[:, :, 2] / 2
    assert moved.abs().max() <= 0.25
    assert moved.abs().amax(0).min() > 0.24
    torch.testing.assert_close(maps[:, :, :2], torch.eye(2).expand(4000, 2, 2))
    image = torch.zeros(1, 1, 8, 8)
    image[0, 0, 2:4, 3] = 1
    left = torch.tensor([[[1.0, 0, 2 / 8], [0, 1, 0]]])  # a pixel is 2 / 8 of half the width
    torch.testing.assert_close(warp(image, left), image.roll(-1, dims=3), atol=1e-6, rtol=0)


def test_turns_and_stretches_by_their_matrices():
    maps = random_affine(4000, seeded(), degrees=30)[:, :, :2]
    angles = torch.atan2(maps[:, 1, 0], maps[:, 0, 0])
    torch.testing.assert_close(maps @ maps.mT, torch.eye(2).expand(4000, 2, 2))
    assert math.radians(29.5) < angles.abs().max() <= math.radians(30)
    factors = random_affine(4000, seeded(), stretch=0.2)[:, :, :2].diagonal(dim1=1, dim2=2)
    assert factors.log().abs().max() <= 0.2 + 1e-6
    assert not torch.equal(factors[:, 0], factors[:, 1])
    sheared = random_affine(4000, seeded(), shear=0.1)
    assert 0.099 < sheared[:, 0, 1].abs().max() <= 0.1
    assert (sheared[:, 1, 0] == 0).all()


def test_borders_are_repeated_and_values_stay_in_range():
    images = torch.rand(8, 3, 6, 6).round()
    moved = warp(images, random_affine(8, seeded(), degrees=20, stretch=0.2, shift=0.2))
    assert 0 <= moved.min() < moved.max() <= 1
    white = torch.ones(2, 1, 6, 6)
    torch.testing.assert_close(warp(white, random_affine(2, seeded(), degrees=45, shift=0.5)), white)


def test_half_of_the_images_are_mirrored_left_to_right():
    images = torch.randint(0, 256, (4000, 2, 3, 5), dtype=torch.uint8, generator=seeded())
    flipped = random_flips(images, seeded(1))
    kept, mirrored = ((flipped == other).flatten(1).all(1) for other in (images, images.flip(3)))
    assert (kept | mirrored).all()
    assert abs(mirrored.double().mean() - 0.5) < 0.03
    assert torch.equal(flipped, random_flips(images, seeded(1)))


def test_what_is_negative():
    with pytest.raises(InputError, match="shear.*at least 0.*-1"):
        random_affine(1, seeded(), shear=-1.0)

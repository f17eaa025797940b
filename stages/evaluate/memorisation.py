"""The search for copies of training images among generated ones."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from spiking_vq.data.levels import resize_images
from spiking_vq.data.mapped import MappedImages
from spiking_vq.metrics.manifold import authenticity

MEMORISATION_IMAGES = 1000

MEMORISATION_SIDE = 32
"""Pixels a side of the images that are searched for copies."""

MEMORISATION_VALUES = 150_000_000
"""Pixels' values of all training images at most, among which copies are searched for."""

BATCH = 256


def compared_training(training: Tensor | MappedImages) -> Tensor:
    """Training images, uint8 [n, C, h, w], to search for copies among: at most `MEMORISATION_SIDE` pixels a side.

    Of a set so large that their values would not fit into memory, they are the first in its random order.
    """
    channels, *size = training.shape[1:]
    factor = max(1.0, max(size) / MEMORISATION_SIDE)
    small = [round(side / factor) for side in size]
    most = max(1, MEMORISATION_VALUES // (channels * math.prod(small)))
    rows = range(0, min(most, len(training)), BATCH)
    batches = [resize_images(training[row : min(row + BATCH, most)], small) for row in rows]
    return torch.cat(batches)


def memorisation(images: Tensor, held_out: Tensor, training: Tensor) -> dict[str, float]:
    """Authenticity, by pixels, of generated and of held-out real images; see `metrics.manifold.authenticity`.

    Args:
        images, held_out, training: uint8 [N, C, H, W]; of the first two, `MEMORISATION_IMAGES` are taken, at the size
            of the third.
    """
    parts = [resize_images(part[:MEMORISATION_IMAGES], training.shape[2:]) for part in (images, held_out)]
    rows = [part.flatten(1).float() for part in parts]
    authentic = [authenticity(training.flatten(1).float(), part) for part in rows]
    counts = {"num_images": len(rows[0]), "num_training_images": len(training)}
    return counts | {"authenticity": authentic[0], "authenticity_held_out": authentic[1]}

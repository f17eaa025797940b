"""Pictures that stand next to the metrics."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import torch
from torch import Tensor
from torchvision.utils import save_image

from spiking_vq.data.levels import resize_images, to_uint8, to_unit
from spiking_vq.files import atomic_write
from spiking_vq.metrics.manifold import distances
from spiking_vq.pipelines.latent import LatentPipeline


def write_picture(path: Path, images: Tensor, columns: int) -> None:
    """Write uint8 images [n, C, H, W] as one picture, in rows of `columns`."""
    with atomic_write(path) as temporary:
        save_image(to_unit(images), temporary, nrow=columns, format="png")


def completions(pipeline: LatentPipeline, images: Tensor, seed: int) -> Tensor:
    """Each uint8 image [N, C, H, W] and seven completions of the upper half of its tokens: [8 N, C, H, W]."""
    height, width = pipeline.diffusion.grid[-2:]
    keep = (torch.arange(height) < height / 2).unsqueeze(1).expand(height, width)
    completed = pipeline.inpaint(images.repeat_interleave(7, 0), keep, seed).images
    return torch.cat([images.unsqueeze(1), completed.unflatten(0, (-1, 7))], dim=1).flatten(0, 1)


def neighbours(images: Tensor, training: Tensor) -> Tensor:
    """Each uint8 image [N, C, H, W] and the seven training images nearest to it by pixels: [8 N, C, H, W]."""
    images = resize_images(images, training.shape[2:])
    near = distances(images.flatten(1), training.flatten(1)).topk(7, largest=False).indices
    return torch.cat([images.unsqueeze(1), training[near]], dim=1).flatten(0, 1)


def above_reconstructions(images: Tensor, reconstructions: Tensor) -> Tensor:
    """Rows of sixteen uint8 images [N, C, H, W], each above its reconstructions in [0, 1]: uint8 [2 N, C, H, W]."""
    rows = zip(images.split(16), to_uint8(reconstructions).split(16), strict=True)
    return torch.cat(list(chain.from_iterable(rows)))

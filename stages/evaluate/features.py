"""Features of images, computed once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from stages.cli.progress import progress
from stages.evaluate.cache import ArrayCache

CHUNK = 1000
"""Images of a file: a minute's work."""


class CachedFeatures:
    """Features of images, kept on disk under a hash of the images and of the network.

    Each chunk of images is a file, so that a stopped run goes on, and features of real images are computed once for all
    models.

    Args:
        compute: function from uint8 images [B, C, H, W] to features [B, D].
        identity: of the network: the hash of its weights, and its settings.
        batch_size: images in a call.
        folder: of the cache, see `ArrayCache`.
        device: of the network.
    """

    def __init__(
        self, compute: Callable[[Tensor], Tensor], identity: str, batch_size: int, folder: Path, device: str
    ) -> None:
        self.compute, self.identity, self.batch_size = compute, identity, batch_size
        self.cache, self.device = ArrayCache(folder), device

    def __call__(self, images: Tensor, title: str) -> Tensor:
        """Features [N, D] of uint8 images [N, C, H, W], on the CPU; `title` is the progress bar's."""
        with progress(total=len(images), title=title) as bar:
            return torch.cat([self._chunk(chunk, bar) for chunk in images.split(CHUNK)])

    def _chunk(self, images: Tensor, bar: tqdm) -> Tensor:
        described = f"{self.identity} {tuple(images.shape)} ".encode()
        name = hashlib.sha256(described + images.numpy().tobytes()).hexdigest()
        kept = self.cache.load(name)
        if kept is not None:
            bar.update(len(images))
            return torch.from_numpy(kept)
        rows = []
        for batch in images.split(self.batch_size):
            rows.append(self.compute(batch.to(self.device)).cpu())
            bar.update(len(batch))
        features = torch.cat(rows)
        self.cache.save(name, features.numpy())
        return features

"""Features of images, computed once."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from stages.evaluate.cache import ArrayCache

CHUNK = 1000  # images a file: a minute's work


class CachedFeatures:
    """Features of images, kept on disk under a hash of the images and of what computes them.

    Chunks of images are files of their own, so that a run that was stopped goes on where it was, and real images are
    computed once for all models.

    Args:
        compute: features [B, D] of uint8 images [B, C, H, W].
        identity: says what computes them: the hash of its weights, and its settings.
        batch_size: images at once.
        folder: of the cache, see `ArrayCache`.
        device: where to compute.

    Attributes:
        computed: images computed so far, not found in the cache.
        seconds: what that took.
    """

    def __init__(
        self, compute: Callable[[Tensor], Tensor], identity: str, batch_size: int, folder: Path, device: str
    ) -> None:
        self.compute, self.identity, self.batch_size = compute, identity, batch_size
        self.cache, self.device = ArrayCache(folder), device
        self.computed, self.seconds = 0, 0.0

    def __call__(self, images: Tensor, title: str) -> Tensor:
        """Features [N, D] of uint8 images [N, C, H, W], on the CPU; `title` is the progress bar's."""
        with tqdm(total=len(images), desc=title, unit="image") as bar:
            return torch.cat([self._chunk(chunk, bar) for chunk in images.split(CHUNK)])

    def _chunk(self, images: Tensor, bar: tqdm) -> Tensor:
        """Features of one chunk, from the cache or into it."""
        described = f"{self.identity} {tuple(images.shape)} ".encode()
        name = hashlib.sha256(described + images.numpy().tobytes()).hexdigest()
        kept = self.cache.load(name)
        if kept is not None:
            bar.update(len(images))
            return torch.from_numpy(kept)
        started = time.monotonic()
        rows = []
        for batch in images.split(self.batch_size):
            rows.append(self.compute(batch.to(self.device)).cpu())
            bar.update(len(batch))
        features = torch.cat(rows)
        self.cache.save(name, features.numpy())
        self.computed += len(images)
        self.seconds += time.monotonic() - started
        return features

"""CelebA: cropped and resized once into a file, of which only the rows that are asked for are in memory."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.datasets import CelebA
from torchvision.transforms.functional import center_crop

from spiking_vq.data.image_data import ImageData, Progress
from spiking_vq.data.mapped import MappedImages, kept, write_rows
from spiking_vq.data.official import Split
from spiking_vq.data.pictures import Wanted, fitted, read_picture
from spiking_vq.errors import InputError

CROP = 148
"""Side in pixels of the middle of the aligned images, 178 x 218, that is resized."""

SIZE = 64
"""Side in pixels of the images, unless another is asked for."""

SPLITS = {"train": "train", "val": "valid", "test": "test"}
"""Our name of a split -> torchvision's."""

_BATCH = 256


class CelebAData(ImageData):
    """CelebA in torchvision's layout and splits, without labels: the middle 148 x 148 pixels, resized.

    The crop is the usual one of generative models of 64 x 64 faces; a published FID with another is not comparable.

    Args:
        root: folder of torchvision's data sets.
        image_size: side in pixels; None takes `SIZE`.
        progress: as of `load_dataset`.

    Reference: Liu et al., Deep Learning Face Attributes in the Wild, ICCV 2015.
    """

    name, num_classes = "celeba", 1

    def __init__(self, root: Path, image_size: int | None, progress: Progress | None = None) -> None:
        self.root, self._size, self._progress = root, image_size or SIZE, progress
        self.official_shape = (3, self._size, self._size)

    @cached_property
    def splits(self) -> dict[str, Split]:
        """See `ImageData`."""
        folder = self.root / "own" / f"celeba-{CROP}-{self._size}"
        counts = kept(folder, self._build)
        splits, first = {}, 0
        for split in SPLITS:
            images = MappedImages(folder / "images.npy", np.arange(first, first + counts[split]))
            splits[split] = Split(images, torch.zeros(counts[split], dtype=torch.int64))
            first += counts[split]
        return splits

    def _build(self, folder: Path) -> dict[str, int]:
        """Read all images into a folder; returns the number of each split."""
        found = {split: self._open(theirs).filename for split, theirs in SPLITS.items()}
        folder_of_images = self.root / CelebA.base_folder / "img_align_celeba"
        files = [folder_of_images / name for names in found.values() for name in names]
        batches = self._read(files)
        write_rows(folder / "images.npy", self._progress(batches, len(files), "CelebA") if self._progress else batches)
        return {split: len(names) for split, names in found.items()}

    def _read(self, files: list[Path]) -> Iterator[Tensor]:
        def read(file: Path) -> Tensor:
            try:
                return fitted(center_crop(read_picture(file, 3), CROP), Wanted(self._size))
            except OSError as error:
                raise InputError(f"celeba: {file} is damaged ({error}): put torchvision's file in its place") from error

        with ThreadPoolExecutor() as pool:
            for start in range(0, len(files), _BATCH):
                yield torch.stack(list(pool.map(read, files[start : start + _BATCH])))

    def _open(self, split: str) -> CelebA:
        reasons = []
        for download in (False, True):
            try:
                return CelebA(self.root, split, download=download)
            except Exception as error:  # bad files and failed downloads make torchvision raise anything
                reasons.append(" ".join(str(error).split()) or type(error).__name__)
        raise InputError(
            f"celeba in {self.root / CelebA.base_folder}: not found or damaged, and not downloaded ({reasons[-1]}).\n"
            "Do one of: run again with a network connection and the package gdown, with which torchvision downloads"
            " them; put torchvision's files there; or choose data=digits, which needs neither."
        )

"""What every data set has in common: its splits, shape and labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from spiking_vq.data.official import Split

Progress = Callable[[Iterator[Tensor], int, str], Iterator[Tensor]]
"""Function of batches, the number of images in all and a title, that yields the batches and shows progress."""

_COUNTED = 256  # images whose levels are counted at once


class ImageData:
    """A data set, each split read when first used. `load_dataset` makes it.

    Attributes:
        name: of run folders and reports.
        root: folder of the data sets.
        num_classes: number of labels that the data set defines, present in its files or not; 1 without labels.
        stand_in: a remark for reports on files that are not the official ones; else None.
        splits: `train`, `val` and `test`.
        official_shape: (C, H, W) of the images as the data set defines them; known before they are read, but for own
            data sets.
    """

    name: str
    root: Path
    num_classes: int
    stand_in: str | None = None

    splits: dict[str, Split]
    official_shape: tuple[int, int, int]

    @property
    def train(self) -> Split:
        """The training split, in random order."""
        return self.splits["train"]

    @property
    def val(self) -> Split:
        """The validation split, in random order."""
        return self.splits["val"]

    @property
    def test(self) -> Split:
        """The test split."""
        return self.splits["test"]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        return tuple(self.train.images.shape[1:])

    @property
    def labelled(self) -> bool:
        """Whether there are labels to tell apart."""
        return self.num_classes > 1

    @cached_property
    def variance(self) -> float:
        """Population variance of all pixels of `train` in [0, 1], computed in float64."""
        # a sum over the 256 levels: exact, and no float copy of the data set
        counts = sum(
            torch.bincount(images.flatten(), minlength=256) for images in self.train.images.split(_COUNTED)
        ).double()
        levels = torch.linspace(0, 1, 256, dtype=torch.float64, device="cpu")
        weights = counts / counts.sum()
        mean = (weights * levels).sum()
        return (weights * (levels - mean).square()).sum().item()


def rows_of(split: Split, rows: Tensor) -> Split:
    """Some rows of a split."""
    return Split(split.images[rows], split.labels[rows])

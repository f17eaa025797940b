"""The image data sets."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from spiking_vq.data.levels import resize, resize_images
from spiking_vq.data.official import NUM_CLASSES, TORCHVISION, Split, read_half
from spiking_vq.data.stream import shuffled
from spiking_vq.errors import InputError
from spiking_vq.files import read_path

DATASETS = (*TORCHVISION, "digits")

# Images in the official training and test files.
_OFFICIAL = {
    "mnist": (60_000, 10_000),
    "fmnist": (60_000, 10_000),
    "kmnist": (60_000, 10_000),
    "letters": (124_800, 20_800),
    "cifar10": (50_000, 10_000),
}

SPLIT_SEED = 0  # decides which images validate, and for digits which ones test; no training run changes it

_GREY_SIZE = 28  # pixels, of a side; that of MNIST's family, and what digits are resized to


class ImageData:
    """One data set in memory, each split read when first asked for; `load_dataset` makes it.

    Attributes:
        name: One of `DATASETS`.
        root: The folder that holds torchvision's data sets.
        num_classes: How many labels the data set defines, present in its files or not.
        official_shape: (C, H, W) of the official images, resized as asked for; known without reading any.
    """

    def __init__(self, name: str, root: Path, image_size: int | None) -> None:
        """Remember what to read; see `load_dataset`."""
        self.name = name
        self.root = root
        self.num_classes = NUM_CLASSES.get(name, 10)
        channels, size = (3, 32) if name == "cifar10" else (1, _GREY_SIZE)
        self.official_shape = (channels, image_size or size, image_size or size)
        self._image_size = image_size

    @property
    def train(self) -> Split:
        """The images to learn from: what validation leaves of the training files, in shuffled order."""
        return self._train_and_val[0]

    @property
    def val(self) -> Split:
        """A fixed tenth of the training files, in shuffled order; for digits a stratified tenth of all images."""
        return self._train_and_val[1]

    @cached_property
    def test(self) -> Split:
        """The test files, in their own order, which may be by label; for digits a stratified tenth of all images."""
        if self.name == "digits":
            return _read_digits(self._image_size)[2]
        return self._resized(read_half(self.name, self.root, train=False))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width (C, H, W) of every image."""
        return tuple(self.train.images.shape[1:])

    @property
    def stand_in(self) -> str | None:
        """What to say of files that are not the official ones, judged by their counts; None if nothing."""
        found = len(self.train.images) + len(self.val.images), len(self.test.images)
        official = _OFFICIAL.get(self.name, found)
        if found == official:
            return None
        return (
            f"a stand-in of {found[0]:,} training and {found[1]:,} test images, officially {official[0]:,} and"
            f" {official[1]:,}: not comparable with published figures"
        )

    @cached_property
    def variance(self) -> float:
        """Population variance of all pixel values in `train`, in [0, 1]; float64 throughout."""
        # A sum over the 256 levels: exact, and no float copy of the data set.
        counts = torch.bincount(self.train.images.flatten(), minlength=256).double()
        levels = torch.linspace(0, 1, 256, dtype=torch.float64, device="cpu")
        weights = counts / counts.sum()
        mean = (weights * levels).sum()
        return (weights * (levels - mean).square()).sum().item()

    @cached_property
    def _train_and_val(self) -> tuple[Split, Split]:
        if self.name == "digits":
            return _read_digits(self._image_size)[:2]
        whole = self._resized(read_half(self.name, self.root, train=True))
        order = shuffled(len(whole.labels), SPLIT_SEED)
        num_val = len(order) // 10
        return _rows(whole, order[num_val:]), _rows(whole, order[:num_val])

    def _resized(self, split: Split) -> Split:
        if self._image_size is None:
            return split
        return Split(resize_images(split.images, (self._image_size, self._image_size)), split.labels)


def load_dataset(name: str, root: str | Path, image_size: int | None = None) -> ImageData:
    """Name a data set; nothing is read before one of its splits is asked for.

    Args:
        name: One of `DATASETS`.
        root: Folder with torchvision's data sets in torchvision's own layout. What is missing there is unpacked from
            the official archives or downloaded into it, once, when first asked for; where it cannot be written to, the
            archives are unpacked elsewhere each time. `digits` comes with scikit-learn and ignores it.
        image_size: Side in pixels of the square that images are resized to, bilinear and antialiased; at least 1.
            None keeps the size of the data, which for digits is 28: its 8x8 images are resized to 28x28.

    Returns:
        The data set. Reading a split raises `InputError` when its files are missing or damaged.

    Raises:
        InputError: An unknown name, or an image size below 1.
    """
    if name not in DATASETS:
        raise InputError(f"unknown data set {name!r}: choose one of {', '.join(DATASETS)}")
    if image_size is not None and image_size < 1:
        raise InputError(f"image_size must be at least 1 pixel, got {image_size}")
    return ImageData(name, read_path("root", root), image_size)


def _rows(split: Split, rows: Tensor) -> Split:
    return Split(split.images[rows], split.labels[rows])


def _read_digits(image_size: int | None) -> tuple[Split, Split, Split]:
    """Read scikit-learn's handwritten digits as stratified training, validation and test splits of 80/10/10 percent."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    # From their 17 levels straight to the final size: rounding to 256 levels happens once, after the resize.
    size = image_size or _GREY_SIZE
    images = resize(torch.from_numpy(digits.images).float().unsqueeze(1) / 16, (size, size))
    labels = torch.from_numpy(digits.target).long()

    def cut(rows: np.ndarray, num_out: int) -> list[np.ndarray]:
        return train_test_split(rows, test_size=num_out, stratify=digits.target[rows], random_state=SPLIT_SEED)

    tenth = round(len(labels) / 10)
    rest, test = cut(np.arange(len(labels)), tenth)
    train, val = cut(rest, tenth)
    whole = Split(images, labels)
    return tuple(_rows(whole, torch.from_numpy(rows)) for rows in (train, val, test))

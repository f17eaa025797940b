"""The image data sets: their splits, shapes and labels."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from spiking_vq.data.celeba import CelebAData
from spiking_vq.data.image_data import ImageData, Progress, rows_of
from spiking_vq.data.levels import resize, resize_images
from spiking_vq.data.official import NUM_CLASSES, TORCHVISION, Split, read_half
from spiking_vq.data.own import OwnData, is_own_name, register
from spiking_vq.data.pictures import Wanted
from spiking_vq.errors import InputError
from spiking_vq.files import read_path
from spiking_vq.randomness import permutation

DATASETS = (*TORCHVISION, "celeba", "digits")

CHOICES = f"one of {', '.join(DATASETS)}, or the path of a folder of images or of an .npz file"
"""What names a data set, for messages."""

TITLES = {
    "mnist": "MNIST",
    "fmnist": "FashionMNIST",
    "kmnist": "KMNIST",
    "letters": "EMNIST Letters",
    "cifar10": "CIFAR-10",
    "celeba": "CelebA",
}
"""Data set -> its name in documents, in the order of tables."""

# Number of images in the official training and test files.
_OFFICIAL = {
    "mnist": (60_000, 10_000),
    "fmnist": (60_000, 10_000),
    "kmnist": (60_000, 10_000),
    "letters": (124_800, 20_800),
    "cifar10": (50_000, 10_000),
}

SPLIT_SEED = 0  # decides which images are for validation, and for digits which are for testing; no run changes it

_GREY_SIZE = 28  # side in pixels of the MNIST family, to which digits are resized too


class NamedData(ImageData):
    """One of torchvision's data sets, or `digits`, in memory.

    Attributes:
        official_shape: (C, H, W) of the official images, after resizing; known without reading any.
    """

    def __init__(self, name: str, root: Path, image_size: int | None) -> None:
        self.name, self.root, self.num_classes = name, root, NUM_CLASSES.get(name, 10)
        channels, size = (3, 32) if name == "cifar10" else (1, _GREY_SIZE)
        self.official_shape = (channels, image_size or size, image_size or size)
        self._image_size = image_size

    @property
    def train(self) -> Split:
        """The training split: nine tenths of the training files, in shuffled order; for digits the rest of all."""
        return self._train_and_val[0]

    @property
    def val(self) -> Split:
        """The validation split: a fixed tenth of the training files, in shuffled order; for digits as `test`."""
        return self._train_and_val[1]

    @cached_property
    def test(self) -> Split:
        """The test split: the test files, in their order; for digits a stratified tenth of all images."""
        if self.name == "digits":
            return _read_digits(self._image_size)[2]
        return self._resized(read_half(self.name, self.root, train=False))

    @property
    def stand_in(self) -> str | None:
        """A remark for reports on files that are not the official ones, judged by their counts; else None."""
        counts = len(self.train.images) + len(self.val.images), len(self.test.images)
        official = _OFFICIAL.get(self.name, counts)
        if counts == official:
            return None
        return (
            f"a stand-in of {counts[0]:,} training and {counts[1]:,} test images, officially {official[0]:,} and"
            f" {official[1]:,}: not comparable with published figures"
        )

    @cached_property
    def _train_and_val(self) -> tuple[Split, Split]:
        if self.name == "digits":
            return _read_digits(self._image_size)[:2]
        whole = self._resized(read_half(self.name, self.root, train=True))
        order = permutation(len(whole.labels), torch.Generator().manual_seed(SPLIT_SEED))
        num_val = len(order) // 10
        return rows_of(whole, order[num_val:]), rows_of(whole, order[:num_val])

    def _resized(self, split: Split) -> Split:
        if self._image_size is None:
            return split
        return Split(resize_images(split.images, (self._image_size, self._image_size)), split.labels)


def load_dataset(
    name: str,
    root: str | Path,
    image_size: int | None = None,
    *,
    channels: int | None = None,
    resize: str = "crop",
    background: str = "black",
    skip_broken: bool = False,
    progress: Progress | None = None,
) -> ImageData:
    """The data set of a name. Nothing is read before one of its splits is used.

    Args:
        name: one of `DATASETS`; or an own data set, by the path of a folder of pictures or of an `.npz` file, or by the
            name that it has in `root` (see `spiking_vq.data.own`).
        root: folder of the data sets, in torchvision's layout. Missing files are unpacked from the official archives or
            downloaded into it, once, when first used; if it is not writable, the archives are unpacked elsewhere each
            time. `digits` comes with scikit-learn and ignores it. Own data sets are read into it, once.
        image_size: side in pixels of the square to which images are resized, bilinear and antialiased; at least 1.
            None (default) keeps the size of the data; the 8x8 images of digits are then resized to 28x28, the middle
            of CelebA's to 64x64.
        channels, resize, background, skip_broken: of an own data set, see `spiking_vq.data.pictures.Wanted`.
        progress: shows the reading of an own data set; None (default) shows nothing.

    Returns:
        The data set. Reading a split raises `InputError` when its files are missing or damaged.

    Raises:
        InputError: an unknown name, an option out of range, or one that only own data sets have.
    """
    wanted = Wanted(image_size, channels, resize, background, skip_broken).checked()
    root = read_path("root", root)
    if name not in DATASETS:
        if is_path(name):
            name = register(name, root)
        if not is_own_name(name):
            raise InputError(f"unknown data set {name!r}: choose {CHOICES}")
        return OwnData(name, root, wanted, progress)
    own = [field for field, value in Wanted()._asdict().items() if getattr(wanted, field) != value]
    if foreign := [field for field in own if field != "image_size"]:
        raise InputError(f"{', '.join(foreign)}: only for a folder of images or an .npz file, not for {name}")
    return CelebAData(root, image_size, progress) if name == "celeba" else NamedData(name, root, image_size)


def is_path(word: str) -> bool:
    """Whether a word names an own data set by its path, not by its name."""
    if word in DATASETS:
        return False
    looks_like_one = "/" in word or "\\" in word or word.startswith((".", "~")) or word.endswith(".npz")
    return looks_like_one or Path(word).is_dir()


def _read_digits(image_size: int | None) -> tuple[Split, Split, Split]:
    """Training, validation and test splits of scikit-learn's handwritten digits, stratified, 80/10/10 percent."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    # from their 17 levels straight to the final size, so that rounding to 256 levels happens once
    size = image_size or _GREY_SIZE
    images = resize(torch.from_numpy(digits.images).float().unsqueeze(1) / 16, (size, size))
    labels = torch.from_numpy(digits.target).long()

    def cut(rows: np.ndarray, num_out: int) -> list[np.ndarray]:
        return train_test_split(rows, test_size=num_out, stratify=digits.target[rows], random_state=SPLIT_SEED)

    tenth = round(len(labels) / 10)
    rest, test = cut(np.arange(len(labels)), tenth)
    train, val = cut(rest, tenth)
    whole = Split(images, labels)
    return tuple(rows_of(whole, torch.from_numpy(rows)) for rows in (train, val, test))

"""Reading, unpacking and downloading the official files of the data sets."""

from __future__ import annotations

import gzip
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, NamedTuple

import torch
from torch import Tensor
from torchvision.datasets import CIFAR10, EMNIST, KMNIST, MNIST, FashionMNIST, VisionDataset

from spiking_vq.errors import InputError

TORCHVISION = {"mnist": MNIST, "fmnist": FashionMNIST, "kmnist": KMNIST, "letters": EMNIST, "cifar10": CIFAR10}

# a table, because the files of a stand-in may lack some of the classes
NUM_CLASSES = dict.fromkeys(TORCHVISION, 10) | {"letters": 26}

_EMNIST_ARCHIVE = "gzip.zip"


class Split(NamedTuple):
    """Images with their labels.

    Attributes:
        images: uint8 [N, C, H, W].
        labels: int64 [N], each in 0..num_classes-1.
    """

    images: Tensor
    labels: Tensor


def read_half(name: str, root: Path, train: bool) -> Split:
    """Read the training or the test files of a torchvision data set, unpacked or downloaded if necessary.

    Raises:
        InputError: files are missing and cannot be had, or are damaged; the message says what to do.
    """
    files = _files(name, root, train)
    attempts = {
        "files": lambda: _open_half(name, root, train, download=False),
        "download": lambda: _open_half(name, root, train, download=True),  # unpacks archives that are there already
        "archives": lambda: _open_archives(name, root, train),
    }
    errors = {}
    for attempt, open_half in attempts.items():
        try:
            return _as_split(name, open_half())
        except Exception as error:  # bad files make torchvision's parsers raise anything: assertions, pickle errors
            errors[attempt] = error

    missing = [file.name for file in files if not file.is_file()]
    archives = [archive.name for archive in _archives(name, root, train)]
    if missing and archives:
        cause, problem = errors["archives"], f"{', '.join(missing)} cannot be unpacked from {' or '.join(archives)}"
        remedy = "delete the archives and run again with a network connection; put torchvision's in their place"
    elif missing:
        cause, problem = errors["download"], f"not found and not downloaded: {', '.join(missing)}"
        remedy = "run again with a network connection and torchvision downloads them; put torchvision's files there"
    else:
        cause, problem = errors["files"], f"damaged: {' or '.join(file.name for file in files)}"
        remedy = "delete them and run again with a network connection; put torchvision's files in their place"
    reason = " ".join(str(cause).split()) or type(cause).__name__
    raise InputError(
        f"{name} in {files[0].parent}: {problem} ({reason}).\n"
        f"Do one of: {remedy}; or choose data=digits, which needs neither."
    ) from cause


def _open_archives(name: str, root: Path, train: bool) -> VisionDataset:
    """Open a half from its archives, unpacked into a temporary folder, as their own may not be writable."""
    with tempfile.TemporaryDirectory() as folder:
        for target in _files(name, Path(folder), train):
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as unpacked, _unpacked(name, root, target.name) as packed:
                shutil.copyfileobj(packed, unpacked)
        return _open_half(name, Path(folder), train, download=False)


def _archives(name: str, root: Path, train: bool) -> list[Path]:
    """Existing official archives that may hold the files of a half."""
    if name == "cifar10":
        candidates = [root / CIFAR10.filename]
    else:
        files = _files(name, root, train)
        candidates = [file.with_name(f"{file.name}.gz") for file in files]
        candidates += [files[0].with_name(_EMNIST_ARCHIVE)] if name == "letters" else []
    return [archive for archive in candidates if archive.is_file()]


@contextmanager
def _unpacked(name: str, root: Path, file: str) -> Iterator[IO[bytes]]:
    """Open one file of a data set inside its archive."""
    with ExitStack() as stack:
        if name == "cifar10":
            archive = stack.enter_context(tarfile.open(root / CIFAR10.filename))
            yield stack.enter_context(archive.extractfile(f"{CIFAR10.base_folder}/{file}"))
            return
        folder = root / TORCHVISION[name].__name__ / "raw"
        packed = folder / f"{file}.gz"
        if name == "letters" and not packed.is_file():
            archive = stack.enter_context(zipfile.ZipFile(folder / _EMNIST_ARCHIVE))
            packed = stack.enter_context(archive.open(f"gzip/{file}.gz"))
        yield stack.enter_context(gzip.open(packed))


def _open_half(name: str, root: Path, train: bool, download: bool) -> VisionDataset:
    """Open the training or the test half of a torchvision data set without the files of the other half."""
    whole = TORCHVISION[name]
    # torchvision looks for both halves, and hashes both of CIFAR-10, to open either, unless its class knows only one
    if name == "cifar10":
        narrowed = {"test_list" if train else "train_list": []}
    else:
        narrowed = {"resources": whole.resources[:2] if train else whole.resources[2:]}
    half = type(whole.__name__, (whole,), narrowed)  # the same name, since the MNIST family derives its folder from it
    options = {"split": "letters"} if name == "letters" else {}
    return half(root, train=train, download=download, **options)


def _files(name: str, root: Path, train: bool) -> list[Path]:
    """Files from which torchvision reads the training or the test half."""
    if name == "cifar10":
        batches = CIFAR10.train_list if train else CIFAR10.test_list
        return [root / CIFAR10.base_folder / file for file in ["batches.meta", *(batch for batch, _ in batches)]]
    folder = root / TORCHVISION[name].__name__ / "raw"
    if name == "letters":
        prefix = "emnist-letters-train" if train else "emnist-letters-test"
    else:
        prefix = "train" if train else "t10k"
    return [folder / f"{prefix}-images-idx3-ubyte", folder / f"{prefix}-labels-idx1-ubyte"]


def _as_split(name: str, half: VisionDataset) -> Split:
    """Bring torchvision's images and labels into one form, and check that they belong together."""
    images, labels = (torch.as_tensor(part, device="cpu") for part in (half.data, half.targets))
    images = images.permute(0, 3, 1, 2) if name == "cifar10" else images.unsqueeze(1)
    if name == "letters":  # stored transposed, and labelled from 1
        images, labels = images.mT, labels - 1
    if len(images) != len(labels) or len(labels) == 0:
        raise ValueError(f"{len(images)} images and {len(labels)} labels")
    if not 0 <= labels.min() <= labels.max() < NUM_CLASSES[name]:
        raise ValueError(f"labels outside the {NUM_CLASSES[name]} classes")
    return Split(images.contiguous(), labels)

"""The image data sets, and the order in which training sees their images."""

import gzip
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.datasets import CIFAR10, EMNIST, KMNIST, MNIST, FashionMNIST, VisionDataset

from spiking_vq.errors import InputError, described, require
from spiking_vq.randomness import mix_seed, permutation
from spiking_vq.values import read_path

_TORCHVISION = {"mnist": MNIST, "fmnist": FashionMNIST, "kmnist": KMNIST, "letters": EMNIST, "cifar10": CIFAR10}
DATASETS = (*_TORCHVISION, "digits")
# A table, because a stand-in may lack some of the classes.
_NUM_CLASSES = dict.fromkeys(DATASETS, 10) | {"letters": 26}

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
_EMNIST_ARCHIVE = "gzip.zip"
_RESIZE_CHUNK = 4096  # images that exist as floats at once while a whole set is resized


class Split(NamedTuple):
    """Images with their labels.

    Attributes:
        images: uint8 [N, C, H, W].
        labels: int64 [N], each in 0..num_classes-1.
    """

    images: Tensor
    labels: Tensor


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
        self.num_classes = _NUM_CLASSES[name]
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
        return self._resized(_read_half(self.name, self.root, train=False))

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
        whole = self._resized(_read_half(self.name, self.root, train=True))
        order = _shuffled(len(whole.labels), SPLIT_SEED)
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


def to_unit(images: Tensor) -> Tensor:
    """Map pixel levels 0..255 to [0, 1].

    Args:
        images: uint8, any shape.

    Returns:
        float32 in [0, 1], same shape.

    Raises:
        InputError: The images are not a uint8 tensor.
    """
    _require_uint8(images)
    return images.float() / 255


def to_uint8(images: Tensor) -> Tensor:
    """Map [0, 1] to the nearest pixel level 0..255, clamping what lies outside; undoes `to_unit` exactly.

    Args:
        images: Floating point, any shape.

    Returns:
        uint8, same shape.

    Raises:
        InputError: The images are not a floating-point tensor.
    """
    if not isinstance(images, Tensor):
        raise _not_a_tensor("floating-point images in [0, 1]", images)
    if not images.is_floating_point():
        raise InputError(
            f"expected floating-point images in [0, 1], got {images.dtype} {list(images.shape)}:"
            " divide levels 0..255 by 255, as to_unit does"
        )
    return (images.float() * 255).round().clamp(0, 255).to(torch.uint8)


def resize_images(images: Tensor, size: Sequence[int]) -> Tensor:
    """Resize images, bilinear and antialiased; those of this size already come back as they are.

    Args:
        images: uint8 [N, C, H, W].
        size: (height, width) in pixels.

    Returns:
        uint8 [N, C, height, width].

    Raises:
        InputError: The images are not a uint8 tensor of this rank.
    """
    _require_uint8(images)
    require(images.dim() == 4, "images", "of shape [N, C, H, W]", described(images))
    if tuple(images.shape[2:]) == tuple(size):
        return images
    return torch.cat([_resize(to_unit(chunk), size) for chunk in images.split(_RESIZE_CHUNK)])


def _require_uint8(images: object) -> None:
    """Raise `InputError` unless the images are a uint8 tensor."""
    if not isinstance(images, Tensor):
        raise _not_a_tensor("uint8 images", images)
    if images.dtype != torch.uint8:
        way = "to_uint8 makes them of images in [0, 1]" if images.is_floating_point() else "images.to(torch.uint8)"
        raise InputError(f"expected uint8 images, got {images.dtype} {list(images.shape)}: {way}")


def _not_a_tensor(expected: str, images: object) -> InputError:
    return InputError(
        f"expected {expected} as a torch tensor, got {described(images)}:"
        " spiking_vq.images.as_uint8_images takes NumPy arrays and PIL images, torch.from_numpy arrays"
    )


class BatchStream:
    """The batches of a whole training run, in an order that depends on the seed and the epoch only.

    Every epoch is a fresh permutation of the rows, cut into batches; the rows that do not fill a last batch are
    dropped. The stream keeps its own place: `iter` continues after the last batch handed out, however often it is
    called, and starts again at 0 once all have been. A run resumed through `load_state_dict` sees exactly the batches
    that an unbroken one sees.
    """

    def __init__(self, tensors: tuple[Tensor, ...], batch_size: int, num_batches: int, seed: int) -> None:
        """Stand before the first batch.

        Args:
            tensors: One or more tensors with one length N; a batch takes the same rows of each.
            batch_size: Rows a batch, 1..N.
            num_batches: Batches in the whole run, over all its epochs.
            seed: Decides, together with the epoch, the order of the rows.

        Raises:
            InputError: The tensors differ in length, or the batch size is not in 1..N.
        """
        lengths = [len(tensor) for tensor in tensors]
        if len(set(lengths)) != 1:
            raise InputError(f"expected tensors with one number of rows, got {lengths}")
        if not 1 <= batch_size <= lengths[0]:
            raise InputError(f"batch_size must lie in 1..{lengths[0]}, the number of rows, got {batch_size}")
        self.tensors = tensors
        self.batch_size = batch_size
        self.num_batches = num_batches
        self.seed = seed
        self._served = 0

    @property
    def batches_per_epoch(self) -> int:
        """Full batches in one pass over the rows."""
        return len(self.tensors[0]) // self.batch_size

    def __len__(self) -> int:
        """Count the batches of the whole run."""
        return self.num_batches

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        """Yield the batches not yet handed out."""
        # Nothing here runs before the first `next`, so that an iterator nobody draws from changes nothing. The place
        # is read anew for every batch, so that a state loaded meanwhile counts.
        if self._served == self.num_batches:
            self._served = 0
        drawn_epoch = None
        while self._served < self.num_batches:
            epoch, position = divmod(self._served, self.batches_per_epoch)
            if epoch != drawn_epoch:
                order = _shuffled(len(self.tensors[0]), mix_seed(self.seed, epoch))
                drawn_epoch = epoch
            self._served += 1
            rows = order[position * self.batch_size :][: self.batch_size]
            yield tuple(tensor[rows] for tensor in self.tensors)

    def state_dict(self) -> dict[str, int]:
        """Say how many batches have been handed out; one counts as soon as it is yielded."""
        return {"served": self._served}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue after the batches that another run of the same stream had handed out.

        Args:
            state: What `state_dict` returned.

        Raises:
            InputError: That run is already longer than this one.
        """
        if not 0 <= state["served"] <= self.num_batches:
            raise InputError(
                f"cannot resume after {state['served']} batches a run of {self.num_batches}: ask for a longer run"
            )
        self._served = state["served"]


def _shuffled(count: int, seed: int) -> Tensor:
    """Permute 0..count-1 without touching the global random state."""
    return permutation(count, torch.Generator().manual_seed(seed))


def _rows(split: Split, rows: Tensor) -> Split:
    return Split(split.images[rows], split.labels[rows])


def _resize(images: Tensor, size: Sequence[int]) -> Tensor:
    """Resize float images in [0, 1], [N, C, H, W], to uint8 ones of a height and width."""
    return to_uint8(F.interpolate(images, tuple(size), mode="bilinear", antialias=True))


def _read_digits(image_size: int | None) -> tuple[Split, Split, Split]:
    """Read scikit-learn's handwritten digits as stratified training, validation and test splits of 80/10/10 percent."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    # From their 17 levels straight to the final size: rounding to 256 levels happens once, after the resize.
    size = image_size or _GREY_SIZE
    images = _resize(torch.from_numpy(digits.images).float().unsqueeze(1) / 16, (size, size))
    labels = torch.from_numpy(digits.target).long()

    def cut(rows: np.ndarray, num_out: int) -> list[np.ndarray]:
        return train_test_split(rows, test_size=num_out, stratify=digits.target[rows], random_state=SPLIT_SEED)

    tenth = round(len(labels) / 10)
    rest, test = cut(np.arange(len(labels)), tenth)
    train, val = cut(rest, tenth)
    whole = Split(images, labels)
    return tuple(_rows(whole, torch.from_numpy(rows)) for rows in (train, val, test))


def _read_half(name: str, root: Path, train: bool) -> Split:
    """Read the training or the test files of a torchvision data set, unpacking or downloading them if need be."""
    files = _files(name, root, train)
    attempts = {
        "files": lambda: _open_half(name, root, train, download=False),
        # Unpacks the archives next to them, and fetches those that are missing.
        "download": lambda: _open_half(name, root, train, download=True),
        "archives": lambda: _open_archives(name, root, train),
    }
    errors = {}
    for attempt, open_half in attempts.items():
        try:
            return _as_split(name, open_half())
        # A bad file surfaces as whatever torchvision's parsers stumble over: assertions, key errors, pickle errors.
        except Exception as error:
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
        f"Do one of: {remedy}; or use DATA=digits, which needs neither."
    ) from cause


def _open_archives(name: str, root: Path, train: bool) -> VisionDataset:
    """Open a half from its archives, unpacked for as long as it is read: its folder may be one that none may write."""
    with tempfile.TemporaryDirectory() as folder:
        for target in _files(name, Path(folder), train):
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as unpacked, _unpacked(name, root, target.name) as packed:
                shutil.copyfileobj(packed, unpacked)
        return _open_half(name, Path(folder), train, download=False)


def _archives(name: str, root: Path, train: bool) -> list[Path]:
    """List the official archives that are there and may hold a half's files."""
    if name == "cifar10":
        candidates = [root / CIFAR10.filename]
    else:
        files = _files(name, root, train)
        candidates = [file.with_name(f"{file.name}.gz") for file in files]
        candidates += [files[0].with_name(_EMNIST_ARCHIVE)] if name == "letters" else []
    return [archive for archive in candidates if archive.is_file()]


@contextmanager
def _unpacked(name: str, root: Path, file: str) -> Iterator[IO[bytes]]:
    """Open one file of a data set in the archive that holds it."""
    with ExitStack() as stack:
        if name == "cifar10":
            archive = stack.enter_context(tarfile.open(root / CIFAR10.filename))
            yield stack.enter_context(archive.extractfile(f"{CIFAR10.base_folder}/{file}"))
            return
        folder = root / _TORCHVISION[name].__name__ / "raw"
        packed = folder / f"{file}.gz"
        if name == "letters" and not packed.is_file():
            archive = stack.enter_context(zipfile.ZipFile(folder / _EMNIST_ARCHIVE))
            packed = stack.enter_context(archive.open(f"gzip/{file}.gz"))
        yield stack.enter_context(gzip.open(packed))


def _open_half(name: str, root: Path, train: bool, download: bool) -> VisionDataset:
    """Open the training or the test half of a torchvision data set without the files of the other half."""
    whole = _TORCHVISION[name]
    # torchvision looks for both halves, and hashes both of CIFAR-10, to open either: let its class know of one only.
    if name == "cifar10":
        narrowed = {"test_list" if train else "train_list": []}
    else:
        narrowed = {"resources": whole.resources[:2] if train else whole.resources[2:]}
    half = type(whole.__name__, (whole,), narrowed)  # the same name, since the MNIST family derives its folder from it
    options = {"split": "letters"} if name == "letters" else {}
    return half(root, train=train, download=download, **options)


def _files(name: str, root: Path, train: bool) -> list[Path]:
    """List the files that torchvision reads the training or the test half from."""
    if name == "cifar10":
        batches = CIFAR10.train_list if train else CIFAR10.test_list
        return [root / CIFAR10.base_folder / file for file in ["batches.meta", *(batch for batch, _ in batches)]]
    folder = root / _TORCHVISION[name].__name__ / "raw"
    if name == "letters":
        prefix = "emnist-letters-train" if train else "emnist-letters-test"
    else:
        prefix = "train" if train else "t10k"
    return [folder / f"{prefix}-images-idx3-ubyte", folder / f"{prefix}-labels-idx1-ubyte"]


def _as_split(name: str, half: VisionDataset) -> Split:
    """Bring what torchvision read into one form, and check that images and labels belong together."""
    images, labels = (torch.as_tensor(part, device="cpu") for part in (half.data, half.targets))
    if name == "cifar10":
        images = images.permute(0, 3, 1, 2)
    else:
        images = images.unsqueeze(1)
    if name == "letters":  # stored transposed, and labelled from 1
        images, labels = images.mT, labels - 1
    if len(images) != len(labels) or len(labels) == 0:
        raise ValueError(f"{len(images)} images and {len(labels)} labels")
    if not 0 <= labels.min() <= labels.max() < _NUM_CLASSES[name]:
        raise ValueError(f"labels outside the {_NUM_CLASSES[name]} classes")
    return Split(images.contiguous(), labels)

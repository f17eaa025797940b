"""Sources of a user's images: a folder of pictures, or an `.npz` file. Both are read in one pass, in batches."""

from __future__ import annotations

import hashlib
import os
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from spiking_vq.data.listing import SPELLINGS, divided, list_pictures
from spiking_vq.data.pictures import Wanted, colour_of, fitted, has_colour, read_picture, with_channels
from spiking_vq.errors import InputError

BATCH = 256
"""Pictures that are decoded at once."""

_LOOKED_AT = 1000  # files whose kind decides the number of channels
_NAMED = 5  # broken files that a message names


class Contents(NamedTuple):
    """What a source holds, before its images are read.

    Attributes:
        labels: int64 [N].
        classes: names of the labels; none where there are no labels.
        splits: split -> rows int64 [n] of its images.
        remarks: sentences for the user.
    """

    labels: np.ndarray
    classes: list[str]
    splits: dict[str, np.ndarray]
    remarks: list[str]


class PictureFolder:
    """A folder of pictures; see `spiking_vq.data.listing`.

    Args:
        path: of the folder.

    Attributes:
        contents: labels and splits of the pictures.
        broken: rows of the pictures that could not be read, known when `batches` has ended.
    """

    def __init__(self, path: Path) -> None:
        self.path, listing = path, list_pictures(path)
        self.files = [path / file for file in listing.paths]
        splits = {split: np.array(rows, np.int64) for split, rows in listing.splits.items()}
        remarks = [f"{listing.ignored} other files ignored"] if listing.ignored else []
        remarks += [listing.remark] if listing.remark else []
        self.contents = Contents(np.array(listing.labels, np.int64), listing.classes, splits, remarks)
        self.broken: list[int] = []
        self._names = [file.as_posix() for file in listing.paths]

    def fingerprint(self, with_times: bool = False) -> str:
        """Hexadecimal hash of names and sizes, and of times of modification if asked for."""
        digest = hashlib.sha256()
        for name, file in zip(self._names, self.files, strict=True):
            stat = file.stat()
            digest.update(os.fsencode(f"{name}\0{stat.st_size}\0{stat.st_mtime_ns if with_times else ''}\0"))
        return digest.hexdigest()

    def channels(self) -> int:
        """3 if most pictures have colour, else 1."""
        kinds = Counter(_colour_or_none(file) for file in self.files[:: max(1, len(self.files) // _LOOKED_AT)])
        return 3 if kinds[True] > kinds[False] else 1

    def batches(self, wanted: Wanted) -> Iterator[Tensor]:
        """Yield all pictures in order, uint8 [n, C, H, W], broken ones left out and noted.

        Raises:
            InputError: sizes differ, and no `image_size` is wanted; or pictures are broken, and not to be skipped.
        """
        first: tuple[str, tuple[int, ...]] | None = None

        def read(row: int) -> Tensor | Exception:
            try:
                return fitted(read_picture(self.files[row], wanted.channels, wanted.background), wanted)
            except Exception as error:  # broken files make Pillow raise anything: OSError, SyntaxError, struct.error
                return error

        reasons = []
        with ThreadPoolExecutor() as pool:
            for start in range(0, len(self.files), BATCH):
                rows = range(start, min(start + BATCH, len(self.files)))
                good = []
                for row, image in zip(rows, pool.map(read, rows), strict=True):
                    if isinstance(image, Exception):
                        self.broken.append(row)
                        reasons.append(f"{self._names[row]} ({' '.join(str(image).split()) or type(image).__name__})")
                        continue
                    first = first or (self._names[row], tuple(image.shape))
                    if tuple(image.shape) != first[1]:
                        raise _several_sizes(first, (self._names[row], tuple(image.shape)))
                    good.append(image)
                if good:
                    yield torch.stack(good)
        if reasons and not wanted.skip_broken:
            raise InputError(
                f"{len(reasons)} of {len(self.files)} images in {self.path} cannot be read:"
                f" {'; '.join(reasons[:_NAMED])}{'; ...' if len(reasons) > _NAMED else ''}. Mend or remove them, or"
                " leave them out with skip_broken=true"
            )


class ArrayFile:
    """An `.npz` file with `images` uint8 [N, H, W] or [N, H, W, C], and optional `labels` [N] and `split` [N].

    A split is `train`, `val` or `test`. Compressed files are read in one pass, too, in little memory.

    Args:
        path: of the file.

    Raises:
        InputError: it is no such file.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.broken = path, []
        try:
            with zipfile.ZipFile(path) as archive:
                self._members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
                labels, split = (self._small(archive, name) for name in ("labels", "split"))
                with archive.open(self._members["images"]) as file:
                    self.shape = _header(file)
        except (OSError, zipfile.BadZipFile, ValueError, KeyError) as error:
            raise InputError(
                f"{path} must be an .npz file that holds `images`, uint8 [N, H, W] or [N, H, W, C]"
                f" ({' '.join(str(error).split())})"
            ) from error
        self.contents = self._checked(labels, split)

    def fingerprint(self, with_times: bool = False) -> str:
        """Hexadecimal hash of the arrays' names, sizes and checksums, in which a time has no part."""
        known = sorted((name, info.file_size, info.CRC) for name, info in self._members.items())
        return hashlib.sha256(repr(known).encode()).hexdigest()

    def channels(self) -> int:
        """3 if the images have colour, else 1."""
        return 3 if len(self.shape) == 4 and self.shape[3] >= 3 else 1

    def batches(self, wanted: Wanted) -> Iterator[Tensor]:
        """Yield all images in order, uint8 [n, C, H, W].

        Raises:
            InputError: the file is damaged.
        """
        try:
            yield from self._batches(wanted)
        except (OSError, zipfile.BadZipFile, zlib.error, ValueError, EOFError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise InputError(f"{self.path} is damaged ({reason}): write it again, or get another copy") from error

    def _batches(self, wanted: Wanted) -> Iterator[Tensor]:
        length = int(np.prod(self.shape[1:]))
        with zipfile.ZipFile(self.path) as archive, archive.open(self._members["images"]) as file:
            _header(file)
            for first in range(0, self.shape[0], BATCH):
                count = min(BATCH, self.shape[0] - first)
                data = np.frombuffer(bytearray(file.read(count * length)), np.uint8)
                images = torch.from_numpy(data).view(count, *self.shape[1:3], -1).permute(0, 3, 1, 2)
                images = with_channels(_composited(images, wanted.background), wanted.channels)
                yield torch.stack([fitted(image, wanted) for image in images])

    def _small(self, archive: zipfile.ZipFile, name: str) -> np.ndarray | None:
        if name not in self._members:
            return None
        with archive.open(self._members[name]) as file:
            return np.lib.format.read_array(file, allow_pickle=False)

    def _checked(self, labels: np.ndarray | None, split: np.ndarray | None) -> Contents:
        count = self.shape[0]
        for name, array in (("labels", labels), ("split", split)):
            if array is not None and array.shape != (count,):
                raise InputError(f"{self.path}: {name} must be of shape [{count}]; got {list(array.shape)}")
        if labels is not None and (labels.dtype.kind not in "iu" or labels.min() < 0):
            raise InputError(f"{self.path}: labels must be integers of at least 0; got {labels.dtype} {labels[:5]}")
        names = [] if split is None else [SPELLINGS.get(str(word).lower(), "") for word in split]
        if "" in names:
            raise InputError(f"{self.path}: split must be train, val or test; got {split[names.index('')]!r}")
        rows = divided([str(row) for row in range(count)], names)
        classes = [] if labels is None or labels.max() == 0 else [str(label) for label in range(labels.max() + 1)]
        labels = np.zeros(count, np.int64) if not classes else labels.astype(np.int64)
        return Contents(labels, classes, {name: np.array(held, np.int64) for name, held in rows.items()}, [])


def open_source(path: Path) -> PictureFolder | ArrayFile:
    """The source of images at a path.

    Raises:
        InputError: it is neither a folder of pictures nor an `.npz` file, or cannot be used.
    """
    if path.is_dir():
        return PictureFolder(path)
    if path.suffix.lower() == ".npz" and path.is_file():
        return ArrayFile(path)
    raise InputError(f"there is no folder of images and no .npz file at {path}")


def _colour_or_none(file: Path) -> bool | None:
    """Whether a picture has colour; None where it cannot be read."""
    try:
        return has_colour(file)
    except Exception:  # as in `PictureFolder.batches`, which reports it
        return None


def _several_sizes(*found: tuple[str, tuple[int, ...]]) -> InputError:
    sizes = " and ".join(f"{shape[1]} x {shape[2]} pixels ({name})" for name, shape in found)
    return InputError(f"the images are of several sizes: {sizes}. Choose one for all, such as image_size=64")


def _header(file: IO[bytes]) -> tuple[int, ...]:
    """The shape of a NumPy file of uint8 images, which then stands at its first value."""
    version = np.lib.format.read_magic(file)
    read: Any = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    right = dtype == np.uint8 and not fortran and (len(shape) == 3 or (len(shape) == 4 and shape[3] in (1, 3, 4)))
    if not right or 0 in shape:
        raise ValueError(f"got {dtype} {list(shape)}{' in Fortran order' if fortran else ''}")
    return shape


def _composited(images: Tensor, background: str) -> Tensor:
    """uint8 images [N, C, H, W], those of 4 channels composited on a background by their alpha."""
    if images.shape[1] != 4:
        return images
    colour, alpha = images[:, :3].int(), images[:, 3:].int()
    under = torch.tensor(colour_of(background)).view(3, 1, 1)
    return ((2 * (alpha * colour + (255 - alpha) * under) + 255) // 510).to(torch.uint8)  # mixed / 255 rounded

"""Images in a file, of which only the rows that are asked for are in memory."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spiking_vq.files import atomic_write, cannot_write, json_text

DESCRIPTION = "set.json"
"""File of a kept set that is written last."""

ABANDONED = 3600
"""Seconds without a write after which an unfinished set is one of a process that was stopped."""


class MappedImages:
    """Rows of a NumPy file of uint8 images; indexing reads some of them as a tensor [n, C, H, W].

    The file is mapped for each access and released after it, so that the process holds no more than what it reads.

    Args:
        path: the file.
        rows: int64 [N], the rows of the file that these images are.
    """

    def __init__(self, path: Path, rows: np.ndarray) -> None:
        self.path, self.rows = path, rows
        self.shape = torch.Size((len(rows), *np.load(path, mmap_mode="r").shape[1:]))

    def __len__(self) -> int:
        """N."""
        return len(self.rows)

    def __getitem__(self, rows: slice | Tensor) -> Tensor:
        """Images of a slice, or of an int64 or bool tensor [n]."""
        index = self.rows[rows.numpy() if isinstance(rows, Tensor) else rows]
        return torch.from_numpy(np.load(self.path, mmap_mode="r")[index])

    def split(self, size: int) -> Iterator[Tensor]:
        """Yield all images in order, `size` at a time."""
        for first in range(0, len(self), size):
            yield self[first : first + size]

    def numel(self) -> int:
        """Number of values."""
        return math.prod(self.shape)


def write_rows(path: Path, batches: Iterable[Tensor]) -> None:
    """Write uint8 images [n, C, H, W], that come in batches, as a NumPy file [N, C, H, W]; N may be 0."""
    count, shape, begins = 0, (0, 0, 0), 0
    with path.open("wb") as file:
        for batch in batches:
            if not count:
                shape = tuple(batch.shape[1:])
                begins = _write_header(file, (0, *shape))
            file.write(batch.contiguous().numpy().tobytes())
            count += len(batch)
        file.seek(0)
        ends = _write_header(file, (count, *shape))
        assert not count or ends == begins, "NumPy leaves room in a header for a longer first axis"


def kept(folder: Path, build: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """The description of a set that a folder holds; `build` makes the set first if there is none.

    It is built in a folder next to it, which is renamed when all of it is on disk: an interrupted set is never taken
    for a whole one.

    Args:
        folder: of the set.
        build: writes the files of a set into a folder, and returns its description.

    Raises:
        InputError: the folder cannot be written to, or has no space left.
    """
    described = folder / DESCRIPTION
    if described.is_file():
        return json.loads(described.read_text())
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    try:
        _remove_abandoned(folder)
        temporary.mkdir(parents=True)
        description = build(temporary)
        with atomic_write(temporary / DESCRIPTION) as file:
            file.write_text(json_text(description))
        for file in temporary.iterdir():
            with file.open("rb+") as opened:
                os.fsync(opened.fileno())
        if not described.is_file():  # another process may have been faster
            temporary.replace(folder)
    except OSError as error:
        raise cannot_write(folder, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return description


def _write_header(file: Any, shape: tuple[int, ...]) -> int:
    """Write the header of a NumPy file of uint8; returns its length."""
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return file.tell()


def _remove_abandoned(folder: Path) -> None:
    """Remove unfinished copies of a set that no process writes to."""
    for rest in folder.parent.glob(f".{folder.name}.*.part"):
        last = max(path.stat().st_mtime for path in (rest, *rest.iterdir()))
        if time.time() - last > ABANDONED:
            shutil.rmtree(rest, ignore_errors=True)

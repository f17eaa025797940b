"""Users' own data sets: a folder of pictures or an `.npz` file, read once into `<data_dir>/own/<name>`.

A set is known by its folder's name and a short hash of what it holds, so that no path enters a report or a weight file.
"""

from __future__ import annotations

import hashlib
import json
import re
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spiking_vq.data.image_data import ImageData, Progress
from spiking_vq.data.listing import SPLITS
from spiking_vq.data.mapped import MappedImages, kept, write_rows
from spiking_vq.data.official import Split
from spiking_vq.data.pictures import Wanted
from spiking_vq.data.sources import ArrayFile, open_source
from spiking_vq.errors import InputError
from spiking_vq.files import atomic_write, json_text, read_path

_NAME = re.compile(r"[^/\\]+-[0-9a-f]{8}")
_DIGITS = 8
_SOURCE = "source.json"


def is_own_name(name: str) -> bool:
    """Whether a word has the form of the name of an own data set, such as `sprites-1a2b3c4d`."""
    return bool(_NAME.fullmatch(name))


def register(path: str | Path, root: str | Path) -> str:
    """Note where an own data set lies; returns its name: the folder's or file's, and 8 digits of a hash.

    The hash is of the names and sizes of the images, so that it is the same on another machine.

    Args:
        path: of a folder of pictures or an `.npz` file.
        root: folder of the data sets.

    Raises:
        InputError: there is no such source, or `root` cannot be written to.
    """
    path = read_path("data", path).resolve()
    source = open_source(path)
    stem = re.sub(r"[^\w.]+", "-", path.stem if isinstance(source, ArrayFile) else path.name).strip("-.") or "images"
    name = f"{stem}-{source.fingerprint()[:_DIGITS]}"
    with atomic_write(_folder(root, name) / _SOURCE) as file:
        file.write_text(json_text({"path": str(path), "times": source.fingerprint(with_times=True)}))
    return name


class OwnData(ImageData):
    """An own data set, read from its source when first used; its images stay on disk.

    Args:
        name: that `register` gave it.
        root: folder of the data sets.
        wanted: how to read the pictures.
        progress: shows the reading; None (default) shows nothing.

    Raises:
        InputError: there is no such set in `root`; using it raises `InputError` if its source cannot be read.
    """

    def __init__(self, name: str, root: Path, wanted: Wanted, progress: Progress | None = None) -> None:
        self.name, self.root = name, root
        self._folder, self._wanted, self._progress = _folder(root, name), wanted.checked(), progress
        if not (self._folder / _SOURCE).is_file():
            raise InputError(f"no data set {name} in {root}: name its folder of images or its .npz file")

    @property
    def num_classes(self) -> int:
        """Number of labels; 1 where the images have none."""
        return max(1, len(self.classes))

    @property
    def classes(self) -> list[str]:
        """Names of the labels; none where the images have none."""
        return self._described["classes"]

    @property
    def official_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        return self.image_shape

    @property
    def about(self) -> str:
        """The set in a sentence: numbers of images, shape, labels, and what was left out."""
        counts = ", ".join(f"{len(self.splits[split].labels):,} {split}" for split in SPLITS)
        shape = " x ".join(map(str, self.image_shape))
        labels = f"{self.num_classes} labels" if self.classes else "no labels"
        return "; ".join([f"{self.name}: {counts}; {shape}, {labels}", *self._described["remarks"]])

    @cached_property
    def _kept(self) -> tuple[Path, dict[str, Any]]:
        noted = json.loads((self._folder / _SOURCE).read_text())
        key = hashlib.sha256(json.dumps([noted["times"], self._wanted]).encode()).hexdigest()[:16]
        return self._folder / key, kept(self._folder / key, lambda folder: self._build(Path(noted["path"]), folder))

    @property
    def _described(self) -> dict[str, Any]:
        return self._kept[1]

    @cached_property
    def splits(self) -> dict[str, Split]:
        """See `ImageData`."""
        folder, splits = self._kept[0], {}
        labels = np.load(folder / "labels.npy")
        for split in SPLITS:
            rows = np.load(folder / f"{split}.npy")
            splits[split] = Split(MappedImages(folder / "images.npy", rows), torch.from_numpy(labels[rows]))
        return splits

    def _build(self, path: Path, folder: Path) -> dict[str, Any]:
        """Read the source into a folder."""
        source = open_source(path)
        if source.fingerprint()[:_DIGITS] != self.name[-_DIGITS:]:
            raise InputError(f"{path} has changed since {self.name} was made of it: give data={path} anew")
        wanted = self._wanted._replace(channels=self._wanted.channels or source.channels())
        contents, batches = source.contents, source.batches(wanted)
        if self._progress:
            batches = self._progress(batches, len(contents.labels), f"reading {path.name}")
        write_rows(folder / "images.npy", batches)
        readable = np.ones(len(contents.labels), bool)
        readable[source.broken] = False
        np.save(folder / "labels.npy", contents.labels[readable])
        position = np.cumsum(readable) - 1
        for split, rows in contents.splits.items():
            rows = position[rows[readable[rows]]]
            if not len(rows):
                raise InputError(f"no image of split {split} can be read: {len(source.broken)} images are broken")
            np.save(folder / f"{split}.npy", rows)
        broken = [f"{len(source.broken)} broken images left out"] if source.broken else []
        return {"classes": contents.classes, "remarks": contents.remarks + broken}


def _folder(root: str | Path, name: str) -> Path:
    return Path(root) / "own" / name

"""The pictures in a folder: their labels, by class sub-folders, and their splits."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from spiking_vq.data.pictures import SUFFIXES
from spiking_vq.errors import InputError

SPLITS = ("train", "val", "test")
"""Names of the splits."""

SPELLINGS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
"""Name of a sub-folder, in lower case -> the split that it holds."""


class Listing(NamedTuple):
    """Pictures of a folder, none of them opened yet.

    Attributes:
        paths: relative to the folder, in order.
        labels: the label of each, in 0..len(classes)-1.
        classes: names of the labels; none where the folder has no labels.
        splits: split -> rows of its pictures, in random order, the same each time.
        ignored: number of other files: hidden ones, and those that are no pictures.
        remark: a sentence where sub-folders are not taken for classes; empty otherwise.
    """

    paths: list[Path]
    labels: list[int]
    classes: list[str]
    splits: dict[str, list[int]]
    ignored: int
    remark: str


def list_pictures(folder: Path) -> Listing:
    """List the pictures of a folder and all its sub-folders.

    Sub-folders `train`, `val` and `test` hold the splits; a missing one is a tenth of `train`. Without `train`, all
    pictures are `divided`. The remaining sub-folders are the classes, as in torchvision's `ImageFolder`, if there are
    two or more and no picture lies next to them.

    Raises:
        InputError: the folder cannot be read or holds fewer than 3 pictures; or it has other folders next to `train`,
            or classes in `val` or `test` that `train` lacks.
    """
    paths, ignored = _walk(folder)
    if len(paths) < len(SPLITS):
        raise InputError(
            f"{folder} holds {len(paths)} images and {ignored} other files; at least {len(SPLITS)} images are needed,"
            " one for each of train, val and test"
        )
    known = _known_splits(folder, paths)
    inner = [Path(*path.parts[1:]) if known else path for path in paths]
    counted = [path for path, split in zip(inner, known or inner, strict=True) if not known or split == "train"]
    classes, remark = _classes(counted)
    names = [path.parts[0] if classes else "" for path in inner]
    if foreign := sorted(set(names) - {*classes, ""}):
        raise InputError(f"{folder}: val or test has classes that train does not have: {', '.join(foreign[:5])}")
    labels = [classes.index(name) if classes else 0 for name in names]
    keys = [path.as_posix() for path in inner]
    return Listing(paths, labels, classes, divided(keys, known), ignored, remark)


def divided(keys: Sequence[str], known: Sequence[str] = ()) -> dict[str, list[int]]:
    """Divide rows into splits.

    The hash of a row's key, such as its file name, decides which tenth is for testing and which for validation, so that
    further rows move no other row. A tenth that would be empty takes the row with the smallest hash.

    Args:
        keys: of the rows.
        known: the split of each row; none (default) if no row has one. Missing splits are taken from `train`.

    Returns:
        Split -> its rows in the order of their hashes.

    Raises:
        InputError: there are too few rows in `train` to take the missing splits from.
    """
    hashes = [int.from_bytes(hashlib.sha256(os.fsencode(key)).digest()[:8], "big") / 2**64 for key in keys]
    rows = sorted(range(len(keys)), key=hashes.__getitem__)
    held = {split: [row for row in rows if not known or known[row] == split] for split in SPLITS}
    missing = [split for split in ("test", "val") if not known or not held[split]]
    if len(held["train"]) <= len(missing):
        others = f", as {' and '.join(missing)} are taken from them" if missing else ""
        count, least = len(held["train"]), len(missing) + 1
        raise InputError(f"there are {count} training images, and at least {least} are needed{others}")
    for number, split in enumerate(missing):
        tenth = {row for row in held["train"] if number / 10 <= hashes[row] < (number + 1) / 10}
        tenth = sorted(tenth, key=hashes.__getitem__)[: len(held["train"]) - len(missing) + number] or held["train"][:1]
        held[split], taken = tenth, set(tenth)
        held["train"] = [row for row in held["train"] if row not in taken]
    return held


def _walk(folder: Path) -> tuple[list[Path], int]:
    """Relative paths of the pictures below a folder, in order, and the number of other files."""
    paths, ignored = [], 0

    def fail(error: OSError) -> None:
        raise InputError(f"cannot read the folder of images {error.filename}: {error.strerror}") from error

    for parent, folders, files in os.walk(folder, onerror=fail, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        pictures = [name for name in files if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES]
        paths += [Path(parent, name).relative_to(folder) for name in pictures]
        ignored += len(files) - len(pictures)
    return sorted(paths), ignored


def _known_splits(folder: Path, paths: list[Path]) -> list[str]:
    """The split of each picture by its sub-folder; empty if there is no sub-folder `train`."""
    tops = {path.parts[0] for path in paths}
    splits = {top: SPELLINGS[top.lower()] for top in tops if top.lower() in SPELLINGS and (folder / top).is_dir()}
    if "train" not in splits.values():
        return []
    if others := sorted(tops - splits.keys()):
        raise InputError(
            f"{folder} has images in {', '.join(others[:3])} next to its folder of training images: keep only train,"
            " val and test there, or name another folder"
        )
    return [splits[path.parts[0]] for path in paths]


def _classes(paths: list[Path]) -> tuple[list[str], str]:
    """Names of the classes, none if there are no labels; and a remark on sub-folders that are no classes."""
    folders = sorted({path.parts[0] for path in paths if len(path.parts) > 1})
    loose = sum(len(path.parts) == 1 for path in paths)
    if len(folders) >= 2 and not loose:
        return folders, ""
    if folders and loose:
        return [], f"{loose} images lie next to {len(folders)} sub-folders, so that these are not taken for classes"
    return [], "one sub-folder alone is not taken for a class" if folders else ""

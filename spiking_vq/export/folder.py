"""The folder of an exported model: its description, its files, and results to check them against."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from spiking_vq.checkpoint.file import fingerprint
from spiking_vq.config.compare import portable
from spiking_vq.config.load import config_from_dict
from spiking_vq.config.schema import Config
from spiking_vq.errors import InputError, require_integer, require_one_of
from spiking_vq.files import atomic_write, json_text, read_path, require_writable, sha256_of
from spiking_vq.randomness import mix_seed

FORMAT = "spiking_vq-export/1"
DESCRIPTION, EXPECTED = "export.json", "expected.npz"
FORMATS = ("nir", "onnx", "pt2")
"""What a model is exported to; `pt2` is torch.export's."""

PACKAGES = ("spiking_vq", "torch", "nir", "onnx")
"""Packages whose versions the description names."""


def claim(folder: str | Path, to: str) -> Path:
    """The path of a folder for an export.

    Raises:
        InputError: an unknown format, or a folder that cannot be written to.
    """
    require_one_of("to", to, FORMATS)
    folder = read_path("folder", folder)
    require_writable(folder)
    return folder


def export_seeds(n: int) -> list[int]:
    """Seeds of the `n` images that an export's expected results are of: the first of a set of seed 0.

    Raises:
        InputError: no image at all.
    """
    require_integer("n, the number of images,", n, 1)
    return [mix_seed(0, number) for number in range(n)]


def write_expected(folder: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write results of the network itself: name -> array."""
    with atomic_write(folder / EXPECTED) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)


def write_description(folder: Path, model: nn.Module, config: Config, parts: Mapping[str, Any], **facts: Any) -> None:
    """Write `export.json`, the last file of an export: a folder without it is not whole.

    Args:
        folder: of the export.
        model: that was exported.
        config: its configuration.
        parts: name -> facts of a part, with its `file`.
        facts: of the export.
    """
    files = [EXPECTED, *facts.pop("files", ()), *(part["file"] for part in parts.values())]
    description = {"format": FORMAT} | facts | {
        "parts": dict(parts),
        "sha256": {name: sha256_of(folder / name) for name in files},
        "weights_sha256": fingerprint(model),
        "versions": {name: found for name in PACKAGES if (found := version_of(name))},
        "config": asdict(portable(config)),
    }  # fmt: skip
    with atomic_write(folder / DESCRIPTION) as temporary:
        temporary.write_text(json_text(description), encoding="utf-8")


def read_description(folder: str | Path) -> tuple[dict[str, Any], Config]:
    """Read `export.json` and check that the folder's files are the ones that it was written with.

    Returns:
        The description, and the configuration of the model.

    Raises:
        InputError: no such folder, a description of another format, or a file that is missing or another.
    """
    folder = read_path("folder", folder)
    path = folder / DESCRIPTION
    if not path.is_file():
        raise InputError(f"{folder} is no exported model, it has no {DESCRIPTION}: make one with `spiking-vq export`")
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        config = config_from_dict(description["config"])
        kind, files = description["format"], description["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} cannot be read ({error}): export the model again") from error
    if kind != FORMAT:
        raise InputError(f"{path} has format {kind!r}, expected {FORMAT!r}: export the model again with this version")
    for name, digest in files.items():
        if not (folder / name).is_file():
            raise InputError(f"{folder} lacks {name}, which its {DESCRIPTION} lists: export the model again")
        if sha256_of(folder / name) != digest:
            raise InputError(
                f"{folder / name} is not the file that {DESCRIPTION} was written with: export the model again"
            )
    return description, config


def read_expected(folder: str | Path) -> dict[str, np.ndarray]:
    """The results of the network itself; see `write_expected`."""
    with np.load(Path(folder) / EXPECTED, allow_pickle=False) as file:
        return dict(file)


def is_exported(path: str | Path) -> bool:
    """Whether a path is the folder of an exported model."""
    return (Path(path) / DESCRIPTION).is_file()


def version_of(package: str) -> str | None:
    """The version of an installed package; None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None

"""The folder that `save_pretrained` writes: names of its files, and the check that they belong together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from spiking_vq.errors import InputError
from spiking_vq.files import sha256_of

MODEL, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
"""Weights with their configuration, which can be loaded alone; the configuration for readers; the model card."""


def read_config(folder: Path) -> dict[str, Any] | None:
    """The contents of a folder's `config.json`; None if there is none of this package."""
    try:
        contents = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return contents if isinstance(contents, dict) and contents.get("library_name") == "spiking_vq" else None


def check_whole(folder: Path) -> None:
    """Check that a folder's weights are those which its `config.json`, if there is one, was written with.

    Raises:
        InputError: they are others.
    """
    contents = read_config(folder)
    if contents and contents.get("model_sha256") != sha256_of(folder / MODEL):
        raise InputError(
            f"{folder / MODEL} is not the file that {CONFIG} was written with: save the model again, or name the file"
            " itself, which holds its own configuration"
        )

"""YAML files, by OmegaConf; text is written so that it comes back as it is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from spiking_vq.errors import InputError
from spiking_vq.files import read_path


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping that a file holds, interpolations such as `${train.lr}` resolved; an empty file holds an empty one.

    Raises:
        InputError: no such file, no YAML, or not a mapping of names.
    """
    try:
        values = OmegaConf.to_container(OmegaConf.load(read_path("path", path)), resolve=True)
    except Exception as error:  # a broken file surfaces as whatever the parser stumbles over
        raise InputError(f"cannot read the configuration {path}: {error}") from error
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise InputError(f"cannot read the configuration {path}: expected lines `field: value`, got {values}")
    return values


def to_yaml(values: Mapping[str, Any]) -> str:
    """The text of a mapping, in its own order; `read_yaml` reads the same values from it."""
    return OmegaConf.to_yaml(OmegaConf.create(_literal(values)))


def _literal(value: Any) -> Any:
    """The value with all text in it escaped, so that OmegaConf takes none for an interpolation."""
    if isinstance(value, Mapping):
        return {key: _literal(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_literal(item) for item in value]
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", value) if isinstance(value, str) else value

"""YAML files, by OmegaConf; text is written so that reading returns it unchanged."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from spiking_vq.errors import InputError
from spiking_vq.files import read_path


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read the mapping in a file, with interpolations such as `${train.lr}` resolved; that of an empty file is empty.

    Raises:
        InputError: there is no such file, or it is not YAML, or not a mapping of names.
    """
    try:
        values = OmegaConf.to_container(OmegaConf.load(read_path("path", path)), resolve=True)
    except Exception as error:  # of the parser, of many types
        raise InputError(f"cannot read the configuration {path}: {error}") from error
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise InputError(f"cannot read the configuration {path}: expected lines `field: value`, got {values}")
    return values


def to_yaml(values: Mapping[str, Any]) -> str:
    """Return a mapping as YAML, in its own order; `read_yaml` reads the same values from it."""
    return OmegaConf.to_yaml(OmegaConf.create(_literal(values)))


def _literal(value: Any) -> Any:
    """The value with all text in it escaped, so that none of it is an interpolation to OmegaConf."""
    if isinstance(value, Mapping):
        return {key: _literal(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_literal(item) for item in value]
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", value) if isinstance(value, str) else value

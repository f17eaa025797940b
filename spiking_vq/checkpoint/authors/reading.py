"""Reading the authors' files: state dicts by `torch.save` or as safetensors, bare or inside a checkpoint."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from spiking_vq.checkpoint.file import FORMAT
from spiking_vq.errors import InputError
from spiking_vq.files import read_path

WRAPPERS = ("net_model", "model_state_dict", "state_dict", "model")
"""Keys below which checkpoints hold the state dict, in the order of search."""

PREFIXES = ("module.", "_orig_mod.")
"""Beginnings of keys that `DataParallel` and `torch.compile` add."""

TSM_LAYER, TSM_SCALES = "tsmconv.", "tsmp"
"""Part of the keys of convolutions that SDM scales at each step, and last part of the keys of these scales."""


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The state dict in a file, on the CPU; see `state_dict_of`.

    Args:
        path: a file by `torch.save`, which is read with `weights_only=True`, or a `.safetensors` file.

    Raises:
        InputError: no such file, a damaged one, one that holds more than tensors and plain values, or no state dict.
    """
    path = read_path("file", path)
    if not path.is_file():
        raise InputError(f"no file at {path}: name the checkpoint that the authors' program wrote")
    if is_own(path):
        raise InputError(f"{path} is a model file of this package already: `spiking-vq sample {path}` takes it")
    try:
        if path.suffix == ".safetensors":
            content = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes make the unpickler raise anything
        foreign = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"holds an object of {foreign[1]}" if foreign else "is truncated, corrupt or of another format"
        raise InputError(
            f"{path} is no checkpoint of tensors and plain values: it {reason}. Save the network's state dict alone,"
            " and name that file"
        ) from error
    return state_dict_of(content, str(path))


def is_own(path: str | Path) -> bool:
    """Whether a file is a model file of this package."""
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("format") == FORMAT
    except (SafetensorError, OSError):
        return False


def state_dict_of(content: Any, source: str = "the checkpoint") -> dict[str, Tensor]:
    """The state dict inside a checkpoint, without prefixes of keys.

    Args:
        content: a state dict; or a dict with one below a key of `WRAPPERS`.
        source: for messages.

    Returns:
        Key -> tensor. A fifth axis of length 1, that of convolutions over an axis of steps, is gone.

    Raises:
        InputError: there is none, or two keys differ only in their prefixes.
    """
    while isinstance(content, Mapping) and not _is_state_dict(content):
        inner = next((content[name] for name in WRAPPERS if name in content), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping) or not _is_state_dict(content):
        found = f"only the keys {', '.join(map(str, content))}"[:200] if isinstance(content, Mapping) else "none"
        raise InputError(
            f"{source} holds no state dict: expected tensors by name, or these below {', '.join(WRAPPERS)}; got {found}"
        )
    weights = {}
    for key, value in content.items():
        name = _without_prefixes(key)
        if name in weights:
            raise InputError(f"{source} holds {name} twice, with different prefixes: save one network's state dict")
        weights[name] = value.squeeze(4) if value.dim() == 5 and name.endswith(".weight") else value
    return weights


def without_unit_scales(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of SDM as of SDDPM, for scales of the steps that are 1; others have no place in our network.

    Raises:
        InputError: a scale is not 1.

    Reference: the temporal-wise spiking mechanism, arXiv:2408.16467.
    """
    plain = {}
    for key, value in weights.items():
        if key.split(".")[-1] != TSM_SCALES:
            plain[key.replace(TSM_LAYER, "")] = value
        elif not bool((value == 1).all()):
            raise InputError(
                f"{key} holds scales of the spiking steps other than 1 (SDM's TSM, before the batch norm): our TSM"
                " scales the neurons' input current instead, so this network has no equal here"
            )
    return plain


def _is_state_dict(content: Mapping[Any, Any]) -> bool:
    return bool(content) and all(isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items())


def _without_prefixes(key: str) -> str:
    while key.startswith(PREFIXES):
        key = key.partition(".")[2]
    return key

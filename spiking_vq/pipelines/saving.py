"""Writing a pipeline's model to a folder: weights, configuration and card, whole or not at all."""

from __future__ import annotations

import copy
import shutil
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from spiking_vq.checkpoint.file import fingerprint, load_model, save_model
from spiking_vq.config.compare import portable
from spiking_vq.config.schema import DenoiserConfig
from spiking_vq.errors import InputError
from spiking_vq.export.folder import version_of
from spiking_vq.files import atomic_write, json_text, read_path, require_writable, sha256_of
from spiking_vq.pipelines.card import own_card, shipped_card
from spiking_vq.pipelines.pretrained import CARD, CONFIG, MODEL, read_config
from spiking_vq.pipelines.zoo import ZOO


def write_pretrained(folder: str | Path, model: nn.Module, config: DenoiserConfig, name: str) -> Path:
    """Write `model.safetensors`, `config.json` and `README.md`; see `Conventions.save_pretrained`.

    The weights come into place last, and the configuration holds their hash: a folder that is half written, or half
    written over, is not loaded.

    Args:
        folder: to write to.
        model: of a structure that `build_model(config)` gives.
        config: its configuration.
        name: word that loads the model, for the card.

    Returns:
        The folder.

    Raises:
        InputError: the folder holds such files of something else, or cannot be written to; weights that are not finite.
    """
    folder = read_path("folder", folder)
    require_writable(folder)
    foreign = [file for file in (MODEL, CONFIG, CARD) if (folder / file).exists()]
    if foreign and read_config(folder) is None:
        raise InputError(
            f"{folder} holds {', '.join(foreign)}, not written by save_pretrained: choose another folder, or remove"
        )
    shipped = shipped_file(model, config)
    card = own_card(config, name) if shipped is None else shipped_card(shipped, config, name)
    with atomic_write(folder / MODEL) as weights:
        if shipped is None:
            save_model(weights, model, config, narrowest_type(model))
        else:
            shutil.copyfile(shipped, weights)  # its hash is the one in the card
        about = {"library_name": "spiking_vq", "library_version": version_of("spiking_vq")}
        settings = asdict(portable(config)) | about | {"model_sha256": sha256_of(weights)}
        with atomic_write(folder / CONFIG) as temporary:
            temporary.write_text(json_text(settings), encoding="utf-8")
        with atomic_write(folder / CARD) as temporary:
            temporary.write_text(card, encoding="utf-8")
    return folder


def shipped_file(model: nn.Module, config: DenoiserConfig) -> Path | None:
    """The file that ships with these very weights and this configuration; None if there is none."""
    file = ZOO / f"{config.data}-{config.preset}-{config.stage}.safetensors"
    if not file.is_file():
        return None
    shipped, own = load_model(file)
    same = portable(own) == portable(config) and narrowest_type(model) is not None
    return file if same and fingerprint(shipped) == fingerprint(copy.deepcopy(model).float()) else None


def narrowest_type(model: nn.Module) -> torch.dtype | None:
    """The smaller of bf16 and fp32 that holds all floating-point weights exactly; None if neither does."""
    weights = [value for value in model.state_dict().values() if value.is_floating_point()]

    def is_exact(value: torch.Tensor, dtype: torch.dtype) -> bool:
        return torch.allclose(value.to(dtype).to(value.dtype), value, rtol=0, atol=0, equal_nan=True)

    fits = (dtype for dtype in (torch.bfloat16, torch.float32) if all(is_exact(value, dtype) for value in weights))
    return next(fits, None)

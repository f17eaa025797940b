"""Trained weights: one `model.safetensors` with the whole configuration in its metadata.

A stage-2 file carries the frozen stage 1 inside it. Nothing else is needed to use either. The training checkpoints of
an unfinished run are read, too: their configuration lies next to them, a frozen stage 1 in its own run folder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from spiking_vq.checkpoint.build import LatentModel, PixelModel, build_on_cpu
from spiking_vq.config.compare import without_places
from spiking_vq.config.load import config_from_dict, read_config
from spiking_vq.config.schema import AbsorbingConfig, Config
from spiking_vq.errors import InputError
from spiking_vq.files import atomic_write, read_path
from spiking_vq.models.classifier import Classifier
from spiking_vq.models.vq_svae import VQSVAE

FORMAT = "spiking_vq/1"

ZIP = b"PK\x03\x04"
"""First bytes of what `torch.save` writes."""

CHECKPOINT_KEYS = {"callbacks", "global_step", "loops", "pytorch-lightning_version", "state_dict"}
"""Keys that the training checkpoints of Lightning have."""

UNMEASURED = ("image_error",)
"""Buffers that are NaN until they have been measured."""


def fingerprint(model: nn.Module) -> str:
    """SHA-256 of a model's weights: names, shapes, types and bytes."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        value = value.detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    return digest.hexdigest()


def save_model(path: str | Path, model: nn.Module, config: Config, dtype: torch.dtype | None = None) -> None:
    """Write weights and configuration, without the places of this machine, as one file, whole or not at all.

    Args:
        path: file to write.
        model: what `build_model(config)` builds.
        config: its configuration.
        dtype: type of the floating-point weights in the file; None keeps theirs. Loading gives fp32 back.

    Raises:
        InputError: a weight is NaN or infinite, or the file cannot be written.
    """

    def stored(value: Tensor) -> Tensor:
        value = value.detach().cpu().contiguous()
        return value.to(dtype) if dtype is not None and value.is_floating_point() else value

    weights = {name: stored(value) for name, value in model.state_dict().items()}
    if names := not_finite(weights):
        raise InputError(f"cannot write {path}: weights are NaN or infinite ({some_of(names)}). Training has diverged.")
    settings = json.dumps(asdict(without_places(config)), allow_nan=False)
    with atomic_write(read_path("path", path)) as temporary:
        save_file(weights, temporary, metadata={"format": FORMAT, "config": settings})


def not_finite(weights: Mapping[str, Tensor]) -> list[str]:
    """Names of the weights that hold NaN or an infinity, but for buffers that are not measured yet."""

    def holds(name: str, value: Tensor) -> bool:
        unmeasured = name.split(".")[-1] in UNMEASURED and value.isnan().all()
        return not unmeasured and not value.isfinite().all()

    return [name for name, value in weights.items() if value.is_floating_point() and holds(name, value)]


def load_model(path: str | Path) -> tuple[VQSVAE | LatentModel | PixelModel | Classifier, Config]:
    """Read a trained model: what `save_model` wrote, or a training checkpoint in its run folder.

    Parameters are in fp32, or in fp64 if the model was trained so; of a checkpoint, the moving average if there is one.

    Args:
        path: a `model.safetensors`; or the `best.ckpt` or `last.ckpt` of a run.

    Returns:
        The model, in evaluation mode on the CPU, and its configuration.

    Raises:
        InputError: no such file, a truncated or corrupt one, one of another program, weights that do not fit or are not
            finite; of a checkpoint, no `config.yaml` next to it or no stage 1 that it was trained on.
    """
    path = read_path("path", path)
    if not path.is_file():
        raise InputError(f"no model file at {path}: train a model, or name another file")
    model, config = _load_checkpoint(path) if is_checkpoint(path) else _load_safetensors(path)
    if names := not_finite(model.state_dict()):
        raise InputError(f"{path} holds weights that are NaN or infinite ({some_of(names)}): train it again")
    return model.eval(), config


def _load_safetensors(path: Path) -> tuple[nn.Module, Config]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise InputError(
                    f"{path} is a safetensors file, but not of this package (format {metadata.get('format')!r},"
                    f" expected {FORMAT!r}): name a model.safetensors that training wrote"
                )
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        values = json.loads(metadata["config"])
        if not isinstance(values, dict):
            raise TypeError("its configuration is not a mapping")
    except (SafetensorError, OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise InputError(
            f"{path} is not a whole model.safetensors ({error}): it is truncated, corrupt or of another format."
            " Copy it again, or train it again."
        ) from error
    try:
        config = config_from_dict(values)
        model = build_on_cpu(config)
    except InputError as error:
        raise InputError(f"{path} was written by another version, or by hand: {error}") from error
    _load_weights(model, weights, path)
    return model, config


def _load_weights(model: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    try:
        model.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"the weights in {path} do not fit its own configuration: {reason}") from error


def some_of(names: list[str]) -> str:
    """The first names, and how many more there are."""
    shown = ", ".join(names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown


# Checkpoints of training


def is_checkpoint(path: str | Path) -> bool:
    """Whether a file is a training checkpoint rather than a `model.safetensors`: by its first bytes, or its name.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            return file.read(len(ZIP)) == ZIP or Path(path).suffix == ".ckpt"
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a training checkpoint, with `weights_only=True`, onto the CPU.

    Raises:
        InputError: it is truncated, corrupt, or not a checkpoint.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(checkpoint, dict) or not checkpoint.keys() >= CHECKPOINT_KEYS:
            raise TypeError(f"a checkpoint has {', '.join(sorted(CHECKPOINT_KEYS))}")
        if not all(isinstance(checkpoint[key], dict) for key in ("callbacks", "state_dict")):
            raise TypeError("its callbacks or weights are no dictionaries")
    except Exception as error:  # whatever the unpickler meets in damaged bytes
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(
            f"{path} is not a whole model.safetensors, nor a checkpoint: it is truncated, corrupt or of another format"
            f" ({reason})"
        ) from error
    return checkpoint


def checkpoint_step(path: str | Path) -> tuple[int, int | None]:
    """Steps done at a training checkpoint, and steps of the whole run; None if an older file does not tell these.

    Raises:
        InputError: as `read_checkpoint`.
    """
    checkpoint = read_checkpoint(path)
    return checkpoint["global_step"], checkpoint["callbacks"].get("KeepRun", {}).get("total_steps")


def stage1_file(config: AbsorbingConfig) -> Path:
    """The file to take the frozen stage 1 from, which holds a `VQSVAE` or a `LatentModel`.

    It is the one that `stage1` names; else `train.start_from`, if it was trained on the same data; else the one in the
    run folder of the same data and preset.
    """
    if config.stage1:
        return Path(config.stage1)
    start = config.train.start_from
    if start and load_model(start)[1].data == config.data:
        return Path(start)
    return Path(config.runs) / config.data / config.preset / "vq_svae" / "model.safetensors"


def _load_checkpoint(path: Path) -> tuple[nn.Module, Config]:
    state, config_file = read_checkpoint(path)["state_dict"], path.with_name("config.yaml")
    if not config_file.is_file():
        raise InputError(
            f"{path} is a checkpoint to resume training from; the config.yaml next to it, which describes the network,"
            " is missing: name the checkpoint in its run folder, or a model.safetensors"
        )
    config = read_config(config_file)
    try:
        model = build_on_cpu(config)
    except InputError as error:
        raise InputError(f"{config_file} was written by another version, or by hand: {error}") from error
    trained = model
    if isinstance(model, PixelModel):
        trained = model.unet
    if isinstance(model, LatentModel):
        trained = model.denoiser
        _load_weights(model.vq_svae, _stage1_of(path, config).state_dict(), path)
    prefix = "ema.module." if any(name.startswith("ema.") for name in state) else "model."
    weights = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    _load_weights(trained, weights, path)
    return model, config


def _stage1_of(path: Path, config: AbsorbingConfig) -> VQSVAE:
    """The stage 1 that the denoiser in a checkpoint was trained on.

    It is looked for in the neighbouring run folder, too: run folders may be moved.
    """
    files = path.absolute().parent.with_name("vq_svae") / "model.safetensors", stage1_file(config)
    for file in files:
        if file.is_file():
            model, _ = load_model(file)
            vq_svae = model.vq_svae if isinstance(model, LatentModel) else model
            if fingerprint(vq_svae) == config.stage1_sha256:
                return vq_svae
    raise InputError(
        f"{path} holds a denoiser alone, and the stage 1 that it was trained on is neither in {files[0]} nor in"
        f" {files[1]}: put it back (the SHA-256 of its weights is {config.stage1_sha256})"
    )

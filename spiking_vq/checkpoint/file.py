"""Files of trained models: one `model.safetensors` with weights and, in its metadata, the whole configuration.

A stage-2 file carries the frozen stage 1 inside it; nothing else is needed to use either. Training checkpoints can be
read too: their configuration is in the `config.yaml` next to them, a frozen stage 1 in its own run folder.
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
from spiking_vq.config.compare import portable
from spiking_vq.config.load import config_from_dict
from spiking_vq.config.schema import AbsorbingConfig, Config
from spiking_vq.config.yaml_files import read_yaml
from spiking_vq.errors import InputError
from spiking_vq.files import atomic_write, read_path
from spiking_vq.models.classifier import Classifier
from spiking_vq.models.vq_svae import VQSVAE

FORMAT = "spiking_vq/1"

ZIP = b"PK\x03\x04"
"""First bytes of a file by `torch.save`."""

CHECKPOINT_KEYS = {"callbacks", "global_step", "loops", "pytorch-lightning_version", "state_dict"}
"""Keys of Lightning's training checkpoints."""

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
    """Write weights and configuration, without this machine's paths and device, to one file, whole or not at all.

    Args:
        path: file to write.
        model: of the structure that `build_model(config)` gives.
        config: its configuration.
        dtype: type of the floating-point weights in the file; None (default) keeps theirs. Of a quantised network,
            whose weights are exact, those that this type cannot hold exactly keep theirs. Loading gives fp32 back.

    Raises:
        InputError: a weight is NaN or infinite, or the file cannot be written.
    """

    is_exact = getattr(config, "weight_bits", None) is not None

    def stored(value: Tensor) -> Tensor:
        value = value.detach().cpu().contiguous()
        if dtype is None or not value.is_floating_point():
            return value
        narrow = value.to(dtype)
        return value if is_exact and not torch.equal(narrow.to(value.dtype), value) else narrow

    weights = {name: stored(value) for name, value in model.state_dict().items()}
    if names := not_finite(weights):
        raise InputError(f"cannot write {path}: weights are NaN or infinite ({some_of(names)}). Training has diverged.")
    settings = json.dumps(asdict(portable(config)), allow_nan=False)
    with atomic_write(read_path("path", path)) as temporary:
        save_file(weights, temporary, metadata={"format": FORMAT, "config": settings})


def not_finite(weights: Mapping[str, Tensor]) -> list[str]:
    """Names of the weights that hold NaN or an infinity, except for buffers that are not measured yet."""

    def is_bad(name: str, value: Tensor) -> bool:
        unmeasured = name.split(".")[-1] in UNMEASURED and value.isnan().all()
        return not unmeasured and not value.isfinite().all()

    return [name for name, value in weights.items() if value.is_floating_point() and is_bad(name, value)]


def load_model(path: str | Path) -> tuple[VQSVAE | LatentModel | PixelModel | Classifier, Config]:
    """Read a trained model from a file by `save_model`, or from a training checkpoint in its run folder.

    Args:
        path: a `model.safetensors`, or the `best.ckpt` or `last.ckpt` of a run, whose averaged weights are taken where
            there are some.

    Returns:
        The model, in evaluation mode on the CPU, in fp32 or, if it was trained so, in fp64; and its configuration.

    Raises:
        InputError: no such file, a truncated or corrupt one, one of another program, weights that do not fit or are not
            finite; next to a checkpoint no `config.yaml`, or nowhere the stage 1 that it was trained on.
    """
    path = read_path("path", path)
    if not path.is_file():
        raise InputError(f"no model file at {path}: train a model with `spiking-vq train`, or name another file")
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
                    f" expected {FORMAT!r}): name a model.safetensors by `spiking-vq train`"
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
    config, model = _built(values, path)
    _load_weights(model, weights, path)
    return model, config


def _built(values: dict[str, Any], path: Path) -> tuple[Config, nn.Module]:
    """Configuration and fresh model of the values in a file, which error messages name."""
    try:
        config = config_from_dict(values)
        return config, build_on_cpu(config)
    except InputError as error:
        raise InputError(f"{path} was written by another version, or by hand: {error}") from error


def _load_weights(model: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    try:
        model.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"the weights in {path} do not fit its own configuration: {reason}") from error


def some_of(names: list[str]) -> str:
    """The first three names and the number of the others, for messages."""
    shown = ", ".join(names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown


# Training checkpoints


def is_checkpoint(path: str | Path) -> bool:
    """Whether a file is a training checkpoint rather than a `model.safetensors`, by its first bytes or its suffix.

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
    except Exception as error:  # damaged bytes make the unpickler raise anything
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(
            f"{path} is not a whole model.safetensors, nor a checkpoint: it is truncated, corrupt or of another format"
            f" ({reason})"
        ) from error
    return checkpoint


def checkpoint_step(path: str | Path) -> tuple[int, int | None]:
    """Steps done at a training checkpoint, and steps of the whole run; None (older files): not known.

    Raises:
        InputError: as `read_checkpoint`.
    """
    checkpoint = read_checkpoint(path)
    return checkpoint["global_step"], checkpoint["callbacks"].get("KeepRun", {}).get("total_steps")


def stage1_file(config: AbsorbingConfig) -> Path:
    """The file with the frozen stage 1, a `VQSVAE` or a `LatentModel`.

    It is `stage1`; else `train.start_from`, if that was trained on the same data; else the file in the run folder of
    the same data and preset.
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
    config, model = _built(read_yaml(config_file), config_file)
    trained = model.unet if isinstance(model, PixelModel) else model
    if isinstance(model, LatentModel):
        trained = model.denoiser
        _load_weights(model.vq_svae, _stage1_of(path, config).state_dict(), path)
    prefix = "ema.module." if any(name.startswith("ema.") for name in state) else "model."
    weights = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    _load_weights(trained, weights, path)
    return model, config


def _stage1_of(path: Path, config: AbsorbingConfig) -> VQSVAE:
    """The stage 1 on which the denoiser in a checkpoint was trained.

    Run folders may have been moved, so the neighbouring one is searched first.
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

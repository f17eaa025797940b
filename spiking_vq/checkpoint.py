"""Exported weights: one `model.safetensors` with the whole configuration in its metadata.

A stage-2 file carries the frozen stage 1 inside it. Nothing else is needed to use either.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from spiking_vq.config import (
    AbsorbingConfig,
    ClassifierConfig,
    Config,
    DenoiserConfig,
    GaussianConfig,
    SpikingConfig,
    VQSVAEConfig,
    config_from_dict,
    without_places,
)
from spiking_vq.errors import InputError, require
from spiking_vq.layers import NeuronFactory
from spiking_vq.models.adversary import PatchAdversary
from spiking_vq.models.classifier import Classifier
from spiking_vq.models.spiking_unet import UNETS
from spiking_vq.models.token_denoiser import DENOISERS
from spiking_vq.models.vq_svae import VQSVAE, token_grid
from spiking_vq.neurons import neuron_factory
from spiking_vq.precision import parameter_type

FORMAT = "spiking_vq/1"


def build_neurons(config: SpikingConfig) -> NeuronFactory:
    """What builds the neurons of a configuration."""
    num_scales = config.T if config.tsm else 0
    return neuron_factory(config.neuron, config.activation_bits, num_scales=num_scales, **asdict(config.lif))


def build_vq_svae(config: VQSVAEConfig) -> VQSVAE:
    """The stage-1 network of a configuration whose `image_shape` is known, freshly initialised."""
    require(config.image_shape is not None, "image_shape", "known before a network is built", None)
    return VQSVAE(config.image_shape, config.T, build_neurons(config), **asdict(config.model))


def build_adversary(config: VQSVAEConfig) -> PatchAdversary | None:
    """What a stage 1 is trained against, if anything, freshly initialised."""
    options = config.adversary
    if not options.weight:
        return None
    adversary = PatchAdversary(config.image_shape[0], options.channels, options.weight)
    return adversary.to(parameter_type(config.precision))


def build_denoiser(config: AbsorbingConfig) -> nn.Module:
    """The stage-2 network of a configuration whose `vq_svae` is known, freshly initialised."""
    require(config.vq_svae is not None, "vq_svae", "known before a denoiser is built", None)
    options = {key: value for key, value in asdict(config.model).items() if value is not None}
    name = options.pop("denoiser")
    require(name in DENOISERS, "model.denoiser", f"one of {', '.join(DENOISERS)}", repr(name))
    denoiser = DENOISERS[name]
    known = inspect.signature(denoiser).parameters
    if foreign := options.keys() - known:
        raise InputError(f"model.denoiser={name} does not take {', '.join(f'model.{key}' for key in sorted(foreign))}")
    require("num_classes" in known or not config.conditional, "conditional", f"false: {name} takes no labels", "true")
    stage1 = config.vq_svae.model
    grid = token_grid(config.vq_svae.image_shape, stage1.channels)
    return denoiser(grid, stage1.codebook_size, config.T, build_neurons(config), **options, **known_labels(config))


def build_unet(config: GaussianConfig) -> nn.Module:
    """The continuous stage's network of a configuration whose `image_shape` is known, freshly initialised."""
    require(config.image_shape is not None, "image_shape", "known before a network is built", None)
    options = asdict(config.model)
    name = options.pop("unet")
    require(name in UNETS, "model.unet", f"one of {', '.join(UNETS)}", repr(name))
    loss, needed = config.diffusion.loss, "synaptic_current" if name == "fsddim" else "mse"
    require(loss == needed, "diffusion.loss", f"{needed} with model.unet={name}", repr(loss))
    if name == "fsddim":
        options["threshold"] = config.lif.threshold
    return UNETS[name](config.image_shape, config.T, build_neurons(config), **options, **known_labels(config))


def known_labels(config: DenoiserConfig) -> dict[str, int]:
    """The arguments `num_classes` and `styles` of a network that is told labels; nothing for any other."""
    if not config.conditional:
        return {}
    require(config.num_classes is not None, "num_classes", "known before a network is built", None)
    return {"num_classes": config.num_classes, "styles": config.styles}


def build_classifier(config: ClassifierConfig) -> Classifier:
    """The classifier of a configuration whose `image_shape` and `num_classes` are known, freshly initialised."""
    for name in ("image_shape", "num_classes"):
        require(getattr(config, name) is not None, name, "known before a classifier is built", None)
    return Classifier(config.image_shape, config.num_classes, **asdict(config.model))


class LatentModel(nn.Module):
    """Both networks of the discrete pipeline, as one stage-2 file holds them.

    Attributes:
        vq_svae: the frozen stage 1.
        denoiser: stage 2.
    """

    def __init__(self, vq_svae: VQSVAE, denoiser: nn.Module) -> None:
        super().__init__()
        self.vq_svae, self.denoiser = vq_svae, denoiser


class PixelModel(nn.Module):
    """The network of the continuous pipeline, as its file holds it.

    Attributes:
        unet: predicts what the diffusion asks for.
        image_error: [N + 1], what the `analytic` sampler needs; not numbers until it has been measured.
    """

    def __init__(self, unet: nn.Module, diffusion_steps: int) -> None:
        super().__init__()
        self.unet = unet
        self.register_buffer("image_error", torch.full((diffusion_steps + 1,), torch.nan))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.unet.image_shape


def build_model(config: Config) -> VQSVAE | LatentModel | PixelModel | Classifier:
    """The network that a file of this configuration's stage holds, freshly initialised."""
    if isinstance(config, GaussianConfig):
        return PixelModel(build_unet(config), config.diffusion.diffusion_steps)
    if isinstance(config, ClassifierConfig):
        return build_classifier(config)
    if isinstance(config, AbsorbingConfig):
        denoiser = build_denoiser(config)
        return LatentModel(build_vq_svae(config.vq_svae), denoiser)
    return build_vq_svae(config)


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
    """

    def stored(value: Tensor) -> Tensor:
        value = value.detach().cpu().contiguous()
        return value.to(dtype) if dtype is not None and value.is_floating_point() else value

    weights = {name: stored(value) for name, value in model.state_dict().items()}
    with atomic_write(path) as temporary:
        save_file(weights, temporary, metadata={"format": FORMAT, "config": json.dumps(asdict(without_places(config)))})


def load_model(path: str | Path) -> tuple[VQSVAE | LatentModel | PixelModel | Classifier, Config]:
    """Read what `save_model` wrote: the model, in evaluation mode on the CPU, and its configuration.

    Parameters are in fp32, or in fp64 if it was trained so.

    Raises:
        InputError: no such file, a truncated or corrupt one, one of another program, or weights that do not fit.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no model file at {path}: train one, or name another with CKPT=")
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
        model = build_model(config).to(parameter_type(config.precision))
    except InputError as error:
        raise InputError(f"{path} was written by another version, or by hand: {error}") from error
    _load_weights(model, weights, path)
    return model.eval(), config


def _load_weights(model: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    try:
        model.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"the weights in {path} do not fit its own configuration: {reason}") from error


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; it takes its place, synced to disk, when the block ends well.

    The temporary file lies in the same folder because only a rename within one file system is atomic.

    Raises:
        InputError: the folder cannot be written to.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"cannot write {path}: it is a folder. Choose another place, or remove it.")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        mode = temporary.stat().st_mode
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}. Choose a folder you can write to.") from error
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(mode)  # safetensors makes a file that only its owner can read
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)

"""Building freshly initialised networks from a configuration.

All functions raise `InputError` if the configuration lacks a field that training fills in, such as `image_shape`, if
its options do not fit together, or if its sizes are too large for torch or this machine.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict

import torch
from torch import nn

from spiking_vq.config.schema import (
    AbsorbingConfig,
    ClassifierConfig,
    Config,
    DenoiserConfig,
    GaussianConfig,
    SpikingConfig,
    VQSVAEConfig,
)
from spiking_vq.errors import InputError, require, require_one_of
from spiking_vq.layers.folding import fold_batch_norms, separate_connections
from spiking_vq.layers.synapses import NeuronFactory
from spiking_vq.models.classifier import Classifier
from spiking_vq.models.fsddim import FSDDIMUNet
from spiking_vq.models.sddpm import SDDPMUNet
from spiking_vq.models.sdid import SDID
from spiking_vq.models.token_denoiser import TokenDenoiser
from spiking_vq.models.vq_svae import VQSVAE, token_grid
from spiking_vq.neurons.twins import neuron_factory
from spiking_vq.runtime.precision import parameter_type

DENOISERS = {"sdid": SDID, "token": TokenDenoiser}
UNETS = {"sddpm": SDDPMUNet, "fsddim": FSDDIMUNet}


@contextmanager
def sizes_that_fit() -> Iterator[None]:
    """Turn torch's errors about tensors that no machine, or not this one, can hold into `InputError`."""
    try:
        yield
    except (RuntimeError, MemoryError, OverflowError, TypeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        if isinstance(error, TypeError) and "Overflow" not in reason:
            raise
        raise InputError(f"a network of these sizes cannot be built: choose smaller ones ({reason})") from error


def build_neurons(config: SpikingConfig) -> NeuronFactory:
    """The factory of a configuration's neurons."""
    num_scales = config.T if config.tsm else 0
    return neuron_factory(config.neuron, config.activation_bits, num_scales=num_scales, **asdict(config.lif))


def _arranged(network: nn.Module, config: SpikingConfig) -> nn.Module:
    """The network as a chip holds it, where its weights are integers (`weight_bits`); otherwise as it is."""
    return network if config.weight_bits is None else separate_connections(fold_batch_norms(network))


@sizes_that_fit()
def build_vq_svae(config: VQSVAEConfig) -> VQSVAE:
    """The network of stage 1."""
    _require_known(config, "image_shape")
    return _arranged(VQSVAE(config.image_shape, config.T, build_neurons(config), **asdict(config.model)), config)


@sizes_that_fit()
def build_denoiser(config: AbsorbingConfig) -> nn.Module:
    """The denoiser of stage 2."""
    _require_known(config, "vq_svae")
    options = {key: value for key, value in asdict(config.model).items() if value is not None}
    name = options.pop("denoiser")
    require_one_of("model.denoiser", name, DENOISERS)
    known = inspect.signature(DENOISERS[name]).parameters
    if foreign := options.keys() - known:
        raise InputError(f"model.denoiser={name} does not take {', '.join(f'model.{key}' for key in sorted(foreign))}")
    require("num_classes" in known or not config.conditional, "conditional", f"false: {name} takes no labels", "true")
    stage1 = config.vq_svae.model
    grid = (stage1.num_codes, *token_grid(config.vq_svae.image_shape, stage1.channels))
    options |= _label_options(config)
    return _arranged(DENOISERS[name](grid, stage1.codebook_size, config.T, build_neurons(config), **options), config)


@sizes_that_fit()
def build_unet(config: GaussianConfig) -> nn.Module:
    """The U-Net of the Gaussian diffusion."""
    _require_known(config, "image_shape")
    options = asdict(config.model) | _label_options(config)
    name = options.pop("unet")
    require_one_of("model.unet", name, UNETS)
    loss, needed = config.diffusion.loss, "synaptic_current" if name == "fsddim" else "mse"
    require(loss == needed, "diffusion.loss", f"{needed} with model.unet={name}", repr(loss))
    if name == "fsddim":
        options["threshold"] = config.lif.threshold
    return UNETS[name](config.image_shape, config.T, build_neurons(config), **options)


@sizes_that_fit()
def build_classifier(config: ClassifierConfig) -> Classifier:
    """The classifier of real images."""
    _require_known(config, "image_shape", "num_classes")
    return Classifier(config.image_shape, config.num_classes, **asdict(config.model))


def _label_options(config: DenoiserConfig) -> dict[str, int]:
    """Constructor arguments of a class-conditional network; none for an unconditional one."""
    if not config.conditional:
        return {}
    _require_known(config, "num_classes")
    return {"num_classes": config.num_classes, "styles": config.styles}


def _require_known(config: Config, *names: str) -> None:
    """Raise `InputError` unless these fields, which training fills in, have values."""
    for name in names:
        require(getattr(config, name) is not None, name, "known before a network is built", None)


class LatentModel(nn.Module):
    """Both networks of the latent pipeline, as one stage-2 file holds them.

    Args:
        vq_svae: the frozen stage 1.
        denoiser: stage 2.
    """

    def __init__(self, vq_svae: VQSVAE, denoiser: nn.Module) -> None:
        super().__init__()
        self.vq_svae, self.denoiser = vq_svae, denoiser


class PixelModel(nn.Module):
    """The network of the pixel pipeline, as its file holds it.

    Args:
        unet: predicts noise, image, velocity or currents, as the diffusion asks.
        diffusion_steps: N.

    Attributes:
        image_error: [N + 1], measured for the `analytic` sampler; NaN until then.
    """

    def __init__(self, unet: nn.Module, diffusion_steps: int) -> None:
        super().__init__()
        self.unet = unet
        self.register_buffer("image_error", torch.full((diffusion_steps + 1,), torch.nan, dtype=torch.float32))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.unet.image_shape


@sizes_that_fit()
def build_model(config: Config) -> VQSVAE | LatentModel | PixelModel | Classifier:
    """The freshly initialised network that a file of this configuration's stage holds."""
    if isinstance(config, GaussianConfig):
        return PixelModel(build_unet(config), config.diffusion.diffusion_steps)
    if isinstance(config, ClassifierConfig):
        return build_classifier(config)
    if isinstance(config, AbsorbingConfig):
        denoiser = build_denoiser(config)
        return LatentModel(build_vq_svae(config.vq_svae), denoiser)
    return build_vq_svae(config)


def build_on_cpu(config: Config) -> VQSVAE | LatentModel | PixelModel | Classifier:
    """`build_model` with parameters of the configuration's type on the CPU, whatever torch's defaults are."""
    with torch.device("cpu"):
        return build_model(config).to(parameter_type(config.precision))

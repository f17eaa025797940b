"""From a configuration to freshly initialised networks."""

from __future__ import annotations

import inspect
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
from spiking_vq.errors import InputError, require
from spiking_vq.layers.synapses import NeuronFactory
from spiking_vq.models.classifier import Classifier
from spiking_vq.models.critics import PatchAdversary
from spiking_vq.models.fsddim import FSDDIMUNet
from spiking_vq.models.sddpm import SDDPMUNet
from spiking_vq.models.sdid import SDID
from spiking_vq.models.token_denoiser import TokenDenoiser
from spiking_vq.models.vq_svae import VQSVAE, token_grid
from spiking_vq.neurons.twins import neuron_factory
from spiking_vq.runtime.precision import parameter_type

DENOISERS = {"sdid": SDID, "token": TokenDenoiser}

UNETS = {"sddpm": SDDPMUNet, "fsddim": FSDDIMUNet}


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
        self.register_buffer("image_error", torch.full((diffusion_steps + 1,), torch.nan, dtype=torch.float32))

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


def build_on_cpu(config: Config) -> VQSVAE | LatentModel | PixelModel | Classifier:
    """`build_model` of the configuration's type on the CPU, whatever torch's defaults are."""
    with torch.device("cpu"):
        return build_model(config).to(parameter_type(config.precision))

"""Every option reaches a constructor's parameter of the same name and default."""

import inspect
from dataclasses import asdict, fields

import pytest

from spiking_vq.checkpoint.build import DENOISERS, UNETS
from spiking_vq.config.load import leaves
from spiking_vq.config.options import (
    AdversaryOptions,
    AugmentOptions,
    ClassifierOptions,
    DenoiserOptions,
    GaussianOptions,
    LIFOptions,
    UNetOptions,
    VQSVAEOptions,
)
from spiking_vq.config.schema import STAGES, AbsorbingConfig
from spiking_vq.data.augment import random_affine
from spiking_vq.diffusion.absorbing import AbsorbingDiffusion
from spiking_vq.diffusion.absorbing_sampler import AbsorbingSampler
from spiking_vq.diffusion.gaussian import GaussianDiffusion
from spiking_vq.diffusion.gaussian_sampler import GaussianSampler
from spiking_vq.models.classifier import Classifier
from spiking_vq.models.critics import PatchAdversary
from spiking_vq.models.sddpm import SDDPMUNet
from spiking_vq.models.vq_svae import VQSVAE
from spiking_vq.neurons.dynamics import Dynamics
from spiking_vq.neurons.lif import LIF


def defaults(*functions):
    """Parameter -> default of those that have one."""
    parameters = [item for function in functions for item in inspect.signature(function).parameters.values()]
    return {item.name: item.default for item in parameters if item.default is not item.empty}


@pytest.mark.parametrize(
    ("options", "constructors", "elsewhere"),
    [
        (LIFOptions, (LIF, Dynamics), set()),
        (VQSVAEOptions, (VQSVAE,), set()),
        (AdversaryOptions, (PatchAdversary,), {"weight", "lr"}),  # the loss's and the optimiser's
        (UNetOptions, (SDDPMUNet,), {"unet"}),
        (GaussianOptions, (GaussianDiffusion,), set()),
        (ClassifierOptions, (Classifier,), set()),
        (AugmentOptions, (random_affine,), set()),
    ],
)
def test_options_have_the_constructors_names_and_defaults(options, constructors, elsewhere):
    known = defaults(*constructors)
    for name, value in asdict(options()).items():
        if name not in elsewhere:
            default = known[name]
            assert value == (list(default) if isinstance(default, tuple) else default), name
    assert elsewhere <= {field.name for field in fields(options)}


def test_none_is_the_denoisers_own_default():
    for name, value in asdict(DenoiserOptions(denoiser="token")).items():
        if name != "denoiser":
            assert value is None
            assert name in defaults(DENOISERS["token"])


def test_the_absorbing_loss_has_the_diffusions_default():
    assert AbsorbingConfig().loss == defaults(AbsorbingDiffusion)["loss"]


@pytest.mark.parametrize(("stage", "sampler"), [("absorbing", AbsorbingSampler), ("gaussian", GaussianSampler)])
def test_sampler_options_reach_the_sampler_as_they_are(stage, sampler):
    options = STAGES[stage]().sample
    assert type(options).__name__ in str(inspect.signature(sampler).parameters["options"].annotation)


def test_every_network_that_can_be_built_can_be_configured():
    for stage, name, known in (("absorbing", "model.denoiser", DENOISERS), ("gaussian", "model.unet", UNETS)):
        (choice,) = leaves(STAGES[stage])[name].__metadata__
        assert choice.names == tuple(known)

"""Networks small enough to test on, and awake: batch norm has seen data, so that neurons fire in evaluation too."""

import os
import subprocess
from dataclasses import replace

import pytest
import torch
from awake import LIF_OPTIONS, wake

from spiking_vq.checkpoint.build import LatentModel, build_denoiser, build_model, build_vq_svae
from spiking_vq.config.options import (
    DenoiserOptions,
    GaussianOptions,
    LIFOptions,
    TrainOptions,
    UNetOptions,
    VQSVAEOptions,
)
from spiking_vq.config.schema import AbsorbingConfig, GaussianConfig, VQSVAEConfig
from spiking_vq.pipelines.latent import LatentPipeline

os.environ["HF_HUB_OFFLINE"] = "1"  # a mistyped path must not ask the hub; read when huggingface_hub is imported


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def images():
    """Six images [6, 1, 12, 12] in [0, 1]."""
    return torch.rand(6, 1, 12, 12)


@pytest.fixture
def vq_svae_config():
    """A stage-1 configuration: 12x12 images, 3x3 tokens, K = 8, D = 4, T = 2."""
    return VQSVAEConfig(
        image_shape=[1, 12, 12],
        T=2,
        lif=LIFOptions(**LIF_OPTIONS),
        train=TrainOptions(max_steps=1),
        model=VQSVAEOptions(channels=[4, 8], embedding_dim=4, codebook_size=8),
    )


@pytest.fixture
def absorbing_config(vq_svae_config):
    """A stage-2 configuration over that stage 1."""
    return AbsorbingConfig(
        image_shape=[1, 12, 12],
        T=2,
        lif=LIFOptions(**LIF_OPTIONS),
        train=TrainOptions(max_steps=1),
        model=DenoiserOptions("token", width=8, num_blocks=1),
        vq_svae=vq_svae_config,
    )


@pytest.fixture
def vq_svae(vq_svae_config, images):
    """The awake stage-1 network."""
    model = build_vq_svae(vq_svae_config)
    wake(model, images)
    vectors = model.encode_spikes(model.encode(images)).detach().movedim(1, -1).flatten(0, -2).unique(dim=0)
    model.quantizer.codebook.data = vectors[torch.randperm(len(vectors))[:8]]  # so that every code is in use
    assert len(model.tokenize(images).unique()) == 8
    return model


@pytest.fixture
def latent_model(vq_svae, absorbing_config):
    """Both networks, awake."""
    denoiser = build_denoiser(absorbing_config)
    wake(denoiser, torch.randint(9, (16, 1, 3, 3)), torch.ones(16).long())
    denoiser.readout.weight.data *= 10  # so that what is drawn at one place depends on the others
    return LatentModel(vq_svae, denoiser).eval()


@pytest.fixture
def counted_latents(vq_svae_config, absorbing_config, images):
    """A generator of two codes a position, which are spike counts: K = 9, two channels a code, T = 2."""
    options = {
        "quantizer": "count",
        "num_codes": 2,
        "codebook_size": 9,
        "encoding": "rate",
        "spike_generator": "direct",
    }
    stage1 = replace(
        vq_svae_config,
        lif=LIFOptions(beta=1.0, reset="subtract", fire_at_threshold=True),
        model=replace(vq_svae_config.model, **options),
    )
    config = replace(absorbing_config, vq_svae=stage1)
    vq_svae, denoiser = wake(build_vq_svae(stage1), images), build_denoiser(config)
    wake(denoiser, torch.randint(10, (16, 2, 3, 3)), torch.ones(16).long())
    denoiser.readout.weight.data *= 10
    return LatentPipeline(LatentModel(vq_svae, denoiser), config)


@pytest.fixture
def gaussian_config():
    """A configuration of the continuous stage: 12x12 images, T = 2, ten labels, ten diffusion steps."""
    return GaussianConfig(
        image_shape=[1, 12, 12],
        T=2,
        lif=LIFOptions(**LIF_OPTIONS),
        train=TrainOptions(max_steps=1),
        model=UNetOptions(width=4, multipliers=[1, 2], num_blocks=1),
        diffusion=GaussianOptions(diffusion_steps=10, schedule="cosine", prediction="v"),
        conditional=True,
        num_classes=10,
    )


@pytest.fixture
def pixel_model(gaussian_config):
    """Its network, awake."""
    model = build_model(gaussian_config)
    wake(model.unet, torch.randn(16, 1, 12, 12), torch.arange(16) % 10 + 1)
    model.unet.labels.weight.data *= 50  # so that labels make a difference
    return model.eval()


@pytest.fixture
def labelled_latents(latent_model, absorbing_config):
    """A generator of tokens whose network knows labels."""
    absorbing_config.conditional, absorbing_config.num_classes = True, 10
    denoiser = build_denoiser(absorbing_config)
    wake(denoiser, torch.randint(9, (16, 1, 3, 3)), torch.ones(16).long())
    denoiser.readout.weight.data *= 10
    denoiser.labels.weight.data *= 50
    latent_model.denoiser = denoiser
    return LatentPipeline(latent_model, absorbing_config)


@pytest.fixture
def small_disk(tmp_path):
    """Function that makes a folder on a file system of so many KB; skips where mounting is not allowed."""
    folder = tmp_path / "disk"

    def mount(kilobytes):
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", folder]
        try:
            done = subprocess.run(command, capture_output=True, text=True)
        except OSError as error:
            pytest.skip(f"no mount here: {error}")
        if done.returncode:
            pytest.skip(f"mounting is not allowed here: {done.stderr}")
        return folder

    yield mount
    subprocess.run(["umount", "--lazy", folder], capture_output=True)

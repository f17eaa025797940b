"""What other code sets globally in torch changes nothing here."""

from dataclasses import replace

import pytest
import torch
from awake import wake

from spiking_vq.checkpoint.file import fingerprint, load_model, save_model
from spiking_vq.data.augment import random_affine
from spiking_vq.data.datasets import load_dataset
from spiking_vq.diffusion.absorbing import LOSSES, AbsorbingDiffusion
from spiking_vq.metrics.codebook import perplexity
from spiking_vq.models.vq_svae import VQSVAE
from spiking_vq.pipelines.latent import LatentPipeline
from spiking_vq.pipelines.load import load
from spiking_vq.pipelines.pixel import PixelPipeline


@pytest.fixture(params=["float64", "meta"])
def foreign_state(request):
    """Set torch's defaults as other code may; `meta` holds no numbers, so that whatever lands there fails."""

    def set_defaults():
        torch.manual_seed(5)
        if request.param == "float64":
            torch.set_default_dtype(torch.float64)
        else:
            torch.set_default_device("meta")

    yield set_defaults
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)


def test_an_autocast_of_the_callers(latent_model, absorbing_config, images):
    pipeline, keep = LatentPipeline(latent_model, absorbing_config), torch.ones(3, 3, dtype=torch.bool)
    keep[1] = False
    many = torch.rand(64, 1, 12, 12)

    def made():
        return [*pipeline.sample(64), *pipeline.inpaint(many, keep)]

    expected = made()
    with torch.autocast("cpu", torch.bfloat16):
        found = made()
    assert all(map(torch.equal, found, expected))


LATENT_SETTINGS = (
    {"order": "bernoulli"},
    {"order": "halton", "sample_steps": 3, "schedule": "cosine"},
    {"temperature": 1.3, "last_temperature": 0.2, "top_p": 0.9, "sample_steps": 4},
)


def test_samples(foreign_state, latent_model, absorbing_config, pixel_model, gaussian_config, tmp_path, images):
    latent, pixel = tmp_path / "latent.safetensors", tmp_path / "pixel.safetensors"
    save_model(latent, latent_model, absorbing_config)
    save_model(pixel, pixel_model, gaussian_config)
    keep = torch.tensor([[True, False, True]] * 3)

    def everything():
        tokens, pixels = load(latent), load(pixel)
        made = [tokens.sample(3, 1, **settings) for settings in LATENT_SETTINGS] + [tokens.inpaint(images, keep)]
        made += [pixels.sample(3, 1, sampler=sampler, sample_steps=4) for sampler in ("ddim", "ddpm_large")]
        made.append(pixels.sample(3, 1, guidance=2.0, sample_steps=2, threshold_shift=-0.1))
        return [x for samples in made for x in samples if x is not None], fingerprint(load_model(latent)[0])

    expected, weights = everything()
    foreign_state()
    found, found_weights = everything()
    assert all(map(torch.equal, found, expected))
    assert found_weights == weights


def test_poisson_spikes(foreign_state, vq_svae_config, latent_model, absorbing_config, images):
    vq_svae_config = replace(vq_svae_config, model=replace(vq_svae_config.model, spike_generator="poisson"))
    from spiking_vq.checkpoint.build import build_vq_svae

    latent_model.vq_svae = wake(build_vq_svae(vq_svae_config), images)
    pipeline = LatentPipeline(latent_model, absorbing_config)
    expected = pipeline.sample(2).images
    foreign_state()
    assert torch.equal(pipeline.sample(2).images, expected)


@pytest.mark.parametrize("loss", LOSSES)
def test_losses(foreign_state, latent_model, loss):
    diffusion, tokens = AbsorbingDiffusion((1, 3, 3), 8, loss), torch.randint(8, (6, 1, 3, 3))

    def figures():
        generator = torch.Generator("cpu").manual_seed(0)
        found = diffusion.loss(latent_model.denoiser, tokens, generator)
        return [*found.values(), diffusion.elbo_bits(latent_model.denoiser, tokens, generator)]

    expected = figures()
    foreign_state()
    found = figures()
    assert all(map(torch.equal, found, expected))
    assert all(value.dtype == torch.float32 for value in found)


def test_stage_1_trains_alike(foreign_state, vq_svae: VQSVAE, images):
    vq_svae.train()
    expected = vq_svae.loss_terms(images, torch.Generator("cpu").manual_seed(0))
    foreign_state()
    assert all(map(torch.equal, vq_svae.loss_terms(images, torch.Generator("cpu").manual_seed(0)), expected))


def test_images_and_maps(foreign_state):
    def drawn():
        data, generator = load_dataset("digits", "none"), torch.Generator("cpu").manual_seed(0)
        maps = random_affine(3, generator, degrees=5, shift=0.1)
        tokens = torch.arange(9, device="cpu").view(1, 1, 3, 3)
        return [*data.train, *data.test, maps, perplexity(tokens)], data.variance

    expected, variance = drawn()
    foreign_state()
    found, found_variance = drawn()
    assert all(map(torch.equal, found, expected))
    assert found_variance == variance


def test_a_new_pipeline_of_pixels(foreign_state, pixel_model, gaussian_config):
    pipeline = PixelPipeline(pixel_model, gaussian_config)
    expected = pipeline.sample(1).images
    foreign_state()
    assert torch.equal(PixelPipeline(pixel_model, gaussian_config).sample(1).images, expected)

"""Small untrained models in files, as the page is given them."""

from dataclasses import replace
from threading import Event

import pytest

from spiking_vq.checkpoint.file import save_model
from stages.app.generate import generate
from stages.app.models import Models, controls


@pytest.fixture
def latents(tmp_path, labelled_latents):
    """A generator of tokens that knows ten labels: 12x12 images, 3x3 tokens."""
    config = replace(labelled_latents.config, data="digits")
    save_model(tmp_path / "tiny.safetensors", labelled_latents.model, config)
    return Models(tmp_path / "tiny.safetensors")


@pytest.fixture
def pixels(tmp_path, pixel_model, gaussian_config):
    """A generator of pixels that knows ten labels: 12x12 images, ten diffusion steps."""
    save_model(tmp_path / "pixels.safetensors", pixel_model, replace(gaussian_config, data="digits"))
    return Models(tmp_path / "pixels.safetensors")


@pytest.fixture
def generated():
    """Function that generates with the page's first model: all that is yielded, the `Made` last."""

    def run(models, n=5, seed=1, **given):
        own = controls(models.pipeline(models.first)).values
        return list(generate(models, models.first, n, seed, own | given, Event()))

    return run

"""Untrained models to inspect."""

from dataclasses import replace

import pytest

DIGITS = {"data": "digits", "preset": "base", "image_size": 12}


@pytest.fixture
def models(gaussian_config, pixel_model, latent_model, absorbing_config):
    """Stage -> an untrained model and its configuration, to be changed before it is inspected."""
    stage1 = replace(absorbing_config.vq_svae, **DIGITS)
    return {
        "gaussian": (pixel_model, replace(gaussian_config, **DIGITS)),
        "vq_svae": (latent_model.vq_svae, stage1),
        "absorbing": (latent_model, replace(absorbing_config, **DIGITS, vq_svae=stage1)),
    }

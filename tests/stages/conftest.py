"""Models of every stage on the digits, untrained, in a folder of runs."""

from dataclasses import replace

import pytest

from spiking_vq.checkpoint.build import build_classifier
from spiking_vq.checkpoint.file import save_model
from spiking_vq.config.options import ClassifierOptions, TrainOptions
from spiking_vq.config.schema import ClassifierConfig


@pytest.fixture
def untrained_runs(tmp_path, gaussian_config, pixel_model, latent_model, absorbing_config):
    """`<tmp_path>/runs` with an untrained model of each stage and an untrained classifier, of images 12x12."""
    digits = {"data": "digits", "preset": "base", "image_size": 12}
    options = {"train": TrainOptions(max_steps=1), "model": ClassifierOptions([4])}
    judge = ClassifierConfig(**digits, image_shape=[1, 12, 12], num_classes=10, **options)
    stage1 = replace(absorbing_config.vq_svae, **digits)
    models = {
        "gaussian": (pixel_model, replace(gaussian_config, **digits)),
        "vq_svae": (latent_model.vq_svae, stage1),
        "absorbing": (latent_model, replace(absorbing_config, **digits, vq_svae=stage1)),
        "classifier": (build_classifier(judge), judge),
    }
    for stage, (model, config) in models.items():
        save_model(tmp_path / f"runs/digits/base/{stage}/model.safetensors", model, config)
    return tmp_path / "runs"

"""Each model that ships has a preset that trains it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors import safe_open

from spiking_vq.config.compare import differences
from spiking_vq.config.load import DERIVED, config_from_dict, load_config
from spiking_vq.pipelines.zoo import ZOO, located

CONFIGS = Path(__file__).parents[3] / "configs"
SHIPPED = sorted(ZOO.glob("*.safetensors"))
PRESET_OF = {("kmnist", "classifier"): "augmented", ("letters", "classifier"): "augmented"}


def preset_of(path, config):
    """Name of the preset that trains the model in a shipped file; every stage 1 is that of a base model."""
    own = path.stem.split("-")[1] if config.stage != "vq_svae" else "base"
    return PRESET_OF.get((config.data, config.stage), own)


def untrained(config):
    """The configuration without the fields that training fills in, and without its preset's name."""
    names = {name: None for name in DERIVED if hasattr(config, name)}
    parts = {"train": replace(config.train, start_from_sha256=None), "preset": ""}
    if config.stage == "vq_svae":
        parts["perceptual"] = replace(config.perceptual, classifier_sha256=None)
    if config.stage == "absorbing":
        parts["vq_svae"] = None
    return replace(config, **names, **parts)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_preset_has_the_configuration_of_the_shipped_model(path):
    with safe_open(path, "pt") as file:
        shipped = config_from_dict(json.loads(file.metadata()["config"]))
    trained = [shipped] if shipped.stage != "absorbing" else [shipped, shipped.vq_svae]
    for config in trained:
        preset = preset_of(path, config)
        loaded = load_config(config.stage, CONFIGS / config.stage / f"{preset}.yaml", [f"data={config.data}"])
        assert differences(untrained(config), untrained(loaded)) == []
        is_fine_tuned = config.train.start_from_sha256 is not None
        assert (loaded.train.start_from is not None) == is_fine_tuned
        if is_fine_tuned:
            assert located(loaded.train.start_from, config.stage, "absorbing").is_file()


def test_values_of_a_data_set_lie_over_those_of_its_preset_and_under_overrides():
    base, cifar10 = CONFIGS / "absorbing" / "base.yaml", "data=cifar10"
    assert load_config("absorbing", base).model.width == 192
    assert load_config("absorbing", base, [cifar10]).model.width == 160
    assert load_config("absorbing", base, [cifar10, "model.width=64"]).model.width == 64
    twin = load_config("absorbing", CONFIGS / "absorbing" / "base-relu.yaml", [cifar10])
    assert (twin.model.width, twin.neuron, twin.preset) == (160, "relu", "base-relu")

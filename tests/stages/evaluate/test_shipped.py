"""Models that ship, with their own settings: published samples, which the shipped classifier reads; minutes each."""

from pathlib import Path

import numpy as np
import pytest
import torch

from spiking_vq.data.datasets import load_dataset
from spiking_vq.pipelines.load import load
from spiking_vq.pipelines.zoo import ZOO, find_model
from spiking_vq.randomness import mix_seed
from stages.evaluate.measures import ClassifierMeasures

STORED = Path(__file__).parents[2] / "data" / "shipped_samples.npz"
"""Model -> tokens of its first eight images of seed 0, or of the continuous stage the images; made in fp32."""

AGREEMENT = {
    "mnist-base-absorbing": 0.9,
    "mnist-large-absorbing": 0.9,
    "fmnist-base-absorbing": 0.8,
    "fmnist-large-absorbing": 0.8,
    "kmnist-base-absorbing": 0.8,
    "letters-base-absorbing": 0.8,
    "letters-large-absorbing": 0.8,
    "cifar10-base-absorbing": 0.5,
    "mnist-base-gaussian": None,
}
"""Model -> share of its first 64 images that the classifier reads as the label that was drawn for them, at least; None
of a model without labels."""


@pytest.mark.slow
@pytest.mark.parametrize("name", AGREEMENT)
def test_shipped_weights_give_the_published_samples(name):
    """Up to rare spikes that another processor rounds across their threshold."""
    pipeline, data = load(name), name.partition("-")[0]
    images, tokens = pipeline.sample(64, seed=0)
    with np.load(STORED) as stored:
        published = torch.from_numpy(stored[name].astype(np.int64))
    if tokens is None:
        assert ((images[:8].long() - published).abs() <= 8).float().mean() > 0.9
    else:
        assert (tokens[:8] == published.view_as(tokens[:8])).float().mean() > 0.9
    if AGREEMENT[name] is None:
        return
    labels = pipeline.labels([mix_seed(0, index) for index in range(64)]) // pipeline.config.styles
    classifier = ClassifierMeasures(find_model("classifier", data, "base"), load_dataset(data, "data"), "cpu")
    _, probabilities = classifier.read(images)
    assert (probabilities.argmax(1) == labels).float().mean() >= AGREEMENT[name]


def test_all_models_that_ship_are_tested():
    assert {f"{name}.safetensors" for name in AGREEMENT} == {
        path.name for path in ZOO.glob("*.safetensors") if not path.stem.endswith("-classifier")
    }

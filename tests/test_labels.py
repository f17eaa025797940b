"""Networks that are told labels, trained for a moment on small digits: a classifier reads what was asked for."""

import pytest
import torch

from spiking_vq.checkpoint import load_model
from spiking_vq.data import to_unit
from spiking_vq.generators import load_generator
from stages import train

COMMON = [
    "preset=base",
    "data=digits",
    "image_size=8",
    "precision=fp32",
    "train.compile=false",
    "train.warmup_steps=20",
    "train.val_every=1000",
]
TOLD = ["conditional=true", "T=2", "early_T=null", "train.ema_decay=0.99"]
TRAININGS = {
    "classifier": ["model.channels=[8,16]", "train.max_steps=300"],
    "vq_svae": ["model.channels=[8,16]", "model.embedding_dim=4", "T=2", "train.max_steps=300"],
    "absorbing": [*TOLD, "model.width=32", "model.num_blocks=2", "train.max_steps=500"],
    "gaussian": [*TOLD, "model.width=32", "model.multipliers=[1]", "train.lr=5e-3", "train.max_steps=400"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The run folders of all trainings."""
    runs = tmp_path_factory.mktemp("runs")
    for stage, arguments in TRAININGS.items():
        train.main([stage, *COMMON, *arguments, f"runs={runs}"])
    return runs / "digits/base"


@pytest.mark.parametrize("stage", ["absorbing", "gaussian"])
def test_the_classifier_agrees_with_the_label(folder, stage):
    classifier, _ = load_model(folder / "classifier/model.safetensors")
    generator = load_generator(folder / stage / "model.safetensors")

    @torch.no_grad()
    def agreement(guidance):
        """Share of images that the classifier reads as the label they were made of, over all ten."""
        calls = 10 if stage == "gaussian" else None
        agree = []
        for label in range(10):
            images = generator.sample(16, seed=1, label=label, guidance=guidance, sample_steps=calls).images
            agree.append(classifier(to_unit(images)).argmax(1) == label)
        return torch.cat(agree).float().mean().item()

    labelled, strongly = agreement(1.0), agreement(2.0)
    assert labelled > 0.3  # by chance, 0.1
    assert strongly > 0.6

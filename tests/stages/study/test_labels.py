"""Class-conditional networks, trained for a moment on small digits: a classifier reads their images."""

import json

import pytest
from PIL import Image

from stages import train
from stages.reporting.report import report_folder
from stages.study import labels

COMMON = [
    "preset=base",
    "data=digits",
    "image_size=8",
    "precision=fp32",
    "train.compile=false",
    "train.warmup_steps=20",
    "train.val_every=1000",
]
CONDITIONAL = ["conditional=true", "styles=2", "T=2", "early_T=null", "train.ema_decay=0.99"]
TRAININGS = {
    "classifier": ["model.channels=[8,16]", "train.max_steps=300"],
    "vq_svae": [
        "model.channels=[8,16]",
        "model.codebook_size=64",
        "model.embedding_dim=8",
        "T=2",
        "perceptual.weight=0",
        "adversary.weight=0",
        "rate.weight=0",
        "train.lr=5e-3",
        "train.max_steps=600",
    ],
    "absorbing": [*CONDITIONAL, "rate.weight=0", "model.width=32", "model.num_blocks=2", "train.max_steps=500"],
    "gaussian": [*CONDITIONAL, "model.width=32", "model.multipliers=[1]", "train.lr=5e-3", "train.max_steps=400"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The run folders of all trainings."""
    runs = tmp_path_factory.mktemp("runs")
    for stage, arguments in TRAININGS.items():
        train.main([stage, *COMMON, *arguments, f"runs={runs}"])
    return runs / "digits/base"


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["absorbing", "gaussian"])
def test_the_classifier_agrees_with_the_label(folder, stage, tmp_path):
    calls = ["sample_steps=10"] if stage == "gaussian" else []
    models = [f"ckpt={folder / stage}/model.safetensors", f"classifier={folder}/classifier/model.safetensors"]
    labels.main([*models, *calls, "strengths=1 2", "n=16", "seed=1", f"results={tmp_path}"])
    out = report_folder(tmp_path, stage, "digits", "base")
    labelled, strongly = json.loads((out / "labels.json").read_text())["rows"]
    assert (labelled["guidance"], strongly["guidance"]) == (1, 2)
    assert labelled["agreement"] > 0.3  # by chance, 0.1
    assert strongly["agreement"] > 0.6
    for row in (labelled, strongly):
        assert sum(row["agreement_per_label"]) / 10 == pytest.approx(row["agreement"])
    assert Image.open(out / "labels.png").size == (10 * (8 + 2) + 2, 10 * (8 + 2) + 2)

"""Runs of tiny networks on scikit-learn's digits, which the tests of training share."""

import csv
import shutil
from pathlib import Path

import pytest
import torch
from awake import wake
from safetensors.torch import load_file

from spiking_vq.checkpoint.build import LatentModel, build_denoiser, build_vq_svae
from spiking_vq.checkpoint.file import save_model
from spiking_vq.config.load import load_config
from spiking_vq.data.levels import to_unit
from stages import absorbing, train, vq_svae
from stages.training.stage import Stage

ROOT = Path(__file__).parents[3]
RUN = [
    "train.compile=false",
    "train.batch_size=160",  # eight batches an epoch: a run of ten steps crosses into the second
    "train.max_steps=10",
    "train.warmup_steps=2",
    "train.save_every=3",
    "train.val_every=4",
]
DATA = ["preset=base", "data=digits", "precision=fp32"]
STAGE1 = [
    "vq_svae",
    *DATA,
    "image_size=12",  # nine tokens
    "T=2",
    "model.channels=[4,8]",
    "model.embedding_dim=4",
    "model.codebook_size=16",
    "perceptual.weight=0",
    "adversary.weight=0",
    *RUN,
]
STAGE2 = [
    "absorbing",
    *DATA,
    "T=2",
    "model.width=8",
    "model.num_blocks=1",
    "conditional=false",
    "styles=1",
    "sample.guidance=0",
    *RUN,
]
GAUSSIAN = [
    "gaussian",
    *DATA,
    "T=2",
    "early_T=1",
    "image_size=8",
    "model.width=4",
    "model.multipliers=[1]",
    "conditional=true",
    "sample.sample_steps=2",
    *RUN,
]
CLASSIFIER = ["classifier", *DATA, "image_size=12", "model.channels=[4,8]", *RUN]
ALL = [STAGE1, STAGE2, GAUSSIAN, CLASSIFIER]


def stage_name(value):
    """The stage of a command line, as the name of a parameter."""
    return value[0] if isinstance(value, list) else None


def config_of(arguments, *overrides):
    """The configuration of a command line."""
    stage, *given = arguments
    return load_config(stage, train.preset_file(stage, "base"), [*given, *overrides])


def awake_model(folder, *options):
    """File of a class-conditional stage 2, untrained but awake: its tokens differ, and labels make a difference."""
    config, data = vq_svae.prepare(config_of(STAGE1))
    model, images = build_vq_svae(config), to_unit(data.train.images[:64])
    wake(model, images)
    with torch.no_grad():
        vectors = model.encode_spikes(model.encode(images)).movedim(1, -1).flatten(0, -2).unique(dim=0)
    model.quantizer.codebook.data = vectors[torch.randperm(len(vectors))[:16]]
    save_model(folder / "stage1.safetensors", model, config)
    stage1 = f"stage1={folder / 'stage1.safetensors'}"
    config, data = absorbing.prepare(config_of(STAGE2, "conditional=true", *options, f"runs={folder}", stage1))
    denoiser = build_denoiser(config)
    wake(denoiser, data.train[0][:64], torch.ones(64).long())
    denoiser.labels.weight.data *= 50
    denoiser.readout.weight.data *= 10
    save_model(folder / "awake.safetensors", LatentModel(model, denoiser), config)
    return folder / "awake.safetensors"


def slow(*values):
    """Values of a parameter for slow tests."""
    return [pytest.param(*value, marks=pytest.mark.slow) for value in values]


def folders(unbroken, runs, stage):
    """Overrides for a run in another folder than that of its stage 1."""
    stage1 = [f"stage1={unbroken / 'vq_svae/model.safetensors'}"] if stage == "absorbing" else []
    return [f"runs={runs}", *stage1]


def copied(runs, to, stage="classifier", without=("model.safetensors", "training.json")):
    """A copy of a run, by default as if it had been killed before its export; its folder."""
    folder = to / "digits/base" / stage
    shutil.copytree(runs / stage, folder, ignore=shutil.ignore_patterns(*without))
    return folder


def rows(path):
    """Rows of a CSV file."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def assert_same_run(one, other):
    """Two run folders hold the same weights, metrics and best step, bit by bit."""
    a, b = (load_file(run / "model.safetensors") for run in (one, other))
    assert a.keys() == b.keys()
    for key in a:
        torch.testing.assert_close(a[key], b[key], rtol=0, atol=0, equal_nan=True, msg=key)
    assert rows(one / "metrics.csv") == rows(other / "metrics.csv")
    best = [torch.load(run / "best.ckpt", weights_only=True)["global_step"] for run in (one, other)]
    assert best[0] == best[1]


def die_at(monkeypatch, step, error=None):
    """Make training die in the middle of a step, as a kill would have it, or by an error."""
    whole, error = Stage.training_step, error or RuntimeError("killed")

    def dying(self, batch, batch_idx):
        if self.global_step == step:
            raise error
        return whole(self, batch, batch_idx)

    monkeypatch.setattr(Stage, "training_step", dying)


def trained_part(model):
    """The network that a stage trains, of the model in its file."""
    return getattr(model, "denoiser", getattr(model, "unet", model))

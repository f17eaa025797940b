"""The commands that train: files, resuming, refusing; on scikit-learn's digits with tiny networks."""

import csv
import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from spiking_vq.checkpoint.build import UNETS
from spiking_vq.checkpoint.file import checkpoint_step, fingerprint, load_model, save_model
from spiking_vq.config.compare import differences
from spiking_vq.config.load import load_config, read_config
from spiking_vq.data.datasets import load_dataset
from spiking_vq.diffusion.absorbing import AbsorbingDiffusion
from spiking_vq.errors import InputError
from spiking_vq.models.token_denoiser import TokenDenoiser
from spiking_vq.models.vq_svae import VQSVAE
from spiking_vq.neurons.lif import LIF
from spiking_vq.pipelines.latent import LatentPipeline
from spiking_vq.pipelines.zoo import find_model
from spiking_vq.runtime.running import steps_of
from stages import sample, train
from stages.absorbing import AbsorbingStage, cached_tokens
from stages.classifier import ClassifierStage
from stages.study import analytic
from stages.training.ema import averaged
from stages.training.stage import Stage

ROOT = Path(__file__).parents[3]
STAGE1 = [
    "vq_svae",
    "preset=base",
    "data=digits",
    "precision=fp32",
    "model.channels=[4,8]",
    "model.embedding_dim=4",
    "model.codebook_size=16",
    "perceptual.weight=0",
    "adversary.weight=0",
    "train.compile=false",
    "train.batch_size=400",  # three batches an epoch: a run of ten steps crosses three epochs
    "train.max_steps=10",
    "train.warmup_steps=2",
    "train.save_every=3",
    "train.val_every=4",
]
STAGE2 = [
    "absorbing",
    *STAGE1[1:4],
    "model.width=8",
    "model.num_blocks=1",
    "conditional=false",
    "styles=1",
    "sample.guidance=0",
    *STAGE1[9:],
]
GAUSSIAN = [
    "gaussian",
    *STAGE1[1:4],
    "image_size=8",
    "model.width=4",
    "model.multipliers=[1,2]",
    "conditional=true",
    *STAGE1[9:],
]
CLASSIFIER = ["classifier", *STAGE1[1:4], "model.channels=[4,8]", *STAGE1[9:]]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """All stages and the classifier, trained without interruption."""
    runs = tmp_path_factory.mktemp("runs")
    train.main([*STAGE1, f"runs={runs}"])
    train.main([*STAGE2, f"runs={runs}"])
    train.main([*CLASSIFIER, f"runs={runs}"])
    train.main([*GAUSSIAN, f"runs={runs}"])
    return runs / "digits/base"


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def assert_same_run(one, other):
    a, b = (load_file(run / "model.safetensors") for run in (one, other))
    assert a.keys() == b.keys()
    for key in a:
        torch.testing.assert_close(a[key], b[key], rtol=0, atol=0, equal_nan=True, msg=key)
    assert rows(one / "metrics.csv") == rows(other / "metrics.csv")
    best = [torch.load(run / "best.ckpt", weights_only=True)["global_step"] for run in (one, other)]
    assert best[0] == best[1]


@pytest.mark.parametrize("stage", train.STAGES)
def test_run_folder_holds_what_the_readme_says(unbroken, stage):
    folder = unbroken / stage
    files = {path.name for path in folder.iterdir()}
    assert files == {
        "config.yaml",
        "last.ckpt",
        "best.ckpt",
        "metrics.csv",
        "tb",
        "images",
        "training.json",
        "model.safetensors",
    }
    assert [path.name for path in sorted((folder / "images").iterdir())] == [
        "step0000004.png",
        "step0000008.png",
        "step0000010.png",
    ]
    assert list((folder / "tb").glob("events*"))
    validated = [int(row["step"]) for row in rows(folder / "metrics.csv") if row[f"val/{monitor(stage)}"]]
    assert validated == [4, 8, 10]
    losses = [int(row["step"]) for row in rows(folder / "metrics.csv") if row["loss"]]
    assert losses == list(range(1, 11))  # a short run tells them all


@pytest.mark.parametrize("stage", train.STAGES)
def test_summary_of_a_run(unbroken, stage):
    told = json.loads((unbroken / stage / "training.json").read_text())
    table = {row["step"]: row for row in rows(unbroken / stage / "metrics.csv")}
    assert told["loss"] == {step: float(row["loss"]) for step, row in table.items()}
    assert 0 < told["validation_seconds"] < told["seconds"]
    training = told["seconds"] - told["validation_seconds"]
    assert told["images_per_second"] == pytest.approx(told["images"] / training)


def monitor(stage):
    return train.STAGES[stage].monitor


def die_at(monkeypatch, step):
    """Make training die in the middle of a step, as a kill would have it."""
    whole = Stage.training_step

    def dying(self, batch, batch_idx):
        if self.global_step == step:
            raise RuntimeError("killed")
        return whole(self, batch, batch_idx)

    monkeypatch.setattr(Stage, "training_step", dying)


@pytest.mark.parametrize("died_at", [4, 6, 8, 9])
@pytest.mark.parametrize("arguments", [STAGE1, STAGE2, CLASSIFIER, GAUSSIAN], ids=lambda arguments: arguments[0])
def test_resumed_run_equals_the_unbroken_one(unbroken, tmp_path, monkeypatch, arguments, died_at):
    arguments = [*arguments, f"runs={tmp_path}"]
    if arguments[0] == "absorbing":
        arguments.append(f"stage1={unbroken / 'vq_svae/model.safetensors'}")
    with monkeypatch.context() as patch:
        die_at(patch, died_at)
        with pytest.raises(RuntimeError, match="killed"):
            train.main(arguments)
    folder = tmp_path / "digits/base" / arguments[0]
    assert not (folder / "model.safetensors").exists()
    torch.rand(died_at)  # whatever the global random state is, the run does not depend on it
    train.main(arguments)
    assert_same_run(folder, unbroken / arguments[0])


def test_stage_1_begins_with_fewer_spiking_steps(tmp_path, monkeypatch):
    seen, whole = [], VQSVAE.decode_spikes

    def watched(self, spk):
        seen.append((self.training, len(spk)))
        return whole(self, spk)

    monkeypatch.setattr(VQSVAE, "decode_spikes", watched)
    train.main([*STAGE1, "T=3", "early_T=1", "early_part=0.4", f"runs={tmp_path}"])
    assert [T for training, T in seen if training] == [1, 1, 1, 1, 3, 3, 3, 3, 3, 3]
    assert {T for training, T in seen if not training} == {3}
    assert load_model(tmp_path / "digits/base/vq_svae/model.safetensors")[0].T == 3


def test_stage_2_begins_with_fewer_spiking_steps(unbroken, tmp_path, monkeypatch):
    seen, whole = [], AbsorbingDiffusion.loss_of

    def watched(self, denoiser, *rest):
        seen.append((denoiser.training, steps_of(denoiser)))
        return whole(self, denoiser, *rest)

    monkeypatch.setattr(AbsorbingDiffusion, "loss_of", watched)
    stage1 = unbroken / "vq_svae/model.safetensors"
    train.main([*STAGE2, "T=3", "early_T=1", "early_part=0.4", f"runs={tmp_path}", f"stage1={stage1}"])
    assert [T for training, T in seen if training] == [1, 1, 1, 1, 3, 3, 3, 3, 3, 3]
    assert {T for training, T in seen if not training} == {3}
    assert load_model(tmp_path / "digits/base/absorbing/model.safetensors")[0].denoiser.T == 3


@pytest.mark.parametrize("arguments", [STAGE1, STAGE2, GAUSSIAN], ids=lambda arguments: arguments[0])
def test_training_to_fire_less(unbroken, tmp_path, arguments):
    rates = {}
    for target in (1.0, 0.02):
        runs = tmp_path / str(target)
        stage1 = [f"stage1={unbroken / 'vq_svae/model.safetensors'}"] if arguments is STAGE2 else []
        train.main([*arguments, f"runs={runs}", f"rate.target={target}", "rate.weight=30", *stage1])
        table = rows(runs / "digits/base" / arguments[0] / "metrics.csv")
        rates[target] = [float(row["train/firing_rate"]) for row in table]
    free, held = rates.values()
    assert held[0] == free[0]  # of the same initial weights
    assert 0.02 < held[-1] < 0.9 * free[-1]


def test_killed_process_resumes_to_the_same_weights(unbroken, tmp_path):
    command = [sys.executable, "-m", "stages", "train", *STAGE1, f"runs={tmp_path}"]
    folder = tmp_path / "digits/base/vq_svae"
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (folder / "last.ckpt").exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert_same_run(folder, unbroken / "vq_svae")


def test_interrupted_run_says_how_to_go_on(tmp_path):
    command = [sys.executable, "-m", "stages", "train", *STAGE1, "train.max_steps=100000", f"runs={tmp_path}"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "digits/base/vq_svae/last.ckpt").exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    said = process.communicate()[1]
    assert process.returncode == 130
    assert "the same command resumes" in said
    assert "Traceback" not in said


def test_run_killed_before_its_export_exports(unbroken, tmp_path):
    folder = tmp_path / "digits/base/vq_svae"
    shutil.copytree(unbroken / "vq_svae", folder, ignore=shutil.ignore_patterns("model.safetensors", "training.json"))
    train.main([*STAGE1, f"runs={tmp_path}"])
    assert_same_run(folder, unbroken / "vq_svae")
    assert json.loads((folder / "training.json").read_text())["steps"] == 10


def spoil(monkeypatch, stage, step, spoilt):
    """Make the loss of a step, counted from 1, `spoilt(loss, parameter)`."""
    whole = train.STAGES[stage].batch_loss

    def batch_loss(self, batch, generator):
        figures = whole(self, batch, generator)
        if self.global_step + 1 == step:
            figures["loss"] = spoilt(figures["loss"], next(self.model.parameters()))
        return figures

    monkeypatch.setattr(train.STAGES[stage], "batch_loss", batch_loss)


def trained_part(model):
    """The network that a stage trains, of what its file holds."""
    return getattr(model, "denoiser", getattr(model, "unet", model))


def places(unbroken, runs, stage):
    """Overrides for a run in another folder than that of its stage 1."""
    stage1 = [f"stage1={unbroken / 'vq_svae/model.safetensors'}"] if stage == "absorbing" else []
    return [f"runs={runs}", *stage1]


@pytest.mark.parametrize("arguments", [STAGE1, STAGE2, CLASSIFIER, GAUSSIAN], ids=lambda arguments: arguments[0])
def test_a_loss_that_is_not_finite_stops_and_the_last_checkpoint_is_a_new_start(
    unbroken, tmp_path, monkeypatch, arguments
):
    stage = arguments[0]
    with monkeypatch.context() as patch:
        spoil(patch, stage, 6, lambda loss, parameter: loss * torch.inf)
        with pytest.raises(InputError) as caught:
            train.main([*arguments, *places(unbroken, tmp_path / "diverged", stage)])
    last = tmp_path / "diverged/digits/base" / stage / "last.ckpt"
    assert str(caught.value) == (
        "training has diverged: loss = inf at step 6. Lower train.lr, or set train.grad_clip=1."
        f" {last} holds step 3: go on from it with another RUNS= and train.start_from={last}."
    )
    train.main([*arguments, f"runs={tmp_path / 'again'}", f"train.start_from={last}", "train.max_steps=1"])
    started = read_config(tmp_path / "again/digits/base" / stage / "config.yaml").train
    assert started.start_from_sha256 == fingerprint(trained_part(load_model(last)[0]))


@pytest.mark.parametrize(("step", "saved"), [(3, None), (4, 3), (9, 6), (10, 9)])
def test_weights_that_are_not_finite_are_not_saved(tmp_path, monkeypatch, step, saved):
    """A gradient may overflow where the loss did not: steps that save, validate, do both."""

    def overflow(loss, parameter):
        zero = (parameter - parameter.detach()).abs().max()
        return loss + 0 * zero.sqrt()  # of infinite slope

    spoil(monkeypatch, "classifier", step, overflow)
    said = f"diverged: weights are NaN or infinite after step {step}, model.* among them"
    with pytest.raises(InputError, match=said) as caught:
        train.main([*CLASSIFIER, f"runs={tmp_path}"])
    folder = tmp_path / "digits/base/classifier"
    assert ("holds step" in str(caught.value)) == (saved is not None)
    for path in folder.glob("*.ckpt"):
        checkpoint = torch.load(path, weights_only=True)
        assert checkpoint["global_step"] < step
        assert all(value.isfinite().all() for value in checkpoint["state_dict"].values())
    assert (folder / "last.ckpt").exists() == (saved is not None)
    assert not (folder / "model.safetensors").exists()


def test_diverged_run_says_so(tmp_path):
    with pytest.raises(InputError, match=r"diverged.*Lower train\.lr"):
        train.main([*STAGE1, f"runs={tmp_path}", "train.lr=1e30"])


@pytest.mark.parametrize("arguments", [STAGE1, STAGE2, CLASSIFIER, GAUSSIAN], ids=lambda arguments: arguments[0])
def test_training_does_not_depend_on_torchs_default_type(unbroken, tmp_path, arguments):
    stage1 = [f"stage1={unbroken / 'vq_svae/model.safetensors'}"] if arguments is STAGE2 else []
    torch.set_default_dtype(torch.float64)
    try:
        train.main([*arguments, f"runs={tmp_path}", *stage1])
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert_same_run(tmp_path / "digits/base" / arguments[0], unbroken / arguments[0])


def test_finished_run_says_so(unbroken, capsys):
    before = (unbroken / "vq_svae/last.ckpt").stat().st_mtime_ns
    train.main([*STAGE1, f"runs={unbroken.parent.parent}"])
    assert "finished" in capsys.readouterr().out
    assert (unbroken / "vq_svae/last.ckpt").stat().st_mtime_ns == before


def test_changed_configuration_is_named(unbroken):
    with pytest.raises(InputError, match=r"train\.lr: 0\.\d+ -> 0\.5"):
        train.main([*STAGE1, f"runs={unbroken.parent.parent}", "train.lr=0.5"])


def test_retrained_stage1_is_noticed(unbroken, tmp_path):
    """A stage-2 run is tied to the weights of its stage 1, not to their path."""
    train.main([*STAGE1, f"runs={tmp_path}", "seed=1"])
    with pytest.raises(InputError, match="stage1_sha256"):
        train.main(
            [*STAGE2, f"runs={unbroken.parent.parent}", f"stage1={tmp_path}/digits/base/vq_svae/model.safetensors"]
        )


def test_tokens_are_encoded_once_and_do_not_depend_on_the_batch(unbroken, tmp_path, capsys, monkeypatch):
    from spiking_vq.checkpoint.file import load_model
    from stages import absorbing

    vq_svae, _ = load_model(unbroken / "vq_svae/model.safetensors")
    images = load_dataset("digits", "data").val.images[:50]
    first = absorbing.cached_tokens(vq_svae, "a", images, tmp_path)
    monkeypatch.setattr(absorbing, "TOKENIZE_BATCH", 7)
    assert torch.equal(absorbing.cached_tokens(vq_svae, "b", images, tmp_path), first)
    assert capsys.readouterr().out.count("encoding") == 2
    assert torch.equal(absorbing.cached_tokens(vq_svae, "a", images, tmp_path), first)
    absorbing.cached_tokens(vq_svae, "a", images.flip(0), tmp_path)
    assert capsys.readouterr().out.count("encoding") == 1


def test_damaged_tokens_are_made_again(unbroken, tmp_path, capsys):
    vq_svae, _ = load_model(unbroken / "vq_svae/model.safetensors")
    images = load_dataset("digits", "data").val.images[:50]
    tokens = cached_tokens(vq_svae, "a", images, tmp_path)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    for content in (b"", b"no tokens", whole[:-9]):
        path.write_bytes(content)
        assert torch.equal(cached_tokens(vq_svae, "a", images, tmp_path), tokens)
        assert path.read_bytes() == whole
        assert f"{path} is damaged" in capsys.readouterr().out


def test_runs_may_share_a_folder_of_tokens(unbroken, tmp_path, capsys):
    stage1 = f"stage1={unbroken}/vq_svae/model.safetensors"
    for seed in (0, 1):
        train.main([*STAGE2, stage1, f"runs={tmp_path / str(seed)}", f"tokens_dir={tmp_path}", f"seed={seed}"])
    assert len(list(tmp_path.glob("*.npy"))) == 2  # of the training and of the validation images
    assert capsys.readouterr().out.count("encoding") == 2


def test_moved_copies_stand_beside_the_training_images(unbroken, monkeypatch):
    """With their labels; the images themselves, and those that validate, stay as they are."""
    grey_levels = lambda vq_svae, sha256, images, folder: images[:, 0, ::4, ::4].long() // 16  # noqa: E731
    monkeypatch.setattr("stages.absorbing.cached_tokens", grey_levels)
    given = [*STAGE2[1:5], "conditional=true", "styles=2", f"stage1={unbroken}/vq_svae/model.safetensors"]

    def rows(*overrides):
        stage = AbsorbingStage(load_config("absorbing", train.preset_file("absorbing", "base"), [*given, *overrides]))
        return *stage.stream.tensors, *stage.val

    tokens, labels, *val = rows()
    many, their_labels, *same_val = rows("moved_copies=2", "augment.shift=0.1")
    assert torch.equal(many[: len(tokens)], tokens)
    copies = many[len(tokens) :].unflatten(0, (2, -1))
    assert 0.1 < (copies == tokens).double().mean() < 0.9  # of the same images, not the same
    assert not torch.equal(*copies)
    assert torch.equal(their_labels, labels.repeat(3))
    assert all(map(torch.equal, same_val, val))
    assert not torch.equal(rows("moved_copies=2", "augment.shift=0.1", "seed=1")[0], many)


def test_moving_average_by_hand():
    model = torch.nn.BatchNorm1d(1)
    average = averaged(model, 0.5)
    values = [1.0, 3.0, 11.0]
    for value in values:
        with torch.no_grad():
            model.weight.fill_(value)
            model.running_mean.fill_(-value)
            model.num_batches_tracked.add_(1)
        average.update_parameters(model)
    # the first update copies; then d = min(0.5, (1 + n) / (10 + n)) with n = 1, 2
    expected = 2 / 11 * 1.0 + 9 / 11 * 3.0
    expected = 3 / 12 * expected + 9 / 12 * 11.0
    assert average.module.weight.item() == pytest.approx(expected)
    assert average.module.running_mean.item() == pytest.approx(-expected)
    assert average.module.num_batches_tracked.item() == 3


def test_fine_tuning_scales_of_the_steps_starts_from_the_trained_weights(unbroken, tmp_path, monkeypatch):
    """TSM is added to a trained network: at the start it computes what that did."""
    trained, config = load_model(unbroken / "gaussian/model.safetensors")
    seen, whole = [], Stage.training_step

    def watched(self, batch, batch_idx):
        seen.append({name: value.clone() for name, value in self.model.state_dict().items()})
        return whole(self, batch, batch_idx)

    monkeypatch.setattr(Stage, "training_step", watched)
    start = f"train.start_from={unbroken / 'gaussian/model.safetensors'}"
    train.main([*GAUSSIAN, "tsm=true", "early_T=null", "train.grad_clip=1.0", start, f"runs={tmp_path}"])
    for name, value in trained.unet.state_dict().items():
        assert torch.equal(seen[0][name], value), name
    scales = {name for name in seen[0] if name.endswith("scales")}
    assert len(scales) == sum(isinstance(module, LIF) for module in trained.modules())
    assert all((seen[0][name] == torch.ones(4)).all() for name in scales)
    tuned, config = load_model(tmp_path / "digits/base/gaussian/model.safetensors")
    assert config.tsm
    assert config.train.start_from is None  # a place, which does not travel
    assert config.train.start_from_sha256 == fingerprint(trained.unet)
    assert any((value != 1).any() for name, value in tuned.unet.state_dict().items() if name in scales)


def test_fine_tuning_adds_labels(unbroken, tmp_path):
    trained = load_model(unbroken / "absorbing/model.safetensors")[0].denoiser.state_dict()
    start = f"train.start_from={unbroken / 'absorbing/model.safetensors'}"
    train.main([*STAGE2, "conditional=true", "train.lr=1e-9", start, f"runs={tmp_path}"])  # which holds its stage 1
    told = load_model(tmp_path / "digits/base/absorbing/model.safetensors")[0].denoiser.state_dict()
    assert set(told) - set(trained) == {"labels.weight"}
    for name, value in trained.items():
        if "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(told[name], value, atol=1e-6, rtol=0)


def test_fine_tuning_on_other_data(unbroken, tmp_path):
    """Stage 1 out of the file of a stage 2, then the denoiser, which takes that stage 1."""
    stage1 = f"stage1={unbroken / 'vq_svae/model.safetensors'}"
    train.main([*STAGE2, "conditional=true", stage1, f"runs={tmp_path}"])
    trained, config = load_model(tmp_path / "digits/base/absorbing/model.safetensors")
    trained.vq_svae.data_variance.fill_(9.0)
    trained.denoiser.labels.weight.data.fill_(9.0)
    other = replace(config, data="mnist", vq_svae=replace(config.vq_svae, data="mnist"))
    save_model(tmp_path / "other.safetensors", trained, other)

    fine_tuned = [f"train.start_from={tmp_path / 'other.safetensors'}", "train.lr=1e-9", f"runs={tmp_path / 'tuned'}"]
    train.main([*STAGE1, *fine_tuned])
    train.main([*STAGE2, "conditional=true", *fine_tuned])
    tuned, config = load_model(tmp_path / "tuned/digits/base/absorbing/model.safetensors")
    assert config.vq_svae.train.start_from_sha256 == fingerprint(trained.vq_svae)
    assert config.train.start_from_sha256 == fingerprint(trained.denoiser)
    assert tuned.vq_svae.data_variance.item() == pytest.approx(load_dataset("digits", tmp_path).variance)
    assert tuned.denoiser.labels.weight.abs().max() < 1
    before = dict(trained.named_parameters())
    for name, value in tuned.named_parameters():
        if name != "denoiser.labels.weight":
            torch.testing.assert_close(value, before[name], atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([*GAUSSIAN, "model.width=6"], "do not fit this network"),
        ([*GAUSSIAN, "conditional=false"], "0 weights are missing, 1 unknown"),
        (STAGE1, "is a gaussian model: name a vq_svae or absorbing one"),
    ],
)
def test_weights_of_another_network_are_refused(unbroken, tmp_path, arguments, told):
    with pytest.raises(InputError, match=told):
        train.main([*arguments, f"train.start_from={unbroken / 'gaussian/model.safetensors'}", f"runs={tmp_path}"])


def test_fine_tuning_keeps_to_its_stage_1(unbroken, tmp_path):
    train.main([*STAGE1, "seed=1", f"runs={tmp_path}"])
    start = f"train.start_from={unbroken / 'absorbing/model.safetensors'}"
    other = f"stage1={tmp_path / 'digits/base/vq_svae/model.safetensors'}"
    with pytest.raises(InputError, match="knows other tokens than those of stage1="):
        train.main([*STAGE2, start, other, f"runs={tmp_path}"])


def test_labels_are_told_and_dropped(unbroken, tmp_path, monkeypatch):
    seen, whole = [], TokenDenoiser.forward

    def watched(self, tokens, t, labels=None):
        seen.append((self.training, labels))
        return whole(self, tokens, t, labels)

    monkeypatch.setattr(TokenDenoiser, "forward", watched)
    stage1 = f"stage1={unbroken / 'vq_svae/model.safetensors'}"
    train.main([*STAGE2, "conditional=true", "styles=2", "label_dropout=0.25", stage1, f"runs={tmp_path}"])
    told = torch.cat([labels for training, labels in seen if training])
    assert set(told.tolist()) == set(range(21))
    assert (told == 20).double().mean().item() == pytest.approx(0.25, abs=0.03)
    assert load_model(unbroken / "absorbing/model.safetensors")[1].num_classes is None
    model, config = load_model(tmp_path / "digits/base/absorbing/model.safetensors")
    assert (config.conditional, config.num_classes, config.styles) == (True, 10, 2)
    assert config.label_counts == load_dataset("digits", "data").train.labels.bincount(minlength=10).tolist()
    assert model.denoiser.labels.weight.shape == (10 + 20 + 1, 8)  # labels, halves of their images, none


def test_the_published_continuous_networks_train(tmp_path):
    for preset, size in (("sddpm", 16), ("fsddim", 16)):
        arguments = [text for text in GAUSSIAN if text.split("=")[0] not in ("image_size", "preset", "conditional")]
        options = [f"preset={preset}", f"image_size={size}", "train.max_steps=2", "train.batch_size=8", "T=2"]
        train.main([*arguments, *options, f"runs={tmp_path}"])
        model, config = load_model(tmp_path / f"digits/{preset}/gaussian/model.safetensors")
        assert type(model.unet) is UNETS[config.model.unet]
        metrics = rows(tmp_path / f"digits/{preset}/gaussian/metrics.csv")
        assert float(metrics[-1]["val/mse"]) > 0


@pytest.mark.parametrize("died_at", [4, 6])
def test_resumed_bf16_run_with_other_networks_in_its_loss_equals_the_unbroken_one(tmp_path, monkeypatch, died_at):
    train.main([*CLASSIFIER, "train.max_steps=2", "preset=perceptual", f"runs={tmp_path}"])
    classifier = tmp_path / "digits/perceptual/classifier/model.safetensors"
    others = ["adversary.weight=0.5", "perceptual.weight=2", f"perceptual.classifier={classifier}"]
    arguments = [*STAGE1, "precision=bf16", *others]
    train.main([*arguments, f"runs={tmp_path / 'unbroken'}"])
    with monkeypatch.context() as patch:
        die_at(patch, died_at)
        with pytest.raises(RuntimeError, match="killed"):
            train.main([*arguments, f"runs={tmp_path / 'resumed'}"])
    train.main([*arguments, f"runs={tmp_path / 'resumed'}"])
    folders = [tmp_path / name / "digits/base/vq_svae" for name in ("unbroken", "resumed")]
    assert_same_run(*folders)
    states = [torch.load(folder / "last.ckpt", weights_only=True)["state_dict"] for folder in folders]
    against = [name for name in states[0] if name.startswith("adversary.")]
    assert len(against) == 8
    for name in against:
        torch.testing.assert_close(*(state[name] for state in states), rtol=0, atol=0)
    assert not [name for name in load_file(folders[0] / "model.safetensors") if "adversary" in name]
    assert not [name for name in states[0] if "perceptual" in name]


def test_the_classifier_learns_from_images_moved_by_its_noise(tmp_path):
    def loss(seed, *overrides):
        torch.manual_seed(0)
        given = ["data=digits", f"runs={tmp_path}", "precision=fp32", *overrides]
        stage = ClassifierStage(load_config("classifier", train.preset_file("classifier", "base"), given))
        images, labels = stage.data.train.images[:8], stage.data.train.labels[:8]
        return stage.eval().batch_loss((images, labels), torch.Generator().manual_seed(seed))["loss"].item()

    moved = ["augment.degrees=8", "augment.shift=0.05"]
    assert loss(0) == loss(1)
    assert loss(0, *moved) == loss(0, *moved) != loss(1, *moved)


def test_stage1_by_the_eyes_of_a_classifier(tmp_path, monkeypatch):
    short = tmp_path / "perceptual.yaml"
    short.write_text("model: {channels: [4, 8]}\ntrain: {max_steps: 2}\n")
    found = train.preset_file
    monkeypatch.setattr(train, "preset_file", lambda *names: short if names[1] == "perceptual" else found(*names))
    arguments = [*STAGE1, "perceptual.weight=2", "seed=3", f"runs={tmp_path}"]
    with pytest.raises(InputError, match=r"needs a trained classifier.*leave perceptual\.classifier= out"):
        train.main([*arguments, f"perceptual.classifier={tmp_path / 'none'}"])
    train.main(arguments)  # trains the classifier first
    folder = tmp_path / "digits/base/vq_svae"
    assert float(rows(folder / "metrics.csv")[0]["train/perceptual"]) > 0
    _, config = load_model(folder / "model.safetensors")
    classifier, its_config = load_model(tmp_path / "digits/perceptual/classifier/model.safetensors")
    assert its_config.seed == 0  # whatever that of stage 1
    assert config.perceptual.classifier_sha256 == fingerprint(classifier)
    with pytest.raises(InputError, match="is a vq_svae model"):
        other = [f"perceptual.classifier={folder / 'model.safetensors'}", f"runs={tmp_path / 'other'}"]
        train.main([*arguments, *other])


def test_the_last_preset_counts(tmp_path):
    """As with every other override, `make stage1 ARGS=preset=paper` among them."""
    train.main([*STAGE1, "preset=paper", f"runs={tmp_path}", "T=2"])
    assert "preset: paper" in (folder := tmp_path / "digits/paper/vq_svae/config.yaml").read_text()
    assert "output: tanh" in folder.read_text()


@pytest.mark.parametrize(
    ("override", "told"), [("image_size=8", "image_size must be .* got 8"), ("sample.order=spiral", "halton.*'spiral'")]
)
def test_what_does_not_fit_stage_1_or_the_sampler_is_refused(unbroken, tmp_path, override, told):
    stage1 = f"stage1={unbroken / 'vq_svae/model.safetensors'}"
    with pytest.raises(InputError, match=told):
        train.main([*STAGE2, f"runs={tmp_path}", stage1, override])


def foreign_checkpoint():
    written = io.BytesIO()
    torch.save({"a": 1}, written)
    return written.getvalue()


DAMAGED = {"empty": b"", "no checkpoint": b"not a checkpoint", "truncated": "half", "foreign": foreign_checkpoint()}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_damaged_checkpoint_is_refused(unbroken, tmp_path, content):
    folder = tmp_path / "digits/base/vq_svae"
    shutil.copytree(unbroken / "vq_svae", folder, ignore=shutil.ignore_patterns("model.safetensors"))
    whole = (unbroken / "vq_svae/last.ckpt").read_bytes()
    (folder / "last.ckpt").write_bytes(whole[: len(whole) // 2] if content == "half" else content)
    with pytest.raises(InputError, match=r"last\.ckpt.*Delete it"):
        train.main([*STAGE1, f"runs={tmp_path}"])


def test_checkpoint_of_another_network_is_refused(unbroken, tmp_path):
    folder = tmp_path / "digits/base/classifier"
    shutil.copytree(unbroken / "classifier", folder, ignore=shutil.ignore_patterns("model.safetensors"))
    other = torch.load(folder / "last.ckpt", weights_only=True)
    other["state_dict"]["model.more"] = torch.zeros(1)
    for names, said in (
        (["best.ckpt"], "best.ckpt is of another network than"),
        (["last.ckpt"], "last.ckpt is of another"),
    ):
        for name in names:
            torch.save(other, folder / name)
        with pytest.raises(InputError, match=f"cannot resume: .*{said}"):
            train.main([*CLASSIFIER, f"runs={tmp_path}"])


def test_checkpoint_that_has_diverged_is_refused(unbroken, tmp_path):
    """As earlier versions wrote them."""
    folder = tmp_path / "digits/base/classifier"
    shutil.copytree(unbroken / "classifier", folder, ignore=shutil.ignore_patterns("model.safetensors"))
    diverged = torch.load(folder / "last.ckpt", weights_only=True)
    next(iter(diverged["state_dict"].values()))[0] = torch.nan
    for name in ("best.ckpt", "last.ckpt"):
        torch.save(diverged, folder / name)
        with pytest.raises(InputError, match=f"cannot resume: .*{name} holds weights that are NaN or infinite"):
            train.main([*CLASSIFIER, f"runs={tmp_path}"])
    with pytest.raises(InputError, match="last.ckpt holds weights that are NaN or infinite"):
        load_model(folder / "last.ckpt")


@pytest.fixture(scope="module")
def half(unbroken, tmp_path_factory):
    """Killed runs of the classifier and of the denoiser: `last.ckpt` is of step 6, `best.ckpt` of 4 or 8."""
    runs = tmp_path_factory.mktemp("half")
    with pytest.MonkeyPatch.context() as patch:
        die_at(patch, 8)
        for arguments in (CLASSIFIER, STAGE2):
            with pytest.raises(RuntimeError, match="killed"):
                train.main([*arguments, *places(unbroken, runs, arguments[0])])
    return runs


def copied(half, runs):
    """A copy of the unfinished run of the classifier, its folder."""
    return Path(shutil.copytree(half / "digits/base/classifier", runs / "digits/base/classifier"))


@pytest.mark.parametrize("content", [None, *DAMAGED.values()], ids=["missing", *DAMAGED])
def test_a_best_checkpoint_that_is_missing_or_damaged_is_found_at_the_start(half, tmp_path, monkeypatch, content):
    folder = copied(half, tmp_path)
    whole = (folder / "best.ckpt").read_bytes()
    if content is None:
        (folder / "best.ckpt").unlink()
    else:
        (folder / "best.ckpt").write_bytes(whole[: len(whole) // 2] if content == "half" else content)
    with monkeypatch.context() as patch:
        patch.setattr("stages.classifier.load_dataset", lambda *_: pytest.fail("the data were read first"))
        said = rf"best\.ckpt is {'missing' if content is None else 'not a whole'}"
        with pytest.raises(InputError, match=rf"{said}.*step 4, .*put it back.*train\.start_from=.*last\.ckpt"):
            train.main([*CLASSIFIER, f"runs={tmp_path}"])
    (folder / "best.ckpt").write_bytes(whole)
    train.main([*CLASSIFIER, f"runs={tmp_path}"])


def test_a_resumed_run_needs_its_configuration(half, tmp_path):
    (copied(half, tmp_path) / "config.yaml").unlink()
    with pytest.raises(InputError, match=r"config\.yaml is missing.*put it back, or delete"):
        train.main([*CLASSIFIER, f"runs={tmp_path}"])


TABLES = {
    "missing": None,
    "empty": "",
    "no table": "loss\n1\n",
    "no numbers": "step,loss\n1,x\n",
    "cells too many": "step,loss\n1,2,3\n",
    "no text": b"\xff\x00",
}


@pytest.mark.parametrize("content", TABLES.values(), ids=TABLES)
def test_metrics_that_are_missing_or_damaged_are_begun_anew(unbroken, half, tmp_path, capsys, content):
    folder = copied(half, tmp_path)
    (folder / "metrics.csv").unlink()
    if content is not None:
        (folder / "metrics.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    train.main([*CLASSIFIER, f"runs={tmp_path}"])
    assert ("metrics.csv is begun anew after step 6" in capsys.readouterr().out) == (content != "")
    assert rows(folder / "metrics.csv") == rows(unbroken / "classifier/metrics.csv")[6:]
    summaries = [json.loads((run / "training.json").read_text()) for run in (folder, unbroken / "classifier")]
    for key in ("best", "validation", "steps"):
        assert summaries[0][key] == summaries[1][key]


def test_a_run_killed_before_its_export_needs_no_metrics(unbroken, tmp_path):
    folder, lost = tmp_path / "digits/base/classifier", ("model.safetensors", "training.json", "metrics.csv")
    shutil.copytree(unbroken / "classifier", folder, ignore=shutil.ignore_patterns(*lost))
    train.main([*CLASSIFIER, f"runs={tmp_path}"])
    told = [json.loads((run / "training.json").read_text()) for run in (folder, unbroken / "classifier")]
    assert told[0]["validation"] == told[1]["validation"]
    assert told[0]["loss"] == {}


def test_a_run_that_an_older_version_began_is_finished(unbroken, half, tmp_path):
    """Its checkpoints tell less."""
    folder = copied(half, tmp_path)
    for name in ("last.ckpt", "best.ckpt"):
        checkpoint = torch.load(folder / name, weights_only=True)
        for key in ("validation", "total_steps"):
            del checkpoint["callbacks"]["KeepRun"][key]
        torch.save(checkpoint, folder / name)
    assert checkpoint_step(folder / "last.ckpt") == (6, None)
    train.main([*CLASSIFIER, f"runs={tmp_path}"])
    assert_same_run(folder, unbroken / "classifier")


def test_mistakes_are_found_before_any_work(unbroken, tmp_path, monkeypatch):
    """Before data are read, tokens encoded and the classifier trained that stage 1 learns by."""
    monkeypatch.setattr("stages.vq_svae.load_dataset", lambda *_: pytest.fail("the data were read first"))
    monkeypatch.setattr("stages.absorbing.load_model", lambda *_: pytest.fail("stage 1 was read first"))
    monkeypatch.setattr(train, "train_perceptual", lambda *_: pytest.fail("a classifier was trained first"))
    for arguments in (STAGE1, STAGE2):
        with pytest.raises(InputError, match=r"train\.lr: 0\.\d+ -> 0\.5"):
            train.main([*arguments, f"runs={unbroken.parent.parent}", "train.lr=0.5"])
        (tmp_path / "file").touch()
        with pytest.raises(InputError, match="cannot write .*file is not a folder"):
            train.main([*arguments, f"runs={tmp_path / 'file'}"])


# ---------------------------------------------------------------------------------------------------------------------
# Checkpoints as models


@pytest.mark.parametrize("stage", train.STAGES)
def test_a_checkpoint_is_read_as_the_model_that_is_exported_from_it(unbroken, stage):
    (exported, config), (model, its_config) = (
        load_model(unbroken / stage / name) for name in ("model.safetensors", "best.ckpt")
    )
    assert type(model) is type(exported)
    assert differences(config, its_config) == []
    assert not any(module.training for module in model.modules())
    for name, value in exported.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=0, atol=0, equal_nan=True)


def test_a_checkpoint_is_known_by_its_content(unbroken, tmp_path):
    (tmp_path / "config.yaml").write_bytes((unbroken / "classifier/config.yaml").read_bytes())
    shutil.copy(unbroken / "classifier/best.ckpt", tmp_path / "any name")
    assert fingerprint(load_model(tmp_path / "any name")[0]) == fingerprint(
        load_model(unbroken / "classifier/best.ckpt")[0]
    )


def test_a_checkpoint_without_what_lies_next_to_it(unbroken, half, tmp_path):
    shutil.copy(unbroken / "classifier/best.ckpt", tmp_path)
    with pytest.raises(InputError, match=r"is a checkpoint to resume training from; the config\.yaml .* is missing"):
        load_model(tmp_path / "best.ckpt")
    folder = tmp_path / "digits/base/absorbing"
    shutil.copytree(half / "digits/base/absorbing", folder)
    config_file = folder / "config.yaml"
    config_file.write_text(config_file.read_text().replace(str(unbroken), str(tmp_path / "gone")))
    with pytest.raises(InputError, match=r"holds a denoiser alone.*gone/vq_svae/model\.safetensors"):
        load_model(folder / "best.ckpt")
    shutil.copytree(unbroken / "vq_svae", folder.with_name("vq_svae"))  # as in a run folder that was moved whole
    model, config = load_model(folder / "best.ckpt")
    assert fingerprint(model.vq_svae) == config.stage1_sha256
    train.main([*STAGE1, f"runs={tmp_path / 'other'}", "seed=1"])
    shutil.copy(tmp_path / "other/digits/base/vq_svae/model.safetensors", folder.with_name("vq_svae"))
    with pytest.raises(InputError, match="the stage 1 that it was trained on is neither in"):
        load_model(folder / "best.ckpt")


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_checkpoint_is_no_model(half, tmp_path, content):
    path = copied(half, tmp_path) / "best.ckpt"
    path.write_bytes(path.read_bytes()[:9999] if content == "half" else content)
    with pytest.raises(InputError, match=r"best\.ckpt is not a whole model\.safetensors, nor a checkpoint"):
        load_model(path)


def test_an_unfinished_run_can_be_sampled(half, tmp_path, capsys):
    """From its best checkpoint, saying so; a classifier that judges must be finished."""
    path = half / "digits/base/absorbing/best.ckpt"
    step = torch.load(path, weights_only=True)["global_step"]
    sample.main(["data=digits", f"runs={half}", "n=2", "sample_steps=1", f"out={tmp_path}"])
    said = capsys.readouterr().err
    assert f"{path.parent} is unfinished: using its best checkpoint, step {step} of 10" in said
    tokens = np.load(tmp_path / "tokens.npy")
    assert (tokens == LatentPipeline.from_pretrained(path).sample(2, sample_steps=1).tokens.numpy()).all()
    assert find_model("vq_svae", "digits", "base", half) == path  # which holds it
    with pytest.raises(InputError, match="no trained classifier model"):
        find_model("classifier", "digits", "base", half)
    (path.parent / "model.safetensors").touch()
    try:
        assert find_model("absorbing", "digits", "base", half) == path.parent / "model.safetensors"
    finally:
        (path.parent / "model.safetensors").unlink()


def test_stage_2_takes_the_stage_1_of_an_unfinished_run(unbroken, tmp_path):
    train.main([*STAGE2, f"runs={tmp_path}", f"stage1={unbroken / 'vq_svae/best.ckpt'}"])
    assert_same_run(tmp_path / "digits/base/absorbing", unbroken / "absorbing")


def test_what_is_measured_is_not_written_into_a_checkpoint(unbroken):
    path = unbroken / "gaussian/best.ckpt"
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"the model must be a model\.safetensors"):
        analytic.main([f"ckpt={path}", "data=digits"])
    assert path.read_bytes() == before


# ---------------------------------------------------------------------------------------------------------------------
# A full disk


def test_the_last_checkpoint_survives_a_full_disk_and_resumes(unbroken, half, tmp_path, monkeypatch):
    monkeypatch.setattr(ClassifierStage, "picture", lambda self: torch.zeros(1, 1, 8, 8))  # smaller than a checkpoint
    folder = copied(half, tmp_path)
    before = (folder / "last.ckpt").read_bytes()
    limit, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) - 4096, most))
    try:
        with pytest.raises(InputError, match=r"cannot write .*best\.ckpt: file too large\. Free some space"):
            train.main([*CLASSIFIER, f"runs={tmp_path}"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, most))
    assert (folder / "last.ckpt").read_bytes() == before
    train.main([*CLASSIFIER, f"runs={tmp_path}"])
    assert_same_run(folder, unbroken / "classifier")


@pytest.mark.parametrize(("kilobytes", "full"), [(8, "classifier"), (32, "last.ckpt")])
def test_a_full_disk_is_told(small_disk, kilobytes, full):
    """The log of TensorBoard fills the smaller one."""
    folder = small_disk(kilobytes)
    with pytest.raises(InputError, match=f"cannot write .*{full}: no space left on device. Free some space"):
        train.main([*CLASSIFIER, f"runs={folder}"])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_output_that_finds_no_space_is_told():
    command = [sys.executable, "-c", "from stages.command import run_command; run_command(print)"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (2, "error: cannot write: No space left on device. Free some space.\n")


# ---------------------------------------------------------------------------------------------------------------------
# One device trains anywhere

SLURM = {
    "SLURM_JOB_ID": "1",
    "SLURM_JOB_NAME": "training",
    "SLURM_NTASKS": "4",
    "SLURM_NTASKS_PER_NODE": "4",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "3",
    "SLURM_NODEID": "0",
    "SLURM_NODELIST": "node[1-4]",
}
OTHERS = {
    "RANK": "3",
    "LOCAL_RANK": "3",
    "WORLD_SIZE": "4",
    "GROUP_RANK": "1",
    "NODE_RANK": "1",
    "MASTER_ADDR": "192.0.2.1",
    "MASTER_PORT": "1",
    "TORCHELASTIC_RUN_ID": "1",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
    "KUBERNETES_PORT": "tcp://192.0.2.1:443",
    "LSB_JOBID": "1",
    "LSB_DJOB_RANKFILE": "nowhere",
    "LSB_HOSTS": "batch node",
    "JSM_NAMESPACE_RANK": "3",
    "JSM_NAMESPACE_LOCAL_RANK": "3",
    "JSM_NAMESPACE_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_SIZE": "4",
    "PMI_RANK": "3",
    "XRT_SHARD_ORDINAL": "3",
}


def test_one_device_trains_whatever_a_scheduler_sets(unbroken, tmp_path):
    ours = {"OMP_NUM_THREADS": str(torch.get_num_threads()), "PYTHONPATH": str(ROOT)}
    processes = {}
    for name, variables in {"slurm": SLURM, "others": OTHERS}.items():
        (tmp_path / name).mkdir()
        processes[name] = subprocess.Popen(
            [sys.executable, "-m", "stages", "train", *CLASSIFIER, "runs=runs"],
            cwd=tmp_path / name,
            env=os.environ | ours | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    for name, process in processes.items():
        said = process.communicate()[0]
        assert process.returncode == 0, said
        assert "wrote runs/digits/base/classifier/model.safetensors" in said
        folder = tmp_path / name / "runs/digits/base/classifier"
        assert_same_run(folder, unbroken / "classifier")
        files, others = (
            [path.relative_to(run) for path in run.rglob("*")] for run in (folder, unbroken / "classifier")
        )
        assert len(files) == len(others)
        assert {path for path in files if "tb" not in path.parts} == {path for path in others if "tb" not in path.parts}

"""The commands that train: files, resuming, refusing; on scikit-learn's digits with tiny networks."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from spiking_vq.checkpoint import fingerprint, load_model, save_model
from spiking_vq.config import load_config
from spiking_vq.data import load_dataset
from spiking_vq.diffusion.absorbing import AbsorbingDiffusion
from spiking_vq.errors import InputError
from spiking_vq.models.spiking_unet import UNETS
from spiking_vq.models.token_denoiser import TokenDenoiser
from spiking_vq.models.vq_svae import VQSVAE
from spiking_vq.neurons import LIF
from spiking_vq.running import steps_of
from stages import train
from stages.absorbing import AbsorbingStage
from stages.classifier import ClassifierStage
from stages.stage import Stage, averaged

ROOT = Path(__file__).parent.parent
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
    command = [sys.executable, "-m", "stages.train", *STAGE1, f"runs={tmp_path}"]
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
    command = [sys.executable, "-m", "stages.train", *STAGE1, "train.max_steps=100000", f"runs={tmp_path}"]
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


def test_diverged_run_says_so(tmp_path):
    with pytest.raises(InputError, match=r"diverged.*Lower train\.lr"):
        train.main([*STAGE1, f"runs={tmp_path}", "train.lr=1e30"])


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
    from spiking_vq.checkpoint import load_model
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
        train.main([*arguments, f"perceptual.classifier={folder / 'model.safetensors'}", "seed=1"])


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

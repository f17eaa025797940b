"""The folder of a run: its files, and runs in it that are finished, changed, damaged or older."""

import io
import json
import shutil

import pytest
import torch
import yaml
from small_runs import CLASSIFIER, STAGE1, STAGE2, assert_same_run, copied, rows, slow

from spiking_vq.checkpoint.file import checkpoint_step, load_model
from spiking_vq.errors import InputError
from stages import train
from stages.training.callbacks import MetricsTable


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
    validated = [int(row["step"]) for row in rows(folder / "metrics.csv") if row[f"val/{train.STAGES[stage].monitor}"]]
    assert validated == [4, 8, 10]
    losses = [int(row["step"]) for row in rows(folder / "metrics.csv") if row["loss"]]
    assert losses == list(range(1, 11))  # a short run has them all


@pytest.mark.parametrize("stage", train.STAGES)
def test_summary_of_a_run(unbroken, stage):
    summary = json.loads((unbroken / stage / "training.json").read_text())
    table = {row["step"]: row for row in rows(unbroken / stage / "metrics.csv")}
    assert summary["command"].startswith(f"spiking-vq train {stage} preset=base data=digits ")
    assert summary["loss"] == {step: float(row["loss"]) for step, row in table.items()}
    assert 0 < summary["validation_seconds"] < summary["seconds"]
    training = summary["seconds"] - summary["validation_seconds"]
    assert summary["images_per_second"] == pytest.approx(summary["images"] / training)


def test_finished_run_says_so(unbroken, capsys):
    before = (unbroken / "vq_svae/last.ckpt").stat().st_mtime_ns
    train.main([*STAGE1, f"runs={unbroken.parent.parent}"])
    assert "finished" in capsys.readouterr().out
    assert (unbroken / "vq_svae/last.ckpt").stat().st_mtime_ns == before


def test_changed_configuration_is_named(unbroken):
    with pytest.raises(InputError, match=r"(?s)train\.lr: 0\.\d+ -> 0\.5.*another folder with runs=FOLDER"):
        train.main([*STAGE1, f"runs={unbroken.parent.parent}", "train.lr=0.5"])


def test_mistakes_are_found_before_any_work(unbroken, tmp_path, monkeypatch):
    """Before data are read, tokens encoded and the classifier of the perceptual loss trained."""
    monkeypatch.setattr(train, "data_of", lambda *_: pytest.fail("the data were read first"))
    monkeypatch.setattr("stages.absorbing.load_model", lambda *_: pytest.fail("stage 1 was read first"))
    monkeypatch.setattr(train, "train_perceptual", lambda *_: pytest.fail("a classifier was trained first"))
    (tmp_path / "file").touch()
    for arguments in (STAGE1, STAGE2):
        with pytest.raises(InputError, match=r"train\.lr: 0\.\d+ -> 0\.5"):
            train.main([*arguments, f"runs={unbroken.parent.parent}", "train.lr=0.5"])
        with pytest.raises(InputError, match="cannot write .*file is not a folder"):
            train.main([*arguments, f"runs={tmp_path / 'file'}"])


def test_the_last_preset_counts(tmp_path):
    """As with every other override, `make stage1 ARGS=preset=paper` among them."""
    train.main([*STAGE1, "preset=paper", f"runs={tmp_path}", "train.max_steps=1"])
    config = (tmp_path / "digits/paper/vq_svae/config.yaml").read_text()
    assert "preset: paper" in config
    assert "output: tanh" in config


# ---------------------------------------------------------------------------------------------------------------------
# Runs that cannot be resumed


def foreign_checkpoint():
    written = io.BytesIO()
    torch.save({"a": 1}, written)
    return written.getvalue()


DAMAGED = {"empty": b"", "no checkpoint": b"not a checkpoint", "truncated": "half", "foreign": foreign_checkpoint()}


def damage(path, content):
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if content == "half" else content)


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_damaged_checkpoint_is_refused(unbroken, tmp_path, content):
    damage(copied(unbroken, tmp_path, "vq_svae") / "last.ckpt", content)
    with pytest.raises(InputError, match=r"last\.ckpt.*Delete it"):
        train.main([*STAGE1, f"runs={tmp_path}"])


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_checkpoint_is_no_model(half, tmp_path, content):
    path = copied(half / "digits/base", tmp_path) / "best.ckpt"
    damage(path, content)
    with pytest.raises(InputError, match=r"best\.ckpt is not a whole model\.safetensors, nor a checkpoint"):
        load_model(path)


def test_checkpoint_of_another_network_is_refused(unbroken, tmp_path):
    folder = copied(unbroken, tmp_path)
    other = torch.load(folder / "last.ckpt", weights_only=True)
    other["state_dict"]["model.more"] = torch.zeros(1)
    for file, message in (("best.ckpt", "best.ckpt is of another network than"), ("last.ckpt", "last.ckpt is of ano")):
        torch.save(other, folder / file)
        with pytest.raises(InputError, match=f"cannot resume: .*{message}"):
            train.main([*CLASSIFIER, f"runs={tmp_path}"])


def test_checkpoint_that_has_diverged_is_refused(unbroken, tmp_path):
    """As earlier versions wrote them."""
    folder = copied(unbroken, tmp_path)
    diverged = torch.load(folder / "last.ckpt", weights_only=True)
    next(iter(diverged["state_dict"].values()))[0] = torch.nan
    for name in ("best.ckpt", "last.ckpt"):
        torch.save(diverged, folder / name)
        with pytest.raises(InputError, match=f"cannot resume: .*{name} holds weights that are NaN or infinite"):
            train.main([*CLASSIFIER, f"runs={tmp_path}"])
    with pytest.raises(InputError, match="last.ckpt holds weights that are NaN or infinite"):
        load_model(folder / "last.ckpt")


@pytest.mark.parametrize("content", [None, *DAMAGED.values()], ids=["missing", *DAMAGED])
def test_a_best_checkpoint_that_is_missing_or_damaged_is_found_at_the_start(half, tmp_path, monkeypatch, content):
    best = copied(half / "digits/base", tmp_path) / "best.ckpt"
    if content is None:
        best.unlink()
    else:
        damage(best, content)
    monkeypatch.setattr(train, "data_of", lambda *_: pytest.fail("the data were read first"))
    reason = rf"best\.ckpt is {'missing' if content is None else 'not a whole'}"
    with pytest.raises(InputError, match=rf"{reason}.*step 4, .*put it back.*train\.start_from=.*last\.ckpt runs=FOL"):
        train.main([*CLASSIFIER, f"runs={tmp_path}"])


def test_a_resumed_run_needs_its_configuration(half, tmp_path):
    (copied(half / "digits/base", tmp_path) / "config.yaml").unlink()
    with pytest.raises(InputError, match=r"config\.yaml is missing.*put it back, or delete"):
        train.main([*CLASSIFIER, f"runs={tmp_path}"])


# ---------------------------------------------------------------------------------------------------------------------
# Runs that can

TABLES = {
    "missing": None,
    "empty": b"",
    "no table": b"loss\n1\n",
    "no numbers": b"step,loss\n1,x\n",
    "cells too many": b"step,loss\n1,2,3\n",
    "no text": b"\xff\x00",
}


@pytest.mark.parametrize("content", TABLES.values(), ids=TABLES)
def test_metrics_that_are_missing_or_damaged_are_begun_anew(tmp_path, capsys, content):
    if content is not None:
        (tmp_path / "metrics.csv").write_bytes(content)
    table = MetricsTable(tmp_path / "metrics.csv")
    table.read(up_to=6)
    assert table.rows == {}
    assert ("metrics.csv is begun anew after step 6" in capsys.readouterr().out) == (content != b"")


def test_metrics_of_later_steps_are_made_again(unbroken):
    table = MetricsTable(unbroken / "classifier/metrics.csv")
    table.read(up_to=6)
    assert list(table.rows) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("content", [b"loss\n1\n", *slow([None])])
def test_a_run_without_its_metrics_is_resumed(unbroken, half, tmp_path, content):
    folder = copied(half / "digits/base", tmp_path)
    (folder / "metrics.csv").unlink()
    if content is not None:
        (folder / "metrics.csv").write_bytes(content)
    train.main([*CLASSIFIER, f"runs={tmp_path}"])
    assert rows(folder / "metrics.csv") == rows(unbroken / "classifier/metrics.csv")[6:]
    summaries = [json.loads((run / "training.json").read_text()) for run in (folder, unbroken / "classifier")]
    for key in ("best", "validation", "steps"):
        assert summaries[0][key] == summaries[1][key]


def test_run_killed_before_its_export_exports(unbroken, tmp_path):
    folder = copied(unbroken, tmp_path, "vq_svae")
    train.main([*STAGE1, f"runs={tmp_path}"])
    assert_same_run(folder, unbroken / "vq_svae")
    assert json.loads((folder / "training.json").read_text())["steps"] == 10


def test_a_run_killed_before_its_export_needs_no_metrics(unbroken, tmp_path):
    folder = copied(unbroken, tmp_path, without=("model.safetensors", "training.json", "metrics.csv"))
    train.main([*CLASSIFIER, f"runs={tmp_path}"])
    resumed, whole = (json.loads((run / "training.json").read_text()) for run in (folder, unbroken / "classifier"))
    assert resumed["validation"] == whole["validation"]
    assert resumed["loss"] == {}


def test_a_run_that_an_older_version_began_is_finished(unbroken, half, tmp_path):
    """Its checkpoints tell less."""
    folder = copied(half / "digits/base", tmp_path)
    for name in ("last.ckpt", "best.ckpt"):
        checkpoint = torch.load(folder / name, weights_only=True)
        for key in ("validation", "total_steps"):
            del checkpoint["callbacks"]["KeepRun"][key]
        torch.save(checkpoint, folder / name)
    assert checkpoint_step(folder / "last.ckpt") == (6, None)
    train.main([*CLASSIFIER, f"runs={tmp_path}"])
    assert_same_run(folder, unbroken / "classifier")


FIRST_VERSION = {
    "moved_copies": 0,
    "augment": {"degrees": 0.0, "stretch": 0.0, "shear": 0.0, "shift": 0.0},
    "persistent": False,
}
"""Fields of stage 2's `config.yaml` that no longer exist, as the first version wrote them."""


@pytest.mark.parametrize(
    ("field", "value", "message"), [(None, None, None), ("moved_copies", 3, "moved_copies, which no longer exists")]
)
def test_a_run_of_the_first_version_is_resumed_or_refused_with_the_reason(
    unbroken, half, tmp_path, field, value, message
):
    """Options that were off are dropped; a run that used one cannot go on."""
    folder = tmp_path / "digits/base/absorbing"
    shutil.copytree(half / "digits/base/absorbing", folder)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config |= FIRST_VERSION | ({field: value} if field else {})
    config["sample"]["remask_calls"] = config["sample"].get("remask_calls", 0)
    config["vq_svae"] |= {"judge_every": 1, "persistent": False}
    config["vq_svae"]["model"]["normalise_codes"] = False
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    arguments = [*STAGE2, f"stage1={unbroken / 'vq_svae/model.safetensors'}", f"runs={tmp_path}"]
    if message:
        with pytest.raises(InputError, match=message):
            train.main(arguments)
        return
    train.main(arguments)
    assert_same_run(folder, unbroken / "absorbing")

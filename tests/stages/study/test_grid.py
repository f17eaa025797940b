"""Everything in one command, with invented files in place of trainings and measurements."""

import json
import shutil
from types import SimpleNamespace

import pytest

from spiking_vq.errors import InputError
from spiking_vq.files import sha256_of
from stages.cli.options import recorded_command
from stages.study import grid, steps

ONE = ["train", "train", "evaluate", "evaluate", "inspect"]


@pytest.fixture
def options(tmp_path):
    return {
        "data": "mnist fmnist",
        "presets": "base base-relu",
        "runs": tmp_path / "runs",
        "results": tmp_path / "results",
    }


@pytest.fixture
def ran(options, tmp_path, monkeypatch):
    """The steps that were run, of all in `ran.todo`; each leaves its file, except the first that trains `ran.dies`."""

    class Ran(list):
        todo = ()
        dies = None

    ran = Ran()

    def run(command):
        step = next(step for step in ran.todo if [step.command, *step.arguments] == command[3:])
        ran.append(step)
        if ran.dies in step.arguments:
            ran.dies = None
            return SimpleNamespace(returncode=1)
        step.leaves.parent.mkdir(parents=True, exist_ok=True)
        given = dict(text.split("=", 1) for text in step.arguments if "=" in text)
        report = {name: given.get(name) for name in ("stage", "data", "preset")}
        report["command"] = recorded_command(step.command, step.arguments)
        report["checkpoint"] = {"sha256": sha256_of(step.of) if step.of else None}
        step.leaves.write_text(json.dumps(report))
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(steps, "ZOO", tmp_path)
    monkeypatch.setattr(grid, "check_inception", lambda data_dir: None)
    monkeypatch.setattr(steps.subprocess, "run", run)
    (tmp_path / "mnist-base-classifier.safetensors").touch()  # one that ships
    ran.todo = [step for data in ("mnist", "fmnist") for step in grid.steps(data, grid.Options(**options))]
    return ran


@pytest.fixture
def arguments(options):
    return [f"{name}={value}" for name, value in options.items()]


def test_the_same_command_goes_on_where_it_stopped(tmp_path, ran, arguments, capsys):
    ran.dies = "absorbing"
    with pytest.raises(InputError, match="exit code 1"):
        grid.main(arguments)
    assert [step.arguments[0] for step in ran] == ["vq_svae", "absorbing"]
    grid.main(arguments)
    assert ran[2:] == ran.todo[1:]
    assert [step.command for step in ran.todo] == [*ONE, *ONE, "train", *ONE, *ONE]
    capsys.readouterr()
    del ran[:]
    grid.main(arguments)
    assert not ran
    assert capsys.readouterr().out.count("done before") == len(ran.todo)
    (tmp_path / "runs/mnist/base/absorbing/model.safetensors").write_text("trained anew")
    grid.main(arguments)
    assert [step.command for step in ran] == ["evaluate", "evaluate", "inspect"]  # the old reports are of another model
    by_hand = tmp_path / "results/mnist/base/test-10k.json"
    by_hand.write_text(by_hand.read_text().replace("test-10k", "test-10k n=20"))
    del ran[:]
    grid.main(arguments)
    assert [step.leaves for step in ran] == [by_hand]  # another command made it


def test_mistakes_are_found_before_any_training(tmp_path, ran, arguments):
    mistakes = {
        "data=mnist svhn": "data must be of mnist",
        "protocols=test": "protocols must be of",
        "presets=base huge": "no preset 'huge' for stage vq_svae",
        "presets=gaussian-paper": "no preset 'paper' for stage gaussian",
        "precision=fp8": "precision must be one of",
        "device=abacus": "device=abacus",
    }
    for wrong, message in mistakes.items():
        with pytest.raises(InputError, match=message):
            grid.main([*arguments, wrong])
    report = tmp_path / "results/mnist/base/test-10k.json"
    report.parent.mkdir(parents=True)
    report.write_text(json.dumps({"data": "mnist", "preset": None, "images": "base"}))  # of a folder of images
    with pytest.raises(InputError, match="would be replaced by one on stage absorbing, data mnist, preset base"):
        grid.main(arguments)
    assert not ran


def test_presets_of_the_continuous_stage(tmp_path):
    options = grid.Options(presets="gaussian-base", protocols="val", results=tmp_path)
    todo = [step for step in grid.steps("mnist", options) if "classifier" not in step.arguments]
    assert [step.command for step in todo] == ["train", "evaluate", "inspect"]
    assert todo[0].arguments[:3] == ["gaussian", "data=mnist", "preset=base"]
    assert all("stage=gaussian" in step.arguments for step in todo[1:])
    assert todo[1].leaves == tmp_path / "mnist/gaussian-base/val.json"


def test_a_damaged_report_is_not_done(tmp_path):
    """Nor is a report on something else."""
    model, leaves = tmp_path / "model", tmp_path / "report.json"
    model.write_text("weights")
    step = steps.Step("evaluate", ["n=20"], leaves, model)
    whole = {"command": recorded_command("evaluate", ["n=20"]), "checkpoint": {"sha256": sha256_of(model)}}
    for report, done in ((whole, True), (whole | {"checkpoint": None}, False), ({}, False), ([], False)):
        leaves.write_text(json.dumps(report))
        assert step.is_done() == done
    leaves.write_text("{")
    assert not step.is_done()
    shutil.rmtree(tmp_path)
    assert not step.is_done()

"""The table from real images to generated ones, of invented measurements."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from spiking_vq.checkpoint.file import save_model
from spiking_vq.errors import InputError
from stages.cli.options import recorded_command
from stages.reporting.report import evaluation_name
from stages.study import decomposition as decompose
from stages.study import steps


@pytest.fixture
def commands(monkeypatch):
    """The options of all evaluations that were run; the distance in each follows from them."""
    ran = []

    def run(command):
        assert command[2] == "evaluate"
        given = dict(text.split("=", 1) for text in command[3:])
        ran.append(given)
        calls, temperature = int(given.get("sample_steps", 0)), float(given.get("temperature", 0.5))
        report = {
            "command": recorded_command(command[2], command[3:]),
            "checkpoint": {"sha256": hashlib.sha256(Path(given["ckpt"]).read_bytes()).hexdigest()},
            "about": "invented",
            "floor": {"classifier_distance": 0.1},
            "reconstruction": {"classifier_distance": 0.2},
            "metrics": {"classifier_distance": {"mean": 10 - calls + temperature}, "inception_score": "not available"},
        }
        folder = Path(given["results"]) / given["data"] / given["preset"]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / evaluation_name(given)).write_text(json.dumps(report))
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(steps.subprocess, "run", run)
    return ran


@pytest.fixture
def model(tmp_path, latent_model, absorbing_config):
    path = tmp_path / "model.safetensors"
    save_model(path, latent_model, replace(absorbing_config, preset="base"))
    return f"ckpt={path}"


def test_from_the_floor_to_few_calls(tmp_path, commands, model, capsys):
    results, runs = tmp_path / "results", tmp_path / "runs"
    arguments = [model, "calls=4 2", f"results={results}", f"runs={runs}"]
    decompose.main(arguments)
    settings = [(given.get("sample_steps"), given.get("temperature")) for given in commands]
    assert settings == [(None, None), ("9", "1.0"), ("9", None), ("4", None), ("2", None)]  # 3 x 3 tokens
    assert {given["protocol"] for given in commands} == {"val"}  # nothing is chosen on the test images
    report = json.loads((results / "mnist/base/decomposition.json").read_text())
    assert [row["classifier distance"] for row in report["rows"]] == [0.1, 0.2, 2, 1.5, 6.5, 8.5]
    table = (results / "mnist/base/decomposition.md").read_text()
    assert "| generated, one token a call (9 calls), temperature 1 | 2 |" in table
    assert table in capsys.readouterr().out
    decompose.main(arguments)
    assert len(commands) == 5  # nothing is run again
    decompose.main([*arguments, "seed=1"])
    assert len(commands) == 10  # of another seed nothing was measured
    names = {path.name for path in results.rglob("*") if path.is_file()}
    assert names == {"decomposition.json", "decomposition.md"}  # what the rows were made of is not a result


def test_a_network_that_is_told_labels_is_its_own_without_guidance():
    plain, guided, *_ = decompose.samplings([9, 4], conditional=True)
    assert plain == (
        "one token a call (9 calls), temperature 1, guidance 1",
        guided[1] | {"temperature": 1, "guidance": 1},
    )


@pytest.mark.parametrize("calls", ["9", "0", "four"])
def test_calls_out_of_range(tmp_path, model, calls):
    with pytest.raises(InputError, match=r"numbers in 1\.\.8"):
        decompose.main([model, f"calls={calls}", f"results={tmp_path}"])


def test_mistakes_are_found_before_any_measurement(tmp_path, commands, model):
    report = tmp_path / "results/mnist/base/decomposition.json"
    report.parent.mkdir(parents=True)
    report.write_text(json.dumps({"data": "mnist", "preset": "base", "stage": "gaussian"}))
    places = [model, "calls=4", f"results={tmp_path / 'results'}", f"runs={tmp_path / 'runs'}"]
    for wrong, told in (("precision=fp8", "precision must be one of"), ("seed=0", "is a report on stage gaussian")):
        with pytest.raises(InputError, match=told):
            decompose.main([*places, wrong])
    assert not commands


def test_continuous_models_have_no_tokens(tmp_path, pixel_model, gaussian_config):
    path = tmp_path / "model.safetensors"
    save_model(path, pixel_model, gaussian_config)
    with pytest.raises(InputError, match="only those on tokens"):
        decompose.main(["stage=gaussian", f"ckpt={path}", f"results={tmp_path}"])

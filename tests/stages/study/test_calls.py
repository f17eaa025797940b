"""Quality against network calls, of invented measurements."""

import json
from dataclasses import replace

import pytest

from spiking_vq.checkpoint.file import load_model, save_model
from spiking_vq.errors import InputError
from spiking_vq.files import sha256_of
from stages.study import calls


@pytest.fixture
def measured(commands, monkeypatch):
    """Commands whose evaluations depend on the number of calls and the seed."""

    def report(given):
        steps, seed = int(given["sample_steps"]), int(given["seed"])
        metrics = {"classifier_distance": {"mean": 10 - steps + seed / 10}, "confidence": {"mean": 0.9}}
        metrics["classifier_recall"] = {"mean": 0.75}
        if given["features"] == "all":
            metrics |= {name: {"mean": value} for name, value in (("precision", 0.5), ("recall", 0.25), ("fid", 40.0))}
        return {"metrics": metrics, "network_calls": 2 * steps, "network_steps": 6 * steps}

    monkeypatch.setattr(commands, "measured", report)
    return commands


@pytest.fixture
def model(tmp_path, labelled_latents):
    path = tmp_path / "some/model.safetensors"
    path.parent.mkdir()
    save_model(path, labelled_latents.model, replace(labelled_latents.config, data="digits", preset="small"))
    return path


def test_quality_against_calls(tmp_path, measured, folders, model, capsys):
    arguments = [str(model), "calls=2 4", "n=20", *folders]
    calls.main(arguments)
    given = [dict(text.split("=", 1) for text in command[1:]) for command in measured if command[0] == "evaluate"]
    assert [(options["sample_steps"], options["seed"]) for options in given] == [
        ("2", "0"),
        ("2", "1"),
        ("4", "0"),
        ("4", "1"),
    ]
    for options in given:  # other settings are the model's own
        assert not options.keys() & {"temperature", "guidance", "order"}
        assert (options["protocol"], options["n"], options["precision"]) == ("val", "20", "bf16")
        assert (options["data"], options["preset"], options["ckpt"]) == ("digits", "small", str(model))
    report = json.loads((tmp_path / "results/digits/small/calls.json").read_text())
    assert report["checkpoint"]["sha256"] == sha256_of(model)
    assert (report["images"], report["sampler"]["sample_steps"]) == (20, 9)
    assert [(row["sample_steps"], row["network calls"], row["spiking steps"]) for row in report["rows"]] == [
        (2, 4, 12),
        (4, 8, 24),
    ]
    assert report["rows"][1]["classifier distance"]["per_seed"] == [6.0, 6.1]
    assert report["rows"][1]["recall"]["mean"] == 0.25
    table = (tmp_path / "results/digits/small/calls.md").read_text()
    assert "| 4 | 8 | 24 | 6.05 ± 0.071 |" in table
    assert table in capsys.readouterr().out
    done = len(measured)
    calls.main(arguments)
    assert len(measured) == done  # nothing is run again
    calls.main([*arguments, "calls=2 4 8"])
    assert len(measured) == done + 2
    save_model(model, *changed(model))
    calls.main(arguments)
    assert len(measured) == done + 2 + 4  # of another model


def changed(path):
    """The model in a file with another weight, and its configuration."""
    network, config = load_model(path)
    network.denoiser.readout.weight.data += 1
    return network, config


def test_without_the_inception(tmp_path, measured, folders, model):
    calls.main([str(model), "calls=2", "seeds=1", "features=classifier", *folders])
    (row,) = json.loads((tmp_path / "results/digits/small/calls.json").read_text())["rows"]
    costs, metrics = {"sample_steps", "network calls", "spiking steps"}, {"classifier distance", "confidence"}
    assert row.keys() == costs | metrics | {"classifier recall"}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("calls=10", r"sample_steps must be in 1\.\.9"),  # 3 x 3 tokens
        ("calls=0", "sample_steps must be"),
        ("calls=many", "calls must be numbers"),
        ("calls= ", "calls must be numbers"),
        ("n=5", "n must be at least 10"),
        ("device=abacus", "device=abacus"),
    ],
)
def test_impossible_options_of_calls(commands, folders, model, wrong, message):
    with pytest.raises(InputError, match=message):
        calls.main([str(model), *folders, wrong])
    assert not commands


def test_the_table_of_another_preset_is_not_replaced(tmp_path, measured, folders, model):
    report = tmp_path / "results/digits/small/calls.json"
    report.parent.mkdir(parents=True)
    report.write_text(json.dumps({"stage": "absorbing", "data": "digits", "preset": "large"}))
    with pytest.raises(InputError, match="is a report on preset large"):
        calls.main([str(model), *folders])
    assert not measured

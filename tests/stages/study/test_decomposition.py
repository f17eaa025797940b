"""The table from real images to generated ones, of invented measurements."""

import json
from dataclasses import replace

import pytest

from spiking_vq.checkpoint.file import save_model
from spiking_vq.errors import InputError
from stages.study import decomposition


@pytest.fixture
def measured(commands, monkeypatch):
    """Commands whose evaluations depend on the number of calls and the temperature."""

    def report(given):
        calls, temperature = int(given.get("sample_steps", 0)), float(given.get("temperature", 0.5))
        return {
            "about": "invented",
            "floor": {"classifier_distance": 0.1},
            "reconstruction": {"classifier_distance": 0.2},
            "metrics": {"classifier_distance": {"mean": 10 - calls + temperature}, "inception_score": "not available"},
        }

    monkeypatch.setattr(commands, "measured", report)
    return commands


@pytest.fixture
def model(tmp_path, latent_model, absorbing_config):
    path = tmp_path / "model.safetensors"
    save_model(path, latent_model, replace(absorbing_config, preset="base"))
    return f"ckpt={path}"


def test_from_the_floor_to_few_calls(tmp_path, measured, folders, model, capsys):
    arguments = [model, "calls=4 2", *folders]
    decomposition.main(arguments)
    given = [dict(text.split("=", 1) for text in command[1:]) for command in measured]
    settings = [(options.get("sample_steps"), options.get("temperature")) for options in given]
    assert settings == [(None, None), ("9", "1.0"), ("9", None), ("4", None), ("2", None)]  # 3 x 3 tokens
    assert {options["protocol"] for options in given} == {"val"}  # nothing is chosen on the test images
    report = json.loads((tmp_path / "results/mnist/base/decomposition.json").read_text())
    assert [row["classifier distance"] for row in report["rows"]] == [0.1, 0.2, 2, 1.5, 6.5, 8.5]
    table = (tmp_path / "results/mnist/base/decomposition.md").read_text()
    assert "| generated, one token a call (9 calls), temperature 1 | 2 |" in table
    assert table in capsys.readouterr().out
    decomposition.main(arguments)
    assert len(measured) == 5  # nothing is run again
    decomposition.main([*arguments, "seed=1"])
    assert len(measured) == 10  # nothing was measured with another seed
    names = {path.name for path in (tmp_path / "results").rglob("*") if path.is_file()}
    assert names == {"decomposition.json", "decomposition.md"}  # the measurements behind the rows are no results


def test_a_class_conditional_network_samples_its_own_distribution_without_guidance():
    plain, guided, *_ = decomposition.samplings([9, 4], conditional=True)
    assert plain == (
        "one token a call (9 calls), temperature 1, guidance 1",
        guided[1] | {"temperature": 1, "guidance": 1},
    )


@pytest.mark.parametrize("calls", ["9", "0", "four"])
def test_calls_out_of_range(tmp_path, model, calls):
    with pytest.raises(InputError, match=r"numbers in 1\.\.8"):
        decomposition.main([model, f"calls={calls}", f"results={tmp_path}"])


def test_mistakes_are_found_before_any_measurement(tmp_path, commands, folders, model):
    report = tmp_path / "results/mnist/base/decomposition.json"
    report.parent.mkdir(parents=True)
    report.write_text(json.dumps({"data": "mnist", "preset": "base", "stage": "gaussian"}))
    for wrong, message in (("precision=fp8", "precision must be one of"), ("seed=0", "is a report on stage gaussian")):
        with pytest.raises(InputError, match=message):
            decomposition.main([model, "calls=4", *folders, wrong])
    assert not commands


def test_continuous_models_have_no_tokens(tmp_path, pixel_model, gaussian_config):
    path = tmp_path / "model.safetensors"
    save_model(path, pixel_model, gaussian_config)
    with pytest.raises(InputError, match="only those on tokens"):
        decomposition.main(["stage=gaussian", f"ckpt={path}", f"results={tmp_path}"])

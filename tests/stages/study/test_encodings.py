"""The table of encodings and spike generators, from invented measurements."""

import json
from types import SimpleNamespace

import pytest

from spiking_vq.errors import InputError
from spiking_vq.models.spike_encoding import ENCODINGS
from spiking_vq.models.spike_generators import SPIKE_GENERATORS
from stages.study import encodings, runner, steps


@pytest.fixture
def measured(commands, monkeypatch):
    """Commands whose evaluations depend on network and seed."""

    def report(given):
        encoding, generator, seed = given["results"].split("/")[-2].split("-")
        fid = {"rate": 10, "psp": 20, "both": 30}[encoding] + len(generator) + int(seed)
        return {
            "stage1": {"mse": 0.004, "perplexity": 50.0},
            "reconstruction": {"fid": fid, "classifier_distance": 1.0},
            "firing_rate": {"vq_svae": {"all": 0.2}},
        }

    monkeypatch.setattr(commands, "measured", report)
    return commands


def test_all_nine_with_their_spread(tmp_path, measured, folders, capsys):
    arguments = ["data=mnist", "seeds=3", *folders]
    encodings.main(arguments)
    assert len(measured) == 9 * 3 * 2  # MNIST's classifier ships
    report = json.loads((tmp_path / "results/mnist/ablation.json").read_text())
    pairs = {(row["encoding"], row["spike_generator"]) for row in report["rows"]}
    assert pairs == {
        (encoding, generator) for encoding in ENCODINGS for generator in SPIKE_GENERATORS if generator != "direct"
    }
    first = report["rows"][0]
    assert (first["encoding"], first["spike_generator"]) == ("rate", "adaptive")
    assert first["FID"] == {"mean": 19, "std": 1, "per_seed": [18, 19, 20]}
    assert first["MSE x 1000"]["mean"] == pytest.approx(4)
    table = (tmp_path / "results/mnist/ablation.md").read_text()
    assert "| rate | adaptive | 4 ± 0 | 19 ± 1 |" in table
    changes = {(row["choice"], row["instead_of"], row["beside"]): row["FID"] for row in report["differences"]}
    assert len(changes) == 4 * 4
    assert changes["both", "rate", "any"] == {"mean": 20, "error": 0, "below_0": 0, "pairs": 9}
    assert changes["adaptive", "poisson", "psp"] == {"mean": 1, "error": 0, "below_0": 0, "pairs": 3}  # a longer name
    assert "| adaptive, not poisson | any | +0 ± 0 (0 of 9) | +1 ± 0 (0 of 9) |" in table
    assert "| rate | adaptive |" in capsys.readouterr().out
    done = len(measured)
    encodings.main(arguments)
    assert len(measured) == done  # nothing is run again
    encodings.main([*arguments, "epochs=4"])
    assert len(measured) == 2 * done  # a network that was trained differently is not taken for it


def test_differences_by_hand():
    assert runner.paired([3.0, 5.0], [4.0, 4.5]) == pytest.approx(
        {"mean": -0.25, "error": 0.75, "below_0": 1, "pairs": 2}
    )
    assert runner.paired([1.0], [2.0]) == {"mean": -1, "error": None, "below_0": 1, "pairs": 1}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("precision=fp8", "precision must be one of"),
        ("data=svhn", "data must be one of"),
        ("protocol=mine", "protocol must be one of"),
        ("preset=huge", "no preset 'huge'"),
        ("device=abacus", "device=abacus"),
        ("jobs=0", "jobs must be"),
    ],
)
def test_mistakes_are_found_before_any_training(commands, folders, wrong, message):
    with pytest.raises(InputError, match=message):
        encodings.main([*folders, wrong])
    assert not commands


def test_a_study_of_another_preset_is_not_replaced(measured, folders, monkeypatch):
    encodings.main([*folders, "seeds=1"])
    del measured[:]
    with pytest.raises(InputError, match="is a report on preset paper, .* choose another folder with results="):
        encodings.main([*folders, "seeds=1", "preset=base"])

    def missing(data_dir):
        raise InputError("no Inception weights")

    monkeypatch.setattr(runner, "check_inception", missing)  # all of its protocols need them
    with pytest.raises(InputError, match="no Inception weights"):
        encodings.main([*folders, "seeds=1", "epochs=7"])
    assert not measured


def test_the_networks_differ_in_what_the_table_says(measured, folders):
    encodings.main(["seeds=1", "T=2", "precision=bf16", *folders])
    trained = [command for command in measured if command[:2] == ["train", "vq_svae"]]
    assert len(trained) == 9
    for command in trained:
        assert {"T=2", "preset=paper", "seed=0", "precision=bf16", "train.max_epochs=2"} <= set(command)
    assert len({tuple(text for text in command if text.startswith("model.")) for command in trained}) == 9


def test_jobs_share_the_cores(tmp_path, measured, folders, monkeypatch):
    monkeypatch.setattr(steps.os, "cpu_count", lambda: 4)
    encodings.main(["seeds=1", "jobs=2", *folders])
    assert len(measured) == 9 * 2
    logs = sorted((tmp_path / "runs/ablation").glob("*.log"))
    assert len(logs) == 9 * 2
    assert {log.read_text() for log in logs} == {"on 2 threads"}


def test_a_command_that_fails_names_its_output(commands, folders, monkeypatch):
    monkeypatch.setattr(steps.subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=1))
    with pytest.raises(InputError, match=r"exit code 1.*Its output is in .*001\.log"):
        encodings.main(["seeds=1", "jobs=2", *folders])

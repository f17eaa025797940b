"""The table of encodings and spike generators, from invented measurements."""

import hashlib
import json
from types import SimpleNamespace

import pytest

from spiking_vq.errors import InputError
from stages.cli.options import recorded_command
from stages.reporting.report import evaluation_name
from stages.study import encodings as ablation
from stages.study import steps


@pytest.fixture
def commands(monkeypatch):
    """All commands that were run; each leaves a report that follows from its network and seed."""
    ran = []

    def run(command, env=None, stdout=None, stderr=None):
        given = dict(text.split("=", 1) for text in command[3:] if "=" in text)
        ran.append(command[2:])
        if command[2] == "evaluate":
            encoding, generator, seed = given["results"].split("/")[-2].split("-")
            fid = {"rate": 10, "psp": 20, "both": 30}[encoding] + len(generator) + int(seed)
            report = {
                "command": recorded_command(command[2], command[3:]),
                "checkpoint": {"sha256": hashlib.sha256(steps.Path(given["ckpt"]).read_bytes()).hexdigest()},
                "stage1": {"mse": 0.004, "perplexity": 50.0},
                "reconstruction": {"fid": fid, "classifier_distance": 1.0},
                "firing_rate": {"vq_svae": {"all": 0.2}},
            }
            leaves = steps.Path(given["results"], given["data"], given["preset"], evaluation_name(given))
        else:
            stage, preset = command[3], given["preset"]
            leaves, report = steps.Path(f"{given['runs']}/{given['data']}/{preset}/{stage}/model.safetensors"), {}
        leaves.parent.mkdir(parents=True, exist_ok=True)
        leaves.write_text(json.dumps(report))
        if stdout:
            stdout.write(f"on {env['OMP_NUM_THREADS']} threads")
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(steps.subprocess, "run", run)
    monkeypatch.setattr(ablation, "check_inception", lambda data_dir: None)
    return ran


def test_all_nine_with_their_spread(tmp_path, commands, capsys):
    arguments = ["data=mnist", "seeds=3", f"runs={tmp_path / 'runs'}", f"results={tmp_path / 'results'}"]
    ablation.main(arguments)
    assert len(commands) == 9 * 3 * 2  # MNIST's classifier ships
    report = json.loads((tmp_path / "results/mnist/ablation.json").read_text())
    pairs = {(row["encoding"], row["spike_generator"]) for row in report["rows"]}
    assert len(pairs) == 9
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
    done = len(commands)
    ablation.main(arguments)
    assert len(commands) == done  # nothing is run again
    ablation.main([*arguments, "epochs=4"])
    assert len(commands) == 2 * done  # nothing that was trained otherwise is taken for it


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("precision=fp8", "precision must be one of"),
        ("data=svhn", "data must be one of"),
        ("protocol=mine", "protocol must be one of"),
        ("preset=huge", "no preset 'huge'"),
        ("device=abacus", "device=abacus"),
        ("jobs=0", "jobs must be"),
    ],
)
def test_mistakes_are_found_before_any_training(tmp_path, commands, wrong, told):
    with pytest.raises(InputError, match=told):
        ablation.main([f"runs={tmp_path / 'runs'}", f"results={tmp_path / 'results'}", wrong])
    assert not commands


def test_an_ablation_of_another_preset_is_not_replaced(tmp_path, commands, monkeypatch):
    places = [f"runs={tmp_path / 'runs'}", f"results={tmp_path / 'results'}", "seeds=1"]
    ablation.main(places)
    del commands[:]
    with pytest.raises(InputError, match="is a report on preset paper, .* choose another folder with results="):
        ablation.main([*places, "preset=base"])

    def missing(data_dir):
        raise InputError("no Inception weights")

    monkeypatch.setattr(ablation, "check_inception", missing)  # all of its protocols need them
    with pytest.raises(InputError, match="no Inception weights"):
        ablation.main([*places, "epochs=7"])
    assert not commands


def test_the_networks_differ_in_what_the_table_says(tmp_path, commands):
    ablation.main(["seeds=1", "T=2", "precision=bf16", f"runs={tmp_path / 'runs'}", f"results={tmp_path / 'results'}"])
    trained = [command for command in commands if command[:2] == ["train", "vq_svae"]]
    assert len(trained) == 9
    for command in trained:
        assert {"T=2", "preset=paper", "seed=0", "precision=bf16"} <= set(command)
    assert len({tuple(text for text in command if text.startswith("model.")) for command in trained}) == 9


def test_side_by_side_on_a_share_of_the_cores(tmp_path, commands, monkeypatch):
    monkeypatch.setattr(steps.os, "cpu_count", lambda: 4)
    places = [f"runs={tmp_path / 'runs'}", f"results={tmp_path / 'results'}"]
    ablation.main(["seeds=1", "jobs=2", *places])
    assert len(commands) == 9 * 2
    logs = sorted((tmp_path / "runs/ablation").glob("*.log"))
    assert len(logs) == 9 * 2
    assert {log.read_text() for log in logs} == {"on 2 threads"}


def test_a_command_that_fails_names_its_output(tmp_path, commands, monkeypatch):
    monkeypatch.setattr(steps.subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=1))
    places = [f"runs={tmp_path / 'runs'}", f"results={tmp_path / 'results'}"]
    with pytest.raises(InputError, match=r"exit code 1.*It printed .*001\.log"):
        ablation.main(["seeds=1", "jobs=2", *places])

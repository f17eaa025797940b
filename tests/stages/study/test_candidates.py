"""The table of candidates, from invented measurements; the list itself, read as training would."""

import hashlib
import json
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import pytest
from stages.evaluate.report import OPTIONS

from spiking_vq.config.load import load_config
from spiking_vq.config.yaml_files import read_yaml
from spiking_vq.errors import InputError
from spiking_vq.pipelines.latent import LatentPipeline
from spiking_vq.pipelines.zoo import find_model
from stages.cli.options import SAMPLER, parse_options, recorded_command, sampler_settings
from stages.reporting import spread as trials
from stages.reporting.report import evaluation_name
from stages.study import candidates, steps
from stages.train import preset_file


@pytest.mark.parametrize("stage", ["vq_svae", "absorbing"])
def test_all_candidates_are_configurations(stage):
    listed = read_yaml(candidates.LISTS)[stage]
    base = load_config(stage, preset_file(stage, "base"))
    for name, changes in listed.items():
        changed = load_config(stage, preset_file(stage, "base"), (changes or "").split())
        assert (changed == base) == (name == "base")


def test_all_settings_of_the_sampler_are_possible():
    listed = read_yaml(candidates.LISTS)["sampler"]
    assert listed.pop("base") is None
    generator = LatentPipeline.from_pretrained("mnist")
    chosen = [sampler_settings(generator, parse_options(changes.split(), SAMPLER)) for changes in listed.values()]
    assert all(settings != other for settings, other in combinations(chosen, 2))


@pytest.fixture
def commands(monkeypatch):
    """All commands that were run; each leaves what follows from its changes and seed."""
    ran = []

    def run(command, **settings):
        given = dict(text.split("=", 1) for text in command[3:] if "=" in text)
        ran.append(command[2:])
        if command[2] == "evaluate":
            distance = (1.0 if "no-labels" in given["ckpt"] else 2.0) + int(given["seed"]) / 10
            report = {
                "command": recorded_command(command[2], command[3:]),
                "checkpoint": {"sha256": hashlib.sha256(Path(given["ckpt"]).read_bytes()).hexdigest()},
                "metrics": {
                    "classifier_distance": {"mean": distance},
                    "confidence": {"mean": 0.9},
                    **({} if given["features"] == "classifier" else {"fid": {"mean": 10 * distance}}),
                },
                "network_calls": int(given.get("sample_steps", 16)),
                "network_steps": 4 * int(given.get("sample_steps", 16)),
                "firing_rate": {"absorbing": {"all": 0.25}},
                "images_per_second": 40.0,
            }
            name = evaluation_name(parse_options(command[3:], OPTIONS))
            leaves = Path(given["results"]) / "mnist/base" / name
        else:
            leaves = Path(given["runs"]) / "mnist/base/absorbing/model.safetensors"
            report = {"seconds": 120.0, "parameters": 1000}
        leaves.parent.mkdir(parents=True, exist_ok=True)
        leaves.write_text(json.dumps(report))
        if command[2] == "train":
            leaves.with_name("training.json").write_text(json.dumps(report))
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(steps.subprocess, "run", run)
    monkeypatch.setattr(candidates, "check_inception", lambda data_dir: None)
    return ran


def test_candidates_are_trained_measured_and_told(tmp_path, commands, capsys):
    arguments = ["stage=absorbing", "data=mnist", f"runs={tmp_path / 'runs'}", f"results={tmp_path / 'results'}"]
    candidates.main([*arguments, "only=base no-labels", "length=0.001"])
    assert len(commands) == 2 * 2 * 2  # MNIST's classifier ships
    assert "sample.guidance=0" in commands[4]
    num_steps = load_config("absorbing", preset_file("absorbing", "base")).train.max_steps // 1000
    for command in commands:
        if command[0] == "train":
            assert {f"train.max_steps={num_steps}", f"tokens_dir={tmp_path / 'runs/mnist/tokens'}"} <= set(command)
    report = json.loads((tmp_path / "results/mnist/candidates-absorbing.json").read_text())
    base, unlabelled = report["rows"]
    assert base["classifier distance"]["per_seed"] == [2.0, 2.1]
    assert unlabelled["classifier distance"]["mean"] == pytest.approx(1.05)
    changes = "`conditional=false styles=1 sample.sample_steps=16 sample.guidance=0`"
    assert (tmp_path / "results/mnist/candidates-absorbing.png").read_bytes().startswith(b"\x89PNG")
    told = f"| no-labels | {changes} | 1.05 ± 0.071 | 0.25 ± 0 | 40 ± 0 | 2 ± 0 | 1e+03 ± 0 |"
    assert told in (tmp_path / "results/mnist/candidates-absorbing.md").read_text()
    done = len(commands)
    candidates.main([*arguments, "only=base no-labels", "length=0.001"])
    assert len(commands) == done
    candidates.main([*arguments, "only=base"])
    assert len(commands) == done + 4  # of another length


def test_settings_of_the_sampler_are_tried_on_one_model(tmp_path, commands):
    arguments = ["stage=sampler", f"runs={tmp_path / 'runs'}", f"results={tmp_path / 'results'}"]
    candidates.main([*arguments, "only=base guided-cool"])
    assert [command[0] for command in commands] == ["evaluate"] * 2 * 2
    assert len({argument for command in commands for argument in command if argument.startswith("ckpt=")}) == 1
    assert {"sample_steps=8", "temperature=0.8"} <= set(commands[2])
    report = json.loads((tmp_path / "results/mnist/candidates-sampler.json").read_text())
    assert [row["network calls"]["mean"] for row in report["rows"]] == [16, 8]
    assert "parameters" not in report["rows"][0]
    assert (
        report["model"]["sha256"]
        == hashlib.sha256(find_model("absorbing", "mnist", "base", tmp_path).read_bytes()).hexdigest()
    )
    assert not (tmp_path / "results/mnist/candidates-sampler.png").exists()
    candidates.main([*arguments, "only=base", "features=all"])
    report = json.loads((tmp_path / "results/mnist/candidates-sampler.json").read_text())
    assert report["rows"][0]["FID"]["per_seed"] == [20.0, 21.0]
    with pytest.raises(InputError, match="features must be one of all, classifier"):
        candidates.main([*arguments, "features=inception"])


def test_stage1s_candidates_share_the_classifier_they_learn_by(tmp_path):
    options = candidates.OPTIONS | {"stage": "vq_svae", "runs": str(tmp_path / "one")}
    trained, measured = candidates.steps("perceptual", "perceptual.weight=5", 0, options)
    shared = steps.perceptual_step("mnist", steps.places_of(options))
    assert shared.leaves == tmp_path / "one/mnist/perceptual/classifier/model.safetensors"
    assert {"perceptual.weight=5", f"perceptual.classifier={shared.leaves}"} <= set(trained.arguments)
    assert not any("perceptual.classifier" in argument for argument in measured.arguments)
    elsewhere, _ = candidates.steps("perceptual", "perceptual.weight=5", 0, options | {"runs": str(tmp_path / "two")})
    assert elsewhere.leaves.relative_to(tmp_path / "two") == trained.leaves.relative_to(tmp_path / "one")


def test_a_candidate_whose_changes_are_others_is_trained_anew(tmp_path, commands, monkeypatch):
    """And one on another stage 1: what is there under the same name is not taken for it."""
    listed, stage1 = tmp_path / "candidates.yaml", tmp_path / "stage1.safetensors"
    monkeypatch.setattr(candidates, "LISTS", listed)
    arguments = ["data=mnist", "seeds=1", f"ckpt={stage1}", f"runs={tmp_path}", f"results={tmp_path}"]
    for changes, weights, trained in (
        ("loss=elbo", "one", 1),
        ("loss=elbo", "one", 1),
        ("loss=reweighted", "one", 2),
        ("loss=reweighted", "another", 3),
    ):
        listed.write_text(f"absorbing:\n  loss: {changes}\n")
        stage1.write_text(weights)
        candidates.main(arguments)
        assert sum(command[0] == "train" for command in commands) == trained


@pytest.mark.parametrize(
    ("listed", "told"),
    [
        ("absorbing: {base: , bad: loss=elbow}", "candidate bad: .*loss.*'elbow'"),
        ("absorbing: {base: , bad: train.max_step=5}", r"candidate bad: .*train\.max_steps"),
        ("absorbing: {base: , bad: T=many}", "candidate bad: configuration field T must be an integer"),
        ("absorbing: {base: , bad: model.mixer=map}", "candidate bad: .*mixer.*'map'"),
        ("absorbing: {base: , bad: [T=2]}", "absorbing in .* must be names of candidates, each with its changes"),
        ("vq_svae: {base: }", "absorbing in .* must be names of candidates"),
        ("", "absorbing in .* must be names of candidates"),
        ("absorbing: [", "candidates.yaml"),
    ],
)
def test_a_bad_line_of_the_list_is_found_before_any_training(tmp_path, commands, monkeypatch, listed, told):
    monkeypatch.setattr(candidates, "LISTS", tmp_path / "candidates.yaml")
    candidates.LISTS.write_text(listed)
    with pytest.raises(InputError, match=told):
        candidates.main([f"runs={tmp_path}", f"results={tmp_path / 'results'}"])
    assert not commands


def test_a_bad_setting_of_the_sampler_is_found_before_any_sampling(tmp_path, commands, monkeypatch):
    monkeypatch.setattr(candidates, "LISTS", tmp_path / "candidates.yaml")
    for changes, told in (("order=spiral", "order must be"), ("steps=3", "unknown argument 'steps=3'")):
        candidates.LISTS.write_text(f"sampler: {{base: , bad: {changes}}}")
        with pytest.raises(InputError, match=f"candidate bad: {told}"):
            candidates.main(["stage=sampler", f"runs={tmp_path}", f"results={tmp_path / 'results'}"])
    assert not commands


def test_the_inception_is_looked_for_before_any_training(tmp_path, commands, monkeypatch):
    def missing(data_dir):
        raise InputError("no Inception weights")

    monkeypatch.setattr(candidates, "check_inception", missing)
    places = [f"runs={tmp_path / 'runs'}", f"results={tmp_path / 'results'}", "only=base"]
    with pytest.raises(InputError, match="no Inception weights"):
        candidates.main([*places, "features=all"])
    assert not commands
    candidates.main(places)  # needs none


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["only=none"], "only must be of base, "),
        (["data=svhn"], "data must be one of"),
        (["device=abacus"], "device=abacus"),
        (["jobs=0"], "jobs must be"),
        (["stage=gaussian"], "stage must be one of"),
        (["length=0"], "length must be above 0"),
        (["stage=sampler", "length=0.5"], "length must be 1, as the sampler trains nothing"),
    ],
)
def test_what_is_not_listed(arguments, told):
    with pytest.raises(InputError, match=told):
        candidates.main(arguments)


def test_what_was_not_measured_is_told(tmp_path):
    report = tmp_path / "report.json"
    report.write_text('{"images_per_second": null, "fid": 2.0}')
    assert trials.told(trials.spread([3.0, trials.figure(report, ("images_per_second",))])) == "not measured"
    assert trials.told(trials.spread([3.0, trials.figure(report, ("fid",), 0.5)])) == "2 ± 1.4"

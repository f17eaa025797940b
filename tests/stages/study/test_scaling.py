"""Designs of codes against core-hours, from invented measurements; the designs themselves, read as training would."""

import json

import pytest

from spiking_vq.checkpoint.build import build_model
from spiking_vq.config.load import load_config
from spiking_vq.errors import InputError
from stages.cli.options import preset_file
from stages.study import runner, scaling, steps
from stages.study.runner import Study

TWO = """
  vq: {steps: {1: [3, 6], 3: [9, 18]}}
  residual:
    vq_svae: model.quantizer=residual model.num_codes=2
    absorbing: model.width=32 sample.order=halton
    steps: {3: [8, 16]}
"""


@pytest.fixture
def listed(tmp_path, monkeypatch):
    """Function that puts a list of designs in place of ours, with our columns."""
    measured = Study.read("scaling").measured
    monkeypatch.setattr(runner, "STUDIES", tmp_path / "studies")
    runner.STUDIES.mkdir()

    def write(designs):
        text = f"stage: absorbing\nmeasured: {json.dumps(measured)}\ndesigns: {designs}\n"
        (runner.STUDIES / "scaling.yaml").write_text(text)

    return write


@pytest.fixture
def measured(commands, monkeypatch):
    """Commands whose evaluations depend on design and seed."""

    def report(given):
        distance = (1.0 if "/residual-" in given["ckpt"] else 2.0) + int(given["seed"]) / 10
        metrics = {"fid": {"mean": 10 * distance}, "recall": {"mean": 0.25}, "precision": {"mean": 0.75}}
        return {
            "metrics": {"classifier_distance": {"mean": distance}} | (metrics if given["features"] == "all" else {}),
            "reconstruction": {"classifier_distance": 0.5} | ({"fid": 5.0} if given["features"] == "all" else {}),
            "stage1": {"mse": 0.004, "bits_per_image": 441},
            "firing_rate": {"vq_svae": {"all": 0.125}, "absorbing": {"all": 0.0625}},
        }

    monkeypatch.setattr(commands, "measured", report)
    return commands


@pytest.fixture
def read(tmp_path):
    return lambda: json.loads((tmp_path / "results/mnist/scaling.json").read_text())


def test_our_designs_are_configurations_with_the_same_budgets():
    designs = scaling.read_designs(Study.read("scaling"))
    assert {"vq", "count", "product", "residual"} <= designs.keys()
    for design in designs.values():
        assert {1, 3} <= design.steps.keys()
        for budget in design.steps:
            for stage, changes in design.changes(budget).items():
                config = load_config(stage, preset_file(stage, "base"), ["data=cifar10", *changes])
                assert config.train.val_every == config.train.max_steps


def test_both_stages_are_trained_and_measured(tmp_path, measured, listed, read, folders):
    listed(TWO)
    arguments = ["data=mnist", "seeds=2", "precision=fp32", *folders]
    scaling.main(arguments)
    perceptual, *chains = measured
    assert perceptual[:2] == ["train", "classifier"]
    assert len(chains) == 3 * 2 * 3
    for number in range(0, len(chains), 3):
        first, second, evaluation = chains[number : number + 3]
        assert (first[:2], second[:2], evaluation[0]) == (["train", "vq_svae"], ["train", "absorbing"], "evaluate")
        (runs,) = {text for text in first + second if text.startswith("runs=")}  # stage 2 finds its stage 1 there
        assert f"ckpt={runs.removeprefix('runs=')}/mnist/base/absorbing/model.safetensors" in evaluation
        assert f"perceptual.classifier={tmp_path / 'runs/mnist/perceptual/classifier/model.safetensors'}" in first
        assert all("precision=fp32" in command for command in (first, second, evaluation))
        assert {"protocol=val", "only=all", "features=all"} <= set(evaluation)
    assert {"model.num_codes=2", "train.max_steps=8"} <= set(chains[-3])
    assert {"model.width=32", "train.max_steps=16"} <= set(chains[-2])
    rows = read()["rows"]
    assert [(row["design"], row["budget"], row["steps"]) for row in rows] == [
        ("vq", 1, [3, 6]),
        ("vq", 3, [9, 18]),
        ("residual", 3, [8, 16]),
    ]
    assert rows[2]["classifier distance"]["per_seed"] == [1.0, 1.1]
    assert rows[0]["core-hours"]["mean"] == pytest.approx(2 * 120 * 3 / 3600)  # two trainings on three threads
    assert rows[0].keys() == {"design", "budget", "steps", *Study.read("scaling").measured}
    table = (tmp_path / "results/mnist/scaling.md").read_text()
    assert "| residual | 3 | 8 + 16 | 0.2 ± 0 | 1.05 ± 0.071 | 0.75 ± 0 | 0.25 ± 0 |" in table
    assert "| residual | `model.quantizer=residual model.num_codes=2` |" in table
    assert (tmp_path / "results/mnist/scaling.png").read_bytes().startswith(b"\x89PNG")
    done = len(measured)
    scaling.main(arguments)
    assert len(measured) == done  # nothing is run again


def test_some_designs_and_budgets(measured, listed, read, folders):
    listed(TWO)
    scaling.main(["data=mnist", "only=residual vq", "budgets=3", "features=classifier", *folders])
    rows = read()["rows"]
    assert [(row["design"], row["budget"]) for row in rows] == [("residual", 3), ("vq", 3)]
    assert not rows[0].keys() & {"FID", "precision", "recall", "reconstructions' FID"}
    done = len(measured)
    listed(TWO.replace("[9, 18]", "[9, 20]"))
    scaling.main(["data=mnist", "only=residual vq", "budgets=3", "features=classifier", *folders])
    assert len(measured) == done + 3  # with other steps it is another network; the other design is done


def test_stage_2_is_checked_on_its_own_stage_1(measured, listed, folders, monkeypatch):
    """Some settings of stage 2 need several codes a position."""
    checked = []

    def build(config):
        checked.append(config)
        return build_model(config)

    monkeypatch.setattr(steps, "build_model", build)
    listed(TWO)
    scaling.main(["data=cifar10", "budgets=3", *folders])
    stages1 = [config.vq_svae for config in checked if config.stage == "absorbing"]
    assert [(config.model.quantizer, config.model.num_codes) for config in stages1] == [("vq", 1), ("residual", 2)]
    assert stages1[0].image_shape == [3, 32, 32]


@pytest.mark.parametrize(
    ("designs", "message"),
    [
        ("{vq: {vq_svae: T=2}}", "vq: .*steps"),
        ("{vq: 3}", r"scaling\.yaml: vq: "),
        ("{vq: {steps: {1: [3, 6]}, gaussian: T=2}}", "vq: .*gaussian"),
        ("{vq: {steps: {1: 3}}}", "vq: steps must be core-hours"),
        ("{vq: {steps: {1: [3, 6, 9]}}}", "vq: steps must be core-hours"),
        ("{vq: {steps: {one: [3, 6]}}}", "vq: steps must be core-hours"),
        ("{vq: {steps: {1: [3, 6]}, vq_svae: [T=2]}}", "vq: .* must be text with overrides"),
        ("{vq: {steps: {1: [3, 6]}, vq_svae: T=none}}", "candidate vq 1: .*T must be an integer"),
        ("{vq: {steps: {1: [3, 6]}, absorbing: model.mixer=map}}", "candidate vq 1: .*mixer"),
    ],
)
def test_a_bad_design_is_found_before_any_training(commands, listed, folders, designs, message):
    listed(designs)
    with pytest.raises(InputError, match=message):
        scaling.main(["data=mnist", *folders])
    assert not commands


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("only=fsq", "only must be of vq, residual"),
        ("budgets=2", "budgets must be of 1 3"),
        ("budgets=one", "budgets must be numbers"),
        ("only=residual budgets=1", "a design with one of its budgets"),
        ("precision=fp8", "precision must be one of"),
        ("device=abacus", "device=abacus"),
    ],
)
def test_impossible_options_of_scaling(commands, listed, folders, wrong, message):
    listed(TWO)
    with pytest.raises(InputError, match=message):
        scaling.main([*folders, *wrong.split()])
    assert not commands

"""The table of candidates, from invented measurements; the lists themselves, read as training and sampling would."""

import hashlib
import json
from itertools import combinations

import pytest

from spiking_vq.config.load import load_config
from spiking_vq.errors import InputError
from spiking_vq.pipelines.load import load
from spiking_vq.pipelines.zoo import find_model
from stages.cli.options import SamplerArguments, preset_file, read_options, sampler_settings
from stages.study import candidates, runner
from stages.study.runner import Study
from stages.study.steps import common, perceptual_step


@pytest.mark.parametrize("stage", ["vq_svae", "absorbing"])
def test_all_candidates_are_configurations(stage):
    base = load_config(stage, preset_file(stage, "base"))
    for (name,), changes in Study.read(stage).variants().items():
        assert (load_config(stage, preset_file(stage, "base"), changes) == base) == (name == "base")


def test_all_settings_of_the_sampler_are_possible():
    listed = Study.read("sampler").variants()
    assert listed.pop(("base",)) == []
    pipeline = load("mnist-base")  # for which the candidates are
    chosen = [sampler_settings(pipeline, read_options(SamplerArguments, changes)) for changes in listed.values()]
    assert all(settings != other for settings, other in combinations(chosen, 2))


@pytest.fixture
def measured(commands, monkeypatch):
    """Commands whose evaluations depend on candidate and seed."""

    def report(given):
        distance = (1.0 if "no-labels" in given["ckpt"] else 2.0) + int(given["seed"]) / 10
        return {
            "metrics": {
                "classifier_distance": {"mean": distance},
                "confidence": {"mean": 0.9},
                "classifier_recall": {"mean": 0.75},
                **(
                    {}
                    if given["features"] == "classifier"
                    else {"fid": {"mean": 10 * distance}, "recall": {"mean": 0.5}}
                ),
            },
            "network_calls": int(given.get("sample_steps", 16)),
            "network_steps": 4 * int(given.get("sample_steps", 16)),
            "firing_rate": {"absorbing": {"all": 0.25}},
            "images_per_second": None if given["seed"] == "9" else 40.0,
        }

    monkeypatch.setattr(commands, "measured", report)
    return commands


@pytest.fixture
def listed(tmp_path, monkeypatch):
    """Function that puts a list of changes in place of one of ours."""
    monkeypatch.setattr(runner, "STUDIES", tmp_path / "studies")
    runner.STUDIES.mkdir()

    def write(text, name="absorbing", built_on="vq_svae"):
        head = f"stage: absorbing\nbuilt_on: {built_on}\nmeasured: {{images / s: images_per_second}}\n"
        (runner.STUDIES / f"{name}.yaml").write_text(f"{head}vary: {{candidate: {text}}}\n")

    return write


def read(tmp_path, stage):
    return json.loads((tmp_path / f"results/mnist/candidates-{stage}.json").read_text())


def test_candidates_are_trained_measured_and_compared(tmp_path, measured, folders):
    arguments = ["stage=absorbing", "data=mnist", *folders]
    candidates.main([*arguments, "only=base no-labels", "length=0.001"])
    assert len(measured) == 2 * 2 * 2  # MNIST's classifier ships
    assert "sample.guidance=0" in measured[4]
    num_steps = load_config("absorbing", preset_file("absorbing", "base")).train.max_steps // 1000
    for command in measured:
        if command[0] == "train":
            assert {f"train.max_steps={num_steps}", f"tokens_dir={tmp_path / 'runs/mnist/tokens'}"} <= set(command)
    report = read(tmp_path, "absorbing")
    base, unlabelled = report["rows"]
    assert base["classifier distance"]["per_seed"] == [2.0, 2.1]
    assert unlabelled["classifier distance"]["mean"] == pytest.approx(1.05)
    changes = "`conditional=false styles=1 sample.sample_steps=16 sample.guidance=0`"
    assert not base.keys() & {"FID", "precision", "recall"}  # of the Inception, which was not asked for
    assert (tmp_path / "results/mnist/candidates-absorbing.png").read_bytes().startswith(b"\x89PNG")
    line = f"| no-labels | {changes} | 1.05 ± 0.071 | 0.75 ± 0 | 0.25 ± 0 | 40 ± 0 | 2 ± 0 | 1e+03 ± 0 |"
    assert line in (tmp_path / "results/mnist/candidates-absorbing.md").read_text()
    done = len(measured)
    candidates.main([*arguments, "only=base no-labels", "length=0.001"])
    assert len(measured) == done
    candidates.main([*arguments, "only=base"])
    assert len(measured) == done + 4  # of another length
    candidates.main([*arguments, "only=base", "precision=fp32"])
    assert len(measured) == done + 8  # a network of another precision is not taken for it
    assert all("precision=fp32" in command for command in measured[-4:])
    assert all("precision=bf16" in command for command in measured[:-4])


def test_settings_of_the_sampler_are_tried_on_one_model(tmp_path, measured, folders):
    arguments = ["stage=sampler", *folders]
    candidates.main([*arguments, "only=base guided-cool"])
    assert [command[0] for command in measured] == ["evaluate"] * 2 * 2
    assert len({argument for command in measured for argument in command if argument.startswith("ckpt=")}) == 1
    assert {"sample_steps=8", "temperature=0.8"} <= set(measured[2])
    report = read(tmp_path, "sampler")
    assert [row["network calls"]["mean"] for row in report["rows"]] == [16, 8]
    assert "parameters" not in report["rows"][0]
    model = find_model("absorbing", "mnist", "base", tmp_path)
    assert report["model"]["sha256"] == hashlib.sha256(model.read_bytes()).hexdigest()
    assert not (tmp_path / "results/mnist/candidates-sampler.png").exists()
    candidates.main([*arguments, "only=base", "features=all"])
    row = read(tmp_path, "sampler")["rows"][0]
    assert (row["FID"]["per_seed"], row["recall"]["mean"]) == ([20.0, 21.0], 0.5)
    with pytest.raises(InputError, match="features must be one of all, classifier"):
        candidates.main([*arguments, "features=inception"])


def test_candidates_of_stage_1_share_the_classifier_of_the_perceptual_loss(tmp_path):
    chains = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        options = candidates.Options(stage="vq_svae", runs=folder)
        changes = ["perceptual.weight=5"]
        chains.append(candidates.chain(Study.read("vq_svae"), options, None, "perceptual", changes, 0))
        shared = perceptual_step("mnist", options)
        assert common(options)["runs"] == folder
        assert shared.leaves == folder / "mnist/perceptual/classifier/model.safetensors"
        assert {"perceptual.weight=5", f"perceptual.classifier={shared.leaves}"} <= set(chains[-1][0].arguments)
        assert not any("perceptual.classifier" in argument for argument in chains[-1][1].arguments)
    (trained, _), (elsewhere, _) = chains
    assert elsewhere.leaves.relative_to(tmp_path / "two") == trained.leaves.relative_to(tmp_path / "one")


def test_a_candidate_with_other_changes_is_trained_anew(tmp_path, commands, listed, monkeypatch):
    """So is one on another stage 1: a run of the same name is not taken for it."""
    stage1 = tmp_path / "stage1.safetensors"
    monkeypatch.setattr(candidates, "quality_by_rate", lambda *_: None)
    arguments = ["data=mnist", "seeds=1", f"ckpt={stage1}", f"runs={tmp_path}", f"results={tmp_path}"]
    for changes, weights, trained in (
        ("loss=elbo", "one", 1),
        ("loss=elbo", "one", 1),
        ("loss=reweighted", "one", 2),
        ("loss=reweighted", "another", 3),
    ):
        listed(f"{{loss: {changes}}}")
        stage1.write_text(weights)
        candidates.main(arguments)
        assert sum(command[0] == "train" for command in commands) == trained
    row = json.loads((tmp_path / "mnist/candidates-absorbing.json").read_text())["rows"][0]
    assert row["images / s"] == {"mean": None, "std": None, "per_seed": [None]}
    assert "| not measured |" in (tmp_path / "mnist/candidates-absorbing.md").read_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{base: , bad: loss=elbow}", "candidate bad: .*loss.*'elbow'"),
        ("{base: , bad: train.max_step=5}", r"candidate bad: .*train\.max_steps"),
        ("{base: , bad: T=many}", "candidate bad: .*T must be an integer"),
        ("{base: , bad: model.mixer=map}", "candidate bad: .*mixer.*'map'"),
        ("{base: , bad: [T=2]}", "candidate in .* must be names, each with its changes"),
        ("{}", "candidate in .* must be names"),
        ("", "candidate in .* must be names"),
        ("[", r"absorbing\.yaml"),
    ],
)
def test_a_bad_line_of_the_list_is_found_before_any_training(commands, listed, folders, text, message):
    listed(text)
    with pytest.raises(InputError, match=message):
        candidates.main(folders)
    assert not commands


@pytest.mark.parametrize("text", ["", "stage: vq_svae", "[1]"])
def test_a_list_that_is_no_study(commands, listed, folders, text):
    (runner.STUDIES / "absorbing.yaml").write_text(text)
    with pytest.raises(InputError, match=r"absorbing\.yaml"):
        candidates.main(folders)


def test_a_bad_setting_of_the_sampler_is_found_before_any_sampling(commands, listed, folders):
    for changes, message in (("order=spiral", "order must be"), ("steps=3", "unknown argument 'steps=3'")):
        listed(f"{{base: , bad: {changes}}}", "sampler", "absorbing")
        with pytest.raises(InputError, match=f"candidate bad: {message}"):
            candidates.main(["stage=sampler", *folders])
    assert not commands


def test_the_inception_is_looked_for_before_any_training(measured, folders, monkeypatch):
    def missing(data_dir):
        raise InputError("no Inception weights")

    monkeypatch.setattr(runner, "check_inception", missing)
    with pytest.raises(InputError, match="no Inception weights"):
        candidates.main([*folders, "only=base", "features=all"])
    assert not measured
    candidates.main([*folders, "only=base"])  # needs none


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["only=none"], "only must be of base, "),
        (["data=svhn"], "data must be one of"),
        (["device=abacus"], "device=abacus"),
        (["jobs=0"], "jobs must be"),
        (["stage=gaussian"], "stage must be one of"),
        (["length=0"], r"length must be in \(0, 1000\]"),
        (["stage=sampler", "length=0.5"], "length must be 1, as the sampler trains nothing"),
    ],
)
def test_impossible_options(arguments, message):
    with pytest.raises(InputError, match=message):
        candidates.main(arguments)

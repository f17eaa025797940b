"""Studies that sample a model themselves, on untrained networks: labels, thresholds, and the analytic sampler."""

import json
from dataclasses import replace
from statistics import fmean

import pytest
import torch
from PIL import Image

from spiking_vq.checkpoint.build import build_model
from spiking_vq.checkpoint.file import load_model, save_model
from spiking_vq.errors import InputError
from spiking_vq.pipelines.base import Pipeline
from spiking_vq.pipelines.load import load
from stages.study import analytic, labels, thresholds


@pytest.fixture
def arguments(untrained_runs, tmp_path):
    return ["stage=gaussian", "data=digits", f"runs={untrained_runs}", f"results={tmp_path / 'results'}"]


@pytest.fixture
def for_analytic(untrained_runs):
    return ["data=digits", f"runs={untrained_runs}"]


def read(tmp_path, name):
    return json.loads((tmp_path / "results/digits/gaussian-base" / name).read_text())


def test_labels(tmp_path, arguments, capsys):
    labels.main([*arguments, "strengths=0.5 1.5", "n=2", "seed=1", "sample_steps=1"])
    report = read(tmp_path, "labels.json")
    assert (report["labels"], report["images_per_label"], report["seed"]) == ([*range(10)], 2, 1)
    assert report["sampler"]["sample_steps"] == 1
    assert not report["sampler"].keys() & {"label", "guidance"}
    assert [row["guidance"] for row in report["rows"]] == [0.5, 1.5]
    for row in report["rows"]:
        assert sum(row["agreement_per_label"]) / 10 == pytest.approx(row["agreement"])
    assert "guidance 1.5: the classifier agrees with" in capsys.readouterr().out
    picture = Image.open(tmp_path / "results/digits/gaussian-base/labels.png")
    assert picture.size == (2 * (12 + 2) + 2, 10 * (12 + 2) + 2)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["strengths=1 x"], "strengths must be numbers"),
        (["strengths=-1"], "at least 0"),
        (["strengths= "], "at least one number"),
        (["guidance=2"], "guidance must be left out, as the study varies it"),
        (["label=2"], "label must be left out"),
        (["device=abacus"], "device=abacus"),
    ],
)
def test_impossible_options_of_labels(arguments, given, message):
    with pytest.raises(InputError, match=message):
        labels.main([*arguments, "n=1", *given])


def test_labels_need_a_class_conditional_network(tmp_path):
    with pytest.raises(InputError, match="conditional=true"):
        labels.main(["mnist-base-gaussian", "n=1", f"results={tmp_path}"])


def test_thresholds(tmp_path, arguments, capsys):
    thresholds.main([*arguments, "shifts=0 -0.25", "seeds=2", "n=10", "sample_steps=2"])
    report = read(tmp_path, "threshold_sweep.json")
    unshifted, shifted = report["rows"]
    assert (unshifted["shift"], shifted["shift"]) == (0, -0.25)
    assert (unshifted["change"], unshifted["change_error"]) == (0, 0)
    changes = [ours - theirs for ours, theirs in zip(shifted["per_seed"], unshifted["per_seed"], strict=True)]
    assert shifted["change"] == pytest.approx(fmean(changes))
    assert shifted["change"] != 0
    for row in report["rows"]:
        assert row["mean"] == pytest.approx(fmean(row["per_seed"]))
        assert row["std"] == pytest.approx(abs(row["per_seed"][0] - row["per_seed"][1]) / 2**0.5)
    out = capsys.readouterr().out
    assert "threshold +0: classifier distance" in out
    assert "threshold -0.25: classifier distance" in out


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["seeds=1"], r"seeds must be in 2\.\.2\^32"),
        (["n=9"], "n must be at least 10"),
        (["shifts=0.1 x"], "shifts must be numbers"),
        (["shifts=-1"], "threshold_shift"),
        (["threshold_shift=0.1"], "threshold_shift must be left out, as the study varies it"),
        (["stage=absorbing"], "has no threshold_shift"),
    ],
)
def test_impossible_options_of_thresholds(arguments, given, message):
    with pytest.raises(InputError, match=message):
        thresholds.main([*arguments, *given])


@pytest.mark.parametrize("study", [labels, thresholds])
def test_mistakes_are_found_before_any_sampling(untrained_runs, tmp_path, arguments, study, monkeypatch):
    """A report that cannot be written, or would replace another; a classifier that is missing."""
    monkeypatch.delattr(Pipeline, "_generate")
    (tmp_path / "results").write_text("a file where the folder should be")
    with pytest.raises(InputError, match="cannot write"):
        study.main(arguments)
    (tmp_path / "results").unlink()
    report = tmp_path / "results/digits/gaussian-base" / {labels: "labels.json"}.get(study, "threshold_sweep.json")
    report.parent.mkdir(parents=True)
    report.write_text(json.dumps({"stage": "gaussian", "data": "digits", "preset": "sddpm"}))
    with pytest.raises(InputError, match="is a report on preset sddpm, and would be replaced"):
        study.main(arguments)
    report.unlink()
    (untrained_runs / "digits/base/classifier/model.safetensors").unlink()
    with pytest.raises(InputError, match="no trained classifier"):
        study.main(arguments)


def test_the_errors_of_the_analytic_sampler_travel_with_the_weights(untrained_runs, for_analytic, monkeypatch):
    path = untrained_runs / "digits/base/gaussian/model.safetensors"
    before = {name: value.clone() for name, value in load_model(path)[0].unet.state_dict().items()}
    with pytest.raises(InputError, match="analytic"):
        load(path).sample(1, sampler="analytic")
    analytic.main([*for_analytic, "times=4", "n=8"])
    pipeline = load(path)
    assert pipeline.model.image_error.shape == (11,)
    assert pipeline.model.image_error.isfinite().all()
    assert pipeline.sample(1, sampler="analytic", sample_steps=5).images.shape == (1, 1, 12, 12)
    for name, value in pipeline.model.unet.state_dict().items():
        assert torch.equal(value, before[name])
    monkeypatch.setattr(analytic, "ZOO", path.parent)
    with pytest.raises(InputError, match="what ships is not changed"):
        analytic.main(for_analytic)


def test_the_analytic_sampler_is_for_images(untrained_runs, tmp_path, gaussian_config):
    with pytest.raises(InputError, match="one of stage gaussian"):
        analytic.main([str(untrained_runs / "digits/base/absorbing")])
    parts = {"model": replace(gaussian_config.model, unet="fsddim")}
    parts["diffusion"] = replace(gaussian_config.diffusion, loss="synaptic_current")
    config = replace(gaussian_config, data="digits", **parts)
    save_model(tmp_path / "model.safetensors", build_model(config), config)
    with pytest.raises(InputError, match="currents are sampled by ddim"):
        analytic.main([f"ckpt={tmp_path / 'model.safetensors'}"])

"""The comparison of invented reports, the film strip and raster of a small model, and everything in one command."""

import csv
import hashlib
import json
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from spiking_vq.checkpoint.file import save_model
from spiking_vq.errors import InputError
from spiking_vq.pipelines.latent import LatentPipeline
from stages.cli.options import recorded_command
from stages.compare import report as compare
from stages.compare.tables import COLUMNS
from stages.inspect import portrait
from stages.study import grid as all_runs
from stages.study import steps
from stages.study.encodings import MEASURED


def evaluation(fid, **more):
    metrics = {"fid": fid, "kid": 0.01, "precision": 0.7, "recall": 0.6, "classifier_distance": 3.0}
    return {
        "protocol": "test-10k",
        "stand_in": None,
        "metrics": {name: {"mean": value, "std": 0.1 * value, "per_seed": []} for name, value in metrics.items()},
        "floor": dict.fromkeys(metrics, 1.5),
        "likelihood": {"bits_per_image": 166.8},
        "stage1": {"mse": 0.0042},
        "reconstruction": {"fid": 6.6},
        "T": {"vq_svae": 4, "denoiser": 4},
        "network_calls": 32,
        "parameters": {"vq_svae": 200_000, "denoiser": 1_000_000},
        "firing_rate": {"vq_svae": {"1": 0.2, "all": 0.23}, "absorbing": {"2": 0.3, "all": 0.25}},
        "sampler": {"sample_steps": 32},
        "machine": {"device": "cpu"},
        "images_per_second": 30.0,
    } | more


@pytest.fixture
def results(tmp_path):
    """Reports of the base network and a twin."""

    def write(path, content):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))

    base, twin = tmp_path / "mnist" / "base", tmp_path / "kmnist" / "base-relu"
    write(base / "test-10k.json", evaluation(14.4))
    write(base / "n1280-test.json", evaluation(20.0, images_per_second=40.0))
    write(base / "fsddim-10k.json", evaluation(20.0, images_per_second=90.0, machine={"device": "cuda"}))
    write(base / "val-classifier-sample_steps=8.json", evaluation(25.0, network_calls=8))
    cost = {"arithmetic_pj": 4e6, "memory_pj": 6e6}
    sides = {side: {"image": cost} for side in ("spiking", "relu", "quantised")}
    write(base / "energy.json", sides | {"verdict": {"relu": "The spiking network wins <here>."}})
    labelled = {"sampler": {"sample_steps": 16, "label": None, "guidance": 1.0}}
    write(twin / "test-10k.json", evaluation(11.0, firing_rate=None, stand_in="a stand-in of 9,000 images", **labelled))
    Image.new("L", (30, 30)).save(base / "test-10k-samples.png")
    spread, change = {"mean": 1.5, "std": 0.25}, {"mean": -0.5, "error": 0.1, "below_0": 8, "pairs": 9}
    ablation = {
        **{"data": "mnist", "preset": "paper", "T": 4, "epochs": 3, "precision": "fp32", "seeds": 3, "about": "so"},
        "rows": [{"encoding": "psp", "spike_generator": "repeat"} | dict.fromkeys(MEASURED, spread)],
        "differences": [{"choice": "both", "beside": "any", "instead_of": "psp"} | dict.fromkeys(MEASURED, change)],
    }
    write(tmp_path / "mnist" / "ablation.json", ablation)
    return tmp_path


def test_tables_say_what_was_measured_published_and_not_run(results, capsys):
    compare.main([f"results={results}"])
    rows = list(csv.DictReader((results / "comparison.csv").open()))
    assert list(rows[0]) == ["data", *COLUMNS]
    found = {(row["data"], row["system"]): row for row in rows}
    base = found["mnist", "ours, base"]
    assert base["FID test-10k"] == "14.4 ± 1 (1.5)"
    assert base["FID n1280-test"] == "20 ± 2 (1.5)"
    assert base["FID train-50k"] == "not run"
    assert base["protocol of what follows"] == "test-10k"
    assert base["KID x 1000"] == "10 ± 1 (1.5e+03)"
    assert base["precision / recall"] == "0.70 / 0.60"
    assert base["parameters"] == "1,200,000"
    assert base["images / s"] == "40"  # the fastest on the headline's device
    assert (base["reconstruction MSE"], base["reconstruction FID"]) == ("0.0042", "6.6")
    assert (base["uJ / image"], base["with memory"], base["firing rate"]) == ("4", "10", "0.23 + 0.25")
    twin = found["kmnist", "ours, base-relu, told class labels"]
    assert (twin["firing rate"], twin["uJ / image"]) == ("", "not run")
    assert found["mnist", "ours, base-relu"]["uJ / image"] == "4"  # its energy stands in the report of base
    assert found["cifar10", "ours, base"]["FID test-10k"] == "not run"
    published = found["mnist", "Spiking-Diffusion (T 16)"]
    assert (published["published FID"], published["FID n1280-test"]) == ("37.5", "")
    text = (results / "comparison.md").read_text()
    assert "KMNIST here is a stand-in of 9,000 images." in text
    assert "| psp | repeat | 1.5 ± 0.25 |" in text
    assert "| both, not psp | any | -0.5 ± 0.1 (8 of 9) |" in text
    assert text in capsys.readouterr().out


def test_the_page_needs_nothing_else(results):
    compare.main([f"results={results}", "presets=base"])
    text = (results / "report.html").read_text()
    assert 'src="data:image/png;base64,' in text
    assert text.count("<svg") == 2  # quality by calls and the firing rates of base; the twin has none
    assert "wins &lt;here&gt;." in text
    for attribute in ('src="http', 'href="http', "<link", "<script", "@import"):
        assert attribute not in text


def test_no_reports_and_damaged_ones(tmp_path, results):
    with pytest.raises(InputError, match="make evaluate"):
        compare.main([f"results={tmp_path / 'none'}"])
    (results / "mnist/base/test-10k.json").write_text("{")
    with pytest.raises(InputError, match=r"test-10k\.json is not a whole report"):
        compare.main([f"results={results}"])
    (results / "mnist/base/test-10k.json").write_text('{"metrics": 3}')
    with pytest.raises(InputError, match="a report in .* is of another version, or was changed by hand"):
        compare.main([f"results={results}"])


def test_film_strip_and_raster(tmp_path, latent_model, absorbing_config):
    absorbing_config.data = absorbing_config.vq_svae.data = "digits"
    absorbing_config.preset = absorbing_config.vq_svae.preset = "base"
    save_model(tmp_path / "model.safetensors", latent_model, absorbing_config)
    portrait.main([f"ckpt={tmp_path / 'model.safetensors'}", f"results={tmp_path}", "n=2", "sample_steps=9"])
    for name in ("filmstrip", "raster"):
        assert Image.open(tmp_path / f"digits/base/{name}.png").size[0] > 100
    generator = LatentPipeline(latent_model, absorbing_config)
    frames = portrait.token_film(generator, 7, generator.sampling(sample_steps=9))
    masked = (frames == 128).flatten(1).double().mean(1)  # grey, which images of so few pixels hardly are
    assert masked[0] == 1
    assert (masked.diff() <= 1e-9).all()
    assert masked[-1] < 0.1
    spikes = portrait.raster(generator, 7, generator.sampling(sample_steps=9))
    calls = {spk.shape[1] for name, spk in spikes.items() if name.startswith("denoiser.")}
    assert calls == {9 * absorbing_config.T}
    assert 0 < torch.cat([spk.flatten() for spk in spikes.values()]).mean() < 1
    assert not [name for name in spikes if "encoder" in name]


def test_everything_in_one_command_goes_on_where_it_stopped(tmp_path, monkeypatch, capsys):
    """Each command leaves its file; the third dies the first time."""
    ran, dies = [], {"absorbing"}

    def run(command):
        step = next(step for step in todo if [step.command, *step.arguments] == command[2:])
        ran.append(step)
        if dies & set(step.arguments):
            dies.clear()
            return SimpleNamespace(returncode=1)
        if step.leaves is not None:
            step.leaves.parent.mkdir(parents=True, exist_ok=True)
            sha256 = hashlib.sha256(step.of.read_bytes()).hexdigest() if step.of else None
            told = recorded_command(step.command, step.arguments)
            given = dict(text.split("=", 1) for text in step.arguments if "=" in text)
            subject = {name: given.get(name) for name in ("stage", "data", "preset")}
            step.leaves.write_text(json.dumps(subject | {"command": told, "checkpoint": {"sha256": sha256}}))
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(steps, "ZOO", tmp_path)
    checked = []
    monkeypatch.setattr(all_runs, "check_inception", checked.append)
    (tmp_path / "mnist-base-classifier.safetensors").touch()  # one that ships
    options = {"data": "mnist fmnist", "presets": "base base-relu"}
    places = {"runs": str(tmp_path / "runs"), "results": str(tmp_path / "results")}
    arguments = [f"{name}={value}" for name, value in (options | places).items()]
    todo = [step for data in ("mnist", "fmnist") for step in all_runs.steps(data, all_runs.OPTIONS | options | places)]
    monkeypatch.setattr(steps.subprocess, "run", run)
    with pytest.raises(InputError, match="exit code 1"):
        all_runs.main(arguments)
    assert [step.arguments[0] for step in ran] == ["vq_svae", "absorbing"]
    all_runs.main(arguments)
    assert ran[2:] == todo[1:]
    modules = [step.command for step in todo]
    one = ["train", "train", "evaluate", "evaluate"]
    both = [*one, "energy", "portrait", *one, "portrait"]
    assert modules == [*both, "train", *both]
    capsys.readouterr()
    del ran[:]
    all_runs.main(arguments)
    assert [step.command for step in ran] == 4 * ["inspect portrait"]
    assert capsys.readouterr().out.count("done before") == len(todo) - 4
    (tmp_path / "runs/mnist/base/absorbing/model.safetensors").write_text("trained anew")
    del ran[:]
    all_runs.main(arguments)
    again = [step.command for step in ran if step.of is not None]
    assert again == ["evaluate", "evaluate", "inspect energy"]  # the old reports are of another model
    by_hand = tmp_path / "results/mnist/base/test-10k.json"
    by_hand.write_text(by_hand.read_text().replace("test-10k", "test-10k precision=bf16"))
    del ran[:]
    all_runs.main(arguments)
    assert [step.leaves for step in ran if step.of is not None] == [by_hand]  # it is not this command's
    assert checked
    mistakes = {
        "data=mnist svhn": "data must be of mnist",
        "protocols=test": "protocols must be of",
        "presets=base huge": r"no preset 'huge' for stage 'absorbing'",
        "presets=gaussian-paper": r"no preset 'paper' for stage 'gaussian'",
        "precision=fp8": "precision must be one of",
        "device=abacus": "device=abacus",
    }
    del ran[:]
    for wrong, told in mistakes.items():
        with pytest.raises(InputError, match=told):
            all_runs.main([*arguments, wrong])
    by_hand.write_text(json.dumps({"data": "mnist", "preset": None, "images": "base"}))  # of a folder of images
    with pytest.raises(InputError, match="would be replaced by one on stage absorbing, data mnist, preset base"):
        all_runs.main(arguments)
    assert not ran


def test_a_damaged_report_is_not_done(tmp_path):
    """Nor is one of something else."""
    model, leaves = tmp_path / "model", tmp_path / "report.json"
    model.write_text("weights")
    step = steps.Step("evaluate", ["n=20"], leaves, model)
    whole = {"command": recorded_command("evaluate", ["n=20"])}
    whole |= {"checkpoint": {"sha256": hashlib.sha256(b"weights").hexdigest()}}
    for report, done in ((whole, True), (whole | {"checkpoint": None}, False), ({}, False), ([], False)):
        leaves.write_text(json.dumps(report))
        assert step.is_done() == done
    leaves.write_text("{")
    assert not step.is_done()


def test_folders_that_anyone_made_are_compared_too(results, capsys):
    report = evaluation(9.0, folder={"name": "set-images", "identifier": "0"}, preset=None)
    for key in ("stage1", "likelihood", "reconstruction", "T", "network_calls", "parameters", "firing_rate", "sampler"):
        report.pop(key)
    place = results / "mnist/folder-set-images/test-10k.json"
    place.parent.mkdir()
    place.write_text(json.dumps(report | {"images_per_second": None}))
    tuned = results / "mnist/folder-set-tuned/val.json"
    tuned.parent.mkdir()
    tuned.write_text(json.dumps(report | {"protocol": "val"}))  # never compared
    compare.main([f"results={results}", "presets=base folder-set-images"])
    assert "| ours, folder-set-images | 9 ± 0.9 (1.5) |" in (results / "comparison.md").read_text()
    assert "FashionMNIST" in (results / "report.html").read_text()

"""The comparison of invented reports."""

import csv
import json

import pytest
from PIL import Image

from spiking_vq.errors import InputError
from stages.compare import report as compare
from stages.compare.pictures import Costs, costs
from stages.compare.tables import COLUMNS, read_systems


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


MEASURED = ("MSE x 1000", "FID", "classifier distance", "perplexity", "firing rate")


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
    write(base / "fsddim-10k-samples-guidance=0.0.json", evaluation(30.0, protocol="fsddim-10k"))
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
    unlabelled = found["mnist", "ours, base, without labels"]
    assert (unlabelled["FID fsddim-10k"], unlabelled["FID test-10k"]) == ("30 ± 3 (1.5)", "not run")
    assert (unlabelled["protocol of what follows"], unlabelled["parameters"]) == ("fsddim-10k", "")
    twin = found["kmnist", "ours, base-relu, class-conditional"]
    assert (twin["firing rate"], twin["uJ / image"]) == ("", "not run")
    assert found["mnist", "ours, base-relu"]["uJ / image"] == "4"  # its energy stands in the report of base
    assert found["cifar10", "ours, base"]["FID test-10k"] == "not run"
    published = found["mnist", "Spiking-Diffusion (T 16)"]
    assert (published["FID under other protocols"], published["FID n1280-test"]) == ("37.5", "")
    assert found["mnist", "FSDDIM, best"]["FID fsddim-10k"] == "3.99"
    text = (results / "comparison.md").read_text()
    assert "| ours, base | **14.4 ± 1 (1.5)** | **20 ± 2 (1.5)** | 20 ± 2 (1.5) |" in text
    assert "| FSDDIM, best |  |  | **3.99** |" in text
    assert "KMNIST here is a stand-in of 9,000 images." in text
    assert "wrote" in capsys.readouterr().out


def test_the_page_needs_nothing_else(results):
    compare.main([f"results={results}", "presets=base"])
    text = (results / "report.html").read_text()
    assert 'src="data:image/png;base64,' in text
    assert text.count("<svg") == 3  # quality by energy and by calls, and the firing rates of base; the twin has none
    assert text.count(">MNIST: the same seeds, side by side") == 1
    assert "wins &lt;here&gt;." in text
    assert "<td>psp</td><td>2 ± 0</td>" in text  # FID of the one encoding and spike generator
    for attribute in ('src="http', 'href="http', "<link", "<script", "@import"):
        assert attribute not in text


def test_models_stand_by_their_fid_and_energy(results):
    found = costs([system for system in read_systems(results) if system.data == "mnist"])
    assert found == Costs("MNIST, test-10k", 1.5, {"base": (14.4, 4.0, 10.0)})
    twin = results / "mnist/base-relu/n1280-test.json"
    twin.parent.mkdir()
    twin.write_text(json.dumps(evaluation(12.0, firing_rate=None)))
    found = costs([system for system in read_systems(results) if system.data == "mnist"])
    assert found.title == "MNIST, n1280-test"  # which both were measured by
    assert found.points == {"base": (20.0, 4.0, 10.0), "base-relu": (12.0, 4.0, 10.0)}
    assert costs([system for system in read_systems(results) if system.data == "kmnist"]) is None
    compare.main([f"results={results}"])
    assert "<svg" in (results / "quality-by-energy.svg").read_text()


def test_no_reports_and_damaged_ones(tmp_path, results):
    with pytest.raises(InputError, match="spiking-vq evaluate"):
        compare.main([f"results={tmp_path / 'none'}"])
    (results / "mnist/base/test-10k.json").write_text("{")
    with pytest.raises(InputError, match=r"test-10k\.json is not a whole report"):
        compare.main([f"results={results}"])
    (results / "mnist/base/test-10k.json").write_text('{"metrics": 3}')
    with pytest.raises(InputError, match="metrics must be an object.*was changed by hand"):
        compare.main([f"results={results}"])


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
    assert "| ours, folder-set-images | **9 ± 0.9 (1.5)** |" in (results / "comparison.md").read_text()
    assert "FashionMNIST" in (results / "report.html").read_text()


def test_documents_that_cannot_be_read(results, tmp_path):
    (tmp_path / "picture.md").write_bytes(b"\xff\xfe\0")
    for name in (tmp_path / "none.md", tmp_path / "picture.md", tmp_path):
        with pytest.raises(InputError, match=f"documents: {name} cannot be read"):
            compare.main([f"results={results}", f"documents={name}"])
    with pytest.raises(InputError, match="documents=a+ is no path that can be used"):
        compare.main([f"results={results}", f"documents={300 * 'a'}"])
    assert not (results / "comparison.md").exists()


def test_own_data_sets_follow_under_their_names(results):
    folder = results / "sprites-0123abcd" / "base"
    folder.mkdir(parents=True)
    (folder / "test-10k.json").write_text(json.dumps(evaluation(33.3)))
    (results / "notes").mkdir()
    compare.main([f"results={results}"])
    text = (results / "comparison.md").read_text()
    _, part = text.split("### sprites-0123abcd")
    assert "33.3" in part and "### " not in part  # the last one
    assert "### CelebA" in text and "| SDDPM (T 4) | " in text.split("### CelebA")[1]
    assert "sprites-0123abcd, base" in (results / "report.html").read_text()
    rows = list(csv.DictReader((results / "comparison.csv").read_text().splitlines()))
    assert any(row["data"] == "sprites-0123abcd" for row in rows)

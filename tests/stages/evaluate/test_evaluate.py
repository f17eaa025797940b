"""The evaluation command on small untrained models, Inception stood in for."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.utils import save_image

from spiking_vq.checkpoint.build import LatentModel, build_denoiser
from spiking_vq.checkpoint.file import load_model, save_model
from spiking_vq.data.datasets import NamedData, load_dataset
from spiking_vq.data.levels import resize_images, to_unit
from spiking_vq.data.official import Split
from spiking_vq.errors import InputError
from spiking_vq.metrics.fid import fid
from spiking_vq.metrics.inception import WEIGHTS
from spiking_vq.pipelines.base import CHUNK
from spiking_vq.pipelines.load import load
from stages.evaluate import features, measures
from stages.evaluate import report as evaluate
from stages.evaluate.features import CachedFeatures
from stages.evaluate.protocols import PROTOCOLS
from stages.evaluate.subjects import find_folder, read_folder


class StandIn(nn.Module):
    """In Inception's place: some pixels."""

    def __init__(self, *arguments):
        super().__init__()
        self.seen, self.classifier = 0, torch.full((3, 16), float("nan"))

    def forward(self, images):
        self.seen += len(images)
        return images[:, 0, 2:10:2, 2:10:2].flatten(1).float() / 64


@pytest.fixture
def data_dir(tmp_path, monkeypatch):
    monkeypatch.setattr(measures, "Inception", StandIn)
    for name, protocol in PROTOCOLS.items():
        monkeypatch.setitem(PROTOCOLS, name, replace(protocol, generated=min(protocol.generated, 200), num_seeds=2))
    weights = tmp_path / "data" / WEIGHTS
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"weights")
    return tmp_path / "data"


@pytest.fixture
def runs(untrained_runs):
    return untrained_runs


def run(tmp_path, *arguments):
    places = [f"{name}={tmp_path / name}" for name in ("runs", "results")]
    evaluate.main(["data=digits", "preset=base", f"data_dir={tmp_path / 'data'}", *places, *arguments])


def written(tmp_path, name="base"):
    return sorted(path.name for path in (tmp_path / "results" / "digits" / name).iterdir())


def read(tmp_path, file, name="base"):
    return json.loads((tmp_path / "results" / "digits" / name / file).read_text())


def test_features_are_computed_once_and_a_stopped_run_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(features, "CHUNK", 10)
    images = torch.randint(0, 256, (25, 1, 12, 12), dtype=torch.uint8)
    expected = StandIn()(images)

    def cached(network, identity="network"):
        return CachedFeatures(network, identity, 4, tmp_path, "cpu")

    stopped = StandIn()
    stop = iter([None] * 6)  # three batches a chunk; in the third
    stopped.register_forward_pre_hook(lambda *_: next(stop))
    with pytest.raises(StopIteration):
        cached(stopped)(images, "")
    network = StandIn()
    resumed = cached(network)
    assert torch.equal(resumed(images, ""), expected)
    assert network.seen == 5
    assert torch.equal(resumed(images.flip(3), ""), StandIn()(images.flip(3)))  # not the same images
    other = StandIn()
    cached(other, "other weights")(images, "")
    assert other.seen == 25


def test_evaluation_reports_what_it_says(tmp_path, data_dir, runs, latent_model, capsys):
    run(tmp_path, "sample_steps=3", "seed=5")
    stem = "test-10k-sample_steps=3-seed=5"
    pictures = [f"{stem}-{what}.png" for what in ("samples", "inpainting", "reconstructions", "neighbours")]
    assert written(tmp_path) == sorted([*pictures, f"{stem}.json"])
    report = read(tmp_path, f"{stem}.json")

    data, vq_svae = load_dataset("digits", data_dir, 12), latent_model.vq_svae
    assert report["counts"] == {"generated": 200, "floor": 200, "reference": 180}
    assert report["stand_in"] is None
    with torch.no_grad():
        images = to_unit(data.test.images)
        tokens = vq_svae.tokenize(images)
        mse = (vq_svae.decode(tokens) - images).square().mean().item()
    assert report["stage1"]["mse"] == pytest.approx(mse, rel=1e-4)
    assert report["stage1"]["codes_used"] == len(tokens.unique()) > 1
    network = StandIn()
    real = network(data.test.images)
    floor = [fid(network(images), real) for images in data.train.images[:400].split(200)]
    assert report["floor"]["fid"] == pytest.approx(sum(floor) / 2, rel=1e-6)
    assert report["floor_std"]["fid"] == pytest.approx(abs(floor[0] - floor[1]) / 2**0.5, rel=1e-6)
    assert report["reconstruction_std"]["fid"] > 0
    pipeline = load(runs / "digits/base/absorbing/model.safetensors")
    sets = [network(pipeline.sample(200, seed, sample_steps=3).images) for seed in (5, 6)]
    found = report["metrics"]["fid"]
    assert found["per_seed"] == pytest.approx([fid(rows, real) for rows in sets], rel=1e-6)
    assert found["mean"] == pytest.approx(sum(found["per_seed"]) / 2)
    assert found["std"] == pytest.approx(abs(found["per_seed"][0] - found["per_seed"][1]) / 2**0.5)
    assert report["metrics"]["inception_score"] == "not available"
    for part in ("metrics", "floor", "reconstruction"):
        assert report[part].keys() == report["floor"].keys() > {"kid", "precision", "density", "classifier_distance"}
    assert report["floor"]["class_imbalance"] < 0.2
    assert 0.1 < report["floor"]["confidence"] < 1
    assert report["network_calls"] == report["sampler"]["sample_steps"] == 3
    assert report["seeds"] == [5, 6]
    assert report["T"] == {"vq_svae": 2, "absorbing": 2}
    assert report["parameters"].keys() == {"vq_svae", "absorbing"}
    assert report["parameters"]["vq_svae"] == sum(weight.numel() for weight in vq_svae.parameters())
    assert 0 < report["likelihood"]["bits_per_token"] < 10
    assert 0 < report["firing_rate"]["absorbing"]["all"] < 1
    assert report["memorisation"]["authenticity_held_out"] > 0.2
    assert len(report["checkpoint"]["config_sha256"]) == 64
    assert report["features"]["inception"]["precision"] == report["sampler"]["precision"] == "fp32"
    printed = capsys.readouterr().out
    assert PROTOCOLS["test-10k"].about in printed
    assert "not measured" in printed

    run(tmp_path, "sample_steps=3", "seed=5")  # samples and features are still there
    again = read(tmp_path, f"{stem}.json")
    assert again["images_per_second"] is None
    assert again["metrics"] == report["metrics"]


def test_a_folder_of_anyones_images(tmp_path, data_dir, runs):
    data, folder = load_dataset("digits", data_dir), tmp_path / "theirs"
    folder.mkdir()
    for index, image in enumerate(to_unit(data.train.images[:60])):
        save_image(image, folder / f"{index:03d}.png")
    run(tmp_path, f"images={folder}", "n=60")
    report = read(tmp_path, "test-10k-n=60.json", f"folder-{tmp_path.name}-theirs")
    assert report["preset"] is None
    assert str(tmp_path) not in json.dumps(report)
    assert report["metrics"]["fid"]["mean"] == pytest.approx(report["floor"]["fid"], rel=1e-6)  # they are the floor's
    assert report["metrics"]["fid"]["std"] is None
    assert report["memorisation"]["authenticity"] == 0  # they are training images
    with pytest.raises(InputError, match="holds 60 PNG files, and 61"):
        run(tmp_path, f"images={folder}", "n=61")
    (folder / "000.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"000\.png"):
        run(tmp_path, f"images={folder}", "n=60")


def folder_of(path, images, names=None):
    """Write uint8 images [n, 1, H, W] as PNG files into a new folder."""
    path.mkdir(parents=True)
    for index, image in enumerate(images):
        Image.fromarray(image[0].numpy()).save(path / (names[index] if names else f"{index:03d}.png"))
    return path


@pytest.fixture
def by_label(tmp_path):
    """A folder of all 180 test digits, their names in the order of their labels, and the labels in that order."""
    data = load_dataset("digits", tmp_path)
    order = data.test.labels.argsort(stable=True)
    folder = folder_of(tmp_path / "by-label", data.test.images[order], [f"{index:03d}.PNG" for index in range(180)])
    return folder, data.test.images[order], data.test.labels[order]


def test_of_more_files_than_are_compared_a_fair_draw_is_taken(tmp_path, data_dir, runs, by_label, capsys, monkeypatch):
    folder, images, labels = by_label
    (folder / "._000.PNG").write_bytes(b"what macOS leaves")
    drawn = read_folder(find_folder(folder), 40, 1, "black").images
    found = [int((images == image).flatten(1).all(1).nonzero()[0]) for image in drawn]
    assert len(labels[found].unique()) == 10
    assert found != sorted(found)  # pictures show the first of them
    listed = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda self: sorted(listed(self), reverse=True))
    assert torch.equal(read_folder(find_folder(folder), 40, 1, "black").images, drawn)
    run(tmp_path, f"images={folder}", "n=40", "features=classifier")
    report = read(tmp_path, "test-10k-classifier-n=40.json", f"folder-{tmp_path.name}-by-label")
    assert report["counts"] == {"generated": 40, "folder": 180, "floor": 40, "reference": 180}
    assert report["metrics"]["class_imbalance"]["mean"] < 0.5
    assert "generated: 40 of 180; floor: 40; reference: 180\n" in capsys.readouterr().out


def test_real_images_are_a_fair_draw_too(tmp_path, data_dir, runs, by_label, monkeypatch):
    """Test files may be in the order of their labels."""
    folder, images, labels = by_label
    test = Split(resize_images(images, (12, 12)), labels)
    monkeypatch.setattr(NamedData, "test", test)
    seen = []
    monkeypatch.setattr(evaluate, "rates_of", lambda model, images, seed: seen.append(images))
    run(tmp_path, "protocol=train-50k", "n=40", "sample_steps=2")
    drawn = evaluate.fair_draw(test.images)
    assert torch.equal(seen[0], drawn[:CHUNK])
    network, reference = StandIn(), load_dataset("digits", data_dir, 12).train.images
    floor = read(tmp_path, "train-50k-n=40-sample_steps=2.json")["floor"]["fid"]
    expected = [fid(network(real), network(reference)) for real in drawn[:80].split(40)]
    assert floor == pytest.approx(sum(expected) / 2, rel=1e-6)


@pytest.mark.parametrize("background", ["black", "white"])
def test_transparent_images_are_put_on_a_named_background(tmp_path, data_dir, runs, capsys, background):
    digits = load_dataset("digits", data_dir).train.images[:20]
    folder = folder_of(tmp_path / "theirs", digits)
    ink = digits if background == "black" else 255 - digits
    for index in range(7):  # the digit drawn in alpha, white on black and black on white
        image = Image.new("L", (28, 28), 255 if background == "black" else 0)
        image.putalpha(Image.fromarray(digits[index, 0].numpy()))
        image.save(folder / f"{index:03d}.png")
    for index in range(7, 20):
        Image.fromarray(ink[index, 0].numpy()).save(folder / f"{index:03d}.png")
    read_back = read_folder(find_folder(folder), 20, 1, background).images
    assert sorted(read_back.flatten(1).tolist()) == sorted(ink.flatten(1).tolist())
    capsys.readouterr()
    run(tmp_path, f"images={folder}", "n=20", "features=classifier", f"background={background}")
    told = f"7 of 20 images have an alpha channel: composited on {background} (background={background})"
    assert capsys.readouterr().out.count(told) == 1
    name = "test-10k-classifier-n=20" + ("-background=white" if background == "white" else "")
    report = read(tmp_path, f"{name}.json", f"folder-{tmp_path.name}-theirs")
    assert report["composited"] == {"num_images": 7, "background": background}


BROKEN = {
    "no folder": (lambda folder: shutil.rmtree(folder), "cannot read the folder of images .*No such file"),
    "a file": (lambda folder: (shutil.rmtree(folder), folder.write_text("")), "must be a folder; got the file"),
    "no images": (lambda folder: [file.unlink() for file in folder.iterdir()], "holds 0 PNG files"),
    "too few": (lambda folder: (folder / "000.png").unlink(), "holds 19 PNG files, and 20 are to be compared"),
    "damaged": (lambda folder: (folder / "007.png").write_bytes(b"no image"), r"007\.png is not a whole image"),
    "several sizes": (lambda folder: Image.new("L", (9, 8)).save(folder / "007.png"), r"8 x 9 in .*007\.png"),
    "colour": (lambda folder: Image.new("RGB", (28, 28), "red").save(folder / "007.png"), r"007\.png has colour"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_mistakes_in_a_folder_are_found_before_any_model_is_loaded(tmp_path, data_dir, runs, monkeypatch, name):
    folder = folder_of(tmp_path / "theirs", torch.zeros(20, 1, 28, 28, dtype=torch.uint8))
    damage, told = BROKEN[name]
    damage(folder)
    monkeypatch.delattr(evaluate, "Examiner")
    with pytest.raises(InputError, match=told):
        run(tmp_path, f"images={folder}", "n=20")
    assert not [path for path in (tmp_path / "results").rglob("*") if path.is_file()]


def test_reports_on_anything_else_are_never_replaced(tmp_path, data_dir, runs, monkeypatch):
    places = [tmp_path / part / "set/images" for part in ("one", "other")]
    for place in places:
        folder_of(place, load_dataset("digits", data_dir).train.images[:20])
    few = ["n=20", "features=classifier"]
    run(tmp_path, f"images={places[0]}", *few)
    run(tmp_path, f"images={places[0]}", *few)  # the same subject
    results = tmp_path / "results/digits"
    named = results / "folder-set-images/test-10k-classifier-n=20.json"
    assert named.is_file()
    # Folders called as a preset leave the preset's reports alone.
    folder_of(tmp_path / "base", load_dataset("digits", data_dir).train.images[:20])
    run(tmp_path, f"images={tmp_path / 'base'}", *few)
    assert not (results / "base").exists()
    run(tmp_path, "sample_steps=2", *few)
    model = results / "base/test-10k-classifier-n=20-sample_steps=2.json"
    run(tmp_path, "sample_steps=2", *few)
    monkeypatch.delattr(evaluate, "evaluate")  # refused before any work
    with pytest.raises(InputError, match="is a report on folder .*set-images.* choose another folder with results="):
        run(tmp_path, f"images={places[1]}", *few)
    before = json.loads(model.read_text())
    for there in (json.loads(named.read_text()), before | {"stage": "gaussian"}, before | {"preset": "paper"}, []):
        model.write_text(json.dumps(there))
        with pytest.raises(InputError, match="would be replaced by one.*results=, or remove it"):
            run(tmp_path, "sample_steps=2", *few)
        assert json.loads(model.read_text()) == there


def test_what_cannot_be_kept_is_computed_again(tmp_path, data_dir, runs, capsys):
    """Neither features nor samples are lost with a cache, nor is the data folder written to."""
    (tmp_path / "file").write_text("a file where the folder of runs should be")
    models = [f"{name}={runs}/digits/base/{stage}/model.safetensors" for name, stage in MODELS.items()]
    arguments = ["only=samples", "n=20", "sample_steps=2", *models, f"runs={tmp_path / 'file/runs'}"]
    run(tmp_path, *arguments)
    said = capsys.readouterr().out
    assert said.count("going on without a cache: cannot write") == 2  # of features, and of samples
    metrics = read(tmp_path, "test-10k-samples-n=20-sample_steps=2.json")["metrics"]
    run(tmp_path, *arguments[:-1])
    assert "going on without" not in capsys.readouterr().out
    kept = list((tmp_path / "runs").rglob("*.npy"))
    assert {path.relative_to(tmp_path / "runs").parts[0] for path in kept} == {"features", "digits"}
    for path in kept:
        path.write_bytes(path.read_bytes()[:100])  # damaged
    run(tmp_path, *arguments[:-1])
    assert read(tmp_path, "test-10k-samples-n=20-sample_steps=2.json")["metrics"] == metrics
    assert [path.name for path in data_dir.rglob("*") if path.is_file()] == [WEIGHTS.name]


MODELS = {"ckpt": "absorbing", "classifier": "classifier"}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["temperature=0.5"], "without options of a model; got temperature"),
        (["ckpt=model.safetensors"], "without options of a model; got ckpt"),
        (["only=reconstruction"], "only must be all or samples with images="),
        (["background=green"], "background must be one of black, white; got 'green'"),
    ],
)
def test_options_that_say_nothing_of_a_folder_are_refused(tmp_path, data_dir, runs, arguments, told):
    folder = folder_of(tmp_path / "theirs", torch.zeros(20, 1, 28, 28, dtype=torch.uint8))
    with pytest.raises(InputError, match=told):
        run(tmp_path, f"images={folder}", *arguments)
    with pytest.raises(InputError, match="background must be left out"):
        run(tmp_path, "background=white")


def test_validation_leaves_the_files_of_the_test_set_alone(tmp_path, data_dir, runs):
    run(tmp_path, "protocol=val", "only=samples", "features=classifier", "temperature=0.5")
    stem = "val-samples-classifier-temperature=0.5"
    assert written(tmp_path) == sorted(
        [f"{stem}.json", *(f"{stem}-{what}.png" for what in ("samples", "neighbours", "inpainting"))]
    )
    report = read(tmp_path, f"{stem}.json")
    names = ["classifier_distance", "classifier_precision", "classifier_recall", "confidence", "class_imbalance"]
    assert list(report["metrics"]) == names
    assert 0 < report["floor"]["classifier_recall"] <= 1
    assert not {"likelihood", "reconstruction"} & set(report)
    assert report["counts"]["reference"] == 180


def test_a_network_that_is_told_labels_has_no_bound_of_its_own(tmp_path, data_dir, runs, vq_svae):
    path = runs / "digits/base/absorbing/model.safetensors"
    _, config = load_model(path)
    config = replace(config, conditional=True, num_classes=10)
    save_model(path, LatentModel(vq_svae, build_denoiser(config)), config)
    run(tmp_path, "protocol=val", "n=20", "features=classifier")
    report = read(tmp_path, "val-classifier-n=20.json")
    assert "likelihood" not in report
    assert report["stage1"]["num_images"] > 0


def test_the_protocols_compare_what_they_say(tmp_path, data_dir, runs):
    data, network = load_dataset("digits", data_dir, 12), StandIn()
    for name, reference in {
        "n1280-test": data.test.images[:1280],
        "fsddim-10k": resize_images(data.test.images, (32, 32)),
        "train-50k": data.train.images,
    }.items():
        run(tmp_path, f"protocol={name}", "sample_steps=2", "only=samples")
        report = read(tmp_path, f"{name}-samples-sample_steps=2.json")
        assert report["counts"]["reference"] == len(reference)
        sets = [data.test.images] if name == "train-50k" else data.train.images[:400].split(200)
        floor = [fid(network(resize_images(real, reference.shape[2:])), network(reference)) for real in sets]
        assert report["floor"]["fid"] == pytest.approx(sum(floor) / len(floor), rel=1e-6)
        assert ("floor_std" in report) == (len(sets) == 2)
    assert report["resize"] == "tensorflow"
    assert report["counts"]["floor"] == 180


def test_reconstruction_alone_needs_neither_inception_nor_stage_2(tmp_path, runs):
    (runs / "digits" / "base" / "absorbing" / "model.safetensors").unlink()
    run(tmp_path, "only=reconstruction", "features=classifier")
    report = read(tmp_path, "test-10k-reconstruction-classifier.json")
    assert report["stage1"]["num_images"] == 180
    assert "metrics" not in report
    with pytest.raises(InputError, match="absorbing"):
        run(tmp_path)


@pytest.mark.parametrize(
    "argument",
    [
        "only=nothing",
        "n=1",
        "order=sideways",
        "protocol=mine",
        "features=none",
        "precision=fp8",
        "stage=unet",
        "data=svhn",
        "seed=4294967295",
    ],
)
def test_mistakes_are_found_before_anything_is_measured(tmp_path, data_dir, runs, argument):
    with pytest.raises(InputError, match=argument.split("=")[0]):
        run(tmp_path, argument)
    assert not [path for path in (tmp_path / "results").rglob("*") if path.is_file()]


def test_a_place_that_cannot_be_written_to_is_found_before_anything_is_measured(tmp_path, data_dir, runs, monkeypatch):
    (tmp_path / "results").write_text("a file where the folder should be")
    monkeypatch.delattr(evaluate, "evaluate")
    with pytest.raises(InputError, match="cannot write"):
        run(tmp_path)


def test_models_of_other_data_or_kinds_are_refused(tmp_path, data_dir, runs):
    generator, unet = (runs / f"digits/base/{stage}/model.safetensors" for stage in ("absorbing", "gaussian"))
    with pytest.raises(InputError, match="data=digits"):
        run(tmp_path, "data=mnist", f"ckpt={generator}")
    with pytest.raises(InputError, match="trained with stage=gaussian, not stage=absorbing: give stage=gaussian"):
        run(tmp_path, f"ckpt={unet}")
    with pytest.raises(InputError, match="is a gaussian model, which has no stage 1"):
        run(tmp_path, f"ckpt={unet}", "only=reconstruction")
    with pytest.raises(InputError, match="only must be all or samples"):
        run(tmp_path, "stage=gaussian", "only=reconstruction")
    with pytest.raises(InputError, match="train classifier"):
        run(tmp_path, f"classifier={generator}")
    (runs / "digits" / "base" / "classifier" / "model.safetensors").unlink()
    with pytest.raises(InputError, match="train classifier"):
        run(tmp_path)
    assert not [path for path in (tmp_path / "results").rglob("*") if path.is_file()]


def test_a_model_of_the_continuous_stage(tmp_path, data_dir, runs):
    few = ["protocol=val", "features=classifier", "n=20", "sample_steps=2"]
    run(tmp_path, "stage=gaussian", *few)
    report = read(tmp_path, "val-classifier-n=20-sample_steps=2.json", "gaussian-base")
    assert report["T"] == {"gaussian": 2}
    assert report["network_calls"] == 2
    assert report["metrics"]["classifier_distance"]["mean"] > report["floor"]["classifier_distance"]
    assert set(report["firing_rate"]) == {"gaussian"}
    assert not {"likelihood", "reconstruction", "stage1"} & set(report)
    model, _ = load_model(runs / "digits/base/gaussian/model.safetensors")
    assert report["parameters"] == {"gaussian": sum(weight.numel() for weight in model.unet.parameters())}


def test_one_word_names_a_model_with_its_data_and_preset(tmp_path, data_dir, runs):
    word = str(runs / "digits/base/gaussian")
    few = ["protocol=val", "features=classifier", "n=20", "sample_steps=2", "label=1", "guidance=2"]
    places = [f"{name}={tmp_path / name}" for name in ("runs", "results")]
    evaluate.main([word, *places, *few])
    guided = read(tmp_path, "val-classifier-n=20-sample_steps=2-label=1-guidance=2.0.json", "gaussian-base")
    assert (guided["stage"], guided["data"], guided["preset"]) == ("gaussian", "digits", "base")
    assert guided["network_calls"] == 4  # with the label and without
    assert guided["network_steps"] == 4 * guided["T"]["gaussian"]

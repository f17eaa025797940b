"""The evaluation command on small untrained models, Inception stood in for."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn
from torchvision.utils import save_image

from spiking_vq.checkpoint import LatentModel, build_classifier, build_denoiser, load_model, save_model
from spiking_vq.config import ClassifierConfig, ClassifierOptions, TrainOptions
from spiking_vq.data import load_dataset, resize_images, to_unit
from spiking_vq.errors import InputError
from spiking_vq.generators import LatentGenerator
from spiking_vq.metrics.fid import fid
from spiking_vq.metrics.inception import WEIGHTS
from stages.evaluate import __main__ as evaluate
from stages.evaluate import examiner, features
from stages.evaluate.features import CachedFeatures
from stages.evaluate.protocols import PROTOCOLS


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
    monkeypatch.setattr(examiner, "Inception", StandIn)
    for name, protocol in PROTOCOLS.items():
        monkeypatch.setitem(PROTOCOLS, name, replace(protocol, generated=min(protocol.generated, 200), num_seeds=2))
    weights = tmp_path / "data" / WEIGHTS
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"weights")
    return tmp_path / "data"


@pytest.fixture
def runs(tmp_path, latent_model, absorbing_config):
    """Untrained models of both stages, and an untrained classifier, in their run folders."""
    place = {"data": "digits", "preset": "base", "image_size": 12}
    stage1 = replace(absorbing_config.vq_svae, **place)
    stage2 = replace(absorbing_config, vq_svae=stage1, **place)
    judge = ClassifierConfig(
        **place, image_shape=[1, 12, 12], num_classes=10, train=TrainOptions(max_steps=1), model=ClassifierOptions([4])
    )
    models = (stage1, latent_model.vq_svae), (stage2, latent_model), (judge, build_classifier(judge))
    for config, model in models:
        save_model(tmp_path / "runs" / "digits" / "base" / config.stage / "model.safetensors", model, config)
    return tmp_path / "runs"


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
    assert network.seen == resumed.computed == 5
    assert torch.equal(resumed(images.flip(3), ""), StandIn()(images.flip(3)))  # not the same images
    other = cached(StandIn(), "other weights")
    other(images, "")
    assert other.computed == 25


def test_evaluation_reports_what_it_says(tmp_path, data_dir, runs, latent_model, capsys):
    run(tmp_path, "sample_steps=3", "seed=5")
    stem = "test-10k-sample_steps=3"
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
    generator = LatentGenerator.from_pretrained(runs / "digits/base/absorbing/model.safetensors")
    sets = [network(generator.sample(200, seed, sample_steps=3).images) for seed in (5, 6)]
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
    assert report["T"] == {"vq_svae": 2, "denoiser": 2}
    assert report["parameters"]["vq_svae"] == sum(weight.numel() for weight in vq_svae.parameters())
    assert 0 < report["likelihood"]["bits_per_token"] < 10
    assert 0 < report["firing_rate"]["absorbing"]["all"] < 1
    assert report["memorisation"]["authenticity_held_out"] > 0.2
    assert len(report["checkpoint"]["config_sha256"]) == 64
    assert report["features"]["inception"]["precision"] == report["sampler"]["precision"] == "fp32"
    printed = capsys.readouterr().out
    assert PROTOCOLS["test-10k"].about in printed
    assert "not available" in printed

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
    report = read(tmp_path, "test-10k-n=60.json", "theirs")
    assert report["preset"] is None
    assert report["metrics"]["fid"]["mean"] == pytest.approx(report["floor"]["fid"], rel=1e-6)  # they are the floor's
    assert report["metrics"]["fid"]["std"] is None
    assert report["memorisation"]["authenticity"] == 0  # they are training images
    with pytest.raises(InputError, match="holds 60 PNG files, and 61"):
        run(tmp_path, f"images={folder}", "n=61")
    (folder / "000.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"000\.png"):
        run(tmp_path, f"images={folder}", "n=60")


def test_validation_leaves_the_files_of_the_test_set_alone(tmp_path, data_dir, runs):
    run(tmp_path, "protocol=val", "only=samples", "features=classifier", "temperature=0.5")
    stem = "val-samples-classifier-temperature=0.5"
    assert written(tmp_path) == sorted(
        [f"{stem}.json", *(f"{stem}-{what}.png" for what in ("samples", "neighbours", "inpainting"))]
    )
    report = read(tmp_path, f"{stem}.json")
    assert set(report["metrics"]) == {"classifier_distance", "confidence", "class_imbalance"}
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
    assert report["stage1"]["images"] > 0


def test_the_protocols_compare_what_they_say(tmp_path, data_dir, runs):
    data, network = load_dataset("digits", data_dir, 12), StandIn()
    for name, reference in {
        "n1280-test": data.test.images[:1280],
        "fsddim-10k": resize_images(data.test.images, (32, 32)),
        "train-50k": data.train.images,
    }.items():
        run(tmp_path, f"protocol={name}", "sample_steps=2")
        report = read(tmp_path, f"{name}-sample_steps=2.json")
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
    assert report["stage1"]["images"] == 180
    assert "metrics" not in report
    with pytest.raises(InputError, match="absorbing"):
        run(tmp_path)


@pytest.mark.parametrize("argument", ["only=nothing", "n=1", "order=sideways", "protocol=mine", "features=none"])
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
    generator = runs / "digits" / "base" / "absorbing" / "model.safetensors"
    with pytest.raises(InputError, match="data=digits"):
        run(tmp_path, "data=mnist", f"ckpt={generator}")
    with pytest.raises(InputError, match="make classifier"):
        run(tmp_path, f"classifier={generator}")
    (runs / "digits" / "base" / "classifier" / "model.safetensors").unlink()
    with pytest.raises(InputError, match="make classifier"):
        run(tmp_path)

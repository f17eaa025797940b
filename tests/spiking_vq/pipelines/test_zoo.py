"""Which file a model's name or a run means, and the models that ship."""

import hashlib
import json
from pathlib import Path

import pytest
import torch

from spiking_vq.checkpoint.file import load_model, save_model
from spiking_vq.data.levels import to_unit
from spiking_vq.errors import InputError
from spiking_vq.pipelines import base, zoo
from spiking_vq.pipelines.latent import LatentPipeline
from spiking_vq.pipelines.load import load
from spiking_vq.pipelines.zoo import ZOO, find_model

PINNED = Path(__file__).with_name("shipped_tokens.json")


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Files of a run, of a model that ships, and of a model that is named by hand."""
    monkeypatch.setattr(zoo, "ZOO", tmp_path / "zoo")
    files = {
        "run": tmp_path / "runs/mnist/base/absorbing/model.safetensors",
        "zoo": tmp_path / "zoo/mnist-base-absorbing.safetensors",
        "ckpt": tmp_path / "mine.safetensors",
    }
    for file in files.values():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return files


@pytest.fixture
def find(tmp_path):
    """`find_model` of a stage-2 model in the runs of `files`, unless told otherwise."""

    def found(stage="absorbing", data="mnist", preset="base", **options):
        return find_model(stage, data, preset, **{"runs": tmp_path / "runs"} | options)

    return found


def test_named_before_own_before_shipped(files, find):
    assert find(ckpt=str(files["ckpt"])) == files["ckpt"]
    assert find() == files["run"]
    files["run"].unlink()
    assert find() == files["zoo"]
    files["zoo"].unlink()
    expected = "no trained absorbing model for data=mnist preset=base: .*none.*train vq_svae.*train absorbing.*ckpt="
    with pytest.raises(InputError, match=expected):
        find()


def test_a_preset_too_long_for_a_file_is_refused(files, find):
    with pytest.raises(InputError, match="File name too long"):
        find(preset="x" * 300)


def test_a_named_file_must_exist(files, find, tmp_path):
    with pytest.raises(InputError, match="none.safetensors"):
        find(ckpt=str(tmp_path / "none.safetensors"))


def test_a_stage_2_file_serves_where_stage_1_is_asked_for(files, find):
    assert find("vq_svae") == files["run"]
    files["run"].unlink()
    assert find("vq_svae", runs="none") == files["zoo"]


def test_the_error_names_what_ships(files, find):
    with pytest.raises(InputError, match="kmnist.*mnist-base-absorbing"):
        find(data="kmnist")
    with pytest.raises(InputError):
        find(preset="paper")


def test_models_that_ship_are_found_by_name():
    by_name = [load(name) for name in ("mnist", "mnist-base", "mnist-base-absorbing")]
    assert {type(pipeline) for pipeline in by_name} == {LatentPipeline}
    assert load("mnist-base-gaussian").config.stage == "gaussian"
    with pytest.raises(InputError) as error:
        load("imagenet")
    assert "no model file at imagenet" in str(error.value)
    assert "one of cifar10-base-absorbing, " in str(error.value)
    assert "classifier" not in str(error.value)


def test_a_data_set_alone_names_its_large_model(files):
    large = files["zoo"].with_name("mnist-large-absorbing.safetensors")
    assert zoo.located("mnist") == files["zoo"]
    large.touch()
    assert zoo.located("mnist") == large
    assert zoo.located("mnist-base") == files["zoo"]


def test_a_run_folder_is_a_model(tmp_path, latent_model, absorbing_config, pixel_model, gaussian_config):
    run = tmp_path / "runs/mnist/base"
    save_model(run / "gaussian/model.safetensors", pixel_model, gaussian_config)
    assert load(run).config.stage == "gaussian"
    save_model(run / "absorbing/model.safetensors", latent_model, absorbing_config)
    expected = LatentPipeline(latent_model, absorbing_config).sample(1).tokens
    for word in (run, str(run), run / "absorbing", run / "absorbing/model.safetensors"):
        assert torch.equal(load(word).sample(1).tokens, expected)
    assert load(run / "gaussian").config.stage == "gaussian"
    unfinished = tmp_path / "runs/mnist/unfinished/absorbing/best.ckpt"
    unfinished.parent.mkdir(parents=True)
    unfinished.touch()
    assert zoo.located(unfinished.parents[1], "absorbing", "gaussian") == unfinished
    with pytest.raises(InputError, match="no model file at .*nothing.*a run folder such as runs/mnist/base"):
        load(tmp_path / "nothing")


@pytest.mark.parametrize("path", sorted(ZOO.glob("*.safetensors")), ids=lambda path: path.stem)
def test_descriptions_are_of_the_files_that_ship(path):
    description = json.loads(path.with_suffix(".json").read_text())
    assert description["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert path.stat().st_size <= 12_000_000


@pytest.mark.parametrize("path", sorted(ZOO.glob("*-absorbing.safetensors")), ids=lambda path: path.stem)
def test_shipped_tokens_and_what_the_classifier_reads(path, monkeypatch):
    """The tokens of seed 0 are pinned, but for rounding; the shipped classifier reads the label that was asked for."""
    monkeypatch.setattr(base, "CHUNK", 8)
    pipeline = load(path)
    label = pipeline.config.labels[3]
    images, tokens = pipeline.sample(8, label=label, sample_steps=4)
    pinned = torch.tensor(json.loads(PINNED.read_text())[path.stem])
    assert (tokens[0].flatten() == pinned).float().mean() > 0.9
    assert (read(images, path) == label).sum() >= 3  # CIFAR-10's cats; of the other data at least 4


def test_the_classifier_reads_digits_of_the_continuous_model(monkeypatch):
    monkeypatch.setattr(base, "CHUNK", 8)
    path = ZOO / "mnist-base-gaussian.safetensors"
    labels = read(load(path).sample(8, sample_steps=4).images, path)
    assert (labels == torch.tensor([9, 7, 4, 8, 5, 8, 8, 5])).sum() >= 6  # pinned, but for rounding


def read(images, path):
    """Labels of uint8 images by the classifier that ships for the same data."""
    classifier, config = load_model(path.with_name(f"{path.name.partition('-')[0]}-base-classifier.safetensors"))
    with torch.no_grad():
        logits = classifier(to_unit(images))
    assert logits.shape == (len(images), config.num_classes)
    return logits.argmax(1)

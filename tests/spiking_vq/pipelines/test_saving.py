"""`save_pretrained` and loading what it wrote."""

import json
from dataclasses import asdict, replace

import pytest
import torch
import yaml
from safetensors.torch import load_file

from spiking_vq.checkpoint.file import load_model
from spiking_vq.config.compare import portable
from spiking_vq.errors import InputError
from spiking_vq.export.traced import TracedVQSVAE
from spiking_vq.pipelines import base, conventions, saving
from spiking_vq.pipelines.latent import LatentPipeline
from spiking_vq.pipelines.load import load
from spiking_vq.pipelines.pixel import PixelPipeline
from spiking_vq.pipelines.zoo import ZOO

FILES = ["README.md", "config.json", "model.safetensors"]
LOCAL = {"data_dir": "/home/me/data", "runs": "/home/me/runs", "device": "cuda:1"}


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(base, "CHUNK", 4)


@pytest.fixture(params=["latent", "pixel"])
def pipeline(request, latent_model, absorbing_config, pixel_model, gaussian_config):
    """A tiny pipeline whose configuration names folders of this machine."""
    if request.param == "pixel":
        return PixelPipeline(pixel_model, replace(gaussian_config, **LOCAL))
    stage1 = replace(absorbing_config.vq_svae, **LOCAL)
    perceptual = replace(stage1.perceptual, classifier="/home/me/classifier.safetensors")
    train = replace(absorbing_config.train, start_from="/home/me/start.safetensors")
    own = {"stage1": "/home/me/stage1.safetensors", "tokens_dir": "/home/me/tokens", "train": train}
    config = replace(absorbing_config, **LOCAL, **own, vq_svae=replace(stage1, perceptual=perceptual))
    return LatentPipeline(latent_model, config)


def same(samples, others):
    return torch.equal(samples.images, others.images)


def metadata(card):
    """The YAML block at the top of a card."""
    start, block, _ = card.split("---\n", 2)
    assert start == ""
    return yaml.safe_load(block)


def stop(*arguments, **settings):
    raise KeyboardInterrupt


# ---------------------------------------------------------------- there and back


def test_the_same_images_come_back(pipeline, tmp_path):
    expected = pipeline.sample(5, seed=3)
    assert pipeline.save_pretrained(tmp_path / "saved") == tmp_path / "saved"
    assert sorted(path.name for path in (tmp_path / "saved").iterdir()) == FILES
    for model in (tmp_path / "saved", str(tmp_path / "saved"), tmp_path / "saved/model.safetensors"):
        loaded = load(model)
        assert type(loaded) is type(pipeline)
        assert loaded.config == portable(pipeline.config)
        assert same(loaded.sample(5, seed=3), expected)
    (tmp_path / "saved/model.safetensors").rename(tmp_path / "alone.safetensors")
    assert same(load(tmp_path / "alone.safetensors").sample(5, seed=3), expected)


def test_config_is_complete_and_nothing_names_this_machine(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path / "saved")
    config = json.loads((tmp_path / "saved/config.json").read_text())
    assert config.pop("library_name") == "spiking_vq"
    assert len(config.pop("model_sha256")) == 64
    config.pop("library_version")
    assert config == asdict(portable(pipeline.config))
    for file in FILES:
        written = (tmp_path / "saved" / file).read_bytes()
        for local in (b"/home/", str(tmp_path).encode(), b"cuda"):
            assert local not in written, (file, local)


@pytest.mark.parametrize("name", ["mnist", "mnist-base-gaussian"])
def test_a_shipped_model_keeps_its_card_and_its_file(name, tmp_path):
    pipeline = load(name)
    pipeline.save_pretrained(tmp_path)
    stem = f"{pipeline.config.data}-{pipeline.config.preset}-{pipeline.config.stage}"
    card = (tmp_path / "README.md").read_text()
    shipped = (ZOO / f"{stem}.md").read_text()
    assert all(part in card for part in shipped.split("\n\n"))
    assert (tmp_path / "model.safetensors").read_bytes() == (ZOO / f"{stem}.safetensors").read_bytes()
    about = metadata(card)
    assert (about["license"], about["library_name"]) == ("apache-2.0", "spiking_vq")
    assert about["pipeline_tag"] == "unconditional-image-generation"
    assert about["datasets"] == ["ylecun/mnist"]
    assert "spiking-neural-network" in about["tags"]
    assert "fid" in about["metrics"]
    settings = {"seed": 1, "sample_steps": 2}
    assert same(load(tmp_path).sample(2, **settings), pipeline.sample(2, **settings))


def test_a_changed_model_has_a_card_without_metrics(tmp_path):
    pipeline = load("letters", precision="fp64")
    pipeline.save_pretrained(tmp_path / "shipped")
    assert "## test-10k" in (tmp_path / "shipped/README.md").read_text()
    assert "datasets" not in metadata((tmp_path / "shipped/README.md").read_text())  # trained on a stand-in
    pipeline.model.denoiser.readout.weight.data[0, 0] += 1e-12  # less than fp32 can hold
    pipeline.save_pretrained(tmp_path / "weights")
    pipeline = load("mnist")
    pipeline.config.sample = replace(pipeline.config.sample, guidance=1.5)
    pipeline.save_pretrained(tmp_path / "settings")
    for folder in ("weights", "settings"):
        card = (tmp_path / folder / "README.md").read_text()
        assert metadata(card)["license"] == "unknown"
        assert "metrics" not in metadata(card)
        assert "have not been measured" in card
        assert "test-10k" not in card
    assert load(tmp_path / "settings").sampling()["guidance"] == 1.5


def test_the_example_of_a_card_runs(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path / "saved")
    (example,) = (tmp_path / "saved/README.md").read_text().split("```python\n")[1:]
    exec(example.split("```")[0].replace("path/of/this/folder", str(tmp_path / "saved")), made := {})
    assert [image.size for image in made["images"]] == [(12, 12)] * 4


def test_weights_are_bf16_where_that_is_exact(pipeline, tmp_path):
    def types():
        pipeline.save_pretrained(tmp_path)
        model, _ = load_model(tmp_path / "model.safetensors")
        assert all(map(torch.equal, model.parameters(), pipeline.model.parameters()))
        weights = load_file(tmp_path / "model.safetensors").values()
        return {value.dtype for value in weights if value.is_floating_point()}

    assert types() == {torch.float32}
    pipeline.model.bfloat16().float()
    assert types() == {torch.bfloat16}


# ---------------------------------------------------------------- interrupted


def test_an_interrupted_save_is_not_loaded(pipeline, tmp_path, monkeypatch):
    folder, whole = tmp_path / "saved", saving.atomic_write
    for file in FILES:
        monkeypatch.setattr(saving, "atomic_write", lambda path, at=file: stop() if path.name == at else whole(path))
        with pytest.raises(KeyboardInterrupt):
            pipeline.save_pretrained(folder)
        with pytest.raises(InputError, match="no model file at"):
            load(folder)


def test_an_interrupted_save_over_another_model(pipeline, tmp_path, monkeypatch):
    pipeline.save_pretrained(tmp_path)
    expected = pipeline.sample(2)
    whole = saving.atomic_write
    next(pipeline.network.parameters()).data += 1
    monkeypatch.setattr(saving, "atomic_write", lambda path: stop() if path.name == "config.json" else whole(path))
    with pytest.raises(KeyboardInterrupt):
        pipeline.save_pretrained(tmp_path)
    assert same(load(tmp_path).sample(2), expected)  # as it was
    monkeypatch.setattr(saving, "atomic_write", lambda path: stop() if path.name == "README.md" else whole(path))
    with pytest.raises(KeyboardInterrupt):
        pipeline.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="is not the file that config.json was written with"):
        load(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == FILES  # nothing temporary is left
    monkeypatch.undo()
    pipeline.save_pretrained(tmp_path)
    assert same(load(tmp_path).sample(2), pipeline.sample(2))


# ---------------------------------------------------------------- what cannot be


@pytest.mark.parametrize("file", FILES)
def test_files_of_something_else_are_not_replaced(pipeline, tmp_path, file):
    (tmp_path / file).write_text("{}")
    with pytest.raises(InputError, match=f"holds {file}, not written by save_pretrained: choose another folder"):
        pipeline.save_pretrained(tmp_path)
    assert (tmp_path / file).read_text() == "{}"
    assert len(list(tmp_path.iterdir())) == 1


def test_other_files_stay(pipeline, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    pipeline.save_pretrained(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_weights_that_are_not_finite(pipeline, tmp_path):
    next(pipeline.network.parameters()).data.fill_(float("nan"))
    with pytest.raises(InputError, match="weights are NaN or infinite"):
        pipeline.save_pretrained(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_exported_model_is_refused(latent_model, absorbing_config, tmp_path):
    latent_model.vq_svae = TracedVQSVAE(absorbing_config, {})
    pipeline = LatentPipeline(latent_model, absorbing_config)
    with pytest.raises(InputError, match="the model must be one that is not exported already"):
        pipeline.save_pretrained(tmp_path / "saved")
    with pytest.raises(InputError, match="the model must be one that is not exported already"):
        pipeline.push_to_hub("me/digits")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["digits", "me/my/digits", "me/", "", None, "../digits"])
def test_a_repository_has_an_owner_and_a_name(pipeline, name, monkeypatch):
    monkeypatch.setattr(conventions, "upload", stop)
    with pytest.raises(InputError, match="the repository must be of the form owner/name"):
        pipeline.push_to_hub(name)

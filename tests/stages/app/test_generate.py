"""Generation on the page: frames, then the images of `sample`; its command line; bounds."""

import io
import math
import shlex
import time
import zipfile
from dataclasses import replace
from threading import Event

import pytest
import torch

from spiking_vq.checkpoint.file import load_model, save_model
from spiking_vq.errors import InputError
from spiking_vq.pipelines.zoo import shipped
from stages.__main__ import main
from stages.app.generate import Frame, Made, files, generate, streamed
from stages.app.models import ANY, Models, class_name, controls, settings


def test_masked_images_become_those_of_sample(latents, generated):
    *frames, made = generated(latents)
    assert [frame.calls for frame in frames] == list(range(10))  # nine tokens
    assert (frames[0].images == 128).all()
    grey = [(frame.images == 128).float().mean() for frame in frames]
    assert grey == sorted(grey, reverse=True)
    samples = latents.pipeline(latents.first).sample(5, 1)
    assert torch.equal(made.samples.images, samples.images)
    assert torch.equal(made.samples.tokens, samples.tokens)


def test_images_of_later_chunks_appear_too(latents, generated):
    *frames, made = generated(latents, n=70, sample_steps=2)
    hidden = [(frame.images == 128).flatten(1).all(1) for frame in frames]
    assert hidden[2].sum() == 6  # the first 64 are there
    assert not hidden[-1].any()
    assert len(made.samples.images) == 70


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        ("latents", {}),
        ("latents", {"n": 70, "label": 3, "sample_steps": 3}),
        ("latents", {"seed": 2**32 - 1, "temperature": 0.35, "guidance": 2.0}),
        ("pixels", {"label": 3, "sample_steps": 3}),
    ],
)
def test_the_line_makes_the_same_files(request, tmp_path, generated, kind, given):
    made = generated(request.getfixturevalue(kind), **given)[-1]
    program, *words = shlex.split(made.line)
    assert program == "spiking-vq"
    main([*words, f"out={tmp_path / 'out'}"])
    ours = files(made.samples)
    assert ours["grid.png"] == (tmp_path / "out/grid.png").read_bytes()
    with zipfile.ZipFile(io.BytesIO(ours["images.zip"])) as archive:
        theirs = {path.name: path.read_bytes() for path in (tmp_path / "out/images").iterdir()}
        assert {name: archive.read(name) for name in archive.namelist()} == theirs
    if kind == "latents":
        assert ours["tokens.npy"] == (tmp_path / "out/tokens.npy").read_bytes()
    else:
        assert "tokens.npy" not in ours


def test_a_label_is_that_of_all_images(latents, generated):
    pipeline = latents.pipeline(latents.first)
    made = generated(latents, label=3)[-1]
    assert made.settings["label"] == 3
    assert made.settings["guidance"] == 1.0  # the model's own is 0, which would ignore it
    assert torch.equal(made.samples.tokens, pipeline.sample(5, 1, label=3).tokens)
    assert not torch.equal(made.samples.tokens, generated(latents, label=4)[-1].samples.tokens)
    assert generated(latents, label=ANY)[-1].settings["label"] is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"n": 0}, "images must be in 1..256"),
        ({"n": 257}, "images must be in 1..256"),
        ({"n": None}, "images must be an integer"),
        ({"n": 2.5}, "images must be an integer"),
        ({"seed": -1}, "seed must be in 0"),
        ({"seed": 2**32}, "seed must be in 0"),
        ({"seed": None}, "seed must be an integer"),
        ({"sample_steps": 0}, "calls must be in 1..9"),
        ({"sample_steps": 10}, "calls must be in 1..9"),
        ({"temperature": -0.1}, "temperature must be in 0..3"),
        ({"temperature": 3.1}, "temperature must be in 0..3"),
        ({"temperature": math.nan}, "temperature must be a finite number"),
        ({"temperature": None}, "temperature must be a finite number"),
        ({"guidance": 99}, "guidance must be in 0..5"),
        ({"label": 10}, "label must be one of 0, 1"),
        ({"label": "3"}, "label must be an integer"),
    ],
)
def test_values_out_of_range(latents, generated, given, message):
    with pytest.raises(InputError, match=message):
        generated(latents, **given)


def test_other_files_than_those_offered_are_not_opened(latents, tmp_path):
    for name in (str(tmp_path / "other.safetensors"), "../tiny", "", None):
        with pytest.raises(InputError, match="model must be one of"):
            next(generate(latents, name, 1, 0, {}, Event()))


def test_guidance_that_ignores_the_label(tmp_path, latents):
    model, config = load_model(latents.path)
    save_model(latents.path, model, replace(config, sample=replace(config.sample, guidance=1.5)))
    pipeline = Models(latents.path, "cpu").pipeline(latents.first)
    own = controls(pipeline).values
    assert own["guidance"] == 1.5
    with pytest.raises(InputError, match="guidance 0 ignores the label"):
        settings(pipeline, own | {"guidance": 0, "label": 3})


def test_a_model_shows_the_settings_that_it_has(pixels, latents):
    assert list(controls(latents.pipeline(latents.first)).values) == ["sample_steps", "temperature", "guidance"]
    has = controls(pixels.pipeline(pixels.first))
    assert list(has.values) == ["sample_steps", "guidance"]
    assert has.most_calls == 10
    assert has.labels[:2] == [("any", ANY), ("0", 0)]
    distilled = controls(Models(latents.path).pipeline("mnist-large-absorbing"))
    assert distilled.values == {"sample_steps": 8, "temperature": 1.4, "last_temperature": 0.0}
    assert distilled.most_calls == 49


def test_a_model_without_labels_has_none(tmp_path, latent_model, absorbing_config):
    save_model(tmp_path / "plain.safetensors", latent_model, absorbing_config)
    models = Models(tmp_path / "plain.safetensors")
    pipeline = models.pipeline(models.first)
    assert controls(pipeline).labels == []
    assert "guidance" not in controls(pipeline).values
    assert "label" not in settings(pipeline, controls(pipeline).values | {"label": 3})


def test_what_ships_is_offered_with_names(latents):
    assert list(latents.titles) == [str(latents.path), *shipped("absorbing", "gaussian")]
    assert latents.titles["fmnist-large-absorbing"] == "FashionMNIST, large"
    assert [class_name(data, 2) for data in ("mnist", "letters", "cifar10")] == ["2", "2: C", "2: bird"]


def test_work_ends_when_nobody_watches():
    went_on = []

    def work(give):
        for number in range(1000):
            give(number)
            went_on.append(number)
            time.sleep(0.01)

    watching = streamed(work, Event())
    assert [next(watching), next(watching)] == [0, 1]
    watching.close()
    time.sleep(0.1)
    count = len(went_on)
    time.sleep(0.1)
    assert len(went_on) == count < 100


def test_an_error_of_the_work_arrives():
    def work(give):
        give(1)
        raise InputError("wrong")

    watching = streamed(work, Event())
    assert next(watching) == 1
    with pytest.raises(InputError, match="wrong"):
        next(watching)


def test_frames_come_before_the_result(latents, generated):
    kinds = [type(item) for item in generated(latents, sample_steps=1)]
    assert kinds == [Frame, Frame, Made]

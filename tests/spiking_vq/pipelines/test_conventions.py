"""A pipeline called by diffusers' names, and labels for each image."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from spiking_vq.data.levels import to_unit
from spiking_vq.errors import InputError
from spiking_vq.pipelines import base
from spiking_vq.pipelines.conventions import drawn_seed
from spiking_vq.pipelines.latent import LatentPipeline
from spiking_vq.pipelines.load import load
from spiking_vq.pipelines.pixel import PixelPipeline

CHUNK = 4


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(base, "CHUNK", CHUNK)
    monkeypatch.setattr(base, "GROUP", 2 * CHUNK)


@pytest.fixture(params=["latent", "pixel"])
def pipeline(request, labelled_latents, pixel_model, gaussian_config):
    """A class-conditional one."""
    return labelled_latents if request.param == "latent" else PixelPipeline(pixel_model, gaussian_config)


@pytest.fixture
def plain(latent_model, absorbing_config):
    """One without labels."""
    return LatentPipeline(latent_model, absorbing_config)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# ---------------------------------------------------------------- a label for each image


def test_each_image_has_its_own_label(pipeline):
    labels = [1, 2, 2, 1, 9, 1, 2, 2, 1, 2]  # two groups, three chunks
    settings = {"seed": 4, "guidance": 1.5, "sample_steps": 2}
    mixed = pipeline.sample(len(labels), label=labels, **settings).images
    for label in set(labels):
        alike = pipeline.sample(len(labels), label=label, **settings).images
        rows = [row for row, own in enumerate(labels) if own == label]
        assert torch.equal(mixed[rows], alike[rows])
        others = [row for row, own in enumerate(labels) if own != label]
        assert not torch.equal(mixed[others], alike[others])
    assert torch.equal(pipeline.sample(3, label=labels[:3], **settings).images, mixed[:3])


def test_labels_of_any_usual_kind(pipeline):
    pipeline.config.sample = replace(pipeline.config.sample, sample_steps=2)
    expected = pipeline.sample(2, label=[7, 3]).images
    for label in ((7, 3), np.array([7, 3]), torch.tensor([7, 3]), [np.int64(7), np.int64(3)], range(7, 2, -4)):
        assert torch.equal(pipeline.sample(2, label=label).images, expected)
    assert torch.equal(pipeline.sample(2, label=torch.tensor(7)).images, pipeline.sample(2, label=7).images)


def test_labels_of_watched_and_of_completed_images(labelled_latents, images):
    *_, last = labelled_latents.states([5, 6], label=[1, 2])
    for row, label in enumerate((1, 2)):
        *_, alike = labelled_latents.states([5, 6], label=label)
        assert torch.equal(last.x[row], alike.x[row])
    keep = torch.tensor([[True, False, False]] * 3)
    mixed = labelled_latents.inpaint(images[:2], keep, label=[1, 2])
    assert torch.equal(mixed.tokens[1], labelled_latents.inpaint(images[:2], keep, label=2).tokens[1])
    assert not torch.equal(mixed.tokens[0], labelled_latents.inpaint(images[:2], keep, label=2).tokens[0])


@pytest.mark.parametrize(
    ("label", "told"),
    [
        ([7], "label must be one integer, or 2 of them, one for each image; got 1 of them"),
        ([7, 3, 1], "one for each image; got 3 of them"),
        ([], "one for each image; got 0 of them"),
        ([7, 10], "label must be one of 0, 1, .*9; got 10"),
        ([7, -1], "label must be at least 0; got -1"),
        ([7, 1.0], "label must be an integer; got 1.0"),
        ([7, None], "label must be an integer; got None"),
        ([[7, 3]], r"label must be an integer; got \[7, 3\]"),
        ("73", "label must be an integer; got '73'"),
        ({7, 3}, "label must be an integer; got {"),
    ],
)
def test_labels_that_cannot_be(pipeline, label, told):
    with pytest.raises(InputError, match=told):
        pipeline.sample(2, label=label)
    with pytest.raises(InputError, match=told):
        list(pipeline.states([1, 2], label=label))


# ---------------------------------------------------------------- the call


def test_a_call_is_a_sample(pipeline):
    settings = {"sample_steps": 3, "guidance": 1.75}
    expected = pipeline.sample(2, drawn_seed(seeded(5)), label=[7, 1], **settings).images
    called = {"num_inference_steps": 3, "guidance_scale": 1.75}
    for labels in ([7, 1], torch.tensor([7, 1]), np.array([7, 1])):
        (images,) = pipeline(class_labels=labels, generator=seeded(5), **called)
        assert [(image.mode, image.size) for image in images] == [("L", (12, 12))] * 2
        assert np.array_equal(np.stack(images), expected[:, 0])
    assert len(pipeline([7, 7]).images) == 2
    same = pipeline(class_labels=7, batch_size=2, generator=seeded(5), output_type="pt", **called).images
    assert torch.equal(same[0], to_unit(expected)[0])


def test_types_of_output(pipeline):
    made = {name: pipeline([7, 1], generator=seeded(), output_type=name).images for name in ("pil", "pt", "np")}
    assert (made["pt"].dtype, made["pt"].shape) == (torch.float32, (2, 1, 12, 12))
    assert (made["np"].dtype, made["np"].shape) == (np.float32, (2, 12, 12, 1))
    assert 0 <= made["np"].min() < made["np"].max() <= 1
    assert np.array_equal(made["np"], made["pt"].permute(0, 2, 3, 1))
    assert np.array_equal(np.stack(made["pil"]) / np.float32(255), made["np"][..., 0])


def test_colour():
    pipeline = load("cifar10")
    (image,) = pipeline(class_labels=[3], num_inference_steps=1, generator=seeded()).images
    expected = pipeline.sample(1, drawn_seed(seeded()), label=3, sample_steps=1).images[0]
    assert (image.mode, image.size) == ("RGB", (32, 32))
    assert np.array_equal(np.asarray(image), expected.permute(1, 2, 0))


def test_generators(plain):
    generator = seeded(1)
    first, second = (plain(batch_size=2, generator=generator, output_type="pt").images for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(plain(batch_size=2, generator=seeded(1), output_type="pt").images, first)
    assert torch.equal(plain(generator=seeded(1), output_type="pt").images, first[:1])
    torch.manual_seed(3)
    unseeded = [plain(output_type="pt").images for _ in range(2)]
    torch.manual_seed(3)
    assert torch.equal(plain(output_type="pt").images, unseeded[0])
    assert not torch.equal(*unseeded)


def test_seeds_are_spread_over_all_there_are():
    generator = seeded()
    seeds = [drawn_seed(generator) for _ in range(1000)]
    assert 0 <= min(seeds) < 2**24
    assert 2**32 - 2**24 < max(seeds) < 2**32
    assert len(set(seeds)) == 1000


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"class_labels": [10]}, "label must be one of 0, .*; got 10"),
        ({"class_labels": [1, 2], "batch_size": 3}, "batch_size must be 2, as many as class_labels; got 3"),
        ({"class_labels": []}, "n, the number of images, must be at least 1; got 0"),
        ({"class_labels": "7"}, "label must be an integer; got '7'"),
        ({"batch_size": 0}, "n, the number of images, must be at least 1; got 0"),
        ({"batch_size": 2.0}, "n, the number of images, must be an integer; got 2.0"),
        ({"num_inference_steps": -1}, "sample_steps must be at least 1; got -1"),
        ({"num_inference_steps": 50}, "sample_steps must be in 1..*; got 50"),
        ({"guidance_scale": -1.0}, "guidance must be at least 0"),
        ({"output_type": "latent"}, "output_type must be one of pil, pt, np; got 'latent'"),
        ({"output_type": ["pil"]}, "output_type must be one of pil, pt, np"),
        ({"generator": 3}, "generator must be one torch.Generator.*; got an object of type int"),
        (
            {"generator": [torch.Generator()] * 2, "batch_size": 2},
            "generator must be one .*; got an object of type list",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",  # the address of a generator differs by process
)
def test_arguments_that_cannot_be(pipeline, arguments, told):
    with pytest.raises(InputError, match=told):
        pipeline(**arguments)


def test_labels_of_a_model_without(plain):
    for arguments in ({"class_labels": [7]}, {"guidance_scale": 2.0}):
        with pytest.raises(InputError, match="not class-conditional"):
            plain(**arguments)


def test_the_examples_of_the_documentation(tmp_path, monkeypatch):
    text = (Path(__file__).parents[3] / "docs/api.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.S | re.M)
    monkeypatch.chdir(tmp_path)
    made = {}
    for block in (block for block in blocks if "save_pretrained" in block or "class_labels" in block):
        exec(block, made)
    assert len(made["images"]) == 2
    assert (made["levels"].shape, made["levels"].dtype) == ((2, 28, 28, 1), np.float32)
    again = made["again"].sample(2, sample_steps=2)
    assert torch.equal(again.images, made["pipe"].sample(2, sample_steps=2).images)
    assert sorted(path.name for path in (tmp_path / "my-mnist").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]

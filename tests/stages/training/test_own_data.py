"""Training, sampling and evaluating on a folder of images, by the commands."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from spiking_vq.checkpoint.build import build_denoiser, build_unet, build_vq_svae
from spiking_vq.checkpoint.file import load_model
from spiking_vq.config.load import load_config
from spiking_vq.config.options import VQSVAEOptions
from spiking_vq.config.schema import AbsorbingConfig, GaussianConfig, VQSVAEConfig
from spiking_vq.data.datasets import load_dataset
from spiking_vq.errors import InputError
from stages.__main__ import main
from stages.cli.data import with_data_names
from stages.train import preset_file
from stages.training.adapting import adapted

SMALL = ["precision=fp32", "train.compile=false", "train.warmup_steps=1", "train.max_steps=4", "train.val_every=4"]
STAGE1 = ["model.channels=[4,8]", "model.codebook_size=16", "T=2", "adversary.weight=0"]
STAGE2 = ["model.width=8", "model.num_blocks=1", "T=2", "early_T=null", "sample.guidance_T=null"]


def write_pictures(folder, classes, count=40, size=(12, 12)):
    generator = np.random.default_rng(0)
    for name in classes:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels = generator.integers(0, 256, (*size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")


@pytest.fixture
def command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: main([str(argument) for argument in arguments])


def text_of(folder):
    """All text that files below a folder hold, weights' metadata among it."""
    return "".join(path.read_bytes().decode("latin-1") for path in folder.rglob("*") if path.is_file())


def test_the_four_commands(command, tmp_path, capsys):
    folder = tmp_path / "my pictures"
    write_pictures(folder, ["a", "b"])
    data = f"data={folder}"
    command("train", "vq_svae", data, "image_size=16", "resize=stretch", *SMALL, *STAGE1, "perceptual.weight=0")
    assert "64 train, 8 val, 8 test; 3 x 16 x 16, 2 labels" in capsys.readouterr().out
    command("train", "absorbing", data, *SMALL, *STAGE2)
    assert "adapted: styles=2, as the rarest label has 30" in capsys.readouterr().out
    command("sample", data, "n=4", "label=1", "out=made")
    assert Image.open(next((tmp_path / "made").glob("*.png"))).mode == "RGB"
    command("train", "classifier", data, "image_size=16", "resize=stretch", *SMALL, "model.channels=[4,8]")
    command("evaluate", data, "protocol=test-10k", "n=16", "features=classifier")
    (report,) = (tmp_path / "results").rglob("test-10k*.json")
    found = json.loads(report.read_text())
    assert found["counts"] == {"generated": 16, "floor": 16, "reference": 8}
    assert found["memorisation"]["num_training_images"] == 64
    command("inspect", data, "only=report")
    name = report.parent.parent.name
    assert name.startswith("my-pictures-")
    command("publish", data, "zoo=zoo")
    card = (tmp_path / "zoo" / f"{name}-base-absorbing.md").read_text()
    assert f"trained on {name}" in card and f"data={name}" in card
    for part in ("runs", "results", "zoo"):
        assert str(tmp_path) not in text_of(tmp_path / part).replace(str(tmp_path / "data"), ""), part


def test_without_labels(command, tmp_path, capsys):
    write_pictures(tmp_path / "flat", [""])
    data = f"data={tmp_path / 'flat'}"
    command("train", "classifier", "preset=perceptual", data, *SMALL, "model.channels=[4,8]")
    command("train", "vq_svae", data, *SMALL, *STAGE1, "perceptual.weight=1")
    command("train", "absorbing", data, *SMALL, *STAGE2)
    assert "adapted: conditional=false, as the images have no labels" in capsys.readouterr().out
    command("train", "gaussian", data, *SMALL, "model.width=4", "model.multipliers=[1]", "T=2", "early_T=null")
    command("sample", data, "n=2", "out=made")
    for stage in ("absorbing", "gaussian"):
        (file,) = (tmp_path / "runs").glob(f"*/base/{stage}/model.safetensors")
        config = load_model(file)[1]
        assert not config.conditional and config.styles == 1 and config.sample.guidance == 0
    (file,) = (tmp_path / "runs").glob("*/perceptual/classifier/model.safetensors")
    assert load_model(file)[1].num_classes == 16  # clusters in place of labels


def test_a_model_that_ships_is_fine_tuned_where_shapes_fit(command, tmp_path):
    write_pictures(tmp_path / "set", ["a", "b", "c"], count=12, size=(30, 40))
    data = [f"data={tmp_path / 'set'}", "image_size=28", "channels=1"]
    start = ["train.start_from=mnist-base", "perceptual.weight=0", "adversary.weight=0"]
    command("train", "vq_svae", *data, *SMALL, *start, "train.max_steps=1")
    (file,) = (tmp_path / "runs").glob("*/base/vq_svae/model.safetensors")
    assert load_model(file)[1].image_shape == [1, 28, 28]


def test_a_stage_2_reads_images_as_its_stage_1(command, tmp_path):
    write_pictures(tmp_path / "set", ["a"], size=(12, 20))
    data = f"data={tmp_path / 'set'}"
    command("train", "vq_svae", data, "image_size=12", *SMALL, *STAGE1, "perceptual.weight=0")
    with pytest.raises(InputError, match="resize must be left out, or as in stage 1: crop; got stretch"):
        command("train", "absorbing", data, "resize=stretch", *SMALL, *STAGE2)


def test_few_images(command, tmp_path, capsys):
    write_pictures(tmp_path / "few", [""], count=3)
    data = f"data={tmp_path / 'few'}"
    command("train", "vq_svae", data, *SMALL, *STAGE1, "perceptual.weight=0")
    assert "adapted: train.batch_size=1, of 1 training images" in capsys.readouterr().out
    with pytest.raises(InputError, match="batch_size must lie in 1..1"):
        command("train", "vq_svae", data, *SMALL, *STAGE1, "perceptual.weight=0", "train.batch_size=9", "runs=other")


class Sized:
    """A data set of which only the shape is known."""

    def __init__(self, *shape):
        self.official_shape = shape


def halvings(config, size):
    changed, _ = adapted(config, Sized(3, size, size), set())
    return len(changed.model.channels)


@pytest.mark.parametrize(
    ("size", "expected"), [(16, 1), (24, 1), (28, 2), (32, 2), (48, 2), (64, 2), (96, 3), (128, 3)]
)
def test_halvings_follow_from_the_size(size, expected):
    config = VQSVAEConfig(model=VQSVAEOptions(channels=[8, 16]))
    assert halvings(config, size) == expected
    assert 7 <= size / 2**expected <= 16
    given, changes = adapted(config, Sized(3, size, size), {"model.channels"})
    assert given.model.channels == [8, 16] and not [text for text in changes if "channels" in text]


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("size", [28, 32, 48, 64, 96, 128])
def test_every_network_can_be_built_for_the_size(size, channels):
    """Forward and back, at every size and number of channels."""
    shape = [channels, size, size]
    small = {"vq_svae": STAGE1, "absorbing": ["model.width=8", "model.num_blocks=1"], "gaussian": ["model.width=4"]}
    configs = {}
    for stage, given in small.items():
        given = [text for text in given if "model.channels" not in text]
        config = load_config(stage, preset_file(stage, "base"), [*given, "precision=fp32"])
        configs[stage] = replace(adapted(config, Sized(*shape), set())[0], image_shape=shape)
    vq_svae = build_vq_svae(configs["vq_svae"]).eval()
    images = torch.rand(2, *shape)
    tokens = vq_svae.tokenize(images)
    assert 7 <= min(vq_svae.grid) <= max(vq_svae.grid) <= 16
    assert vq_svae.decode(tokens, torch.Generator()).shape == images.shape
    config: AbsorbingConfig = replace(configs["absorbing"], vq_svae=configs["vq_svae"], num_classes=2)
    logits = build_denoiser(config).eval()(tokens, torch.ones(2).long(), torch.zeros(2).long())
    assert logits.shape == (2, vq_svae.codebook_size, *tokens.shape[1:])
    unet: GaussianConfig = replace(configs["gaussian"], conditional=False)
    assert build_unet(unet).eval()(images, torch.ones(2).long()).shape[-3:] == images.shape[1:]


@pytest.mark.parametrize(("size", "near"), [(30, "28 or 32"), (50, "48 or 52"), (66, "64 or 72"), (3, "2 or 4")])
def test_sizes_that_do_not_divide_name_the_nearest_that_do(command, tmp_path, size, near):
    write_pictures(tmp_path / "set", [""], count=4, size=(size, size))
    with pytest.raises(InputError, match=f"got {size}x{size}: set image_size={near}"):
        command("train", "vq_svae", f"data={tmp_path / 'set'}", *SMALL)


def test_paths_become_names_and_everything_else_stays(tmp_path):
    write_pictures(tmp_path / "set", [""], count=4)
    arguments = ["mnist", "data=mnist", "images=/tmp", f"data={tmp_path / 'set'}", f"data_dir={tmp_path / 'kept'}"]
    named = with_data_names(arguments)
    assert named[:3] == arguments[:3] and named[4] == arguments[4]
    name = named[3].removeprefix("data=")
    assert len(load_dataset(name, tmp_path / "kept").train.labels) > 0
    with pytest.raises(InputError, match="no folder of images and no .npz file at"):
        with_data_names(["data=./nowhere"])

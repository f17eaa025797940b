"""`spiking-vq quantise`: a model file like any other, which the other commands take."""

import pytest
import torch

from spiking_vq.checkpoint.file import load_model
from spiking_vq.errors import InputError
from spiking_vq.quantisation.grid import integers_of
from stages import quantise, sample
from stages.cli.options import read_options
from stages.evaluate import report as evaluate
from stages.inspect import report as inspect


@pytest.fixture
def command(untrained_runs, monkeypatch, tmp_path):
    """`quantise` in the folder of the runs; returns the model that it wrote, and its configuration."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        quantise.main([*arguments])
        options = read_options(quantise.Options, [*arguments])
        folder = f"runs/digits/base-int{options.bits}"
        (path,) = [options.out] if options.out else (tmp_path / folder).rglob("*.safetensors")
        return load_model(path)

    return call


@pytest.mark.parametrize(("stage", "bits"), [("absorbing", 8), ("vq_svae", 4)])
def test_the_model_is_written_and_described(command, capsys, stage, bits):
    model, config = command(f"runs/digits/base/{stage}", f"bits={bits}")
    assert (config.stage, config.preset, config.weight_bits) == (stage, f"base-int{bits}", bits)
    weight = (model.vq_svae if stage == "absorbing" else model).decoder[0][0].weight
    assert integers_of(weight, dim=1).weight.abs().max() < 2 ** (bits - 1)
    said = capsys.readouterr().out
    prefix = "vq_svae." if stage == "absorbing" else ""
    for name in (f"{prefix}decoder.0.0.weight", f"{prefix}quantizer.codebook", f"{prefix}readout.neuron"):
        assert f"| {name} |" in said
    assert f"wrote runs/digits/base-int{bits}/{stage}/model.safetensors (0.0 MB)" in said


def test_other_commands_take_it(command, capsys, tmp_path):
    model, _ = command("runs/digits/base")
    sample.main(["runs/digits/base-int8", "n=3", "sample_steps=2"])
    assert len(list((tmp_path / "runs/digits/base-int8/samples/images").iterdir())) == 3
    inspect.main(["runs/digits/base-int8", "n=1", "sample_steps=2", "only=report"])
    common = ["n=10", "sample_steps=2", "protocol=val", "features=classifier"]
    judge = "classifier=runs/digits/base/classifier/model.safetensors"
    evaluate.main(["runs/digits/base-int8", *common, judge])
    assert (tmp_path / "results/digits/base-int8/inspection.json").is_file()
    assert len(list((tmp_path / "results/digits/base-int8").glob("val*.json"))) == 1
    assert isinstance(model.denoiser, torch.nn.Module)


def test_only_a_quantised_model_is_replaced(command, tmp_path):
    (tmp_path / "photo.png").write_bytes(b"mine")
    for out in ("photo.png", "runs", "runs/digits/../digits/base/absorbing/model.safetensors"):
        with pytest.raises(InputError, match=r"is no quantised model, and would be replaced: name another file"):
            command("runs/digits/base", f"out={out}")
    assert (tmp_path / "photo.png").read_bytes() == b"mine"
    for bits in (8, 4):
        assert command("runs/digits/base", "out=made.safetensors", f"bits={bits}")[1].weight_bits == bits


def test_a_unet_says_why_not(command):
    with pytest.raises(InputError, match=r"unet=sddpm.*real numbers"):
        command("runs/digits/base/gaussian")

"""`spiking-vq import`: from the authors' checkpoints to images."""

import re
from dataclasses import replace

import pytest
import torch
from published import golden, preset

import spiking_vq
from spiking_vq.checkpoint.authors.spiking_diffusion import DENOISER
from spiking_vq.checkpoint.build import build_denoiser
from spiking_vq.checkpoint.file import load_model, save_model
from spiking_vq.config.load import load_config
from spiking_vq.config.schema import VQSVAEConfig
from spiking_vq.errors import InputError
from stages import sample
from stages.__main__ import main
from stages.cli.options import preset_file

STAGE1 = "runs/mnist/paper-imported/vq_svae/model.safetensors"
BOTH = "runs/mnist/paper-imported/absorbing/model.safetensors"


def narrow_denoiser():
    """State dict of a denoiser of width 4 by the authors' keys; theirs of width 64 takes long to sample from."""
    config = replace(preset("absorbing", "paper", "model.width=4"), vq_svae=VQSVAEConfig(image_shape=[1, 28, 28]))
    own = build_denoiser(config).float().state_dict()
    return {theirs: own[ours].contiguous() for theirs, ours in DENOISER.items()}


@pytest.fixture(autouse=True)
def checkpoints(tmp_path, monkeypatch):
    """The authors' files, as their programs write them, in the working directory."""
    monkeypatch.chdir(tmp_path)
    torch.save({"net_model": golden("sddpm").weights, "step": 1}, "sddpm.pt")
    torch.save({"model_state_dict": golden("fsddim").weights, "epoch": 1}, "fsddim.pth")
    torch.save(golden("vq_svae").weights, "model.pth")
    torch.save(narrow_denoiser(), "diff_model.pth")
    return tmp_path


@pytest.mark.parametrize(
    ("kind", "file", "data", "said"),
    [
        ("sddpm", "sddpm.pt", "cifar10", "3 x 32 x 32 pixels, T = 4: levels of width 8, 16, 16, 32, each of 2 blocks"),
        ("fsddim", "fsddim.pth", "mnist", "1 x 32 x 32 pixels, T = 4: levels of width 8, 16, 24, 32, each of 2 blocks"),
    ],
)
def test_a_unet_samples(kind, file, data, said, capsys, checkpoints):
    main(["import", kind, file, "T=4"])
    out = f"runs/{data}/{kind}-imported/gaussian/model.safetensors"
    printed = capsys.readouterr().out
    assert re.search(rf"^read [\d,]+ parameters, {said}\nwrote {out} \(\d\.\d MB\)\nnext: (.*)$", printed, re.MULTILINE)
    _, config = load_model(out)
    published = load_config("gaussian", preset_file("gaussian", kind), [f"data={data}"])
    for field in ("data", "T", "lif", "diffusion", "sample", "train", "tsm", "image_size", "flips", "precision"):
        assert getattr(config, field) == getattr(published, field), field
    assert printed.splitlines()[-1] == f"next: spiking-vq sample {out}"
    assert spiking_vq.load(out).config == config
    sample.main([out, "n=1", "sample_steps=1"])
    assert (checkpoints / f"runs/{data}/{kind}-imported/gaussian-samples/images/000000.png").is_file()


def test_spiking_diffusion_in_two_steps(capsys, checkpoints):
    main(["import", "spiking-diffusion", "model.pth", "T=16"])
    printed = capsys.readouterr().out
    assert "read stage 1, 50,658 parameters, 1 x 28 x 28 pixels, T = 16: 128 codes of length 16" in printed
    assert "import it again with data_variance=" in printed
    assert f"next: spiking-vq import spiking-diffusion diff_model.pth T=16 stage1={STAGE1}" in printed
    main(["import", "spiking-diffusion", "diff_model.pth", "T=16"])
    printed = capsys.readouterr().out
    assert "read the denoiser, 34,124 parameters, 1 x 28 x 28 pixels, T = 16: 128 codes and their mask" in printed
    model, config = load_model(BOTH)
    stage1, stage1_config = load_model(STAGE1)
    published = load_config("absorbing", preset_file("absorbing", "paper"))
    for field in ("data", "T", "lif", "loss", "sample", "image_size", "precision"):
        assert getattr(config, field) == getattr(published, field), field
    assert config.vq_svae == stage1_config
    assert torch.equal(model.vq_svae.quantizer.codebook, stage1.quantizer.codebook)
    sample.main(["runs/mnist/paper-imported", "n=2", "sample_steps=2"])
    assert len(list((checkpoints / "runs/mnist/paper-imported/samples/images").iterdir())) == 2


def test_stage_1_by_the_authors_file_or_another_of_ours(capsys):
    main(["import", "spiking-diffusion", "diff_model.pth", "T=16", "stage1=model.pth", "data=kmnist", "out=made"])
    model, config = load_model("made")
    assert (config.data, config.vq_svae.data, model.vq_svae.data_variance) == ("kmnist", "kmnist", 1)
    main(["import", "spiking-diffusion", "model.pth", "T=16", "out=one", "data_variance=0.09", "image_size=32"])
    assert "data_variance" not in capsys.readouterr().out
    for holder in ("one", "made"):  # a stage 1, and a stage 2 that holds it
        main(["import", "spiking-diffusion", "diff_model.pth", "T=16", f"stage1={holder}", f"out=with-{holder}"])
    one, made = (load_model(f"with-{holder}") for holder in ("one", "made"))
    assert (one[1].data, one[1].image_size, one[1].image_shape) == ("mnist", 32, [1, 32, 32])
    assert (made[1].data, made[1].image_size) == ("kmnist", None)
    assert one[0].vq_svae.data_variance.item() == pytest.approx(0.09)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("sddpm sddpm.pt", "T= is missing.* published is 4"),
        ("fsddim fsddim.pth", "T= is missing.* published is 4 or 8"),
        ("spiking-diffusion model.pth", "T= is missing.* published is 16"),
        ("fsddim T=4", "no checkpoint is named: spiking-vq import fsddim FILE T=4"),
        ("sddpm nowhere.pt T=4", r"no file at nowhere\.pt"),
        ("sddpm fsddim.pth T=4", r"it lacks conv\.weight"),
        ("spiking-diffusion sddpm.pt T=16", "got neither"),
        (
            "sddpm sddpm.pt T=4 data=mnist",
            "a data set of images with 3 channels, as the checkpoint has; got mnist, of 1",
        ),
        ("fsddim fsddim.pth T=4 image_size=20", "multiples of 8"),
        ("fsddim fsddim.pth T=4 trained_with=bn", "trained_with must be one of"),
        ("spiking-diffusion model.pth T=8", r"T must be 16, the number of steps in memout\.coef; got 8"),
        ("spiking-diffusion model.pth T=16 stage1=model.pth", "stage1 must be left out"),
        ("spiking-diffusion diff_model.pth T=16", f"there is no {STAGE1}: import model.pth first"),
        ("spiking-diffusion diff_model.pth T=16 stage1=diff_model.pth", r"lacks encoder\.snn_convs\.0\.weight"),
        ("sdpm sddpm.pt T=4", "unknown import 'sdpm': did you mean sddpm"),
    ],
)
def test_mistakes_are_told(arguments, message):
    with pytest.raises(InputError, match=message):
        main(["import", *arguments.split()])


def test_options_that_contradict_stage_1():
    main(["import", "spiking-diffusion", "model.pth", "T=16", "out=one"])
    main(["import", "sddpm", "sddpm.pt", "T=4", "out=unet"])
    for option, message in (
        ("data=fmnist", "data must be left out, or as in one: mnist; got fmnist"),
        ("image_size=32", "image_size must be left out, or as in one: 28; got 32"),
        ("data_variance=0.1", "data_variance must be left out, or as in one: 1"),
        ("stage1=unet", "unet is a gaussian model: stage1= must name a vq_svae one"),
    ):
        with pytest.raises(InputError, match=message):
            main(["import", "spiking-diffusion", "diff_model.pth", "T=16", "stage1=one", option])


def test_only_an_imported_model_is_replaced(checkpoints, vq_svae, vq_svae_config):
    (checkpoints / "photo.png").write_bytes(b"mine")
    save_model("trained", vq_svae, vq_svae_config)
    for out in ("photo.png", "trained", "runs"):
        (checkpoints / "runs").mkdir(exist_ok=True)
        with pytest.raises(InputError, match="is no imported model, and would be replaced"):
            main(["import", "fsddim", "fsddim.pth", "T=4", f"out={out}"])
    assert (checkpoints / "photo.png").read_bytes() == b"mine"
    for more in range(2):
        main(["import", "fsddim", "fsddim.pth", f"T={4 + more}", "out=made"])
    assert load_model("made")[1].T == 5

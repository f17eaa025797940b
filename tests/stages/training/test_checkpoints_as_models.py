"""Checkpoints of a run, finished or not, read as models."""

import shutil

import numpy as np
import pytest
import torch
from small_runs import STAGE2, assert_same_run

from spiking_vq.checkpoint.file import fingerprint, load_model
from spiking_vq.config.compare import differences
from spiking_vq.errors import InputError
from spiking_vq.pipelines.load import load
from spiking_vq.pipelines.zoo import find_model
from stages import sample, train
from stages.study import analytic


@pytest.mark.parametrize("stage", train.STAGES)
def test_a_checkpoint_is_read_as_the_model_that_is_exported_from_it(unbroken, stage):
    (exported, config), (model, its_config) = (
        load_model(unbroken / stage / name) for name in ("model.safetensors", "best.ckpt")
    )
    assert type(model) is type(exported)
    assert differences(config, its_config) == []
    assert not any(module.training for module in model.modules())
    for name, value in exported.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=0, atol=0, equal_nan=True)


def test_a_checkpoint_is_known_by_its_content(unbroken, tmp_path):
    (tmp_path / "config.yaml").write_bytes((unbroken / "classifier/config.yaml").read_bytes())
    shutil.copy(unbroken / "classifier/best.ckpt", tmp_path / "any name")
    assert fingerprint(load_model(tmp_path / "any name")[0]) == fingerprint(
        load_model(unbroken / "classifier/best.ckpt")[0]
    )


def test_a_checkpoint_without_what_lies_next_to_it(unbroken, half, other_stage1, tmp_path):
    shutil.copy(unbroken / "classifier/best.ckpt", tmp_path)
    with pytest.raises(InputError, match=r"best\.ckpt is a checkpoint .*config\.yaml .*is missing"):
        load_model(tmp_path / "best.ckpt")
    folder = tmp_path / "digits/base/absorbing"
    shutil.copytree(half / "digits/base/absorbing", folder)
    config_file = folder / "config.yaml"
    config_file.write_text(config_file.read_text().replace(str(unbroken), str(tmp_path / "gone")))
    with pytest.raises(InputError, match=r"holds a denoiser alone.*gone/vq_svae/model\.safetensors"):
        load_model(folder / "best.ckpt")
    shutil.copytree(unbroken / "vq_svae", folder.with_name("vq_svae"))  # as in a run folder that was moved whole
    model, config = load_model(folder / "best.ckpt")
    assert fingerprint(model.vq_svae) == config.stage1_sha256
    shutil.copy(other_stage1, folder.with_name("vq_svae"))
    with pytest.raises(InputError, match="the stage 1 that it was trained on is neither in"):
        load_model(folder / "best.ckpt")


def test_an_unfinished_run_can_be_sampled(half, tmp_path, capsys):
    """From its best checkpoint, saying so; a classifier that judges must be finished."""
    path = half / "digits/base/absorbing/best.ckpt"
    step = torch.load(path, weights_only=True)["global_step"]
    sample.main(["data=digits", f"runs={half}", "n=2", "sample_steps=1", f"out={tmp_path}"])
    printed = capsys.readouterr().err
    assert f"{path.parent} is unfinished: using its best checkpoint, step {step} of 10" in printed
    tokens = np.load(tmp_path / "tokens.npy")
    assert (tokens == load(path).sample(2, sample_steps=1).tokens.numpy()).all()
    assert find_model("vq_svae", "digits", "base", half) == path  # which holds it
    with pytest.raises(InputError, match="no trained classifier model"):
        find_model("classifier", "digits", "base", half)
    (path.parent / "model.safetensors").touch()
    try:
        assert find_model("absorbing", "digits", "base", half) == path.parent / "model.safetensors"
    finally:
        (path.parent / "model.safetensors").unlink()


def test_stage_2_takes_the_stage_1_of_an_unfinished_run(unbroken, tmp_path):
    train.main([*STAGE2, f"runs={tmp_path}", f"stage1={unbroken / 'vq_svae/best.ckpt'}"])
    assert_same_run(tmp_path / "digits/base/absorbing", unbroken / "absorbing")


def test_what_is_measured_is_not_written_into_a_checkpoint(unbroken):
    path = unbroken / "gaussian/best.ckpt"
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"the model must be a model\.safetensors"):
        analytic.main([f"ckpt={path}", "data=digits"])
    assert path.read_bytes() == before

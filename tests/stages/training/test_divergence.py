"""Training that diverges stops, and what it saved is finite."""

import pytest
import torch
from small_runs import CLASSIFIER, GAUSSIAN, STAGE1, STAGE2, folders, slow, stage_name, trained_part

from spiking_vq.checkpoint.file import fingerprint, load_model
from spiking_vq.config.load import read_config
from spiking_vq.errors import InputError
from stages import train
from stages.training import callbacks


def spoil(monkeypatch, stage, step, spoilt):
    """Make the loss of a step, counted from 1, `spoilt(loss, parameter)`."""
    whole = train.STAGES[stage].batch_loss

    def batch_loss(self, batch, generator):
        metrics = whole(self, batch, generator)
        if self.global_step + 1 == step:
            metrics["loss"] = spoilt(metrics["loss"], next(self.model.parameters()))
        return metrics

    monkeypatch.setattr(train.STAGES[stage], "batch_loss", batch_loss)


@pytest.mark.parametrize("arguments", [STAGE2, *slow([STAGE1], [CLASSIFIER], [GAUSSIAN])], ids=stage_name)
def test_a_loss_that_is_not_finite_stops_and_the_last_checkpoint_is_a_new_start(
    unbroken, tmp_path, monkeypatch, arguments
):
    stage = arguments[0]
    with monkeypatch.context() as patch:
        spoil(patch, stage, 6, lambda loss, parameter: loss * torch.inf)
        with pytest.raises(InputError) as caught:
            train.main([*arguments, *folders(unbroken, tmp_path / "diverged", stage)])
    last = tmp_path / "diverged/digits/base" / stage / "last.ckpt"
    assert str(caught.value) == (
        "training has diverged: loss = inf at step 6. Lower train.lr, or set train.grad_clip=1."
        f" {last} holds step 3: go on from it with train.start_from={last} runs=FOLDER."
    )
    train.main([*arguments, f"runs={tmp_path / 'again'}", f"train.start_from={last}", "train.max_steps=1"])
    started = read_config(tmp_path / "again/digits/base" / stage / "config.yaml").train
    assert started.start_from_sha256 == fingerprint(trained_part(load_model(last)[0]))


@pytest.mark.parametrize(("step", "saved"), [(3, None), (4, 3), (9, 6), (10, 9)])
def test_weights_that_are_not_finite_are_not_saved(tmp_path, monkeypatch, step, saved):
    """A gradient may overflow where the loss did not: steps that save, validate, do both."""

    def overflow(loss, parameter):
        zero = (parameter - parameter.detach()).abs().max()
        return loss + 0 * zero.sqrt()  # of infinite slope

    spoil(monkeypatch, "classifier", step, overflow)
    message = f"diverged: weights are NaN or infinite after step {step}, model.* among them"
    with pytest.raises(InputError, match=message) as caught:
        train.main([*CLASSIFIER, f"runs={tmp_path}"])
    folder = tmp_path / "digits/base/classifier"
    assert ("holds step" in str(caught.value)) == (saved is not None)
    for path in folder.glob("*.ckpt"):
        checkpoint = torch.load(path, weights_only=True)
        assert checkpoint["global_step"] < step
        assert all(value.isfinite().all() for value in checkpoint["state_dict"].values())
    assert (folder / "last.ckpt").exists() == (saved is not None)
    assert not (folder / "model.safetensors").exists()


def test_diverged_run_says_so(tmp_path):
    with pytest.raises(InputError, match=r"diverged.*Lower train\.lr.*another folder with runs=FOLDER"):
        train.main([*STAGE1, f"runs={tmp_path}", "train.lr=1e30"])


def test_a_loss_between_readings_is_found_at_the_next_and_nothing_is_saved(tmp_path, monkeypatch):
    monkeypatch.setattr(callbacks, "LOGGED", 1)  # logs at step 10 only; step 6 saves
    spoil(monkeypatch, "classifier", 5, lambda loss, parameter: loss * torch.inf)
    with pytest.raises(InputError, match=r"diverged: loss = inf at step 5\. .*last\.ckpt holds step 3"):
        train.main([*CLASSIFIER, f"runs={tmp_path}"])
    assert torch.load(tmp_path / "digits/base/classifier/last.ckpt", weights_only=True)["global_step"] == 3

"""Two processes train and sample as one does."""

import csv
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_runs import CLASSIFIER, GAUSSIAN, ROOT, STAGE1, STAGE2, die_at, folders, stage_name

from spiking_vq.config.load import load_config
from spiking_vq.errors import InputError
from stages import sample, train

EXACT = ["precision=fp64", "train.max_steps=3", "train.val_every=2", "train.save_every=2", "train.ema_decay=0.9"]
TWO = ["trainer.devices=2", "trainer.strategy=ddp", "trainer.sync_batchnorm=true"]


@pytest.mark.parametrize("arguments", [STAGE2, GAUSSIAN, CLASSIFIER], ids=stage_name)
def test_the_losses_of_two_shares_are_that_of_the_batch(unbroken, tmp_path, monkeypatch, arguments):
    """And their gradients; with the statistics of batch norm fixed."""
    stage, *given = arguments
    given += ["precision=fp64", *folders(unbroken, tmp_path, stage)]
    stage = train.STAGES[stage](load_config(stage, train.preset_file(stage, "base"), given)).eval()
    batch = [tensor[:8] for tensor in stage.stream.tensors]
    results = []
    for rank, ranks in ((0, 1), (0, 2), (1, 2)):
        monkeypatch.setattr("spiking_vq.runtime.distributed.rank", lambda rank=rank: rank)
        monkeypatch.setattr("spiking_vq.runtime.distributed.num_ranks", lambda ranks=ranks: ranks)
        loss = stage.batch_loss(batch, torch.Generator().manual_seed(0))["loss"]
        gradients = torch.autograd.grad(loss, list(stage.model.parameters()), allow_unused=True)
        results.append([loss.detach(), *(grad for grad in gradients if grad is not None)])
    whole, *shares = results
    for value, *parts in zip(whole, *shares, strict=True):
        torch.testing.assert_close(sum(parts) / 2, value, rtol=1e-9, atol=1e-12)
        assert not torch.equal(*parts) or not value.any()


def command(verb, *arguments):
    """Output of a command, which prints no warnings: on stderr are the lines of validations."""
    done = subprocess.run(
        [sys.executable, "-m", "stages", verb, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stderr.splitlines() if " digits base: step " not in line] == []
    return done.stdout


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """All stages, by one process and by two; and the output of the latter."""
    one, two = (tmp_path_factory.mktemp(name) for name in ("one", "two"))
    train.main([*STAGE1, *EXACT, f"runs={one}"])
    printed = command("train", *STAGE1, *EXACT, *TWO, f"runs={two}")
    stage1 = f"stage1={one / 'digits/base/vq_svae/model.safetensors'}"
    train.main([*STAGE2, *EXACT, stage1, f"runs={one}"])
    printed += command("train", *STAGE2, *EXACT, *TWO, stage1, f"runs={two}")
    train.main([*GAUSSIAN, *EXACT, f"runs={one}"])
    printed += command("train", *GAUSSIAN, *EXACT, *TWO, f"runs={two}")
    return one / "digits/base", two / "digits/base", printed


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["vq_svae", "absorbing", "gaussian"])
def test_two_processes_train_the_same_weights_as_one(trained, stage):
    one, two, _ = trained
    weights, others = (load_file(run / stage / "model.safetensors") for run in (one, two))
    assert weights.keys() == others.keys()
    for name, weight in weights.items():
        assert weight.dtype == others[name].dtype
        torch.testing.assert_close(weight, others[name], rtol=1e-10, atol=1e-10, equal_nan=True)
    assert {weight.dtype for weight in weights.values()} >= {torch.float64}


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["vq_svae", "absorbing", "gaussian"])
def test_one_process_writes_the_files(trained, stage):
    one, two, printed = trained
    names, others = ({path.relative_to(run) for path in (run / stage).rglob("*")} for run in (one, two))
    assert {path for path in names if "tb" not in path.parts} == {path for path in others if "tb" not in path.parts}
    assert len([path for path in others if "tfevents" in path.name]) == 1
    tables = []
    for run in (one, two):
        with (run / stage / "metrics.csv").open(newline="") as file:
            tables.append([{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)])
    for row, other in zip(*tables, strict=True):
        shared = {"step", "val/mse", "val/cross_entropy", "val/accuracy", "val/perplexity", "val/loss"} & row.keys()
        assert {key: other[key] for key in shared} == pytest.approx({key: row[key] for key in shared}, rel=1e-6)
    assert printed.count("wrote") == 3
    assert printed.count("3 steps") == 3
    pictures = [(run / stage / "images/step0000003.png").read_bytes() for run in (one, two)]
    assert pictures[0] == pictures[1]


@pytest.mark.slow
def test_two_processes_resume_what_one_began(trained, tmp_path, monkeypatch):
    one, *_ = trained
    with monkeypatch.context() as patch:
        die_at(patch, 2)
        with pytest.raises(RuntimeError, match="killed"):
            train.main([*STAGE1, *EXACT, "trainer.sync_batchnorm=true", f"runs={tmp_path}"])
    assert "resuming" in command("train", *STAGE1, *EXACT, *TWO, f"runs={tmp_path}")
    weights = load_file(one / "vq_svae/model.safetensors")
    for name, weight in load_file(tmp_path / "digits/base/vq_svae/model.safetensors").items():
        torch.testing.assert_close(weight, weights[name], rtol=1e-10, atol=1e-12)


@pytest.mark.slow
def test_two_processes_sample_the_same_images_as_one(trained, tmp_path):
    one, *_ = trained
    options = [f"ckpt={one / 'absorbing/model.safetensors'}", "n=1030", "sample_steps=2"]  # a group and six
    sample.main([*options, f"out={tmp_path / 'one'}"])
    printed = command("sample", *options, "devices=2", f"out={tmp_path / 'two'}")
    assert printed.count("wrote") == 1
    tokens, others = (np.load(tmp_path / name / "tokens.npy") for name in ("one", "two"))
    assert len(np.unique(tokens)) > 1
    np.testing.assert_array_equal(tokens, others)
    assert len(list((tmp_path / "two/images").iterdir())) == 1030


SPOILT = """
from spiking_vq.runtime.distributed import rank
from stages import train
from stages.classifier import ClassifierStage
from stages.cli.run import run_command

whole = ClassifierStage.batch_loss

def batch_loss(self, batch, generator):
    metrics = whole(self, batch, generator)
    spoilt = self.global_step == 3 and rank() == 1
    return metrics | {"loss": metrics["loss"] * (float("nan") if spoilt else 1.0)}

ClassifierStage.batch_loss = batch_loss
run_command(train.main)
"""


@pytest.mark.slow
def test_a_loss_of_one_process_that_is_not_finite_stops_all(tmp_path):
    """The first says why, once."""
    script = tmp_path / "spoilt.py"
    script.write_text(SPOILT)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, script, *CLASSIFIER, *TWO, f"runs={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2, done.stderr
    folder = tmp_path / "digits/base/classifier"
    assert done.stderr.count("error: ") == 1
    assert "error: training has diverged: loss = nan at step 4. Lower train.lr" in done.stderr
    assert "Traceback" not in done.stderr
    assert torch.load(folder / "last.ckpt", weights_only=True)["global_step"] == 3
    assert not (folder / "model.safetensors").exists()


def test_what_does_not_divide_is_refused():
    with pytest.raises(InputError, match=r"train.batch_size must be a multiple of trainer.devices, 3; got 160"):
        train.main([*STAGE1, "trainer.devices=3"])
    with pytest.raises(InputError, match=r"trainer.strategy must be one of auto, ddp; got 'fsdp'"):
        train.main([*STAGE1, "trainer.strategy=fsdp"])
    with pytest.raises(InputError, match=r"devices must be at least 1; got 0"):
        sample.main(["devices=0"])
    for main, arguments in ((sample.main, ["devices=2"]), (train.main, [*STAGE1, *TWO])):
        with pytest.raises(InputError, match=r"device=cpu:0 is one device: with devices=2 it is device=cpu"):
            main([*arguments, "device=cpu:0"])
    for main, arguments in ((sample.main, []), (train.main, STAGE1)):
        with pytest.raises(InputError, match=r"device=cpu:1 is no device of its own: use device=cpu"):
            main([*arguments, "device=cpu:1"])
    with pytest.raises(InputError, match=r"device=meta cannot be used here"):
        sample.main(["device=meta"])


def test_mistakes_are_found_before_there_are_several_processes(unbroken, tmp_path, monkeypatch):
    monkeypatch.setattr(sample, "launch", lambda *_: pytest.fail("launched"))
    (tmp_path / "file").touch()
    options = [f"ckpt={unbroken / 'absorbing/model.safetensors'}", "devices=2"]
    mistakes = ["n=0", "order=no", "temperature=-1", "precision=fp8", "sample_steps=99"]
    for mistake in (f"out={tmp_path / 'file'}", *mistakes):
        with pytest.raises(InputError):
            sample.main([f"out={tmp_path / 'out'}", *options, mistake])

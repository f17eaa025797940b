"""Runs that are killed, interrupted or find the disk full, and go on."""

import os
import re
import resource
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_runs import (
    CLASSIFIER,
    GAUSSIAN,
    ROOT,
    STAGE1,
    STAGE2,
    assert_same_run,
    copied,
    die_at,
    folders,
    slow,
    stage_name,
)

from spiking_vq.errors import InputError
from stages import train
from stages.classifier import ClassifierStage

DEATHS = [(STAGE1, 6), (STAGE2, 8), (CLASSIFIER, 4), (GAUSSIAN, 9)]
OTHERS = [(run, step) for run in (STAGE1, STAGE2, CLASSIFIER, GAUSSIAN) for step in (4, 6, 8, 9)]
OTHERS = slow(*(death for death in OTHERS if death not in DEATHS))


@pytest.mark.parametrize(("arguments", "died_at"), [*DEATHS, *OTHERS], ids=stage_name)
def test_resumed_run_equals_the_unbroken_one(unbroken, tmp_path, monkeypatch, arguments, died_at):
    arguments = [*arguments, *folders(unbroken, tmp_path, arguments[0])]
    with monkeypatch.context() as patch:
        die_at(patch, died_at)
        with pytest.raises(RuntimeError, match="killed"):
            train.main(arguments)
    folder = tmp_path / "digits/base" / arguments[0]
    assert not (folder / "model.safetensors").exists()
    torch.rand(died_at)  # whatever the global random state is, the run does not depend on it
    train.main(arguments)
    assert_same_run(folder, unbroken / arguments[0])


@pytest.mark.parametrize("died_at", [6, *slow([4])])
def test_resumed_bf16_run_with_critics_equals_the_unbroken_one(tmp_path, monkeypatch, died_at):
    train.main([*CLASSIFIER, "train.max_steps=1", "preset=perceptual", f"runs={tmp_path}"])
    classifier = tmp_path / "digits/perceptual/classifier/model.safetensors"
    critics = ["adversary.weight=0.5", "adversary.channels=[2,2,2]", "perceptual.weight=2"]
    arguments = [*STAGE1, "precision=bf16", "train.batch_size=16", "train.max_steps=8", *critics]
    arguments.append(f"perceptual.classifier={classifier}")
    train.main([*arguments, f"runs={tmp_path / 'unbroken'}"])
    with monkeypatch.context() as patch:
        die_at(patch, died_at)
        with pytest.raises(RuntimeError, match="killed"):
            train.main([*arguments, f"runs={tmp_path / 'resumed'}"])
    train.main([*arguments, f"runs={tmp_path / 'resumed'}"])
    runs = [tmp_path / name / "digits/base/vq_svae" for name in ("unbroken", "resumed")]
    assert_same_run(*runs)
    states = [torch.load(folder / "last.ckpt", weights_only=True)["state_dict"] for folder in runs]
    adversary = [name for name in states[0] if name.startswith("adversary.")]
    assert len(adversary) == 8
    for name in adversary:
        torch.testing.assert_close(*(state[name] for state in states), rtol=0, atol=0)
    assert not [name for name in load_file(runs[0] / "model.safetensors") if "adversary" in name]
    assert not [name for name in states[0] if "perceptual" in name]


def test_interrupted_run_says_how_to_go_on(unbroken, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        die_at(patch, 4, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            train.main([*CLASSIFIER, f"runs={tmp_path}"])
    assert "the same command resumes" in capsys.readouterr().err
    train.main([*CLASSIFIER, f"runs={tmp_path}"])
    assert_same_run(tmp_path / "digits/base/classifier", unbroken / "classifier")


def command(*arguments, threads=None):
    environment = os.environ | {"OMP_NUM_THREADS": str(threads or torch.get_num_threads())}
    return {"args": [sys.executable, "-m", "stages", "train", *arguments], "cwd": ROOT, "env": environment}


def wait_for(path, process):
    while not path.exists() and process.poll() is None:
        time.sleep(0.01)


@pytest.mark.slow
def test_killed_process_resumes_to_the_same_weights(tmp_path):
    arguments = [*STAGE1, "train.max_steps=100"]
    train.main([*arguments, f"runs={tmp_path / 'unbroken'}"])
    folder, unbroken = (tmp_path / name / "digits/base/vq_svae" for name in ("killed", "unbroken"))
    again = command(*arguments, f"runs={tmp_path / 'killed'}")
    process = subprocess.Popen(**again, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(folder / "last.ckpt", process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL  # before the end
    assert not (folder / "model.safetensors").exists()
    assert torch.load(folder / "last.ckpt", weights_only=True)["global_step"] < 100
    done = subprocess.run(**again, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "resuming from" in done.stdout
    forecast = r"\d+ more steps of \S+ s take about \d+ s; \d\.\d GB of memory so far"
    known = re.compile(rf"vq_svae digits base: (step .*|{forecast})")
    assert [line for line in done.stderr.splitlines() if not known.fullmatch(line)] == []  # nor any warning
    assert_same_run(folder, unbroken)


@pytest.mark.slow
def test_interrupted_process_says_how_to_go_on(tmp_path):
    again = command(*STAGE1, "train.max_steps=100000", f"runs={tmp_path}")
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs ignore it
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    process = subprocess.Popen(**again, **pipes, text=True, preexec_fn=heard)
    wait_for(tmp_path / "digits/base/vq_svae/last.ckpt", process)
    process.send_signal(signal.SIGINT)
    printed = process.communicate()[1]
    assert process.returncode == 130
    assert "the same command resumes" in printed
    assert "Traceback" not in printed


# ---------------------------------------------------------------------------------------------------------------------
# A full disk


def test_the_last_checkpoint_survives_a_full_disk_and_resumes(unbroken, half, tmp_path, monkeypatch):
    monkeypatch.setattr(ClassifierStage, "picture", lambda self: torch.zeros(1, 1, 8, 8))  # smaller than a checkpoint
    folder = copied(half / "digits/base", tmp_path)
    before = (folder / "last.ckpt").read_bytes()
    limit, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) - 4096, most))
    try:
        with pytest.raises(InputError, match=r"cannot write .*best\.ckpt: file too large\. Free some space"):
            train.main([*CLASSIFIER, f"runs={tmp_path}"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, most))
    assert (folder / "last.ckpt").read_bytes() == before
    train.main([*CLASSIFIER, f"runs={tmp_path}"])
    assert_same_run(folder, unbroken / "classifier")


@pytest.mark.parametrize(("kilobytes", "full"), [(8, "classifier"), (32, "last.ckpt")])
def test_a_full_disk_is_reported(small_disk, kilobytes, full):
    """The log of TensorBoard fills the smaller one."""
    folder = small_disk(kilobytes)
    with pytest.raises(InputError, match=f"cannot write .*{full}: no space left on device. Free some space"):
        train.main([*CLASSIFIER, f"runs={folder}"])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_output_that_finds_no_space_is_reported():
    program = [sys.executable, "-c", "from stages.cli.run import run_command; run_command(print)"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(program, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (2, "error: cannot write: No space left on device. Free some space.\n")


def test_a_log_shows_lines_as_they_come(tmp_path):
    """Not when the command ends, which this one does too hard for anything that is left to be written."""
    main = "def main(words): print('step 1'); os._exit(9)"
    program = [sys.executable, "-c", f"import os\nfrom stages.cli.run import run_command\n{main}\nrun_command(main)"]
    with (tmp_path / "log").open("w") as log:
        assert subprocess.run(program, cwd=ROOT, stdout=log).returncode == 9
    assert (tmp_path / "log").read_text() == "step 1\n"


# ---------------------------------------------------------------------------------------------------------------------
# One device trains anywhere

SLURM = {
    "SLURM_JOB_ID": "1",
    "SLURM_JOB_NAME": "training",
    "SLURM_NTASKS": "4",
    "SLURM_NTASKS_PER_NODE": "4",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "3",
    "SLURM_NODEID": "0",
    "SLURM_NODELIST": "node[1-4]",
}
SCHEDULERS = {
    "RANK": "3",
    "LOCAL_RANK": "3",
    "WORLD_SIZE": "4",
    "GROUP_RANK": "1",
    "NODE_RANK": "1",
    "MASTER_ADDR": "192.0.2.1",
    "MASTER_PORT": "1",
    "TORCHELASTIC_RUN_ID": "1",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
    "KUBERNETES_PORT": "tcp://192.0.2.1:443",
    "LSB_JOBID": "1",
    "LSB_DJOB_RANKFILE": "nowhere",
    "LSB_HOSTS": "batch node",
    "JSM_NAMESPACE_RANK": "3",
    "JSM_NAMESPACE_LOCAL_RANK": "3",
    "JSM_NAMESPACE_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_SIZE": "4",
    "PMI_RANK": "3",
    "XRT_SHARD_ORDINAL": "3",
}


@pytest.mark.parametrize("variables", [SLURM, SCHEDULERS], ids=["slurm", "others"])
def test_one_device_trains_whatever_a_scheduler_sets(unbroken, tmp_path, monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    train.main([*CLASSIFIER, f"runs={tmp_path}"])
    assert_same_run(tmp_path / "digits/base/classifier", unbroken / "classifier")


@pytest.mark.slow
@pytest.mark.parametrize("variables", [SLURM, SCHEDULERS], ids=["slurm", "others"])
def test_one_process_trains_whatever_a_scheduler_sets(unbroken, tmp_path, variables):
    """Lightning reads the variables when it is imported, too."""
    given = command(*CLASSIFIER, "runs=runs")
    given |= {"cwd": tmp_path, "env": given["env"] | {"PYTHONPATH": str(ROOT)} | variables}
    done = subprocess.run(**given, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "wrote runs/digits/base/classifier/model.safetensors" in done.stdout
    folder = tmp_path / "runs/digits/base/classifier"
    assert_same_run(folder, unbroken / "classifier")
    files, others = ([path.relative_to(run) for path in run.rglob("*")] for run in (folder, unbroken / "classifier"))
    assert len(files) == len(others)
    assert {path for path in files if "tb" not in path.parts} == {path for path in others if "tb" not in path.parts}

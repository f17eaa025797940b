"""`make` as a person calls it: values with spaces and other letters arrive whole, and only what is ours is removed."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)[1].split()
VARIABLES = ("DATA", "PRESET", "SEED", "N", "DATA_DIR", "RUNS", "STAGE", "CKPT", "IMAGES", "PROTOCOL", "INCEPTION")
TINY = "train.max_steps=2 train.batch_size=8 train.compile=false precision=fp32"


@pytest.fixture
def folder(tmp_path):
    """A folder with a copy of the Makefile, whose own name is no easy one; a virtual environment stands in it."""
    folder = tmp_path / "a 'folder' é"
    (folder / "my venv é").mkdir(parents=True)
    shutil.copy(ROOT / "Makefile", folder)
    (folder / "pyproject.toml").touch()
    (folder / "my venv é/installed").touch()
    return folder


def make(folder, *arguments, **environment):
    return subprocess.run(
        ["make", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "VENV": "my venv é", "OMP_NUM_THREADS": "1", **environment},
    )


def recorded(folder, *arguments):
    """Argument lists of the commands that a call of make runs in place of Python."""
    recorder, record = folder / "it's a recorder", folder / "recorded"
    recorder.write_text('#!/bin/sh\nprintf "%s\\n" "$@" "" >> "$RECORDED"\n')
    recorder.chmod(0o755)
    record.write_text("")
    done = make(folder, f"RUN={recorder}", f"PYTHON={recorder}", *arguments, RECORDED=str(record))
    assert done.returncode == 0, done.stderr
    return [call.split("\n") for call in record.read_text().split("\n\n")[:-1]]


@pytest.mark.parametrize(
    "value", ["a b  é", "it's", "a#b; exit 7", '"x" (y) & | * ~ [1,2] \\', "~/x", "2026_11_28", ""]
)
def test_values_arrive_whole(folder, value):
    names = {name.lower() for name in (*VARIABLES, "PRESETS")}
    arrived = set()
    for target in TARGETS:
        calls = recorded(folder, target, *(f"{name}={value}" for name in (*VARIABLES, "PRESETS")), "ARGS=a=1 'b=2 3'")
        for arguments in (call[2:] for call in calls if call[:2] == ["-m", "stages"]):
            written = {text for text in arguments if text.partition("=")[0] in names}
            fixed = {"data=digits", "preset=base", f"runs={value}/demo", "n=100"}
            assert written <= fixed | {f"{name}={value}" for name in names if value}, f"{target}: {arguments}"
            assert target == "demo" or arguments[-2:] == ["a=1", "b=2 3"]
            arrived |= {text.partition("=")[0] for text in written - fixed}
    assert arrived == (names if value else set())


def test_every_target_of_a_command_is_one_line(folder):
    for target in set(TARGETS) - {"help", "install", "demo", "lint", "format", "clean", "bench", "docs"}:
        assert len(recorded(folder, target)) == 1


def test_installing_into_a_folder_with_a_space(folder):
    (folder / "my venv é/installed").unlink()
    create, *install = recorded(folder, "install")
    assert create == ["-m", "venv", "my venv é"]
    assert ["-m", "pip", "install", "--quiet", "--editable", ".[metrics,test]"] in install
    assert (folder / "my venv é/installed").is_file()
    assert recorded(folder, "install") == []


def test_an_extra_is_installed_once(folder):
    assert ["-m", "pip", "install", "--quiet", "--editable", ".[docs]"] in recorded(folder, "docs")
    assert recorded(folder, "docs") == [["-m", "mkdocs", "build", "--strict"]]


def test_clean_removes_only_what_install_made(folder):
    (folder / "mine").mkdir()
    (folder / "mine/thesis.txt").touch()
    (folder / "build").mkdir()
    assert make(folder, "clean", "VENV=mine").returncode == 0
    assert (folder / "mine/thesis.txt").is_file()
    assert (folder / "my venv é").is_dir()
    assert make(folder, "clean").returncode == 0
    assert not (folder / "my venv é").exists()
    assert (folder / "build").is_dir()


def test_help_works_from_such_a_folder(folder):
    done = make(folder, "help")
    assert done.stderr == ""
    assert all(re.search(rf"^  make {target} +\S", done.stdout, re.MULTILINE) for target in TARGETS)


@pytest.mark.slow
def test_both_stages_train_and_sample_in_a_folder_with_a_space(folder):
    common = [f"RUN={sys.executable}", "DATA=digits", "RUNS=my runs é"]
    stage1 = "perceptual.weight=0 model.channels=[4,8] model.codebook_size=8 model.embedding_dim=4"
    stage2 = "model.width=8 model.num_blocks=1 styles=1 sample.sample_steps=2"
    for target, arguments in (("stage1", stage1), ("stage2", stage2)):
        done = make(folder, target, *common, f"ARGS={TINY} {arguments}")
        assert done.returncode == 0, done.stderr
    done = make(folder, "sample", *common, "N=2", "ARGS=out='my samples é'")
    assert done.returncode == 0, done.stderr
    assert (folder / "my runs é/digits/base/absorbing/model.safetensors").is_file()
    assert len(list((folder / "my samples é/images").iterdir())) == 2
    assert "that ship" not in done.stderr

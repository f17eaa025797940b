"""The wheel, as `pip install` takes it: whatever the commands need is inside."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from zipfile import ZipFile

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]


def run(*command, **settings):
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, **settings)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of a copy of the repository's files, so that building leaves nothing in it."""
    folder = tmp_path_factory.mktemp("wheel")
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT).split("\0")
    packed = ("configs/", "spiking_vq/", "stages/", "LICENSE", "README.md", "pyproject.toml", ".gitignore")
    for name in (name for name in listed if name.startswith(packed) and (ROOT / name).is_file()):
        (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / "source" / name)
    run(*PIP, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, folder / "source")
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The folder of commands of a virtual environment in which the wheel is installed."""
    folder = tmp_path_factory.mktemp("venv")
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    run(*PIP, "--python", folder / "bin/python", "install", "--no-deps", wheel)
    # the dependencies, without what .pth files there make importable: the editable install of this package is one
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin"


@pytest.fixture
def elsewhere(tmp_path):
    """Settings of a process in an empty folder, which finds this package only where it is installed."""
    return {"cwd": tmp_path, "env": {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}}


def test_the_wheel_holds_all_files_of_the_packages(wheel):
    held = {name for name in ZipFile(wheel).namelist() if ".dist-info/" not in name}
    source = wheel.parent / "source"
    files = {path.relative_to(source) for part in ("spiking_vq", "stages") for path in (source / part).rglob("*.*")}
    files |= {"stages" / path.relative_to(source) for path in (source / "configs").rglob("*.yaml")}
    assert held == set(map(str, files))
    assert "stages/configs/vq_svae/base.yaml" in held
    assert {f"spiking_vq/zoo/mnist-base-absorbing.{suffix}" for suffix in ("safetensors", "json", "md")} < held


def test_the_installed_command_samples_from_what_ships(installed, elsewhere, tmp_path):
    files = run(
        installed / "python",
        "-c",
        "import spiking_vq, stages; print(spiking_vq.__file__, stages.__file__)",
        **elsewhere,
    )
    assert all(Path(file).is_relative_to(installed.parent) for file in files.split())
    assert "sample" in run(installed / "spiking-vq", "--help", **elsewhere)
    run(installed / "spiking-vq", "sample", "mnist", "n=2", **elsewhere)
    images = tmp_path / "runs/mnist/large/samples/images"
    assert sorted(path.name for path in images.iterdir()) == ["000000.png", "000001.png"]


def test_the_installed_command_trains_and_samples(installed, elsewhere, tmp_path):
    tiny = ["data=digits", "train.max_steps=5", "train.batch_size=8", "train.compile=false", "precision=fp32"]
    stages = {
        "vq_svae": ["perceptual.weight=0", "model.channels=[4,8]", "model.codebook_size=8", "model.embedding_dim=4"],
        "absorbing": ["model.width=8", "model.num_blocks=1", "styles=1", "sample.sample_steps=2"],
    }
    for stage, arguments in stages.items():
        run(installed / "spiking-vq", "train", stage, *tiny, *arguments, **elsewhere)
    run(installed / "spiking-vq", "sample", "runs/digits/base", "n=2", **elsewhere)
    images = tmp_path / "runs/digits/base/samples/images"
    assert sorted(path.name for path in images.iterdir()) == ["000000.png", "000001.png"]

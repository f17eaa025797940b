"""The wheel, as `pip install` takes it: whatever the commands need is inside."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parent.parent
TINY = ["data=digits", "train.max_steps=5", "train.batch_size=8", "train.compile=false", "precision=fp32"]
STAGES = {
    "vq_svae": ["perceptual.weight=0", "model.channels=[4,8]", "model.codebook_size=8", "model.embedding_dim=4"],
    "absorbing": ["model.width=8", "model.num_blocks=1", "styles=1", "sample.sample_steps=2"],
}


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
    pip = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--no-build-isolation",
    ]
    run(*pip, "--wheel-dir", folder, folder / "source")
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_all_files_of_the_packages(wheel):
    held = {name for name in ZipFile(wheel).namelist() if ".dist-info/" not in name}
    source = wheel.parent / "source"
    files = {path.relative_to(source) for part in ("spiking_vq", "stages") for path in (source / part).rglob("*.*")}
    files |= {"stages" / path.relative_to(source) for path in (source / "configs").rglob("*.yaml")}
    assert held == set(map(str, files))
    assert {"stages/configs/candidates.yaml", "stages/configs/vq_svae/base.yaml"} < held
    assert {f"spiking_vq/zoo/mnist-base-absorbing.{suffix}" for suffix in ("safetensors", "json", "md")} < held


def test_an_installed_package_trains_and_samples_from_anywhere(wheel, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv")
    python = tmp_path / "venv/bin/python"
    (site,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    run(
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--target",
        site,
        wheel,
    )
    # the dependencies, without what .pth files there make importable: the editable install of this package is one
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    settings = {"cwd": elsewhere, "env": {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}}
    found = run(python, "-c", "import spiking_vq, stages; print(spiking_vq.__file__, stages.__file__)", **settings)
    assert all(Path(file).is_relative_to(site) for file in found.split())
    for stage, arguments in STAGES.items():
        run(python, "-m", "stages", "train", stage, *TINY, *arguments, **settings)
    run(python, "-m", "stages", "sample", "data=digits", "n=2", **settings)
    samples = elsewhere / "runs/digits/base/samples/images"
    assert sorted(path.name for path in samples.iterdir()) == ["000000.png", "000001.png"]

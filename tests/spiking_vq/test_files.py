"""Files are written whole or not at all; a full disk, and nothing else, is reported as such; JSON is strict."""

import errno
import gc
import json
import math
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from spiking_vq.errors import InputError
from spiking_vq.files import atomic_write, json_text, require_writable, sha256_of

ROOT = Path(__file__).parents[2]


def test_sha256_of_the_bytes(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    assert sha256_of(tmp_path / "file") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_atomic_write_replaces_at_the_end(tmp_path):
    path = tmp_path / "new" / "file"
    for text in ("first", "second"):
        before = path.read_text() if path.exists() else None
        with atomic_write(path) as temporary:
            temporary.write_text(text)
            assert temporary.parent == path.parent  # a rename is atomic within a file system only
            assert (path.read_text() if path.exists() else None) == before
        assert path.read_text() == text
    assert list(path.parent.iterdir()) == [path]


def with_numpy(path):
    with path.open("wb") as file:
        np.save(file, np.zeros(100_000))


def buffered(path):
    with path.open("wb") as file:
        for _ in range(100):
            file.write(bytes(1000))


WRITERS = {
    "torch": lambda path: torch.save({"weight": torch.zeros(100_000)}, path),
    "safetensors": lambda path: save_file({"weight": torch.zeros(100_000)}, path),
    "numpy": with_numpy,
    "pillow": lambda path: Image.effect_noise((512, 512), 99).save(path, format="png"),
    "text": lambda path: path.write_text("a" * 100_000),
    "buffered": buffered,
    "nothing else": lambda path: None,
}


def failures(folder):
    """Writer -> what `atomic_write` raised; every file stood there before."""
    told = {}
    for name in WRITERS:
        (folder / name).write_text("old")
    for name, write in WRITERS.items():
        gc.collect()  # a failed writer keeps its file open, and so the disk full
        try:
            with atomic_write(folder / name) as temporary:
                write(temporary)
        except InputError as error:
            told[name] = str(error)
    return told


WITH_A_LIMIT = """
    import json, resource, sys
    sys.path.insert(0, "tests/spiking_vq")
    from pathlib import Path
    from test_files import failures
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
    print(json.dumps(failures(Path(sys.argv[1]))))
"""


def check_failures(told, folder, reason):
    assert told.keys() == WRITERS.keys() - {"nothing else"}
    for name, message in told.items():
        assert message == (
            f"cannot write {folder / name}: {reason}. Free some space, or choose another folder. The file that stood"
            " there is untouched."
        )
        assert (folder / name).read_text() == "old"
    assert {path.name for path in folder.iterdir()} == WRITERS.keys()


def test_a_file_that_grows_too_large_is_told_whatever_writes_it(tmp_path):
    command = [sys.executable, "-c", textwrap.dedent(WITH_A_LIMIT), tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    check_failures(json.loads(done.stdout), tmp_path, "file too large")


def test_a_full_disk_is_told_whatever_writes(small_disk):
    folder = small_disk(64)
    check_failures(failures(folder), folder, "no space left on device")


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error"),
        OSError("no number"),
        OSError(errno.ENOSPC, "another disk is full", "/elsewhere"),
        FileNotFoundError(errno.ENOENT, "no such file", "/elsewhere"),
        InputError("a wrong option"),
        ZeroDivisionError(),
        KeyboardInterrupt(),
    ],
    ids=repr,
)
def test_an_error_that_is_not_of_writing_stays_as_it_is(tmp_path, error):
    with pytest.raises(type(error)) as caught, atomic_write(tmp_path / "file"):
        raise error
    assert caught.value is error
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_removed_meanwhile(tmp_path):
    folder = tmp_path / "run"
    said = "cannot write .*run/file: no such file or directory"
    with pytest.raises(InputError, match=said), atomic_write(folder / "file") as temporary:
        temporary.unlink()
        folder.rmdir()


def test_require_writable_leaves_nothing_behind(tmp_path):
    require_writable(tmp_path / "runs" / "mnist")
    require_writable(Path("a/relative/folder"))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot write .*file/runs: .*file is not a folder"):
        require_writable(tmp_path / "file" / "runs")


def test_require_writable_asks_for_the_permission(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("os.access", lambda path, mode: asked.append(path))
    with pytest.raises(InputError, match="permission denied"):
        require_writable(tmp_path / "runs")
    assert asked == [tmp_path]


def test_json_is_what_every_reader_takes():
    assert json_text({"a": [1, 2.5, None, "é"]}) == '{\n  "a": [\n    1,\n    2.5,\n    null,\n    "\\u00e9"\n  ]\n}\n'
    report = {"fid": {"mean": math.nan, "std": 1.0}, "rates": [0.1, math.inf]}
    with pytest.raises(InputError, match=r"fid\.mean = nan, rates\[1\] = inf$"):
        json_text(report)


def test_reports_are_written_by_one_function():
    """Others use JSON for metadata, for text to hash, and between processes."""
    using = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("s*/**/*.py") if "json.dumps(" in path.read_text()}
    hashed = {"spiking_vq/config/compare.py", "spiking_vq/data/own.py", "stages/evaluate/subjects.py"}
    printed = {"stages/bench/worker.py"}
    assert using == {"spiking_vq/files.py", "spiking_vq/checkpoint/file.py"} | hashed | printed

"""`spiking-vq sample`: the files that it writes, and those that it leaves alone."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def test_sample_needs_one_file_and_nothing_else(runs, tmp_path, command):
    moved = tmp_path / "alone.safetensors"
    moved.write_bytes((runs / "digits/base/absorbing/model.safetensors").read_bytes())
    code, out, _ = command("sample", moved, "n=3", f"out={tmp_path / 'out'}")
    assert code == 0
    assert "grid.png" in out
    names = [path.name for path in sorted((tmp_path / "out/images").iterdir())]
    assert names == ["000000.png", "000001.png", "000002.png"]
    tokens = np.load(tmp_path / "out/tokens.npy")
    assert (tokens.shape, tokens.dtype) == ((3, 1, 7, 7), np.int64)
    assert Image.open(tmp_path / "out/images/000000.png").size == (28, 28)


def test_a_model_is_one_word_or_options(runs, tmp_path, command, monkeypatch):
    """A run folder of a preset or a stage, a file, with or without `ckpt=`: the same image."""
    monkeypatch.chdir(tmp_path)
    folder = runs / "digits/base"
    file = folder / "absorbing/model.safetensors"
    ways = [
        [folder],
        [folder / "absorbing"],
        [file],
        [f"model={file}"],
        [f"ckpt={file}"],
        ["data=digits", f"runs={runs}"],
    ]
    for number, words in enumerate(ways):
        assert command("sample", *words, "n=1", f"out={number}")[::2] == (0, "")
    assert len({(tmp_path / f"{number}/tokens.npy").read_bytes() for number in range(len(ways))}) == 1


def test_a_word_that_names_no_model(tmp_path, command):
    code, _, error = command("sample", tmp_path)
    assert code == 2
    assert f"no model file at {tmp_path}" in error
    assert "mnist-base-absorbing" in error


def test_what_ships_is_one_word(tmp_path, command):
    assert command("sample", "mnist", "n=1", "sample_steps=1", f"out={tmp_path}")[0] == 0
    assert (tmp_path / "tokens.npy").is_file()


def test_image_is_the_same_however_many_are_asked_for(runs, tmp_path, command):
    for n in (2, 5):
        command("sample", "data=digits", f"runs={runs}", f"n={n}", f"out={tmp_path / str(n)}")
    few, many = (tmp_path / str(n) / "images" / "000001.png" for n in (2, 5))
    assert few.read_bytes() == many.read_bytes()
    few, many = (np.load(tmp_path / str(n) / "tokens.npy") for n in (2, 5))
    assert np.array_equal(few, many[:2])
    assert not np.array_equal(many[0], many[1])


@pytest.mark.parametrize(
    "foreign",
    ["images/holiday.png", "images/000001.png", "images/step0000100.png", "images/000000.png", "images", "tokens.npy"],
)
def test_sampling_replaces_nothing_that_it_did_not_write(runs, tmp_path, command, foreign):
    """A folder of photos, numbered from 1 or from 0; the pictures of a training; a file where the folder would be."""
    theirs = tmp_path / "mine" / foreign
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b"theirs")
    code, _, error = command("sample", "data=digits", f"runs={runs}", "n=1", f"out={tmp_path / 'mine'}")
    assert code == 2
    assert f"holds {foreign}, which sampling did not write and would replace: choose another folder with out=" in error
    assert [path.read_bytes() for path in (tmp_path / "mine").rglob("*") if path.is_file()] == [b"theirs"]


def test_samples_replace_earlier_samples(runs, tmp_path, command):
    out, arguments = tmp_path / "out", ("data=digits", f"runs={runs}", f"out={tmp_path / 'out'}")
    for n in (5, 2, 3):
        assert command("sample", *arguments, f"n={n}")[0] == 0
        assert [path.name for path in sorted((out / "images").iterdir())] == [f"{i:06d}.png" for i in range(n)]
    (out / "images/000003.png.txt").write_text("theirs")
    assert command("sample", *arguments, "n=1")[0] == 2
    assert len(list((out / "images").iterdir())) == 4


@pytest.mark.parametrize(("earlier", "done"), [(False, 0), (True, 0), (True, 1)])
def test_killed_while_writing_samples(runs, tmp_path, command, monkeypatch, earlier, done):
    """The folder is still known as ours, after however many renames."""
    out, arguments = tmp_path / "out", ("data=digits", f"runs={runs}", f"out={tmp_path / 'out'}")
    if earlier:
        assert command("sample", *arguments, "n=5")[0] == 0
    renames, whole = [], Path.rename

    def rename(self, target):
        if len(renames) == done:
            raise KeyboardInterrupt
        renames.append(target)
        return whole(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename)
        assert command("sample", *arguments, "n=2")[0] == 130
    assert command("sample", *arguments, "n=3")[0] == 0
    assert len(list((out / "images").iterdir())) == 3
    assert not list(out.glob(".*"))


def test_samples_of_a_named_file_go_where_its_own_data_and_preset_say(runs, tmp_path, command):
    named = runs / "digits/base/absorbing/model.safetensors"
    assert command("sample", f"ckpt={named}", "data=mnist", f"runs={tmp_path}", "n=1")[0] == 0
    assert (tmp_path / "digits/base/samples/grid.png").is_file()


@pytest.fixture(scope="module", params=[["-m", "stages"], None], ids=["module", "script"])
def launched(request):
    """`spiking-vq` in a process of its own: as a module of Python, and as the script that `pip install` makes."""
    script = Path(sys.executable).with_name("spiking-vq")
    if request.param is None and not script.is_file():
        pytest.skip("not installed")
    return [sys.executable, *(request.param or [script])]


@pytest.mark.slow
def test_two_processes_sample_the_same(launched, runs, tmp_path, monkeypatch):
    """They say nothing but where the samples are; a bar is for terminals."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    for devices in (1, 2):
        arguments = [runs / "digits/base", "n=2", f"devices={devices}", f"out={devices}"]
        done = subprocess.run([*launched, "sample", *arguments], cwd=tmp_path, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == f"wrote {devices}/grid.png and {devices}/images (2 images)\n"
    assert (tmp_path / "1/tokens.npy").read_bytes() == (tmp_path / "2/tokens.npy").read_bytes()


def test_sampling_does_not_import_a_trainer(runs, tmp_path):
    script = (
        "import sys; from stages import sample;"
        f"sample.main(['data=digits', 'runs={runs}', 'n=1', 'out={tmp_path}']);"
        "assert not {'lightning', 'pytorch_lightning', 'sklearn'} & set(sys.modules), 'imported'"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_model_of_the_continuous_stage(untrained_runs, tmp_path, command):
    named = ["stage=gaussian", "data=digits", f"runs={untrained_runs}"]
    assert command("sample", *named, "n=3", "sample_steps=2", "label=7", "guidance=1.5")[0] == 0
    out = untrained_runs / "digits/base/gaussian-samples"
    assert {path.name for path in out.iterdir()} == {"grid.png", "images"}
    assert len(list((out / "images").iterdir())) == 3
    assert "has no order" in command("sample", *named, "order=random")[2]
    assert "stage must be one of" in command("sample", "stage=unet")[2]

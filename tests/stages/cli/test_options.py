"""Options of the commands: how they are read, and that all commands take the same values."""

import re
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import pytest

from spiking_vq.errors import InputError
from spiking_vq.fields import Count
from stages.__main__ import COMMANDS
from stages.cli.options import ModelOptions, SamplerArguments, read_numbers, read_options, recorded_command

OPTIONS = {command: import_module(module).Options for command, module in COMMANDS.items() if command != "train"}
OF_A_MODEL = [command for command, options in OPTIONS.items() if issubclass(options, ModelOptions)]


def of_options(name):
    """The commands that have an option of this name."""
    return [command for command, options in OPTIONS.items() if name in options.__dataclass_fields__]


@dataclass(frozen=True, kw_only=True)
class Few(ModelOptions, SamplerArguments):
    """Some options."""

    n: Count = 64


def test_options_take_the_types_of_their_fields():
    assert read_options(Few, ["n=3", "temperature=0.5", "ckpt="]) == Few(n=3, temperature=0.5)
    given = ["n=9", "n=010", "n=", "temperature=5", "data=010", "ckpt=a #1", "runs=2026_11_28"]
    assert read_options(Few, given) == Few(
        n=10, temperature=5.0, data="010", ckpt=Path("a #1"), runs=Path("2026_11_28")
    )
    assert read_options(Few, []) == Few()


def test_the_model_is_the_word_without_a_key():
    assert read_options(Few, ["n=3", "runs/mnist/base"]) == Few(n=3, model="runs/mnist/base")
    with pytest.raises(InputError, match="unknown argument 'fmnist': expected key=value"):
        read_options(Few, ["mnist", "fmnist"])


@pytest.mark.parametrize("name", OF_A_MODEL)
def test_a_model_is_not_named_twice(name):
    """Else `evaluate mnist preset=base` would measure `large`, the one that `mnist` alone names."""
    for given in ("stage=gaussian", "data=fmnist", "preset=base", "ckpt=best.ckpt"):
        key, _, _ = given.partition("=")
        with pytest.raises(InputError, match=f"^{key} must be left out with the model mnist, .*; got {given}$"):
            read_options(OPTIONS[name], ["mnist", given])
    with pytest.raises(InputError, match=r"^data, preset must be left out .* runs/a, .*; got data=digits, preset=c$"):
        read_options(OPTIONS[name], ["data=digits", "model=runs/a", "preset=c"])


def test_an_unknown_option_names_the_nearest():
    with pytest.raises(InputError, match=r"unknown argument 'odrer=halton': expected key=value; did you mean order"):
        read_options(Few, ["odrer=halton"])
    with pytest.raises(InputError, match=r"the options are .*temperature.*, n"):
        read_options(Few, ["xyz=3"])


@pytest.mark.parametrize("text", ["1.5", "1e3", "true", "nan", "7e12345", "1_000", "0x10", "one", " 1"])
def test_an_integer_option_is_an_integer(text):
    with pytest.raises(InputError, match=f"^n must be an integer; got '{text}'$"):
        read_options(Few, [f"n={text}"])


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e999", "1_0", "hot"])
def test_a_number_option_is_finite(text):
    with pytest.raises(InputError, match=f"^temperature must be a finite number; got '{text}'$"):
        read_options(Few, [f"temperature={text}"])
    with pytest.raises(InputError, match="strengths must be numbers"):
        read_numbers("strengths", f"1 {text}", "1 1.5")


def test_every_path_begins_at_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    paths = {"ckpt", "runs", "data_dir", "results", "out", "zoo", "images", "inception", "classifier"}
    for options in OPTIONS.values():
        for name in paths & options.__dataclass_fields__.keys():
            assert getattr(read_options(options, [f"{name}=~/a b"]), name) == Path("/home/me/a b")


@pytest.mark.parametrize("command_line", of_options("seed"))
def test_every_command_takes_one_range_of_seeds(command_line, command):
    for seed in (-1, 2**32, 2**63, "1.0", "1e3", "true"):
        code, _, said = command(*command_line.split(), f"seed={seed}")
        assert code == 2
        assert re.search(r"^error: seed must be (in 0\.\.2\^32 - 1|an integer|in -)", said)
    assert read_options(OPTIONS[command_line], ["seed=4294967295"]).seed == 2**32 - 1


@pytest.mark.parametrize("command_line", of_options("seeds"))
@pytest.mark.parametrize("count", ["0", "-1", "4294967297", "1.5"])
def test_a_number_of_seeds_is_in_range(command_line, count, command):
    code, _, said = command(*command_line.split(), f"seeds={count}")
    assert code == 2
    assert said.startswith("error: seeds must be ")


@pytest.mark.parametrize("command_line", OF_A_MODEL)
def test_a_named_run_folder_that_does_not_exist(command_line, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, said = command(*command_line.split(), "runs=2026_11_28")
    assert code == 2
    assert "2026_11_28" in said
    assert command_line == "publish" or "no folder 2026_11_28: runs= names the one you trained in" in said
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("command_line", OF_A_MODEL)
def test_every_model_is_one_word(command_line, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, said = command(*command_line.split(), "nosuchmodel")
    assert code == 2
    assert "no model file at nosuchmodel: give the path of a model.safetensors, a run folder" in said


def test_recorded_commands_name_no_folder_of_this_machine():
    arguments = ["vq_svae", "data_dir=/home/me/data", "runs=runs", "out=~/mine", "ckpt=spiking_vq/zoo/a.safetensors"]
    assert recorded_command("train", arguments) == (
        "spiking-vq train vq_svae data_dir=data runs=runs out=mine ckpt=spiking_vq/zoo/a.safetensors"
    )
    assert recorded_command("sample", ["/home/me/my runs/mnist"]) == "spiking-vq sample mnist"

"""The help texts: every command, option and example."""

import re
import shlex
import socket
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from spiking_vq.config.load import DERIVED, leaves, load_config
from spiking_vq.config.schema import STAGES
from spiking_vq.diffusion.unmasking import ORDERS
from stages.__main__ import COMMANDS
from stages.cli.help import described, explanations, summary
from stages.cli.options import ModelOptions, SamplerArguments, preset_file, read_options

MODULES = {command: import_module(module) for command, module in COMMANDS.items()}
VERBS = list(dict.fromkeys(command.split()[0] for command in COMMANDS))
OPTIONS = {command: module.Options for command, module in MODULES.items() if command != "train"}
OPTIONS |= {f"train {stage}": options for stage, options in MODULES["train"].Options.items()}


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_the_overview_lists_the_verbs(arguments, command):
    code, said, error = command(*arguments)
    assert (code, error) == (0, "")
    assert re.findall(r"^  ([\w-]+) ", said, re.MULTILINE) == VERBS


@pytest.mark.parametrize("command_line", COMMANDS)
def test_a_summary_is_a_sentence_of_one_line(command_line):
    text = summary(COMMANDS[command_line])
    assert text.endswith((".", "?"))
    assert len(text) <= 110
    assert "spiking-vq" not in text


@pytest.mark.parametrize("command_line", OPTIONS)
def test_help_explains_every_option(command_line, command):
    code, said, error = command(*command_line.split(), "--help")
    assert (code, error) == (0, "")
    assert said.startswith(f"spiking-vq {command_line} ")
    assert "Example:\n  spiking-vq " in said
    for option in described(OPTIONS[command_line]):
        assert option.explanation, f"{option.name} has no explanation"
        assert re.search(rf"^  {re.escape(option.name)}={re.escape(option.default)}\s", said, re.MULTILINE) or (
            option.name == "stage" and command_line.startswith("train")
        )


def test_help_needs_no_more_arguments(command):
    assert command("train", "--help")[1].startswith("spiking-vq train vq_svae|absorbing|gaussian|classifier ")
    for arguments in (["study"], ["study", "--help"]):
        code, said, _ = command(*arguments)
        assert code == 0
        for name in (name.removeprefix("study ") for name in COMMANDS if name.startswith("study ")):
            assert f"\n  {name} " in said
    assert command("sample", "mnist", "n=3", "-h")[1] == command("sample", "--help")[1]


def test_fields_of_a_stage_are_those_that_training_takes():
    for options in STAGES.values():
        names = {option.name for option in described(options)}
        assert names == {name for name in leaves(options) if not name.startswith(DERIVED)}


def test_explanations_of_bases_and_of_groups():
    class Own(ModelOptions, SamplerArguments):
        """Options.

        Attributes:
            own, other: two
                lines.
            seed: of it all.

        More.
        """

    texts = explanations(Own)
    assert texts["own"] == texts["other"] == "two lines."
    assert texts["runs"] == "folder of the run folders."
    assert {"temperature", "sampler", "label"} < texts.keys()


def test_types_and_defaults(command):
    options = {option.name: option for option in described(OPTIONS["sample"])}
    assert options["n"][1:3] == ("integer, in 1..2147483647", "64")
    assert options["order"][1:3] == ("|".join(ORDERS), "")
    assert options["out"][1] == "path"
    fields = {option.name: option for option in described(STAGES["vq_svae"])}
    assert fields["train.compile"][1:3] == ("true|false", "false")
    assert fields["model.channels"][1:3] == ("list: integer, at least 1", "[32, 64]")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["smaple"], "unknown verb 'smaple': did you mean sample?"),
        (["x"], "unknown verb 'x': the verbs are train, sample"),
        (["study", "lables"], "unknown study 'lables': did you mean labels or calls?"),
        (["sample", "sed=1"], "unknown argument 'sed=1': expected key=value; did you mean seed"),
        (["train", "vq_svea"], "unknown stage 'vq_svea': did you mean vq_svae?"),
        (["train"], "unknown stage '': the stages are vq_svae, absorbing, gaussian, classifier"),
    ],
)
def test_an_unknown_word_names_the_nearest(arguments, message, command):
    code, _, error = command(*arguments)
    assert code == 2
    assert error.startswith(f"error: {message}")


@pytest.mark.parametrize("command_line", COMMANDS)
def test_the_options_of_an_example_are_right(command_line):
    name, *words = shlex.split(MODULES[command_line].EXAMPLE)
    verb = command_line.split()
    assert [name, *words[: len(verb)]] == ["spiking-vq", *verb]
    arguments = words[len(verb) :]
    if command_line == "train":
        stage, *overrides = arguments
        load_config(stage, preset_file(stage, "base"), overrides)
    else:
        read_options(MODULES[command_line].Options, arguments)


@pytest.mark.slow
@pytest.mark.parametrize("command_line", ["sample", "inspect", "stream"])
def test_examples_run(command_line, command, tmp_path, monkeypatch):
    """Those that need neither data nor a run of one's own."""

    def no_network(*arguments, **options):
        raise OSError("no network")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    code, said, error = command(*shlex.split(MODULES[command_line].EXAMPLE)[1:])
    assert code == 0, error
    assert "wrote" in said


def test_a_pipe_that_is_closed_is_no_error():
    script = f"{shlex.quote(sys.executable)} -m stages --help | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=Path(__file__).parents[3])
    assert (done.returncode, done.stderr) == (0, "")

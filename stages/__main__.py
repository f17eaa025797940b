"""One command: `spiking-vq VERB [MODEL] [key=value ...]`; `python -m stages` is the same.

Every command is a module with a docstring, whose first paragraph says what the command does, and

- `class Options(ModelOptions, SamplerArguments)`, a `@dataclass(frozen=True, kw_only=True)` with or without these bases
  (`stages.cli.options`), whose docstring explains each field under `Attributes:`;
- `EXAMPLE`, a command line such as `"spiking-vq sample mnist n=16"`;
- `main(arguments: list[str]) -> None`, which begins with `options = read_options(Options, arguments)`.

The help texts come from these. The `Options` of `train` are a mapping from its first word, the stage, to a dataclass.
"""

from __future__ import annotations

from importlib import import_module

from spiking_vq.errors import InputError
from stages.cli import help
from stages.cli.data import with_data_names
from stages.cli.options import nearest
from stages.cli.run import quiet_warnings, run_command

COMMANDS = {
    "train": "stages.train",
    "sample": "stages.sample",
    "app": "stages.app.run",
    "evaluate": "stages.evaluate.report",
    "inspect": "stages.inspect.report",
    "quantise": "stages.quantise",
    "import sddpm": "stages.importing.sddpm",
    "import fsddim": "stages.importing.fsddim",
    "import spiking-diffusion": "stages.importing.spiking_diffusion",
    "study candidates": "stages.study.candidates",
    "study scaling": "stages.study.scaling",
    "study calls": "stages.study.calls",
    "study encodings": "stages.study.encodings",
    "study decomposition": "stages.study.decomposition",
    "study thresholds": "stages.study.thresholds",
    "study labels": "stages.study.labels",
    "study grid": "stages.study.grid",
    "study analytic": "stages.study.analytic",
    "study recognition": "stages.study.recognition",
    "compare": "stages.compare.report",
    "export": "stages.export.write",
    "verify": "stages.export.verify",
    "stream": "stages.export.stream",
    "publish": "stages.publish.weights",
    "bench": "stages.bench.run",
    "gpu-check": "stages.bench.gpu_check",
}
"""Command -> the module whose `main` runs it; imported only then, as some take seconds to load."""


def main(arguments: list[str]) -> None:
    """Run the command that the first words name, or print its help."""
    verb = arguments[0] if arguments else help.WORDS[0]
    name = " ".join(arguments[:2]) if " ".join(arguments[:2]) in COMMANDS else verb
    rest, wants_help = arguments[len(name.split()) :], any(word in help.WORDS for word in arguments)
    names = [command.split()[1] for command in COMMANDS if command.startswith(f"{verb} ")]
    if verb in help.WORDS:
        print(help.overview(COMMANDS))
    elif name in COMMANDS and wants_help:
        print(help.command_help(name, import_module(COMMANDS[name]), rest[0]))
    elif name in COMMANDS:
        import_module(COMMANDS[name]).main(with_data_names(rest))
    elif names and (wants_help or not rest):
        print(help.group_help(verb, COMMANDS))
    elif names:
        raise InputError(f"unknown {verb} {rest[0]!r}: {nearest(rest[0], names, 'names')}")
    else:
        verbs = list(dict.fromkeys(command.split()[0] for command in COMMANDS))
        raise InputError(f"unknown verb {verb!r}: {nearest(verb, verbs, 'verbs')}")


def entry_point() -> None:
    """`spiking-vq`."""
    quiet_warnings()
    run_command(main)


if __name__ == "__main__":
    entry_point()

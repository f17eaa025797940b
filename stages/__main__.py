"""One command: `spiking-vq VERB [key=value ...]`; `python -m stages` is the same."""

from __future__ import annotations

from importlib import import_module

from spiking_vq.errors import InputError
from stages.cli.run import run_command

COMMANDS = {
    "train": "stages.train",
    "sample": "stages.sample",
    "evaluate": "stages.evaluate.report",
    "inspect energy": "stages.inspect.energy",
    "inspect rates": "stages.inspect.rates",
    "inspect purity": "stages.inspect.purity",
    "inspect portrait": "stages.inspect.portrait",
    "study grid": "stages.study.grid",
    "study candidates": "stages.study.candidates",
    "study encodings": "stages.study.encodings",
    "study decomposition": "stages.study.decomposition",
    "study thresholds": "stages.study.thresholds",
    "study labels": "stages.study.labels",
    "study recognition": "stages.study.recognition",
    "study analytic": "stages.study.analytic",
    "compare": "stages.compare.report",
    "publish weights": "stages.publish.weights",
    "publish cards": "stages.publish.cards",
    "bench": "stages.bench.run",
}
"""Command -> the module whose `main` runs it; imported only then, as some take seconds to load."""


def main(arguments: list[str]) -> None:
    """Run the command that the first words name."""
    for words in (2, 1):
        name = " ".join(arguments[:words])
        if name in COMMANDS:
            import_module(COMMANDS[name]).main(arguments[words:])
            return
    raise InputError(f"unknown command {' '.join(arguments[:1])!r}: the commands are {', '.join(COMMANDS)}")


def entry_point() -> None:
    """`spiking-vq`."""
    run_command(main)


if __name__ == "__main__":
    entry_point()

"""Commands one after another, as a person would give them; what is done is skipped, what was stopped goes on."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from spiking_vq.errors import InputError


class Step(NamedTuple):
    """A command and the file it leaves.

    Attributes:
        module: to be run.
        arguments: its own.
        leaves: the file, after which the command need not be run again.
    """

    module: str
    arguments: list[str]
    leaves: Path


def run_steps(todo: Sequence[Step]) -> None:
    """Run all that have not left their files.

    Raises:
        InputError: one ended with an error, which it has told.
        KeyboardInterrupt: one was stopped.
    """
    for number, step in enumerate(todo, start=1):
        told = f"[{number}/{len(todo)}] {step.module} {' '.join(step.arguments)}"
        if step.leaves.is_file():
            print(f"{told}: done before, {step.leaves}")
            continue
        print(told, flush=True)
        code = subprocess.run([sys.executable, "-m", step.module, *step.arguments]).returncode
        if code == 130:
            raise KeyboardInterrupt
        if code:
            raise InputError(f"{step.module} ended with exit code {code}: mend it, and give the same command again")

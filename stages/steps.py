"""Commands one after another, as a person would give them; what is done is skipped, what was stopped goes on."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from spiking_vq.errors import InputError
from spiking_vq.generators import ZOO


class Step(NamedTuple):
    """A command and the file it leaves.

    Attributes:
        module: to be run.
        arguments: its own.
        leaves: the file, after which the command need not be run again; None runs it every time.
        of: the model that the file is a report on, and of which it has to tell the hash; None if it is no report.
    """

    module: str
    arguments: list[str]
    leaves: Path | None
    of: Path | None = None

    def is_done(self) -> bool:
        """Whether the file is there, and of the model that is there now."""
        if self.leaves is None or not self.leaves.is_file():
            return False
        if self.of is None:
            return True
        report = json.loads(self.leaves.read_text())
        return self.of.is_file() and report["checkpoint"]["sha256"] == hashlib.sha256(self.of.read_bytes()).hexdigest()


def classifier_step(data: str, places: dict[str, str]) -> list[Step]:
    """Training of the classifier that evaluation uses, where none ships.

    Args:
        data: name of the data set.
        places: options `runs`, `data_dir` and `device`.
    """
    if (ZOO / f"{data}-base-classifier.safetensors").is_file():
        return []
    arguments = ["classifier", f"data={data}", "preset=base", *(f"{name}={place}" for name, place in places.items())]
    return [Step("stages.train", arguments, Path(places["runs"]) / data / "base" / "classifier" / "model.safetensors")]


def run_steps(todo: Sequence[Step]) -> None:
    """Run all that have not left their files.

    Raises:
        InputError: one ended with an error, which it has told.
        KeyboardInterrupt: one was stopped.
    """
    for number, step in enumerate(todo, start=1):
        told = f"[{number}/{len(todo)}] {step.module} {' '.join(step.arguments)}"
        if step.is_done():
            print(f"{told}: done before, {step.leaves}")
            continue
        print(told, flush=True)
        code = subprocess.run([sys.executable, "-m", step.module, *step.arguments]).returncode
        if code == 130:
            raise KeyboardInterrupt
        if code:
            raise InputError(f"{step.module} ended with exit code {code}: mend it, and give the same command again")

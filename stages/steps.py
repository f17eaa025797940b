"""Commands one after another, as a person would give them; what is done is skipped, what was stopped goes on."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from spiking_vq.errors import InputError, require
from spiking_vq.generators import ZOO
from stages.command import recorded_command


class Step(NamedTuple):
    """A command and the file it leaves.

    Attributes:
        module: to be run.
        arguments: its own.
        leaves: the file, after which the command need not be run again; None runs it every time.
        of: the model that the file is a report on, of which it has to tell the hash, and this very command; None if it
            is no report.
    """

    module: str
    arguments: list[str]
    leaves: Path | None
    of: Path | None = None

    def is_done(self) -> bool:
        """Whether the file is there, by this command, and of the model that is there now."""
        if self.leaves is None or not self.leaves.is_file():
            return False
        if self.of is None:
            return True
        report = json.loads(self.leaves.read_text())
        if report.get("command") != recorded_command(self.module, self.arguments):
            return False
        return self.of.is_file() and report["checkpoint"]["sha256"] == hashlib.sha256(self.of.read_bytes()).hexdigest()


def places_of(options: dict[str, Any]) -> dict[str, Any]:
    """Where all steps of a command have the data and the runs, and what computes them."""
    return {name: options[name] for name in ("runs", "data_dir", "device")}


def classifier_step(data: str, places: dict[str, str]) -> list[Step]:
    """Training of the classifier that evaluation uses, where none ships.

    Args:
        data: name of the data set.
        places: options `runs`, `data_dir` and `device`.
    """
    return [] if (ZOO / f"{data}-base-classifier.safetensors").is_file() else [_training(data, "base", places)]


def perceptual_step(data: str, places: dict[str, str]) -> Step:
    """Training of the classifier by whose features stage 1 is trained; arguments as above."""
    return _training(data, "perceptual", places)


def _training(data: str, preset: str, places: dict[str, str]) -> Step:
    subject = [f"data={data}", f"preset={preset}", *(f"{name}={place}" for name, place in places.items())]
    model = Path(places["runs"]) / data / preset / "classifier" / "model.safetensors"
    return Step("stages.train", ["classifier", *subject], model)


def run_steps(todo: Sequence[Step]) -> None:
    """Run all that have not left their files, one after another, as `run_chains` runs one chain."""
    run_chains([todo])


def run_chains(chains: Sequence[Sequence[Step]], jobs: int = 1, logs: Path | None = None) -> None:
    """Run chains of steps: those of a chain one after another, all that have not left their files.

    Args:
        chains: independent of each other.
        jobs: how many run side by side, each on its share of the cores. A small network leaves much of a second core
            idle: two trainings side by side, on a core each, take little longer than one on both.
        logs: folder of what the commands print, with more than one job; with one it goes to the terminal.

    Raises:
        InputError: a command ended with an error, which it has told. What runs beside it is finished first.
        KeyboardInterrupt: one was stopped.
    """
    require(jobs >= 1, "jobs", "at least 1", jobs)
    share = str(max(1, os.cpu_count() // jobs))
    numbers, total = itertools.count(1), sum(map(len, chains))
    numbered = [[(next(numbers), step) for step in chain] for chain in chains]

    def run_chain(chain: list[tuple[int, Step]]) -> None:
        for number, step in chain:
            told = f"[{number}/{total}] {step.module} {' '.join(step.arguments)}"
            if step.is_done():
                print(f"{told}: done before, {step.leaves}")
            elif jobs == 1:
                print(told, flush=True)
                run(step)
            else:
                log = logs / f"{number:03}.log"
                print(f"{told} > {log}", flush=True)
                run_aside(step, share, log)

    with ThreadPoolExecutor(jobs) as pool:
        try:
            for running in [pool.submit(run_chain, chain) for chain in numbered]:
                running.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def run_aside(step: Step, threads: str, log: Path) -> None:
    """Run one step on this many threads, writing to a file what it prints."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file:
        try:
            run(step, env=os.environ | {"OMP_NUM_THREADS": threads}, stdout=file, stderr=subprocess.STDOUT)
        except InputError as error:
            raise InputError(f"{error}. It printed {log}") from error


def run(step: Step, **settings: Any) -> None:
    """Run one step, with settings of `subprocess.run`; raise what `run_chains` says unless its exit code is 0."""
    code = subprocess.run([sys.executable, "-m", step.module, *step.arguments], **settings).returncode
    if code == 130:
        raise KeyboardInterrupt
    if code:
        raise InputError(f"{step.module} ended with exit code {code}: mend it, and give the same command again")

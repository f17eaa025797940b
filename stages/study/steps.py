"""Commands one after another, as a person would give them; what is done is skipped, what was stopped goes on."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from spiking_vq.checkpoint.build import build_model
from spiking_vq.config.load import load_config
from spiking_vq.config.schema import AbsorbingConfig, ClassifierConfig, Config, DenoiserConfig, VQSVAEConfig
from spiking_vq.data.datasets import load_dataset
from spiking_vq.errors import InputError, require
from spiking_vq.pipelines.load import pipeline_of
from spiking_vq.pipelines.zoo import ZOO
from stages.cli.options import recorded_command


class Step(NamedTuple):
    """A command and the file it leaves.

    Attributes:
        command: such as `train` or `study labels`.
        arguments: its own.
        leaves: the file, after which the command need not be run again; None runs it every time.
        of: the model that the file is a report on, of which it has to tell the hash, and this very command; None if it
            is no report.
    """

    command: str
    arguments: list[str]
    leaves: Path | None
    of: Path | None = None

    def is_done(self) -> bool:
        """Whether the file is there, by this command, and of the model that is there now."""
        if self.leaves is None or not self.leaves.is_file():
            return False
        if self.of is None:
            return True
        try:
            report = json.loads(self.leaves.read_text())
            told = report["command"], report["checkpoint"]["sha256"]
        except (ValueError, TypeError, KeyError):  # damaged, or of something else
            return False
        if told[0] != recorded_command(self.command, self.arguments):
            return False
        return self.of.is_file() and told[1] == hashlib.sha256(self.of.read_bytes()).hexdigest()


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
    return Step("train", ["classifier", *subject], model)


def check_trainings(todo: Iterable[Step]) -> None:
    """Read the configuration of each training among steps, so that a mistake in any is found before the first starts.

    Raises:
        InputError: as `stages.train` would; but for what depends on files that are not there yet.
    """
    from stages.train import preset_file  # here, as it takes seconds and measuring needs none of it

    for step in todo:
        if step.command == "train":
            stage, *overrides = step.arguments
            (preset,) = (text.removeprefix("preset=") for text in overrides if text.startswith("preset="))
            check_networks(load_config(stage, preset_file(stage, preset), overrides))


def check_networks(config: Config) -> None:
    """Build the networks of a configuration, for the official images and where it has to be on any stage 1.

    Raises:
        InputError: they cannot be built.
    """
    data = load_dataset(config.data, config.data_dir, config.image_size)
    known: dict[str, Any] = {"image_shape": list(data.official_shape)}
    if isinstance(config, DenoiserConfig | ClassifierConfig):
        known["num_classes"] = config.num_classes or 1
    if isinstance(config, AbsorbingConfig):
        known["vq_svae"] = VQSVAEConfig(image_shape=[1, 28, 28])
    config = replace(config, **known)
    model = build_model(config)
    if isinstance(config, DenoiserConfig):
        _ = pipeline_of(model, config).diffusion


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
            told = f"[{number}/{total}] {step.command} {' '.join(step.arguments)}"
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
    code = subprocess.run(
        [sys.executable, "-m", "stages", *step.command.split(), *step.arguments], **settings
    ).returncode
    if code == 130:
        raise KeyboardInterrupt
    if code:
        raise InputError(f"{step.command} ended with exit code {code}: mend it, and give the same command again")

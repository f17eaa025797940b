"""Steps of a study: commands that run one after another; finished steps are skipped, interrupted ones resume."""

from __future__ import annotations

import itertools
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
from spiking_vq.errors import InputError
from spiking_vq.files import sha256_of
from spiking_vq.pipelines.load import pipeline_of
from spiking_vq.pipelines.zoo import ZOO
from stages.cli.data import data_of
from stages.cli.options import preset_file, recorded_command
from stages.reporting.report import Report, evaluation_name, report_folder


class Step(NamedTuple):
    """A command and the file it leaves.

    Attributes:
        command: such as `train` or `study labels`.
        arguments: of the command.
        leaves: the file that marks the step as done; None runs it every time.
        of: the model of a report, which must name this model's hash and this very command; None if it is no report.
    """

    command: str
    arguments: list[str]
    leaves: Path | None
    of: Path | None = None

    def is_done(self) -> bool:
        """Whether the file is there, and was made by this command from the present model."""
        if self.leaves is None or not self.leaves.is_file():
            return False
        if self.of is None:
            return True
        try:
            report = Report.read(self.leaves)
            made_by = report.get(str, "command", default="")
            sha256 = report.get(str, "checkpoint", "sha256", default="")
        except InputError:  # damaged, or another kind of file
            return False
        if made_by != recorded_command(self.command, self.arguments):
            return False
        return self.of.is_file() and sha256 == sha256_of(self.of)


def training(stage: str, *changes: str, data: str, preset: str, runs: Path, **others: Any) -> Step:
    """Training of a stage in the folder `runs`, with `others` and `changes` as overrides."""
    model = Path(runs) / data / preset / stage / "model.safetensors"
    given = {"data": data, "preset": preset, "runs": runs} | others
    return Step("train", [stage, *as_arguments(given), *changes], model)


def evaluation(model: Path, *, stage: str, data: str, preset: str, results: Path, **others: Any) -> Step:
    """Evaluation of a model; `others` are further options of `evaluate`."""
    given = {"stage": stage, "data": data, "preset": preset, "ckpt": model, "results": results} | others
    leaves = report_folder(results, stage, data, preset) / evaluation_name(given)
    return Step("evaluate", as_arguments(given), leaves, model)


def as_arguments(options: dict[str, Any]) -> list[str]:
    """Options as `key=value` arguments."""
    return [f"{name}={value}" for name, value in options.items()]


def common(options: Any) -> dict[str, Any]:
    """The options that a study passes on to all of its steps."""
    return {name: getattr(options, name) for name in ("runs", "data_dir", "device")}


def classifier_steps(data: str, options: Any) -> list[Step]:
    """Training of the classifier that evaluation uses; none where it ships."""
    shipped = (ZOO / f"{data}-base-classifier.safetensors").is_file()
    return [] if shipped else [training("classifier", data=data, preset="base", **common(options))]


def perceptual_step(data: str, options: Any) -> Step:
    """Training of the classifier of stage 1's perceptual loss."""
    return training("classifier", data=data, preset="perceptual", **common(options))


def check_trainings(steps: Iterable[Step]) -> None:
    """Read the configuration and build the networks of each training, so that mistakes are found before the first.

    Raises:
        InputError: as `train` would, except for errors that depend on files that are not there yet.
    """
    trained: dict[Path, VQSVAEConfig] = {}
    for step in steps:
        if step.command == "train":
            stage, *overrides = step.arguments
            (preset,) = (text.removeprefix("preset=") for text in overrides if text.startswith("preset="))
            config, runs = load_config(stage, preset_file(stage, preset), overrides), step.leaves.parents[1]
            check_networks(config, trained.get(runs))
            if isinstance(config, VQSVAEConfig):
                trained[runs] = config


def check_networks(config: Config, stage1: VQSVAEConfig | None = None) -> None:
    """Build the networks of a configuration, for the images of its data set.

    Args:
        config: of the stage.
        stage1: configuration that a stage 2 is trained on; None takes any.

    Raises:
        InputError: they cannot be built.
    """
    data = data_of(config)
    known: dict[str, Any] = {"image_shape": list(data.official_shape)}
    if isinstance(config, AbsorbingConfig):
        known["vq_svae"] = replace(stage1, **known) if stage1 else VQSVAEConfig(image_shape=[1, 28, 28])
    if isinstance(config, DenoiserConfig | ClassifierConfig):
        known["num_classes"] = config.num_classes or 1
    config = replace(config, **known)
    model = build_model(config)
    if isinstance(config, DenoiserConfig):
        pipeline = pipeline_of(model, config)
        _ = pipeline.sampling() if stage1 else pipeline.diffusion  # samplers differ by the number of tokens


def run_steps(chains: Sequence[Sequence[Step]], jobs: int = 1, logs: Path | None = None) -> None:
    """Run chains of steps, except for steps that are done; the steps of a chain run one after another.

    Args:
        chains: independent of each other.
        jobs: number of chains that run at the same time, each on its share of the cores. A small network leaves much of
            a second core idle: two trainings on a core each take little longer than one on both.
        logs: folder of the commands' output with more than one job; with one it goes to the terminal.

    Raises:
        InputError: a command ended with an error, which it has printed. The commands next to it are finished first.
        KeyboardInterrupt: a command was stopped.
    """
    numbers, total = itertools.count(1), sum(map(len, chains))
    numbered = [[(next(numbers), step) for step in chain] for chain in chains]

    def run_chain(chain: list[tuple[int, Step]]) -> None:
        for number, step in chain:
            text = f"[{number}/{total}] {step.command} {' '.join(step.arguments)}"
            if step.is_done():
                print(f"{text}: done before, {step.leaves}")
                continue
            log = logs / f"{number:03}.log" if jobs > 1 else None
            print(text + (f" > {log}" if log else ""))
            _run(step, jobs, log)

    with ThreadPoolExecutor(jobs) as pool:
        try:
            for running in [pool.submit(run_chain, chain) for chain in numbered]:
                running.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _run(step: Step, jobs: int, log: Path | None) -> None:
    """Run one step; with a log, on one of `jobs` shares of the cores."""
    command = [sys.executable, "-m", "stages", *step.command.split(), *step.arguments]
    if log is None:
        code = subprocess.run(command).returncode
    else:
        log.parent.mkdir(parents=True, exist_ok=True)
        threads = {"OMP_NUM_THREADS": str(max(1, os.cpu_count() // jobs))}
        with log.open("w") as file:
            code = subprocess.run(command, env=os.environ | threads, stdout=file, stderr=subprocess.STDOUT).returncode
    if code == 130:
        raise KeyboardInterrupt
    if code:
        output = f". Its output is in {log}" if log else ""
        raise InputError(f"{step.command} ended with exit code {code}: fix it, and give the same command again{output}")

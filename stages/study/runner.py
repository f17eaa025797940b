"""The runner of studies: networks or samplers that differ in a few settings, measured with several seeds."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from itertools import product
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, TypeVar

from spiking_vq.config.yaml_files import read_yaml
from spiking_vq.errors import InputError, require
from stages.cli.options import CONFIGS
from stages.evaluate.measures import check_inception
from stages.reporting.report import Report
from stages.reporting.spread import Spread
from stages.study.options import TrainingOptions, VariantOptions
from stages.study.steps import Step, check_trainings, classifier_steps, common, evaluation, run_steps, training

STUDIES = CONFIGS / "studies"

Names = tuple[str, ...]
"""A variant: one choice of each switch."""
Chain = Sequence[Step]
"""Trainings and evaluation of a variant with one seed; the evaluation alone where only the sampler varies."""
Changes = TypeVar("Changes")
"""Overrides of a variant, or overrides of each of its stages."""

INCEPTION = {"fid", "kid", "precision", "recall", "density", "coverage", "inception_score"}
"""Metrics in the features of the Inception."""


@dataclass(frozen=True)
class Study:
    """A file of `configs/studies`.

    Attributes:
        stage: of the network that is measured.
        measured: column -> position of its metric in the evaluation's report, or, after `training`, in the summary of
            the stage's training; a factor may follow, as in `stage1.mse * 1000`. `core_hours` is the time of all
            trainings of a variant.
        vary: switch -> name of a choice -> its overrides of the configuration, or settings of the sampler.
        built_on: stage of the trained model that all variants share; the same as `stage` where only the sampler varies.
        compare: switch -> the choice that `differences` compares with each other choice; for two switches.
        designs: of `study scaling`, which has no switches of its own.
    """

    stage: str
    measured: dict[str, str]
    vary: dict[str, dict[str, str | None]] = field(default_factory=dict)
    built_on: str | None = None
    compare: dict[str, str] = field(default_factory=dict)
    designs: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, name: str) -> Study:
        """Read the file of this name.

        Raises:
            InputError: it cannot be read, or its choices are not texts.
        """
        path = STUDIES / f"{name}.yaml"
        try:
            study = cls(**read_yaml(path))
        except TypeError as error:
            raise InputError(f"{path}: {error}") from error
        for switch, choices in study.vary.items():
            texts = isinstance(choices, dict) and all(isinstance(text, str | None) for text in choices.values())
            require(texts and choices != {}, f"{switch} in {path}", "names, each with its changes", repr(choices))
        return study

    def variants(self) -> dict[Names, list[str]]:
        """All variants and their changes."""
        return {
            names: " ".join(
                self.vary[switch][name] or "" for switch, name in zip(self.vary, names, strict=True)
            ).split()
            for names in product(*self.vary.values())
        }

    def columns(self, features: str) -> list[str]:
        """The columns that an evaluation with these features measures: without `all`, none of the Inception."""
        return [name for name in self.measured if features == "all" or not self.needs_inception(name)]

    def needs_inception(self, column: str) -> bool:
        """Whether a column is in the features of the Inception."""
        return not INCEPTION.isdisjoint(self.measured[column].split(" * ")[0].split("."))


def folder_name(name: str, changes: Sequence[str], precision: str, seed: int, built_on: bytes = b"") -> str:
    """The folder of a variant's runs with a seed: other changes, precision or files to build on give another name."""
    usual = [] if precision == "bf16" else [f"precision={precision}"]  # so that the name of older runs stays
    described = hashlib.sha256(" ".join([*changes, *usual]).encode() + built_on).hexdigest()[:8]
    return f"{name}-{described}-{seed}"


def trained(
    changes: dict[str, list[str]], options: TrainingOptions, preset: str, seed: int, runs: Path, **measuring: Any
) -> Chain:
    """Trainings of a variant in run folders of its own, and its evaluation.

    Args:
        changes: stage -> overrides, in the order of training; of several stages, the last one is evaluated.
        options: data, precision and folders.
        preset: that the overrides change.
        seed: of trainings and samples.
        runs: folder of the run folders.
        measuring: options of the evaluation.
    """
    subject, precision = {"data": options.data, "preset": preset, "seed": seed}, {"precision": options.precision}
    folders = common(options) | {"runs": runs}
    steps = [training(stage, *changes[stage], **subject, **folders, **precision) for stage in changes]
    *first, stage = changes
    only = "all" if first else {"vq_svae": "reconstruction"}.get(stage, "samples")
    measuring |= precision | {"only": only} | common(options)
    return [*steps, evaluation(steps[-1].leaves, stage=stage, results=runs / "results", **subject, **measuring)]


def run(
    study: Study,
    variants: dict[Names, Changes],
    chain: Callable[[Names, Changes, int], Chain],
    columns: Sequence[str],
    options: VariantOptions,
    logs: Path,
    first: Sequence[Step] = (),
) -> list[dict[str, Any]]:
    """Train and measure variants, with all seeds.

    Args:
        study: that they belong to.
        variants: with their changes.
        chain: function of variant, changes and seed.
        columns: those of `study.measured` that are wanted.
        options: data, seeds, jobs and folders.
        logs: folder of the commands' output, with several jobs.
        first: steps that all chains need.

    Returns:
        A row for each variant: its choices, and for each column the spread over the seeds, a `Spread` as a dict.

    Raises:
        InputError: a training is not possible, which is found before the first; the message names the variant.
    """
    chains = {}
    for names, changes in variants.items():
        try:
            chains[names] = [chain(names, changes, seed) for seed in range(options.seeds)]
            check_trainings(chains[names][0])  # the seeds differ in nothing else
        except InputError as error:
            raise InputError(f"candidate {' '.join(names)}: {error}") from error
    if any(map(study.needs_inception, columns)):
        check_inception(options.data_dir)
    run_steps([[*classifier_steps(options.data, options), *first]])
    run_steps([steps for seeds in chains.values() for steps in seeds], options.jobs, logs)
    return [
        dict(zip(study.vary, names, strict=True))
        | {name: asdict(Spread.over([_metric(study.measured[name], steps) for steps in seeds])) for name in columns}
        for names, seeds in chains.items()
    ]


def _metric(where: str, chain: Chain) -> float | None:
    """The metric at a position as in `Study.measured`."""
    summaries, report = [step.leaves.with_name("training.json") for step in chain[:-1]], chain[-1].leaves
    if where == "core_hours":
        return sum(core_hours(Report.read(path)) for path in summaries)
    keys, _, factor = where.partition(" * ")
    first, *others = keys.split(".")
    path = summaries[-1] if first == "training" else report
    value = Report.read(path).get(float, *others if first == "training" else (first, *others), default=None)
    return None if value is None else float(Fraction(factor or 1)) * value


def core_hours(summary: Report) -> float:
    """Time of a finished training on all of its threads, validation included, in hours of one core."""
    return summary.get(float, "seconds") * summary.get(int, "machine", "threads") / 3600


def differences(study: Study, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Effect of each choice in `study.compare` instead of each other one, from the pairs of networks that differ in it
    alone; first of all pairs, then of those with each choice of the other switch. See `paired`.
    """
    effects = []
    for switch, choice in study.compare.items():
        (rest,) = study.vary.keys() - {switch}
        cells = {(row[switch], row[rest]): row for row in rows}
        for other in (name for name in study.vary[switch] if name != choice):
            for beside, names in {
                "any": tuple(study.vary[rest]),
                **{name: (name,) for name in study.vary[rest]},
            }.items():
                effect = {"choice": choice, "instead_of": other, "beside": beside}
                for column in study.measured:
                    ours, theirs = (
                        [value for name in names for value in cells[of, name][column]["per_seed"]]
                        for of in (choice, other)
                    )
                    effect[column] = paired(ours, theirs)
                effects.append(effect)
    return effects


def paired(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    """Mean difference of pairs, its standard error (None of one pair), and how many of the pairs are below 0."""
    changes = [mine - other for mine, other in zip(ours, theirs, strict=True)]
    error = stdev(changes) / len(changes) ** 0.5 if len(changes) > 1 else None
    return {"mean": fmean(changes), "error": error, "below_0": sum(c < 0 for c in changes), "pairs": len(changes)}

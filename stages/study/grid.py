"""Train, sample and measure all models of some data sets and presets.

Runs one command after another, as a person would give them; each resumes where it was, and finished ones are skipped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated

from spiking_vq.data.datasets import DATASETS
from spiking_vq.fields import Range, Seed
from stages.cli.machine import check_device
from stages.cli.options import read_options
from stages.evaluate.measures import check_inception
from stages.evaluate.protocols import PROTOCOLS
from stages.reporting.report import claim_report
from stages.study.options import Precision, Shared
from stages.study.steps import (
    Step,
    as_arguments,
    check_trainings,
    classifier_steps,
    common,
    evaluation,
    run_steps,
    training,
)

EXAMPLE = 'spiking-vq study grid data="mnist fmnist" presets="base gaussian-base"'


def _several(names: Iterable[str]) -> Range:
    return Range(f"of {', '.join(names)}", lambda text: set(text.split()) <= {*names})


@dataclass(frozen=True, kw_only=True)
class Options(Shared):
    """Options of the grid.

    Attributes:
        data: names of data sets.
        presets: names of presets; those of the continuous stage begin with its name, as in `gaussian-base`.
        protocols: of the evaluations.
        seed: of trainings and measurements.
        precision: of the measurements; `bf16` is autocast, with membranes in fp32. Presets say how they train.
    """

    data: Annotated[str, _several(DATASETS)] = "mnist fmnist"
    presets: str = "base"
    protocols: Annotated[str, _several(PROTOCOLS)] = "test-10k n1280-test"
    seed: Seed = 0
    precision: Precision = "fp32"


def main(arguments: list[str]) -> None:
    """Run all steps that are not done."""
    options = read_options(Options, arguments)
    check_device(options.device)
    todo = [step for data in options.data.split() for step in steps(data, options)]
    check_trainings(todo)
    if options.protocols.split():
        check_inception(options.data_dir)
    run_steps([todo])


def steps(data: str, options: Options) -> Iterator[Step]:
    """The steps of one data set: the classifier, then of each preset the trainings and measurements.

    Raises:
        InputError: another report lies where one of these would.
    """
    yield from classifier_steps(data, options)
    for name in options.presets.split():
        stages = ("gaussian",) if name.startswith("gaussian-") else ("vq_svae", "absorbing")
        subject = {"data": data, "preset": name.removeprefix("gaussian-"), "seed": options.seed} | common(options)
        trainings = [training(stage, **subject) for stage in stages]
        yield from trainings
        model, subject = trainings[-1].leaves, subject | {"stage": stages[-1], "results": options.results}
        measured = [
            evaluation(model, **subject, protocol=protocol, precision=options.precision)
            for protocol in options.protocols.split()
        ]
        measured.append(
            Step("inspect", as_arguments(subject), options.results / data / name / "inspection.json", model)
        )
        for step in measured:
            claim_report(step.leaves, **{key: subject[key] for key in ("stage", "data", "preset")})
            yield step

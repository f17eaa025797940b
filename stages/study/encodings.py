"""Compare the encodings and spike generators of stage 1: do the paper's own choices help?

Trains stage 1 with every encoding (`rate`, `psp`, `both`) and every spike generator (`adaptive`, `poisson`, `repeat`),
briefly and with few spiking steps, and measures its reconstructions: mean and deviation over the seeds, and the effect
of the paper's choices, all else being equal. The same command resumes. Writes `<results>/<data>/ablation.json`, `.md`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from spiking_vq.fields import Count, OneOf
from stages.cli.machine import check_device, describe_machine
from stages.cli.options import read_options, recorded_command
from stages.evaluate.protocols import PROTOCOLS
from stages.reporting.markdown import table
from stages.reporting.report import claim_report, write_report, write_text
from stages.reporting.spread import Spread
from stages.study.options import Precision, TrainingOptions, number_of_seeds
from stages.study.runner import Chain, Names, Study, differences, run, trained

EXAMPLE = "spiking-vq study encodings data=mnist jobs=2"


@dataclass(frozen=True, kw_only=True)
class Options(TrainingOptions):
    """Options of the comparison.

    Attributes:
        preset: of stage 1.
        T: number of spiking steps.
        epochs: length of the trainings.
        protocol: of the evaluation.
    """

    preset: str = "paper"
    T: Count = 4
    epochs: Count = 2
    seeds: Annotated[int, number_of_seeds(1)] = 3
    protocol: Annotated[str, OneOf(tuple(PROTOCOLS))] = "n1280-test"
    precision: Precision = "fp32"


def main(arguments: list[str]) -> None:
    """Train and measure all combinations that are not done, and write the tables."""
    options = read_options(Options, arguments)
    check_device(options.device)
    study, root = Study.read("encodings"), options.runs / "ablation"
    network = [f"T={options.T}", f"train.max_epochs={options.epochs}"]

    def chain(names: Names, changes: list[str], seed: int) -> Chain:
        runs = root / f"T={options.T}-epochs={options.epochs}-{options.precision}" / "-".join([*names, str(seed)])
        stages = {study.stage: [*network, *changes]}
        return trained(stages, options, options.preset, seed, runs, protocol=options.protocol)

    out = options.results / options.data / "ablation.json"
    claim_report(out, data=options.data, preset=options.preset)
    rows = run(study, study.variants(), chain, list(study.measured), options, root)
    settings = ("data", "preset", "T", "epochs", "seeds", "protocol", "precision")
    report = {
        "command": recorded_command("study encodings", arguments),
        **{name: getattr(options, name) for name in settings},
        "about": PROTOCOLS[options.protocol].about,
        "machine": describe_machine(options.device),
        "rows": rows,
        "differences": differences(study, rows),
    }
    write_report(out, report)
    write_text(out.with_suffix(".md"), markdown(report))
    print("\n" + markdown(report))


def markdown(report: dict[str, Any]) -> str:
    """The report as a document."""

    def effect(mean: float, error: float | None, below_0: int, pairs: int) -> str:
        return f"{Spread(mean, error).text('+.2g')} ({below_0} of {pairs})"

    rows = [
        {"encoding": row["encoding"], "spike generator": row["spike_generator"]}
        | {name: Spread(**value).text() for name, value in row.items() if isinstance(value, dict)}
        for row in report["rows"]
    ]
    effects = [
        {"choice": f"{row['choice']}, not {row['instead_of']}", "with": row["beside"]}
        | {name: effect(**value) for name, value in row.items() if isinstance(value, dict)}
        for row in report["differences"]
    ]
    about = (
        "Stage 1 on {data}, `PRESET={preset}` at T = {T}, {epochs} epochs, {precision}, mean ± standard deviation over"
        " {seeds} seeds. FID and classifier distance are of reconstructions: {about}."
    ).format(**report)
    about_effects = (
        "Effect of the paper's choices, with each choice of the other switch: mean difference ± its standard error over"
        " the pairs of networks that differ in nothing else, and in how many of them it is below 0."
    )
    lines = ["# Encoding and spike generator", "", about, "", *table(rows), "", about_effects, "", *table(effects)]
    return "\n".join(lines) + "\n"

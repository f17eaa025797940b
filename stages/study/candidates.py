"""Compare base with candidates that differ from it in a few settings: `configs/studies/<stage>.yaml` lists them.

Candidates of stage 1, `vq_svae`, and of stage 2, `absorbing`, are trained, those of stage 2 on one frozen stage 1. With
`stage=sampler` nothing is trained: settings of the sampler are tried on one model. All are compared by the classifier
distance to the validation images, of reconstructions in stage 1 and of samples otherwise. The same command resumes.
Writes `<results>/<data>/candidates-<stage>.json` and `.md`, and of trained candidates `.png`: distance by firing rate.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

from spiking_vq.config.load import load_config
from spiking_vq.errors import require
from spiking_vq.fields import OneOf, Range
from spiking_vq.files import atomic_write
from spiking_vq.pipelines.load import load
from spiking_vq.pipelines.zoo import find_model
from stages.cli.machine import check_device, describe_machine
from stages.cli.options import (
    SamplerArguments,
    preset_file,
    read_options,
    recorded_command,
    sampler_settings,
    say_which_weights,
)
from stages.evaluate.options import NETWORKS
from stages.reporting.markdown import table
from stages.reporting.report import claim_report, identity, write_report, write_text
from stages.reporting.spread import Spread
from stages.study.options import TrainingOptions
from stages.study.runner import Chain, Names, Study, run, trained
from stages.study.steps import common, evaluation, perceptual_step

EXAMPLE = 'spiking-vq study candidates stage=absorbing only="base elbo" length=0.1'


@dataclass(frozen=True, kw_only=True)
class Options(TrainingOptions):
    """Options of the comparison.

    Attributes:
        stage: stage that is trained, or `sampler`, which tries settings of the sampler on one model.
        only: names of candidates; empty (default) for all.
        length: number of training steps relative to base.
        features: `all` measures FID too, with the Inception, which takes minutes for each candidate.
        ckpt: stage 1 of `absorbing`, or model of `sampler`; None (default) is your own base, else the one that ships.
    """

    stage: Annotated[str, OneOf(("vq_svae", "absorbing", "sampler"))] = "absorbing"
    only: str = ""
    length: Annotated[float, Range("in (0, 1000]", lambda value: 0 < value <= 1000)] = 1.0
    features: Annotated[str, OneOf(NETWORKS)] = "classifier"
    ckpt: Path | None = None


def main(arguments: list[str]) -> None:
    """Train and measure the candidates that are not done, and write the tables."""
    options = read_options(Options, arguments)
    check_device(options.device)
    study, trains = Study.read(options.stage), options.stage != "sampler"
    require(trains or options.length == 1, "length", "1, as the sampler trains nothing", options.length)
    charted = not trains or find_spec("matplotlib") is not None
    require(charted, "matplotlib", "installed, for the chart (pip install 'spiking_vq[metrics]')", "none")
    model = study.built_on and find_model(study.built_on, options.data, "base", options.runs, options.ckpt)
    if model and not options.ckpt:
        say_which_weights(model, options.runs)
    variants, only = study.variants(), [(name,) for name in options.only.split()]
    require(set(only) <= variants.keys(), "only", f"of {', '.join(name for (name,) in variants)}", options.only)
    pipeline = None if trains else load(model)

    def planned(names: Names, changes: list[str], seed: int) -> Chain:
        if pipeline:  # a setting out of range is found here
            sampler_settings(pipeline, read_options(SamplerArguments, changes))
        return chain(study, options, model, names[0], changes, seed)

    out = options.results / options.data / f"candidates-{options.stage}.json"
    claim_report(out, stage=options.stage, data=options.data)
    columns = [name for name in study.measured if name != "FID" or options.features == "all"]
    first = [] if model else [perceptual_step(options.data, options)]
    chosen = {names: variants[names] for names in only or variants}
    logs = options.runs / "candidates" / options.stage / "logs"
    rows = run(study, chosen, planned, columns, options, logs, first)
    report = {
        "command": recorded_command("study candidates", arguments),
        **{name: getattr(options, name) for name in ("stage", "data", "length", "seeds")},
        **({"model": identity(model)} if model else {}),
        "about": "base with each of these changes; distances are to the validation images",
        "machine": describe_machine(options.device),
        "rows": [
            {"candidate": row["candidate"], "changes": study.vary["candidate"][row["candidate"]] or ""} | row
            for row in rows
        ],
    }
    write_report(out, report)
    write_text(out.with_suffix(".md"), markdown(report))
    if trains:
        draw_quality_by_rate(report, out.with_suffix(".png"))
    print("\n" + markdown(report))


def chain(study: Study, options: Options, model: Path | None, name: str, changes: list[str], seed: int) -> Chain:
    """Training and evaluation of a candidate, in a folder named after it and a hash of its changes and the model."""
    if options.length != 1:
        steps = load_config(study.stage, preset_file(study.stage, "base"), changes).train.max_steps
        require(steps is not None, "train.max_steps", "a number where length is not 1", "null")
        changes = [*changes, *(f"train.{key}={round(options.length * steps)}" for key in ("max_steps", "val_every"))]
    described = hashlib.sha256(" ".join(changes).encode() + (model.read_bytes() if model else b"")).hexdigest()[:8]
    runs = options.runs / "candidates" / options.stage / f"{name}-{described}-{seed}"
    measuring = {"protocol": "val", "features": options.features, "precision": "bf16"}
    if options.stage == "sampler":
        settings = {
            key: value for key, value in asdict(read_options(SamplerArguments, changes)).items() if value is not None
        }
        measuring |= {"only": "samples", "seed": seed, "results": runs / "results"} | settings | common(options)
        return [evaluation(model, stage=study.stage, data=options.data, preset="base", **measuring)]
    if options.stage == "absorbing":
        changes = [*changes, f"stage1={model}", f"tokens_dir={options.runs / options.data / 'tokens'}"]
    else:
        changes = [*changes, f"perceptual.classifier={perceptual_step(options.data, options).leaves}"]
    return trained(study, options, "base", changes, seed, runs, **measuring)


def draw_quality_by_rate(report: dict[str, Any], out: Path) -> None:
    """Draw all candidates as PNG, each a cross of standard deviations: the lower left corner is best."""
    from matplotlib import pyplot as plt  # of the extra `metrics`

    chart, axis = plt.subplots(figsize=(8, 5), layout="constrained")
    rows = sorted(report["rows"], key=lambda row: row["classifier distance"]["mean"])
    for index, row in enumerate(
        rows
    ):  # many rates are alike: the names stand in a column, each with a line to its cross
        (x, dx), (y, dy) = ((row[name]["mean"], row[name]["std"]) for name in ("firing rate", "classifier distance"))
        color = axis.errorbar(x, y, dy, dx, fmt="o", markersize=4).lines[0].get_color()
        axis.annotate(
            row["candidate"],
            (x, y),
            xytext=(1.03, (index + 0.5) / len(rows)),
            textcoords="axes fraction",
            fontsize=8,
            verticalalignment="center",
            arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.6, "relpos": (0, 0.5)},
        )
    axis.set(xlabel="mean firing rate", ylabel="classifier distance", title=f"{report['data']}, {report['stage']}")
    axis.set_xlim(left=0)
    axis.set_yscale("log")  # most candidates are close together, some far off
    for formatter in (axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter):
        formatter("{x:g}")
    axis.spines[["top", "right"]].set_visible(False)
    with atomic_write(out) as temporary:
        chart.savefig(temporary, format="png", dpi=120)
    plt.close(chart)
    print(f"wrote {out}")


def markdown(report: dict[str, Any]) -> str:
    """The report as a document."""
    rows = [
        {"candidate": row["candidate"], "changes": f"`{row['changes']}`" if row["changes"] else ""}
        | {name: Spread(**value).text() for name, value in row.items() if isinstance(value, dict)}
        for row in report["rows"]
    ]
    title = f"# {report['data']}, {report['stage']}: what makes base better?"
    length = "" if report["length"] == 1 else f", all trained {report['length']:g} of the steps"
    about = f"{report['about']}{length}; mean ± standard deviation over {report['seeds']} seeds."
    return "\n".join([title, "", about[:1].upper() + about[1:], "", *table(rows)]) + "\n"

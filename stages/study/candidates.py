"""Compare base with candidates that differ from it in a few settings: `configs/studies/<stage>.yaml` lists them.

Candidates of stage 1, `vq_svae`, and of stage 2, `absorbing`, are trained, those of stage 2 on one frozen stage 1. With
`stage=sampler` nothing is trained: settings of the sampler are tried on one model. All are compared by the classifier
distance to the validation images, of reconstructions in stage 1 and of samples otherwise. The same command resumes.
Writes `<results>/<data>/candidates-<stage>.json` and `.md`, and of trained candidates `.png`: distance by firing rate.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from spiking_vq.config.load import load_config
from spiking_vq.errors import require
from spiking_vq.fields import OneOf, Range
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
from stages.reporting.markdown import cells, table
from stages.reporting.report import claim_report, identity, write_report, write_text
from stages.study.charts import quality_by_rate, require_matplotlib
from stages.study.options import TrainingOptions
from stages.study.runner import Chain, Names, Study, folder_name, run, trained
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
    if trains:
        require_matplotlib()
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
    first = [] if model else [perceptual_step(options.data, options)]
    chosen = {names: variants[names] for names in only or variants}
    logs = options.runs / "candidates" / options.stage / "logs"
    rows = run(study, chosen, planned, study.columns(options.features), options, logs, first)
    report = {
        "command": recorded_command("study candidates", arguments),
        **{name: getattr(options, name) for name in ("stage", "data", "length", "seeds", "precision")},
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
        quality_by_rate(report, out.with_suffix(".png"))
    print("\n" + markdown(report))


def chain(study: Study, options: Options, model: Path | None, name: str, changes: list[str], seed: int) -> Chain:
    """Training and evaluation of a candidate, in a folder named after it and a hash of its changes and the model."""
    if options.length != 1:
        given = [f"data={options.data}", *changes]
        steps = load_config(study.stage, preset_file(study.stage, "base"), given).train.max_steps
        require(steps is not None, "train.max_steps", "a number where length is not 1", "null")
        changes = [*changes, *(f"train.{key}={round(options.length * steps)}" for key in ("max_steps", "val_every"))]
    built_on = model.read_bytes() if model else b""
    runs = options.runs / "candidates" / options.stage / folder_name(name, changes, options.precision, seed, built_on)
    measuring = {"protocol": "val", "features": options.features}
    if options.stage == "sampler":
        settings = {
            key: value for key, value in asdict(read_options(SamplerArguments, changes)).items() if value is not None
        }
        measuring |= {"precision": options.precision, "only": "samples", "seed": seed, "results": runs / "results"}
        measuring |= settings | common(options)
        return [evaluation(model, stage=study.stage, data=options.data, preset="base", **measuring)]
    if options.stage == "absorbing":
        changes = [*changes, f"stage1={model}", f"tokens_dir={options.runs / options.data / 'tokens'}"]
    else:
        changes = [*changes, f"perceptual.classifier={perceptual_step(options.data, options).leaves}"]
    return trained({study.stage: changes}, options, "base", seed, runs, **measuring)


def markdown(report: dict[str, Any]) -> str:
    """The report as a document."""
    rows = [cells(row | {"changes": f"`{row['changes']}`".replace("``", "")}) for row in report["rows"]]
    title = f"# {report['data']}, {report['stage']}: what makes base better?"
    length = "" if report["length"] == 1 else f", all trained {report['length']:g} of the steps"
    about = f"{report['about']}{length}; mean ± standard deviation over {report['seeds']} seeds."
    return "\n".join([title, "", about[:1].upper() + about[1:], "", *table(rows)]) + "\n"

"""Measure quality against the number of network calls: how fast may a model sample?

With each number of calls and the model's other settings, samples are compared with the validation images. The same
command resumes; its measurements lie in `<runs>/calls`. Writes `<results>/<data>/<preset>/calls.json` and `.md`;
`spiking-vq publish only=cards` takes the table into the card of a model that ships.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any

from spiking_vq.errors import require
from spiking_vq.fields import OneOf
from spiking_vq.pipelines.load import load
from stages.cli.machine import check_device, describe_machine
from stages.cli.options import ModelOptions, read_options
from stages.evaluate.options import NETWORKS, NumImages
from stages.evaluate.protocols import PROTOCOLS
from stages.reporting.markdown import cells, table
from stages.reporting.report import claim_model_report, heading, write_report, write_text
from stages.study.options import VariantOptions
from stages.study.runner import Chain, Names, Study, run
from stages.study.steps import common, evaluation

EXAMPLE = 'spiking-vq study calls mnist calls="4 8"'

COSTS = ("network calls", "spiking steps")
"""Columns that are the same with every seed."""


@dataclass(frozen=True, kw_only=True)
class Options(VariantOptions, ModelOptions):
    """Options of the study.

    Attributes:
        calls: values of `sample_steps` that are measured.
        n: number of images for each seed; by default the protocol's 2,000.
        features: `all` measures FID, precision and recall too, with the Inception.
    """

    calls: str = "4 8 16 32"
    n: NumImages | None = None
    features: Annotated[str, OneOf(NETWORKS)] = "all"


def main(arguments: list[str]) -> None:
    """Run the measurements that are not done, and write the table."""
    options = read_options(Options, arguments)
    check_device(options.device)
    texts = options.calls.split()
    require(texts and all(map(str.isdecimal, texts)), "calls", 'numbers such as "4 8"', repr(options.calls))
    path = options.find()
    pipeline = load(path)
    config, own = pipeline.config, pipeline.sampling()
    subject = {name: getattr(config, name) for name in ("stage", "data", "preset")}
    options = replace(options, **subject)
    study = replace(Study.read("sampler"), vary={"sample_steps": {text: f"sample_steps={text}" for text in texts}})
    measuring = {"protocol": "val", "features": options.features, "precision": options.precision, "only": "samples"}
    measuring |= ({"n": options.n} if options.n else {}) | {"results": options.runs / "calls"} | common(options)

    def chain(names: Names, changes: list[str], seed: int) -> Chain:
        pipeline.sampling(sample_steps=int(names[0]))  # a number out of range is found here
        return [evaluation(path, **subject, **measuring, seed=seed, sample_steps=names[0])]

    out = claim_model_report(options.results, "calls.json", config)
    columns = study.columns(options.features)
    rows = run(study, study.variants(), chain, columns, options, options.runs / "calls" / "logs")
    report = heading("study calls", arguments, config, path) | {
        "images": options.n or PROTOCOLS["val"].generated,
        "seeds": options.seeds,
        "precision": options.precision,
        "sampler": own,
        "machine": describe_machine(options.device),
        "rows": [
            {"sample_steps": int(row["sample_steps"])}
            | {name: round(row[name]["mean"]) for name in COSTS}
            | {name: row[name] for name in columns if name not in COSTS}
            for row in rows
        ],
    }
    write_report(out, report)
    write_text(out.with_suffix(".md"), markdown(report))
    print("\n" + markdown(report))


def markdown(report: dict[str, Any]) -> str:
    """The report as a document."""
    about = (
        "{images:,} generated images against the validation images, with the model's settings but `sample_steps`;"
        " {precision}, mean ± standard deviation over {seeds} seeds."
    ).format(**report)
    title = "# {data}, {preset}: quality against network calls".format(**report)
    return "\n".join([title, "", about, "", *table([cells(row) for row in report["rows"]])]) + "\n"

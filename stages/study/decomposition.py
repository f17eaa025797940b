"""Measure where quality is lost, from real images to generated ones.

On the validation split, step by step: real training images, the floor; stage 1's reconstructions of them; images of one
token a call, with temperature and guidance 1 the network's own distribution; images of fewer calls. The difference
between two rows is the cost of that step. For discrete models. The same command resumes; its measurements lie in
`<runs>/decomposition`. Writes `<results>/<data>/<preset>/decomposition.json` and `.md`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from spiking_vq.errors import InputError, require
from spiking_vq.fields import OneOf, Seed
from spiking_vq.pipelines.latent import LatentPipeline
from spiking_vq.pipelines.load import load
from stages.cli.machine import check_device, describe_machine
from stages.cli.options import ModelOptions, read_options
from stages.evaluate.options import NETWORKS
from stages.reporting.markdown import table
from stages.reporting.report import Report, claim_model_report, heading, write_report, write_text
from stages.study.options import Precision, Shared
from stages.study.steps import common, evaluation, run_steps

EXAMPLE = 'spiking-vq study decomposition mnist calls="16 8"'

MEASURED = {"FID": ("fid", 1), "KID x 1000": ("kid", 1000), "classifier distance": ("classifier_distance", 1)}
"""Column -> name of the metric in an evaluation, and a factor."""


@dataclass(frozen=True, kw_only=True)
class Options(Shared, ModelOptions):
    """Options of the study.

    Attributes:
        calls: numbers of calls that are measured, next to one token a call.
        features: `all` measures FID and KID too, with the Inception.
        seed: of the noise.
        precision: of sampling; `bf16` is autocast, with membranes in fp32.
    """

    calls: str = "16 8"
    features: Annotated[str, OneOf(NETWORKS)] = "classifier"
    seed: Seed = 0
    precision: Precision = "fp32"


def main(arguments: list[str]) -> None:
    """Run the measurements that are not done, and write the tables."""
    options = read_options(Options, arguments)
    check_device(options.device)
    path = options.find()
    pipeline = load(path)
    if not isinstance(pipeline, LatentPipeline):
        raise InputError(f"{path} is a {pipeline.config.stage} model: only those on tokens have steps to decompose")
    config, most = pipeline.config, pipeline.diffusion.diffusion_steps
    texts = options.calls.split()
    possible = all(text.isdecimal() and 0 < int(text) < most for text in texts)
    require(possible, "calls", f"numbers in 1..{most - 1}", repr(options.calls))
    out = claim_model_report(options.results, "decomposition.json", config)
    measuring = {"stage": config.stage, "data": config.data, "preset": config.preset, "protocol": "val"}
    measuring |= {name: getattr(options, name) for name in ("features", "seed", "precision")} | common(options)
    measuring |= {"results": options.runs / "decomposition"}
    stage1 = evaluation(path, **measuring, only="reconstruction")
    steps = {
        name: evaluation(path, **measuring, only="samples", **settings)
        for name, settings in samplings([most, *map(int, texts)], config.conditional)
    }
    run_steps([[stage1, *steps.values()]])
    real = Report.read(stage1.leaves)
    rows = [
        row("real, of the training split: the floor", real.part("floor")),
        row("these, reconstructed by stage 1", real.part("reconstruction")),
        *(row(f"generated, {name}", Report.read(step.leaves).part("metrics")) for name, step in steps.items()),
    ]
    report = heading("study decomposition", arguments, config, path) | {
        "about": real.get(str, "about"),
        "precision": options.precision,
        "machine": describe_machine(options.device),
        "rows": rows,
    }
    write_report(out, report)
    title = f"# {config.data}, {config.preset}: from real images to generated ones"
    shown = [{name: cell if isinstance(cell, str) else f"{cell:.3g}" for name, cell in row.items()} for row in rows]
    text = "\n".join([title, "", f"{report['about']}; {options.precision}.", "", *table(shown)]) + "\n"
    write_text(out.with_suffix(".md"), text)
    print("\n" + text)


def samplings(calls: list[int], conditional: bool) -> list[tuple[str, dict[str, Any]]]:
    """Name and sampler settings of each way to sample; settings that are not there are the model's own.

    Args:
        calls: one for each token, then fewer.
        conditional: whether the model knows labels.
    """
    one_a_call, plain = {"sample_steps": calls[0]}, {"temperature": 1.0} | ({"guidance": 1.0} if conditional else {})
    shown = ", ".join(f"{name} {value:g}" for name, value in plain.items())
    return [
        (f"one token a call ({calls[0]} calls), {shown}", one_a_call | plain),
        (f"one token a call ({calls[0]} calls)", one_a_call),
        *((f"{number} calls", {"sample_steps": number}) for number in calls[1:]),
    ]


def row(images: str, metrics: Report) -> dict[str, Any]:
    """A row of the table: which images, and the mean of each metric that was measured."""
    means = {name: metrics.spread(key).scaled(factor).mean for name, (key, factor) in MEASURED.items()}
    return {"images": images} | {name: mean for name, mean in means.items() if mean is not None}

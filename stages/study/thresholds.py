"""Compare shifts of all firing thresholds in sampling: does threshold guidance help?

Samples with each shift and with several seeds, the same for every shift, and measures the classifier distance to the
validation images: mean and deviation, and the mean difference from no shift with its standard error, which tells noise
from gain. Writes `<results>/<data>/<preset>/threshold_sweep.json`.

Reference: Cao et al., arXiv:2306.17046, section 4.3.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any

from spiking_vq.fields import Range
from spiking_vq.pipelines.load import load
from stages.cli.machine import describe_machine, worth_compiling
from stages.cli.options import read_numbers, read_options, sampler_settings
from stages.cli.progress import progress
from stages.reporting.report import claim_model_report, heading, write_report
from stages.reporting.spread import Spread
from stages.study.options import SamplingOptions, Stage, number_of_seeds
from stages.study.runner import paired

EXAMPLE = 'spiking-vq study thresholds mnist-base-gaussian shifts="-0.003 0.003"'


@dataclass(frozen=True, kw_only=True)
class Options(SamplingOptions):
    """Options of the comparison.

    Attributes:
        shifts: of the thresholds; no shift is always measured too.
        seeds: number of seeds.
        n: number of images for each shift and seed.
    """

    stage: Stage = "gaussian"
    shifts: str = "-0.01 -0.003 -0.001 0.001 0.003 0.01"
    seeds: Annotated[int, number_of_seeds(2)] = 3
    n: Annotated[int, Range("at least 10", lambda value: value >= 10)] = 1000


def main(arguments: list[str]) -> None:
    """Sample, measure, and write the report."""
    options = read_options(Options, arguments)
    options.check("threshold_shift")
    shifts = [0.0, *(shift for shift in read_numbers("shifts", options.shifts, "-0.003 0.003") if shift)]
    path = options.find()
    pipeline = load(path, options.device, options.precision)
    config, settings = pipeline.config, sampler_settings(pipeline, options)
    for shift in shifts:
        pipeline.sampling(threshold_shift=shift)  # finds mistakes before the work
    out = claim_model_report(options.results, "threshold_sweep.json", config)
    measures, reference = options.examiner(config)
    pipeline.compile = worth_compiling(options.n * pipeline.evaluations(**settings).calls)

    def distance(shift: float, seed: int) -> float:
        with progress(title=f"shift {shift:g}, seed {seed}", total=options.n) as bar:
            given = settings | {"threshold_shift": shift}
            images = pipeline.sample(options.n, seed, progress=lambda done, _: bar.update(done - bar.n), **given).images
        return measures(images, reference, "")["classifier_distance"]

    rows: list[dict[str, Any]] = []
    for shift in shifts:
        spread = Spread.over([distance(shift, seed) for seed in range(options.seeds)])
        change = paired(spread.per_seed, rows[0]["per_seed"] if rows else spread.per_seed)
        rows.append({"shift": shift} | asdict(spread) | {"change": change["mean"], "change_error": change["error"]})
        text = f"threshold {shift:+g}: classifier distance {spread.text('.3f')}"
        print(text + (f", change {Spread(change['mean'], change['error']).text('+.3f')}" if shift else ""))
    report = heading("study thresholds", arguments, config, path) | {
        "images": options.n,
        "sampler": settings,
        "about": "Frechet distance in the classifier's features to the validation images, over the seeds",
        "machine": describe_machine(options.device),
        "rows": rows,
    }
    write_report(out, report)

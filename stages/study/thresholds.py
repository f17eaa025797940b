"""Does threshold guidance help? `spiking-vq study thresholds data=mnist preset=base` (or `ckpt=FILE`).

Samples with several shifts of all firing thresholds and with several seeds, the same for every shift, and measures the
classifier distance to the validation images: mean and spread, and the mean difference from no shift with its standard
error, so that nobody takes noise for gain. `shifts="-0.003 0.003"` chooses them. Writes
`<results>/<data>/<preset>/threshold_sweep.json`.

Reference: Cao et al., arXiv:2306.17046, section 4.3.
"""

from __future__ import annotations

from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from tqdm import tqdm

from spiking_vq.data.datasets import load_dataset
from spiking_vq.errors import LARGEST_SEED, require
from spiking_vq.pipelines.pixel import PixelPipeline
from stages.cli.machine import check_device, describe_machine
from stages.cli.options import (
    MODEL,
    SAMPLER,
    model_file,
    parse_options,
    read_numbers,
    sampler_settings,
    worth_compiling,
)
from stages.evaluate.measures import ClassifierMeasures
from stages.reporting.report import claim_model_report, heading, write_report

OPTIONS = {
    **MODEL,
    **{name: kind for name, kind in SAMPLER.items() if name != "threshold_shift"},
    "stage": "gaussian",
    "shifts": "-0.01 -0.003 -0.001 0.001 0.003 0.01",
    "seeds": 3,
    "n": 1000,
    "classifier": Path,
    "device": "cpu",
    "precision": "fp32",
    "data_dir": Path("data"),
    "results": Path("results"),
}


def main(arguments: list[str]) -> None:
    """Sample, measure, print, write."""
    options = parse_options(arguments, OPTIONS)
    check_device(options["device"])
    count = options["seeds"]
    require(2 <= count <= LARGEST_SEED + 1, "seeds", "at least 2, as the spread over them is the point", count)
    require(options["n"] >= 10, "n, the number of images,", "at least 10", options["n"])
    shifts = [shift for shift in read_numbers("shifts", options["shifts"], "-0.003 0.003") if shift]
    path = model_file(options)
    generator = PixelPipeline.from_pretrained(path, options["device"], options["precision"])
    config = generator.config
    settings = sampler_settings(generator, options | {"threshold_shift": None})
    for shift in shifts:
        generator.sampling(threshold_shift=shift)  # one out of range is found before the work
    out = claim_model_report(options["results"], "threshold_sweep.json", config)
    data = load_dataset(config.data, options["data_dir"], config.image_size)
    measures, reference = ClassifierMeasures.of(data, options), data.val.images
    generator.compile = worth_compiling(options["n"], settings)

    def distance(shift: float, seed: int) -> float:
        with tqdm(total=options["n"], desc=f"shift {shift:g}, seed {seed}", unit="image") as bar:

            def tell(done: int, of: int) -> None:
                bar.update(done - bar.n)

            told = settings | {"threshold_shift": shift}
            images = generator.sample(options["n"], seed, progress=tell, **told).images
        return measures(images, reference, "")["classifier_distance"]

    rows = []
    for shift in (0.0, *shifts):
        distances = [distance(shift, seed) for seed in range(count)]
        base = rows[0]["per_seed"] if rows else distances
        changes = [ours - theirs for ours, theirs in zip(distances, base, strict=True)]
        rows.append(
            {
                "shift": shift,
                "mean": fmean(distances),
                "std": stdev(distances),
                "per_seed": distances,
                "change": fmean(changes),
                "change_error": stdev(changes) / len(changes) ** 0.5,
            }
        )
        print(row_told(rows[-1]))
    report = heading("study thresholds", arguments, config, path) | {
        "images": options["n"],
        "sampler": settings,
        "about": "Frechet distance in the classifier's features to the validation images, over the seeds",
        "machine": describe_machine(options["device"]),
        "rows": rows,
    }
    write_report(out, report)


def row_told(row: dict[str, Any]) -> str:
    """A line of the table."""
    distance = f"threshold {row['shift']:+g}: classifier distance {row['mean']:.3f} ± {row['std']:.2g}"
    return distance + (f", change {row['change']:+.3f} ± {row['change_error']:.2g}" if row["shift"] else "")

"""Does threshold guidance help? `python -m stages.threshold_sweep data=mnist preset=base` (or `ckpt=FILE`).

Samples with several shifts of all firing thresholds and with several seeds, and measures the classifier distance to
the validation images: mean and spread, so that nobody takes noise for gain. `shifts="-0.003 0"` chooses them. Writes
`<results>/<data>/<preset>/threshold_sweep.json`.

Reference: Cao et al., arXiv:2306.17046, section 4.3.
"""

from __future__ import annotations

import hashlib
import json
from statistics import fmean, stdev

from tqdm import tqdm

from spiking_vq.checkpoint import atomic_write
from spiking_vq.data import load_dataset
from spiking_vq.errors import InputError, require
from spiking_vq.generators import PixelGenerator, find_model
from stages.command import (
    MODEL,
    SAMPLER,
    check_device,
    model_file,
    parse_options,
    recorded_command,
    report_folder,
    run_command,
    sampler_settings,
    worth_compiling,
)
from stages.evaluate.examiner import ClassifierMeasures
from stages.machine import describe_machine

OPTIONS = {
    **MODEL,
    **SAMPLER,
    "stage": "gaussian",
    "shifts": "-0.01 -0.003 -0.001 0 0.001 0.003 0.01",
    "seeds": 3,
    "n": 1000,
    "classifier": str,
    "device": "cpu",
    "precision": "fp32",
    "data_dir": "data",
    "results": "results",
}


def main(arguments: list[str]) -> None:
    """Sample, measure, print, write."""
    options = parse_options(arguments, OPTIONS)
    check_device(options["device"])
    require(options["seeds"] >= 2, "seeds", "at least 2, as the spread over them is the point", options["seeds"])
    require(options["n"] >= 10, "n, the number of images,", "at least 10", options["n"])
    shifts = read_shifts(options["shifts"])
    path = model_file(options)
    compile = worth_compiling(options["n"])
    generator = PixelGenerator.from_pretrained(path, options["device"], options["precision"], compile)
    config = generator.config
    settings = sampler_settings(generator, options)
    data = load_dataset(config.data, options["data_dir"], config.image_size)
    judge = find_model("classifier", config.data, "base", options["runs"], options["classifier"])
    measures = ClassifierMeasures(judge, data, options["device"])
    rows = []
    for shift in shifts:
        distances = []
        for seed in range(options["seeds"]):
            with tqdm(total=options["n"], desc=f"shift {shift:g}, seed {seed}", unit="image") as bar:

                def tell(done: int, of: int, bar: tqdm = bar) -> None:
                    bar.update(done - bar.n)

                told = settings | {"threshold_shift": shift}
                images = generator.sample(options["n"], seed, progress=tell, **told).images
            distances.append(measures(images, data.val.images, "")["classifier_distance"])
        rows.append({"shift": shift, "mean": fmean(distances), "std": stdev(distances), "per_seed": distances})
        print(f"threshold {shift:+.3f}: classifier distance {rows[-1]['mean']:.3f} ± {rows[-1]['std']:.2g}")
    report = {
        "command": recorded_command("stages.threshold_sweep", arguments),
        "data": config.data,
        "preset": config.preset,
        "checkpoint": {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()},
        "images": options["n"],
        "sampler": settings,
        "about": "Frechet distance in the classifier's features to the validation images, over the seeds",
        "machine": describe_machine(options["device"]),
        "rows": rows,
    }
    out = report_folder(options["results"], config.stage, config.data, config.preset) / "threshold_sweep.json"
    with atomic_write(out) as temporary:
        temporary.write_text(json.dumps(report, indent=2) + "\n")
    print(f"wrote {out}")


def read_shifts(text: str) -> list[float]:
    """The numbers of a string such as `"-0.003 0"`.

    Raises:
        InputError: not numbers.
    """
    try:
        return [float(part) for part in text.split()]
    except ValueError as error:
        raise InputError(f'shifts must be numbers such as "-0.003 0 0.003"; got {text!r}') from error


if __name__ == "__main__":
    run_command(main)

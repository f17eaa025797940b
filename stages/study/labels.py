"""Does a network make what it is asked for? `spiking-vq study labels data=mnist preset=base runs=runs/labelled` (or
`ckpt=FILE`).

Asks one that was trained with `conditional=true` for the same number of images of every label, with several strengths
of guidance (`strengths="1 1.5"`), and lets the classifier read them: how often it agrees, and how far the images are
from the validation images. Writes `labels.json` and, with the last strength, `labels.png`, one row a label, into
`<results>/<data>/<preset>`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from spiking_vq.data.datasets import load_dataset
from spiking_vq.errors import require
from spiking_vq.pipelines.load import load
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
from stages.evaluate.pictures import write_picture
from stages.reporting.report import claim_model_report, heading, write_report

OPTIONS = {
    **MODEL,
    **{name: kind for name, kind in SAMPLER.items() if name not in ("label", "guidance")},
    "strengths": "1 1.5",
    "n": 100,
    "seed": 0,
    "classifier": Path,
    "device": "cpu",
    "precision": "fp32",
    "data_dir": Path("data"),
    "results": Path("results"),
}

PICTURED = 10


def main(arguments: list[str]) -> None:
    """Ask, read, print, write."""
    options = parse_options(arguments, OPTIONS)
    check_device(options["device"])
    n, seed = options["n"], options["seed"]
    require(n >= 1, "n, the number of images of each label,", "at least 1", n)
    strengths = read_numbers("strengths", options["strengths"], "1 1.5")
    require(len(strengths) >= 1, "strengths", "at least one number", repr(options["strengths"]))
    path = model_file(options)
    generator = load(path, options["device"], options["precision"])
    config = generator.config
    settings = sampler_settings(generator, options | {"label": 0, "guidance": min(strengths)})
    out = claim_model_report(options["results"], "labels.json", config)
    data = load_dataset(config.data, options["data_dir"], config.image_size)
    measures, reference = ClassifierMeasures.of(data, options), data.val.images
    generator.compile = worth_compiling(n * len(config.labels) * len(strengths), settings)
    labels = torch.tensor(config.labels, device="cpu")

    def asked_for(guidance: float) -> Tensor:
        """Images, those of one label after those of another: uint8 [labels * n, C, H, W]."""
        bar = tqdm(labels.tolist(), desc=f"guidance {guidance:g}", unit="label")
        told = settings | {"guidance": guidance}
        return torch.cat([generator.sample(n, seed, **told | {"label": label}).images for label in bar])

    rows: list[dict[str, Any]] = []
    for guidance in strengths:
        images = asked_for(guidance)
        _, probabilities = measures.read(images)
        agrees = (probabilities.argmax(1) == labels.repeat_interleave(n)).float()
        found = measures(images, reference, "")
        rows.append(
            {
                "guidance": guidance,
                "agreement": agrees.mean().item(),
                "agreement_per_label": agrees.view(-1, n).mean(1).tolist(),
                "classifier_distance": found["classifier_distance"],
                "confidence": found["confidence"],
            }
        )
        print(
            f"guidance {guidance:g}: the classifier agrees with {rows[-1]['agreement']:.1%} of the labels,"
            f" classifier distance {found['classifier_distance']:.3g}"
        )
    report = heading("study labels", arguments, config, path) | {
        "labels": config.labels,
        "images_per_label": n,
        "seed": seed,
        "sampler": {name: value for name, value in settings.items() if name not in ("label", "guidance")},
        "classifier": measures.described,
        "reference": "the validation images, for the classifier distance",
        "machine": describe_machine(options["device"]),
        "rows": rows,
    }
    write_report(out, report)
    picture = out.with_suffix(".png")
    write_picture(picture, images.view(len(labels), n, *images.shape[1:])[:, :PICTURED].flatten(0, 1), min(n, PICTURED))
    print(f"wrote {picture}")

"""Read images of each label with the classifier: does a class-conditional model make what it is asked for?

Samples the same number of images of every label with several strengths of guidance, and measures how often the
classifier agrees with the label, and the classifier distance to the validation images. Writes `labels.json` and, of the
last strength, `labels.png`, one row per label, into `<results>/<data>/<preset>`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from spiking_vq.errors import require
from spiking_vq.fields import Count, Seed
from spiking_vq.pipelines.load import load
from stages.cli.machine import describe_machine, worth_compiling
from stages.cli.options import read_numbers, read_options, sampler_settings
from stages.cli.progress import progress
from stages.evaluate.pictures import write_picture
from stages.reporting.report import claim_model_report, heading, write_report
from stages.study.options import SamplingOptions

EXAMPLE = 'spiking-vq study labels mnist strengths="1 1.5"'

PICTURED = 10


@dataclass(frozen=True, kw_only=True)
class Options(SamplingOptions):
    """Options of the study.

    Attributes:
        strengths: of guidance.
        n: number of images of each label.
        seed: of the noise.
    """

    strengths: str = "1 1.5"
    n: Count = 100
    seed: Seed = 0


def main(arguments: list[str]) -> None:
    """Sample, let the classifier read, and write report and picture."""
    options = read_options(Options, arguments)
    options.check("label", "guidance")
    strengths = read_numbers("strengths", options.strengths, "1 1.5")
    require(len(strengths) >= 1, "strengths", "at least one number", repr(options.strengths))
    path = options.find()
    pipeline = load(path, options.device, options.precision)
    config, n, seed = pipeline.config, options.n, options.seed
    settings = sampler_settings(pipeline, replace(options, label=0, guidance=min(strengths)))
    out = claim_model_report(options.results, "labels.json", config)
    measures, reference = options.examiner(config)
    num_images = n * len(config.labels) * len(strengths)
    pipeline.compile = worth_compiling(num_images * pipeline.evaluations(**settings).calls)
    labels = torch.tensor(config.labels, device="cpu")
    rows: list[dict[str, Any]] = []
    for guidance in strengths:
        bar = progress(config.labels, title=f"guidance {guidance:g}", unit="label")
        given = settings | {"guidance": guidance}
        images = torch.cat([pipeline.sample(n, seed, **given | {"label": label}).images for label in bar])
        _, probabilities = measures.read(images)
        agrees = (probabilities.argmax(1) == labels.repeat_interleave(n)).float()
        metrics = measures(images, reference, "")
        rows.append(
            {
                "guidance": guidance,
                "agreement": agrees.mean().item(),
                "agreement_per_label": agrees.view(-1, n).mean(1).tolist(),
            }
            | {name: metrics[name] for name in ("classifier_distance", "confidence")}
        )
        print(
            f"guidance {guidance:g}: the classifier agrees with {rows[-1]['agreement']:.1%} of the labels,"
            f" classifier distance {metrics['classifier_distance']:.3g}"
        )
    report = heading("study labels", arguments, config, path) | {
        "labels": config.labels,
        "images_per_label": n,
        "seed": seed,
        "sampler": {name: value for name, value in settings.items() if name not in ("label", "guidance")},
        "classifier": measures.described,
        "reference": "the validation images, for the classifier distance",
        "machine": describe_machine(options.device),
        "rows": rows,
    }
    write_report(out, report)
    picture = out.with_suffix(".png")
    write_picture(picture, images.view(len(labels), n, *images.shape[1:])[:, :PICTURED].flatten(0, 1), min(n, PICTURED))
    print(f"wrote {picture}")

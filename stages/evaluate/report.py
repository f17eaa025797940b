"""Measure the images of a trained model, or a folder of PNG files that anyone made, under a named protocol.

Metrics of generated images stand next to those of real ones in their place, the floor, and of stage 1's reconstructions
of these. The real ones are training images, which are not among those compared with: reconstructions of the reference
itself would be paired with it, and could fall below the floor. Metrics of few images depend on the draw: where several
sets are generated, the floor is the mean over several sets, too.

`precision=bf16` is about twice as fast, and changes FIDs by a relative 0.2 %. `features=classifier` leaves the
Inception out: a minute, for tuning. Writes `<protocol>.json` and pictures into `<results>/<data>/<preset>`, or, of
`images=any/a/folder`, into `<results>/<data>/folder-a-folder`. Options that are not the defaults stand in the files'
names, as in `val-temperature=0.8.json`. A report on anything else is never replaced.
"""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from spiking_vq.checkpoint.file import load_model
from spiking_vq.data.datasets import load_dataset
from spiking_vq.data.mapped import MappedImages
from spiking_vq.errors import LARGEST_SEED, require
from spiking_vq.files import atomic_write, json_text
from spiking_vq.pipelines.base import CHUNK, GROUP
from stages.cli.data import data_of
from stages.cli.machine import check_device, worth_compiling
from stages.cli.options import SAMPLER, read_options, recorded_command
from stages.evaluate.measures import Examiner
from stages.evaluate.memorisation import compared_training
from stages.evaluate.options import Options
from stages.evaluate.protocols import PROTOCOLS
from stages.evaluate.sections import (
    describe,
    generator_report,
    in_place_of_generated,
    rates_of,
    reconstruction_report,
    sets_report,
)
from stages.evaluate.subjects import Folder, find_folder, find_trained, read_folder, shuffled
from stages.evaluate.table import print_table
from stages.reporting.report import Report, claim_report, evaluation_name, report_folder

EXAMPLE = "spiking-vq evaluate mnist protocol=test-10k"


def main(arguments: list[str]) -> None:
    """Find the weights or images, measure, write, print."""
    options = read_options(Options, arguments)
    check_options(options)
    folder = find_folder(options.images) if options.images else None
    if options.model:
        path = options.find()
        _, config = load_model(path)
        subject = {"stage": config.stage, "data": config.data, "preset": config.preset}
        options = replace(options, model=None, ckpt=path, **subject)
    path = _folder(options, folder) / evaluation_name(asdict(options))
    claim_report(path, **_subject(options, folder))
    with atomic_write(path) as temporary:
        started, command = time.monotonic(), {"command": recorded_command("evaluate", arguments)}
        report = command | evaluate(options, folder, path.with_suffix(""))
        report["seconds"] = time.monotonic() - started
        temporary.write_text(json_text(report))
    print_table(Report(path, report))
    print(f"wrote {path}")


def check_options(options: Options) -> None:
    """Check, before any work, what the options exclude in each other.

    Raises:
        InputError: they do not go together.
    """
    check_device(options.device)
    last = LARGEST_SEED + 1 - PROTOCOLS[options.protocol].num_seeds
    expected = f"at most {last}, as this protocol takes those that follow, too"
    require(options.seed <= last, "seed", expected, options.seed)
    if not options.images:
        require(options.background == "black", "background", "left out without images=", options.background)
        return
    only = "all or samples with images=, which no stage 1 made"
    require(options.only != "reconstruction", "only", only, options.only)
    foreign = [name for name in ("model", "ckpt", *SAMPLER) if getattr(options, name) is not None]
    require(not foreign, "a folder of images", "measured as it is, without options of a model", ", ".join(foreign))


def evaluate(options: Options, folder: Folder | None, out: Path) -> dict[str, Any]:
    """The report; `out` is the prefix of the pictures."""
    protocol, only = PROTOCOLS[options.protocol], options.only
    model = None if folder else find_trained(options)
    data = data_of(model.config, options.data_dir) if model else load_dataset(options.data, options.data_dir)
    # In place of generated images: real ones that they are not compared with. Training images are in random order.
    real = fair_draw(data.test.images) if protocol.reference == "train" else data.train.images
    n = options.n or protocol.generated
    n = n if protocol.reference == "train" else min(n, len(real))
    real = real_sets(real, n, protocol.num_seeds if model else 1)
    given = read_folder(folder, n, data.official_shape[0], options.background) if folder else None
    examiner = Examiner(protocol, data, options)  # before anything that takes long, since its weights may be missing
    report = describe(model, data, options)
    if folder:
        composited = {"num_images": given.composited, "background": options.background} if given.composited else None
        report |= {"folder": _identity(folder), "composited": composited}
    report |= in_place_of_generated("floor", real, examiner)
    report["counts"] = {"generated": n, "floor": len(real[0]), "reference": len(examiner.reference)}
    report["counts"] |= {"folder": len(folder.files)} if folder else {}
    unseen = data.val.images if protocol.reference == "val" else data.test.images  # settings are chosen by `val`
    held_out, training = fair_draw(unseen), compared_training(data.train.images)
    if model and model.vq_svae and only != "samples":
        report |= reconstruction_report(model, examiner, held_out, real, options.seed, out)
    if folder:
        report |= sets_report({"folder": given.images}, examiner, training, held_out, out)
    elif only != "reconstruction":
        model.pipeline.compile = worth_compiling(GROUP * model.pipeline.evaluations(**model.sampling).calls)
        report["seeds"] = [options.seed + number for number in range(protocol.num_seeds)]
        sets = {f"seed {seed}": model.sample(n, seed) for seed in report["seeds"]}
        report |= sets_report(sets, examiner, training, held_out, out)
        report |= generator_report(model, held_out, options, out)
    if model and model.config.neuron == "lif":
        in_random_order = unseen if protocol.reference == "val" else held_out
        report["firing_rate"] = rates_of(model, in_random_order[:CHUNK], options.seed)
    report["features"] = {name: network.described for name, network in examiner.networks.items()}
    return report


def real_sets(images: Tensor | MappedImages, n: int, count: int) -> list[Tensor]:
    """The first n images, the next n and so on: at most `count` whole sets; all images if there are fewer than n."""
    return [images[n * number : n * (number + 1)] for number in range(min(count, len(images) // n))] or [images[:]]


def fair_draw(images: Tensor | MappedImages) -> Tensor:
    """Images in random order, the same each time: test files may be in the order of their labels."""
    return images[shuffled(len(images))]


def _folder(options: Options, folder: Folder | None) -> Path:
    if folder:
        return options.results / options.data / f"folder-{folder.name}"
    return report_folder(options.results, options.stage, options.data, options.preset)


def _subject(options: Options, folder: Folder | None) -> dict[str, Any]:
    """Entries of the report that name its subject, see `claim_report`."""
    if folder:
        return {"data": options.data, "folder": _identity(folder)}
    names = ("data", "preset") if options.only == "reconstruction" else ("stage", "data", "preset")
    return {name: getattr(options, name) for name in names}  # stage 1 may be in a file of its own, or in stage 2's


def _identity(folder: Folder) -> dict[str, str]:
    return {"name": folder.name, "identifier": folder.identifier}

"""Measure a trained model: `spiking-vq evaluate data=mnist preset=base [protocol=test-10k]` (or `ckpt=FILE`).

Or a folder of PNG files that anyone made: `images=FOLDER data=mnist`; of more than are compared, a random draw, the
same each time. What is transparent is put on black (`background=white` on white). `protocols.py` says what is compared
with what. Writes `<protocol>.json` and pictures into `<results>/<data>/<preset>`, or, of `any/a/folder`, into
`<results>/<data>/folder-a-folder`. A report on anything else is never replaced.

Every figure of generated images stands beside that of real ones in their place, the floor, and of stage 1's
reconstructions of these. The real ones are training images, which are not among those compared with: reconstructions of
the reference itself would be paired with it, and could fall below the floor. A figure of so few images depends on which
they are: where several sets are generated, several of real ones are measured, too, and their means told.

`precision=bf16` is of sampling and of the Inception: about twice as fast, and FIDs are off by a relative 0.2 %.
`features=classifier` leaves the Inception out: a minute, for tuning. `only=reconstruction` needs stage 1 alone;
`only=samples` leaves it and the likelihood out. `n=` compares another number of images. Whatever departs from the usual
stands in the files' names, as in `val-temperature=0.8.json`.
"""

from __future__ import annotations

import time
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from torch import Tensor

from spiking_vq.config.compare import config_hash
from spiking_vq.data.datasets import DATASETS, ImageData, load_dataset
from spiking_vq.data.images import BACKGROUNDS, ReadImages
from spiking_vq.data.levels import to_uint8
from spiking_vq.errors import LARGEST_SEED, require
from spiking_vq.files import atomic_write, json_text
from spiking_vq.pipelines.base import CHUNK, GROUP
from spiking_vq.pipelines.latent import LatentPipeline
from spiking_vq.runtime.precision import PRECISIONS
from stages.cli.machine import check_device, describe_machine
from stages.cli.options import (
    LOADABLE,
    MODEL,
    SAMPLER,
    network_calls,
    network_steps,
    parse_options,
    recorded_command,
    worth_compiling,
)
from stages.evaluate.measures import (
    LIKELIHOOD_IMAGES,
    NETWORKS,
    Examiner,
    likelihood,
    memorisation,
    reconstruct,
    stage1_figures,
)
from stages.evaluate.pictures import beside, completions, neighbours, write_picture
from stages.evaluate.protocols import PROTOCOLS, Protocol
from stages.evaluate.subjects import LEAST, Folder, Model, find_folder, find_trained, read_folder, shuffled
from stages.inspect.rates import firing_rates, stage1_rates
from stages.reporting.report import claim_report, evaluation_name, identity, report_folder

OPTIONS = {
    **MODEL,
    **SAMPLER,
    "images": Path,
    "background": "black",
    "protocol": "test-10k",
    "n": int,
    "only": "all",
    "features": "all",
    "inception": Path,
    "classifier": Path,
    "seed": 0,
    "device": "cpu",
    "precision": "fp32",
    "data_dir": Path("data"),
    "results": Path("results"),
}
ONLY = ("all", "reconstruction", "samples")

PICTURED = 64


def main(arguments: list[str]) -> None:
    """Find the weights or images, measure, write, print."""
    options = parse_options(arguments, OPTIONS)
    check_options(options)
    folder = find_folder(options["images"]) if options["images"] else None
    path = _folder(options, folder) / evaluation_name(options)
    claim_report(path, **_subject(options, folder))
    with atomic_write(path) as temporary:
        started, command = time.monotonic(), {"command": recorded_command("evaluate", arguments)}
        report = command | evaluate(options, folder, path.with_suffix(""))
        report["seconds"] = time.monotonic() - started
        temporary.write_text(json_text(report))
    print_table(report)
    print(f"wrote {path}")


def check_options(options: dict[str, Any]) -> None:
    """See that the options are possible, and possible together, before any work.

    Raises:
        InputError: they are not.
    """
    check_device(options["device"])
    known = {"only": ONLY, "features": NETWORKS, "protocol": PROTOCOLS, "precision": PRECISIONS, "data": DATASETS}
    for name, values in (known | {"stage": LOADABLE, "background": BACKGROUNDS}).items():
        require(options[name] in values, name, f"one of {', '.join(values)}", repr(options[name]))
    n, seed, only = options["n"], options["seed"], options["only"]
    require(n is None or n >= LEAST, "n, the number of images,", f"at least {LEAST}", n)
    last = LARGEST_SEED + 1 - PROTOCOLS[options["protocol"]].num_seeds
    require(seed <= last, "seed", f"at most {last}, as this protocol takes those that follow, too", seed)
    if not options["images"]:
        require(options["background"] == "black", "background", "left out without images=", options["background"])
        return
    require(only != "reconstruction", "only", "all or samples with images=, which no stage 1 made", only)
    foreign = [name for name in ("ckpt", *SAMPLER) if options[name] is not None]
    require(not foreign, "a folder of images", "measured as it is, without options of a model", ", ".join(foreign))


def evaluate(options: dict[str, Any], folder: Folder | None, out: Path) -> dict[str, Any]:
    """All that is asked for, as it goes into the JSON file; pictures go beside `out`, named after it."""
    protocol, only = PROTOCOLS[options["protocol"]], options["only"]
    model = None if folder else find_trained(options)
    image_size = model.config.image_size if model else None
    data = load_dataset(options["data"], options["data_dir"], image_size)
    # In place of generated images: real ones that they are not compared with. Training images are in random order.
    real = fair_draw(data.test.images) if protocol.reference == "train" else data.train.images
    n = options["n"] or protocol.generated
    n = n if protocol.reference == "train" else min(n, len(real))
    real = real_sets(real, n, protocol.num_seeds if model else 1)
    given = read_folder(folder, n, data.official_shape[0], options["background"]) if folder else None
    examiner = Examiner(protocol, data, options)  # before anything that takes long, since its weights may be missing
    if model and model.generator:
        model.generator.compile = worth_compiling(GROUP, model.sampling)
    report = describe(model, data, protocol, options) | describe_folder(folder, given, options)
    report |= in_place_of_generated("floor", real, examiner)
    report["counts"] = {"generated": n, "floor": len(real[0]), "reference": len(examiner.reference)}
    report["counts"] |= {"folder": len(folder.files)} if folder else {}
    if model and model.vq_svae and only != "samples":
        report |= reconstruction_report(model, examiner, data, real, options, out)
    if only != "reconstruction":
        report |= generation_report(model or given.images, examiner, data, n, options, out)
    if model and model.config.neuron == "lif":
        # Validation images are in random order.
        held_out = data.val.images if protocol.reference == "val" else fair_draw(data.test.images)
        report["firing_rate"] = rates_of(model, held_out[:CHUNK], options["seed"])
    report["features"] = {name: network.described for name, network in examiner.networks.items()}
    return report


def describe(model: Model | None, data: ImageData, protocol: Protocol, options: dict[str, Any]) -> dict[str, Any]:
    """Which model, data, sampler and machine a report is about."""
    report = {
        "data": data.name,
        "stand_in": data.stand_in,
        "preset": options["preset"] if model else None,
        "protocol": options["protocol"],
        "about": protocol.about,
        "resize": protocol.resize,
        "image_shape": list(data.image_shape),
        "machine": describe_machine(options["device"]),
    }
    if model is None:
        return report
    config, vq_svae, generator = model.config, model.vq_svae, model.generator
    report |= {
        "stage": config.stage,
        "checkpoint": identity(model.path) | {"config_sha256": config_hash(config)},
        "neuron": config.neuron,
        "T": generator.num_steps if generator else {"vq_svae": config.T},
    }
    parameters = {name: set(part.parameters()) for name, part in generator.model.named_children()} if generator else {}
    if vq_svae is not None:  # the codebook is a buffer where it learns by averages, and counts all the same
        parameters["vq_svae"] = {*vq_svae.parameters(), vq_svae.quantizer.codebook}
    if generator is not None:
        report["sampler"] = model.sampling | {"precision": generator.precision}
        report["network_calls"] = network_calls(model.sampling)
        report["network_steps"] = network_steps(model.sampling, config.T)
    return report | {"parameters": {name: sum(weight.numel() for weight in part) for name, part in parameters.items()}}


def describe_folder(folder: Folder | None, given: ReadImages | None, options: dict[str, Any]) -> dict[str, Any]:
    """Which folder a report is about, and what its images were put on; nothing where it is about a model."""
    if folder is None:
        return {}
    composited = {"images": given.composited, "background": options["background"]} if given.composited else None
    return {"folder": _identity(folder), "composited": composited}


def reconstruction_report(
    model: Model, examiner: Examiner, data: ImageData, real: list[Tensor], options: dict[str, Any], out: Path
) -> dict[str, Any]:
    """What stage 1 keeps of images: of held-out ones the error, of the sets that make the floor the distances."""
    held_out = fair_draw(_held_out(data, options))
    images, tokens = reconstruct(model.vq_svae, held_out, options["seed"], "reconstructing held-out images")
    write_picture(_beside(out, "reconstructions"), beside(held_out[:PICTURED], images[:PICTURED]), 16)
    again = [reconstruct(model.vq_svae, x, options["seed"], "reconstructing the floor's images")[0] for x in real]
    stage1 = {"stage1": stage1_figures(images, tokens, held_out, model.vq_svae.codebook_size)}
    return stage1 | in_place_of_generated("reconstruction", [to_uint8(x) for x in again], examiner)


def generation_report(
    subject: Model | Tensor, examiner: Examiner, data: ImageData, n: int, options: dict[str, Any], out: Path
) -> dict[str, Any]:
    """What generated images are like, set by set, and what made them; or what those of a folder are like."""
    model = subject if isinstance(subject, Model) else None
    if model is None:
        sets = {"folder": subject}
    else:
        seeds = range(options["seed"], options["seed"] + examiner.protocol.num_seeds)
        sets = {f"seed {seed}": model.sample(n, seed) for seed in seeds}
    figures = [examiner(images, name) for name, images in sets.items()]
    first, *_ = sets.values()
    held_out = fair_draw(_held_out(data, options))
    write_picture(_beside(out, "samples"), first[:PICTURED], 8)
    write_picture(_beside(out, "neighbours"), neighbours(first[:8], data.train.images), 8)
    report = {
        "metrics": {name: summary([figure[name] for figure in figures]) for name in figures[0]},
        "memorisation": memorisation(first, held_out, data.train.images),
    }
    if model is None:
        return report
    report["seeds"] = [*seeds]
    report["images_per_second"] = model.sampled / model.seconds if model.sampled else None
    if isinstance(model.generator, LatentPipeline):
        write_picture(_beside(out, "inpainting"), completions(model.generator, held_out[:8], options["seed"]), 8)
        # The bound is of one answer, and labels change it.
        if options["only"] == "all" and not model.config.conditional:
            report["likelihood"] = likelihood(model.generator, held_out[:LIKELIHOOD_IMAGES], options["seed"])
    return report


def rates_of(model: Model, images: Tensor, seed: int) -> dict[str, dict[str, float]]:
    """Stage -> layer -> firing rate: stage 1 on these images, what generates on as many that it makes."""
    if model.generator is None:
        return {"vq_svae": stage1_rates(model.vq_svae, images, seed)}
    return firing_rates(model.generator, images, seed, **model.sampling)


def real_sets(images: Tensor, n: int, count: int) -> list[Tensor]:
    """Of real images the first n, the next n and so on: at most `count` whole sets; all of them if fewer than n."""
    whole = [part for part in images.split(n)[:count] if len(part) == n]
    return whole or [images]


def in_place_of_generated(name: str, sets: list[Tensor], examiner: Examiner) -> dict[str, Any]:
    """Of sets of images: name -> the mean of each figure; of several sets, `<name>_std` -> its standard deviation."""
    titles = [name, *(f"{name}, set {number}" for number in range(2, len(sets) + 1))]
    measured = [examiner(images, title) for images, title in zip(sets, titles, strict=True)]
    if len(measured) == 1:
        return {name: measured[0]}
    figures = {figure: summary([each[figure] for each in measured]) for figure in measured[0]}
    spread = {figure: value for figure, value in figures.items() if isinstance(value, dict)}
    return {
        name: {figure: spread[figure]["mean"] if figure in spread else None for figure in figures},
        f"{name}_std": {figure: value["std"] for figure, value in spread.items()},
    }


def summary(values: list[float | None]) -> dict[str, Any] | str:
    """Mean and standard deviation over the sets, and each; the deviation of one is None."""
    if None in values:
        return "not available"
    return {"mean": fmean(values), "std": stdev(values) if len(values) > 1 else None, "per_seed": values}


def fair_draw(images: Tensor) -> Tensor:
    """Images in random order, the same each time: test files may be in the order of their labels."""
    return images[shuffled(len(images))]


def print_table(report: dict[str, Any]) -> None:
    """Print the figures of a report: generated images beside the floor and stage 1's reconstructions."""
    if report["stand_in"]:
        print(f"{report['data']} is {report['stand_in']}")
    print(f"{report['protocol']}: {report['about']}\n{counts_told(report['counts'])}\n")
    print(f"{'':24}{'generated':>22}{'floor':>22}{'stage 1':>22}")
    for name in report["floor"]:
        columns = [
            _shown(report.get("metrics", {}).get(name)),
            *(_shown(_with_spread(report, part, name)) for part in ("floor", "reconstruction")),
        ]
        print(f"{name.replace('_', ' '):24}{columns[0]:>22}{columns[1]:>22}{columns[2]:>22}")
    for group in ("stage1", "likelihood", "memorisation"):
        for name, value in report.get(group, {}).items():
            print(f"{group + ' ' + name.replace('_', ' '):36} {_shown(value):>12}")


def counts_told(counts: dict[str, int]) -> str:
    """How many images are compared with how many, and of how many those of a folder were drawn."""
    generated = f"{counts['generated']:,}"
    if counts.get("folder", 0) > counts["generated"]:
        generated += f" of {counts['folder']:,}"
    return f"generated: {generated}; floor: {counts['floor']:,}; reference: {counts['reference']:,}"


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return _shown(value["mean"]) + ("" if value["std"] is None else f" ± {value['std']:.2g}")
    return "" if value is None else f"{value:,.4g}" if isinstance(value, float) else str(value)


def _with_spread(report: dict[str, Any], part: str, name: str) -> Any:
    """A figure that stands in place of generated images', and its deviation, where it has one."""
    value, std = (report.get(key, {}).get(name) for key in (part, f"{part}_std"))
    return value if std is None else {"mean": value, "std": std}


def _held_out(data: ImageData, options: dict[str, Any]) -> Tensor:
    """Images that training did not see: the validation split's where settings are chosen, else the test images."""
    return (data.val if PROTOCOLS[options["protocol"]].reference == "val" else data.test).images


def _folder(options: dict[str, Any], folder: Folder | None) -> Path:
    """Where the report goes, known before the model is."""
    if folder:
        return Path(options["results"]) / options["data"] / f"folder-{folder.name}"
    return report_folder(options["results"], options["stage"], options["data"], options["preset"])


def _subject(options: dict[str, Any], folder: Folder | None) -> dict[str, Any]:
    """What the report says it is about: see `claim_report`."""
    if folder:
        return {"data": options["data"], "folder": _identity(folder)}
    names = ("data", "preset") if options["only"] == "reconstruction" else ("stage", "data", "preset")
    return {name: options[name] for name in names}  # stage 1 may be in a file of its own, or in stage 2's


def _identity(folder: Folder) -> dict[str, str]:
    """Name and identifier of a folder, which do not tell where it is."""
    return {"name": folder.name, "identifier": folder.identifier}


def _beside(out: Path, what: str) -> Path:
    return out.with_name(f"{out.name}-{what}.png")

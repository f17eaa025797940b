"""Inspect a network at work: firing rates, purity, energy of an image, a film strip and a raster of spikes.

Generates images one at a time and counts all spikes and operations. Energy stands next to that of the same network
without spikes and with quantised activations; purity names every synapse that is fed by anything but spikes. Stage 1 is
measured on validation images, which it encodes and decodes. Writes `inspection.json` (of stage 1 alone
`inspection-vq_svae.json`), `filmstrip.png`, in which masked tokens are grey, and `raster.png` into
`<results>/<data>/<preset>`; with `only=animation` instead `raster.gif`, the raster while the first image is made.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor

from spiking_vq.checkpoint.file import load_model
from spiking_vq.config.schema import Config, VQSVAEConfig
from spiking_vq.data.levels import to_unit
from spiking_vq.energy import LayerCost, count_operations
from spiking_vq.errors import InputError, require, require_one_of
from spiking_vq.fields import Count, OneOf, Seed
from spiking_vq.models.vq_svae import VQSVAE
from spiking_vq.pipelines.base import Pipeline
from spiking_vq.pipelines.latent import LatentPipeline
from spiking_vq.pipelines.load import pipeline_of
from spiking_vq.randomness import mix_seed
from stages.cli.data import data_of
from stages.cli.machine import check_device
from stages.cli.options import ModelOptions, SamplerArguments, read_options, sampler_settings
from stages.evaluate.pictures import write_picture
from stages.inspect.animation import animate_raster
from stages.inspect.energy import Generation, energy_report, observe
from stages.inspect.portrait import ABOVE, FRAMES, draw_raster, film, require_matplotlib
from stages.inspect.printed import print_energy
from stages.inspect.purity import firing_rates, purity
from stages.reporting.report import STAGES, claim_model_report, heading, write_report

EXAMPLE = "spiking-vq inspect mnist"

FILMS = 8
"""Images in the film strip at most."""


@dataclass(frozen=True, kw_only=True)
class Options(ModelOptions, SamplerArguments):
    """Options of `inspect`.

    Attributes:
        only: the report, or the pictures (`portrait`), or `all` of these; or else the raster as an `animation`.
        n: number of images that are generated, and of validation images that stage 1 encodes and decodes.
        seed: of the images.
        device: of torch, such as `cpu` or `cuda`.
        data_dir: folder of the data sets, for the firing rates of stage 1.
        results: folder of the reports.
    """

    only: Annotated[str, OneOf(("all", "report", "portrait", "animation"))] = "all"
    n: Count = 8
    seed: Seed = 0
    device: str = "cpu"
    data_dir: Path = Path("data")
    results: Path = Path("results")


def main(arguments: list[str]) -> None:
    """Generate, observe, write."""
    options = read_options(Options, arguments)
    check_device(options.device)
    path = options.find()
    model, config = load_model(path)
    require_one_of("stage", config.stage, STAGES.values())
    alone = isinstance(model, VQSVAE)
    moves, draws = options.only == "animation", options.only in ("all", "portrait")
    require(not alone or options.only in ("all", "report"), "only", "all or report of stage 1 alone", options.only)
    require(not moves or config.neuron == "lif", "only", "all, report or portrait without spikes", options.only)
    out = claim_model_report(options.results, "inspection-vq_svae.json" if alone else "inspection.json", config)
    report = heading("inspect", arguments, config, path) | {"num_images": options.n, "seed": options.seed}
    if alone:
        write(out, report | stage1_report(model.to(options.device), config, options))
        return
    draws_raster = draws and config.neuron == "lif"
    if draws_raster or moves:
        require_matplotlib()
    pipeline = pipeline_of(model, config, options.device)
    settings = sampler_settings(pipeline, options)
    count = {"portrait": min(options.n, FILMS), "animation": 1}.get(options.only, options.n)
    generation = observe(pipeline, settings, [mix_seed(options.seed, index) for index in range(count)])
    if options.only in ("all", "report"):
        write(out, report | {"sampler": settings} | generation_report(pipeline, generation, settings, options))
    if draws:
        films = [film(pipeline, states) for states in generation.states[:FILMS]]
        write_picture(out.with_name("filmstrip.png"), torch.cat(films), FRAMES)
        print(f"wrote {out.with_name('filmstrip.png')}")
    if draws_raster:
        draw_raster(out.with_name("raster.png"), film(pipeline, generation.states[0], ABOVE), generation.spikes)
        print(f"wrote {out.with_name('raster.png')}")
    if moves:
        animate_raster(out.with_name("raster.gif"), pipeline, generation.states[0], generation.spikes)
        print(f"wrote {out.with_name('raster.gif')}")


def generation_report(
    pipeline: Pipeline, generation: Generation, settings: dict[str, Any], options: Options
) -> dict[str, Any]:
    """Firing rates, purity and energy of a pipeline; of one without spikes, purity alone."""
    config = pipeline.config
    report: dict[str, Any] = {"T": {STAGES[part]: T for part, T in pipeline.num_steps.items()}}
    if config.neuron != "lif":
        return report | {"purity": purity(generation.costs)}
    rates = {}
    if isinstance(pipeline, LatentPipeline) and (images := validation_images(config, options)) is not None:
        rates["vq_svae"] = firing_rates(count_stage1(pipeline.model.vq_svae, images, options), "vq_svae")
    rates[config.stage] = firing_rates(generation.costs, config.stage)
    return report | {
        "firing_rate": rates,
        "purity": purity(generation.costs),
        "energy": energy_report(pipeline, settings, generation, mix_seed(options.seed, 0)),
    }


def stage1_report(vq_svae: VQSVAE, config: VQSVAEConfig, options: Options) -> dict[str, Any]:
    """Firing rates and purity of stage 1 alone."""
    costs = count_stage1(vq_svae, validation_images(config, options), options)
    rates = {"firing_rate": {"vq_svae": firing_rates(costs, "vq_svae")}} if config.neuron == "lif" else {}
    return {"T": {"vq_svae": config.T}} | rates | {"purity": purity(costs)}


def validation_images(config: Config, options: Options) -> Tensor | None:
    """The first `n` validation images, uint8 [n, C, H, W]; None, with a message, where stage 2 has no data.

    Raises:
        InputError: there is no data, and stage 1 alone is inspected.
    """
    try:
        return data_of(config, options.data_dir).val.images[: options.n]
    except InputError as error:
        if isinstance(config, VQSVAEConfig):
            raise
        print(f"without the firing rates of stage 1, which need validation images: {error}", file=sys.stderr)
        return None


@torch.no_grad()
def count_stage1(vq_svae: VQSVAE, images: Tensor, options: Options) -> dict[str, LayerCost]:
    """Layer, named by its stage -> operations while stage 1 encodes and decodes uint8 images [n, C, H, W]."""
    with count_operations(vq_svae) as costs:
        tokens = vq_svae.tokenize(to_unit(images).to(options.device))
        vq_svae.decode(tokens, torch.Generator().manual_seed(options.seed))
    return {f"vq_svae.{name}": cost for name, cost in costs.items()}


def write(path: Path, report: dict[str, Any]) -> None:
    """Print a report, and write it."""
    for stage, rates in report.get("firing_rate", {}).items():
        print(f"firing rates of {stage}", *(f"  {name:<32}{rate:7.4f}" for name, rate in rates.items()), sep="\n")
    print("\nsynapses that are fed by real numbers, and their share of the operations")
    for name, row in report["purity"]["real_valued"].items():
        print(f"  {name:<40}{row['share_of_operations']:8.2%}")
    print(report["purity"]["verdict"])
    if "energy" in report:
        print_energy(report["energy"])
    write_report(path, report)

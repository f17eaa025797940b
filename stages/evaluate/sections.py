"""Sections of the report of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from spiking_vq.config.compare import config_hash
from spiking_vq.data.image_data import ImageData
from spiking_vq.data.levels import to_uint8
from spiking_vq.pipelines.latent import LatentPipeline
from stages.cli.machine import describe_machine
from stages.evaluate.measures import (
    LIKELIHOOD_IMAGES,
    Examiner,
    firing_rates,
    likelihood,
    reconstruct,
    stage1_metrics,
)
from stages.evaluate.memorisation import memorisation
from stages.evaluate.options import Options
from stages.evaluate.pictures import above_reconstructions, completions, neighbours, write_picture
from stages.evaluate.protocols import PROTOCOLS
from stages.evaluate.subjects import Model
from stages.reporting.report import STAGES, identity
from stages.reporting.spread import Spread

PICTURED = 64


def describe(model: Model | None, data: ImageData, options: Options) -> dict[str, Any]:
    """Model, data, sampler and machine of a report; without a model, of a folder of images."""
    protocol = PROTOCOLS[options.protocol]
    report = {
        "data": data.name,
        "stand_in": data.stand_in,
        "preset": options.preset if model else None,
        "protocol": options.protocol,
        "about": protocol.about,
        "resize": protocol.resize,
        "image_shape": list(data.image_shape),
        "machine": describe_machine(options.device),
    }
    if model is None:
        return report
    config, vq_svae, pipeline = model.config, model.vq_svae, model.pipeline
    report |= {
        "stage": config.stage,
        "checkpoint": identity(model.path) | {"config_sha256": config_hash(config)},
        "neuron": config.neuron,
    }
    parameters = {}
    if pipeline is not None:
        parameters = {STAGES[name]: set(part.parameters()) for name, part in pipeline.model.named_children()}
        report["sampler"] = model.sampling | {"precision": pipeline.precision}
        report["network_calls"], report["network_steps"] = pipeline.evaluations(**model.sampling)
    if vq_svae is not None:  # the codebook is a buffer where it learns by averages, and counts all the same
        parameters["vq_svae"] = {*vq_svae.parameters(), *vq_svae.quantizer.codebooks}
    steps = pipeline.num_steps if pipeline else {"vq_svae": config.T}
    report["T"] = {STAGES[part]: T for part, T in steps.items()}
    return report | {"parameters": {name: sum(weight.numel() for weight in part) for name, part in parameters.items()}}


def reconstruction_report(
    model: Model, examiner: Examiner, held_out: Tensor, real: Sequence[Tensor], seed: int, out: Path
) -> dict[str, Any]:
    """Stage 1: errors of reconstructions of held-out images, and metrics of those of the floor's sets."""
    images, tokens = reconstruct(model.vq_svae, held_out, seed, "reconstructing held-out images")
    picture = above_reconstructions(held_out[:PICTURED], images[:PICTURED])
    write_picture(beside(out, "reconstructions"), picture, 16)
    again = [reconstruct(model.vq_svae, x, seed, "reconstructing the floor's images")[0] for x in real]
    stage1 = {"stage1": stage1_metrics(images, tokens, held_out, model.vq_svae.codebook_size)}
    return stage1 | in_place_of_generated("reconstruction", [to_uint8(x) for x in again], examiner)


def sets_report(
    sets: dict[str, Tensor], examiner: Examiner, training: Tensor, held_out: Tensor, out: Path
) -> dict[str, Any]:
    """Metrics over sets of images, and memorisation in the first; writes pictures of it.

    Args:
        sets: title -> uint8 [N, C, H, W].
        examiner: measures them.
        training, held_out: real images, uint8 [N, C, H, W].
        out: prefix of the pictures.
    """
    measured = [examiner(images, title) for title, images in sets.items()]
    first = next(iter(sets.values()))
    write_picture(beside(out, "samples"), first[:PICTURED], 8)
    write_picture(beside(out, "neighbours"), neighbours(first[:8], training), 8)
    return {"metrics": over_sets(measured), "memorisation": memorisation(first, held_out, training)}


def generator_report(model: Model, held_out: Tensor, options: Options, out: Path) -> dict[str, Any]:
    """Speed of a model that has generated its images; of one on tokens, the likelihood of held-out images.

    Writes a picture of completions.
    """
    report: dict[str, Any] = {"images_per_second": model.sampled / model.seconds if model.sampled else None}
    if isinstance(model.pipeline, LatentPipeline):
        write_picture(beside(out, "inpainting"), completions(model.pipeline, held_out[:8], options.seed), 8)
        # The bound is of one answer, and labels change it.
        if options.only == "all" and not model.config.conditional:
            report["likelihood"] = likelihood(model.pipeline, held_out[:LIKELIHOOD_IMAGES], options.seed)
    return report


def rates_of(model: Model, images: Tensor, seed: int) -> dict[str, dict[str, float]]:
    """Stage -> layer -> firing rate: stage 1 on these images, the generating network on as many of its own."""
    rates, pipeline = {}, model.pipeline
    if model.vq_svae is not None:
        rates["vq_svae"] = firing_rates(model.vq_svae, lambda: reconstruct(model.vq_svae, images, seed, "firing rates"))
    if pipeline is not None:
        rates[model.config.stage] = firing_rates(
            pipeline.network, lambda: pipeline.sample(len(images), seed, **model.sampling)
        )
    return rates


def in_place_of_generated(name: str, sets: Sequence[Tensor], examiner: Examiner) -> dict[str, Any]:
    """Metrics of sets of images: `name` holds their means and, of several sets, `<name>_std` the deviations."""
    titles = [name, *(f"{name}, set {number}" for number in range(2, len(sets) + 1))]
    measured = [examiner(images, title) for images, title in zip(sets, titles, strict=True)]
    if len(measured) == 1:
        return {name: measured[0]}
    spreads = {metric: Spread.over([each[metric] for each in measured]) for metric in measured[0]}
    return {
        name: {metric: spread.mean for metric, spread in spreads.items()},
        f"{name}_std": {metric: spread.std for metric, spread in spreads.items() if spread.std is not None},
    }


def over_sets(measured: Sequence[dict[str, float | None]]) -> dict[str, dict[str, Any] | str]:
    """Metric -> its `Spread` over the sets, or `not available`."""
    spreads = {name: Spread.over([each[name] for each in measured]) for name in measured[0]}
    return {name: "not available" if spread.mean is None else asdict(spread) for name, spread in spreads.items()}


def beside(out: Path, name: str) -> Path:
    """The picture of a name next to a report."""
    return out.with_name(f"{out.name}-{name}.png")

"""Spikes of one image of a set: their raster, firing rates, and energy next to that of the twins."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from spiking_vq.data.levels import to_uint8
from spiking_vq.errors import InputError
from spiking_vq.pipelines.base import Pipeline
from spiking_vq.randomness import mix_seed
from stages.app.generate import Made
from stages.inspect.energy import Generation, energy_report, observe
from stages.inspect.portrait import ABOVE, TITLES, film, raster_png
from stages.inspect.printed import SIDES, by_hardware
from stages.inspect.purity import firing_rates

NO_SPIKES = "This model has no spikes: it is a twin without them."


class Spikes(NamedTuple):
    """Measurements of an image.

    Attributes:
        raster: a PNG file.
        rates: network -> its firing rate.
        energies: arithmetic and model of memory, in words -> picojoules of each of `SIDES`.
        latency: time steps of the image, and longest path of synapses in a step.
        is_same: whether the image was the same when it was made by itself.
    """

    raster: bytes
    rates: dict[str, float]
    energies: dict[str, list[float]]
    latency: dict[str, float]
    is_same: bool


def has_spikes(pipeline: Pipeline) -> bool:
    """Whether the neurons of a model spike."""
    return pipeline.config.neuron == "lif"


def spikes_of(pipeline: Pipeline, made: Made, index: int) -> Spikes:
    """Make an image of a set again by itself, as a set of one has no idle slots, and count its spikes.

    Raises:
        InputError: there is no such image, or the model has no spikes.
    """
    made.image(index)
    if not has_spikes(pipeline):
        raise InputError(NO_SPIKES)
    seed = mix_seed(made.seed, index)
    generation = observe(pipeline, made.settings, [seed])
    report = energy_report(pipeline, made.settings, generation, seed)
    stages = {name.partition(".")[0] for name in generation.spikes}
    rates = {title: firing_rates(generation.costs, stage)["all"] for stage, title in TITLES.items() if stage in stages}
    columns = [by_hardware(report[side]["energy_pj"]["image"]) for side in SIDES]
    return Spikes(
        raster_png(film(pipeline, generation.states[0], ABOVE), generation.spikes),
        rates,
        {name: [column[name] for column in columns] for name in columns[0]},
        report["latency"]["image"],
        _is_same(generation, made, index),
    )


def _is_same(generation: Generation, made: Made, index: int) -> bool:
    """Whether tokens, or levels of pixels, are those of the set; rounding may differ from that of a batch."""
    (last,), samples = generation.states[0][-1].cpu(), made.samples
    if samples.tokens is None:
        return torch.equal(to_uint8(last), samples.images[index])
    return torch.equal(last, samples.tokens[index])


def explanation(spikes: Spikes, settings: dict[str, Any]) -> str:
    """The numbers in sentences."""
    rates = ", and ".join(f"{rate:.1%} of the {title}'s" for title, rate in spikes.rates.items())
    return (
        f"In a spiking step, on average {rates} neurons fire. The image takes {spikes.latency['steps']:,.0f} spiking"
        f" steps in {settings['sample_steps']} calls of the network."
        + ("" if spikes.is_same else " Made once more by itself, it differs from the one above, by rounding.")
    )

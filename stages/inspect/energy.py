"""Energy of an image: operations counted while a model generates, and those of its twins without spikes.

The twins are the same networks with `neuron=relu`, T = 1, and with activations of as few bits as T spikes need
(`neuron=quantised`). Their operations do not depend on their weights, so that untrained ones do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from spiking_vq.checkpoint.build import PixelModel, build_model
from spiking_vq.config.load import twin_bits
from spiking_vq.config.options import RateOptions
from spiking_vq.config.schema import AbsorbingConfig, DenoiserConfig, SpikingConfig
from spiking_vq.energy import PICOJOULES, LayerCost, count_operations, total
from spiking_vq.neurons.activity import observed
from spiking_vq.pipelines.base import Pipeline
from spiking_vq.pipelines.load import pipeline_of
from spiking_vq.randomness import ImageStream, mix_seed
from stages.reporting.report import STAGES

TWINS = {"relu": "twin without spikes", "quantised": "quantised twin"}

SPIKING_SETTINGS = {"guidance_T": None, "threshold_shift": 0.0}
"""Settings of the samplers that a twin does not have -> the value that changes nothing."""

NEURONS = 24
"""Neurons of each layer in the raster."""


class Generation(NamedTuple):
    """Observations while images are generated.

    Attributes:
        num_calls: calls of the generating network for all images.
        costs: layer -> its operations for all images, of the layers that computed, in the order of the modules.
        spikes: neuron layer -> spikes [NEURONS, steps] of some of its neurons over all calls for the first image.
        states: of each image, after each call: tokens [1, G, h, w], or images [1, C, H, W] in [0, 1].
    """

    num_calls: int
    costs: dict[str, LayerCost]
    spikes: dict[str, Tensor]
    states: list[list[Tensor]]


@torch.no_grad()
def observe(pipeline: Pipeline, settings: dict[str, Any], seeds: Sequence[int]) -> Generation:
    """Generate an image for each seed, one at a time, so that no call works on an image that is finished."""
    num_calls, states = 0, []
    spikes: dict[str, list[Tensor]] = {}

    def count_call(module: nn.Module, inputs: Any) -> None:
        nonlocal num_calls
        num_calls += 1

    def keep_spikes(name: str, spk: Tensor) -> None:
        if len(states) <= 1:
            neurons = spk.flatten(1).T
            chosen = torch.linspace(0, len(neurons) - 1, NEURONS).long()
            spikes.setdefault(name, []).append(neurons[chosen].cpu())

    counter = pipeline.network.register_forward_pre_hook(count_call)
    with count_operations(pipeline.model) as costs, observed(pipeline.model, keep_spikes):
        for seed in seeds:
            states.append([])
            states[-1] += [state.x.clone() for state in pipeline.states([seed], **settings)]
            pipeline.decode(states[-1][-1], torch.Generator().manual_seed(mix_seed(seed, ImageStream.SPIKES)))
    counter.remove()
    named = {name: f"{STAGES[part]}.{layer}" for name in costs for part, _, layer in [name.partition(".")]}
    return Generation(
        num_calls,
        {named[name]: cost for name, cost in costs.items() if cost.state_bits},  # the encoder has not run
        {named[name]: torch.cat(spikes[name], dim=1) for name in costs if name in spikes},
        states,
    )


def energy_report(pipeline: Pipeline, settings: dict[str, Any], generation: Generation, seed: int) -> dict[str, Any]:
    """Costs of an image by spikes and by the twins, which generate one image of this seed, and the verdict."""
    report = {"picojoules": PICOJOULES, "spiking": image_costs(generation, pipeline.num_steps)}
    kept = {name: value for name, value in settings.items() if name not in SPIKING_SETTINGS}
    for neuron in TWINS:
        twin = twin_of(pipeline, neuron)
        report[neuron] = image_costs(observe(twin, kept, [seed]), twin.num_steps)
    report["verdict"] = {neuron: verdict(report["spiking"], report[neuron], name) for neuron, name in TWINS.items()}
    return report


def twin_of(pipeline: Pipeline, neuron: str) -> Pipeline:
    """The same networks without spikes, untrained; measurements that the sampler needs are kept."""
    config = twin_config(pipeline.config, neuron)
    model = build_model(config)
    if isinstance(model, PixelModel):
        model.image_error.copy_(pipeline.model.image_error)
    return pipeline_of(model, config, pipeline.device)


def twin_config(config: DenoiserConfig, neuron: str) -> DenoiserConfig:
    """The configuration of the same networks without spikes; quantised activations have as many levels as T spikes."""

    def plain(stage: SpikingConfig) -> dict[str, Any]:
        bits = twin_bits(stage.T) if neuron == "quantised" else None
        rate = RateOptions(weight=0.0)
        return {"neuron": neuron, "T": 1, "early_T": None, "tsm": False, "activation_bits": bits, "rate": rate}

    neutral = {name: value for name, value in SPIKING_SETTINGS.items() if hasattr(config.sample, name)}
    changes = plain(config) | {"sample": replace(config.sample, **neutral)}
    if isinstance(config, AbsorbingConfig):
        changes["vq_svae"] = replace(config.vq_svae, **plain(config.vq_svae))
    return replace(config, **changes)


def image_costs(generation: Generation, num_steps: Mapping[str, int]) -> dict[str, Any]:
    """Mean costs of an image, of a call of the generating network and of the decoder, and of each layer in an image.

    Args:
        generation: the counts.
        num_steps: part of the model -> its spiking steps T.
    """
    costs, num_calls, num_images = generation.costs, generation.num_calls, len(generation.states)
    steps = {STAGES[part]: T for part, T in num_steps.items()}
    decoder = {name: cost for name, cost in costs.items() if name.startswith("vq_svae.")}
    network = [cost for name, cost in costs.items() if name not in decoder]

    def layer(name: str, cost: LayerCost) -> dict[str, Any]:
        row = metrics(cost, num_images) | {"kind": cost.kind, "input_bits": cost.input_bits}
        if cost.connections:  # spikes that a connection carries in the T steps of a call
            row["spikes_per_synapse"] = cost.accumulates / cost.connections * steps[name.partition(".")[0]]
        return row

    return {
        "calls": num_calls / num_images,
        "call": metrics(total(network), num_calls),
        "decoder": metrics(total(decoder.values()), num_images),
        "image": metrics(total(costs.values()), num_images),
        "by_spikes": metrics(total(cost for cost in costs.values() if cost.is_fed_by_spikes), num_images),
        "layers": {name: layer(name, cost) for name, cost in costs.items()},
    }


def metrics(cost: LayerCost, share: float) -> dict[str, float | None]:
    """The counts of a cost divided by `share`, and its firing rate."""
    counts = {name: value / share for name, value in asdict(cost).items() if isinstance(value, float)}
    return counts | {"firing_rate": cost.firing_rate}


def verdict(spiking: dict[str, Any], twin: dict[str, Any], name: str) -> str:
    """Which of two networks needs less energy, and at which firing rate that would change."""
    rate, sentences = spiking["image"]["firing_rate"], []
    for title, kinds in {"arithmetic": ["arithmetic"], "memory accesses too": ["arithmetic", "memory"]}.items():
        ours, by_spikes, theirs = (
            sum(part[f"{kind}_pj"] for kind in kinds)
            for part in (spiking["image"], spiking["by_spikes"], twin["image"])
        )
        winner = "the spiking network" if ours < theirs else f"the {name}"
        turn = turning_point(rate, ours, by_spikes, theirs)
        sentences.append(
            f"Counting {title}, {winner} wins: {ours / 1e6:,.0f} uJ an image with spikes at a firing rate of"
            f" {rate:.2f}, {theirs / 1e6:,.0f} uJ for the {name}; {turn}."
        )
    return " ".join(sentences)


def turning_point(rate: float, ours: float, by_spikes: float, theirs: float) -> str:
    """The firing rate at which both networks need the same energy, as the end of a sentence.

    It is `rate (theirs - ours + by_spikes) / by_spikes`: energy caused by spikes grows with the rate, the rest does
    not.

    Args:
        rate: measured firing rate.
        ours, by_spikes: energy of the spiking network at that rate, and the part of it that spikes cause.
        theirs: energy of the twin.
    """
    if not by_spikes:
        return "no turning point, as no synapse saw a spike"
    turns = rate * (theirs - ours + by_spikes) / by_spikes
    return f"it would turn at {turns:.2f}" if 0 < turns < 1 else "it would do so at any firing rate"

"""Energy and latency of an image: operations counted while a model generates, and those of its twins without spikes.

The twins are the same networks with `neuron=relu`, T = 1, and with activations of as few bits as T spikes need
(`neuron=quantised`). Their operations do not depend on their weights, so that untrained ones do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from spiking_vq.checkpoint.build import PixelModel, build_model
from spiking_vq.config.load import twin_bits
from spiking_vq.config.options import RateOptions
from spiking_vq.config.schema import AbsorbingConfig, DenoiserConfig, SpikingConfig
from spiking_vq.energy import (
    ARITHMETICS,
    COUNTS,
    MEMORIES,
    PICOJOULES,
    LayerCost,
    constants,
    count_operations,
    energy,
    longest_path,
    total,
)
from spiking_vq.neurons.activity import observed
from spiking_vq.pipelines.base import Pipeline
from spiking_vq.pipelines.load import pipeline_of
from spiking_vq.randomness import ImageStream, mix_seed
from stages.inspect.verdicts import turning_rates, verdict
from stages.reporting.hardware import ALONE, TWINS
from stages.reporting.report import STAGES

SPIKING_SETTINGS = {"guidance_T": None, "threshold_shift": 0.0}
"""Settings of the samplers that a twin does not have -> the value that changes nothing."""

NEURONS = 24
"""Neurons of each layer in the raster."""


class Generation(NamedTuple):
    """Observations while images are generated.

    Attributes:
        num_calls: calls of the generating network for all images.
        call: arguments of the first of these calls.
        costs: layer -> its operations for all images, of the layers that computed, in the order of the modules.
        spikes: neuron layer -> spikes [NEURONS, steps] of some of its neurons over all calls for the first image.
        steps: neuron layer -> its time steps for all images.
        states: of each image, after each call: tokens [1, G, h, w], or images [1, C, H, W] in [0, 1].
    """

    num_calls: int
    call: tuple[Any, ...]
    costs: dict[str, LayerCost]
    spikes: dict[str, Tensor]
    steps: dict[str, int]
    states: list[list[Tensor]]


@torch.no_grad()
def observe(pipeline: Pipeline, settings: dict[str, Any], seeds: Sequence[int]) -> Generation:
    """Generate an image for each seed, one at a time, so that no call works on an image that is finished."""
    calls, states = [], []
    spikes: dict[str, list[Tensor]] = {}
    steps: Counter[str] = Counter()

    def keep_call(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        calls.append(inputs)

    def keep_spikes(name: str, spk: Tensor) -> None:
        steps[name] += len(spk)
        if len(states) <= 1:
            neurons = spk.flatten(1).T
            chosen = torch.linspace(0, len(neurons) - 1, NEURONS).long()
            spikes.setdefault(name, []).append(neurons[chosen].cpu())

    counter = pipeline.network.register_forward_pre_hook(keep_call)
    with count_operations(pipeline.model) as costs, observed(pipeline.model, keep_spikes):
        for seed in seeds:
            states.append([])
            states[-1] += [state.x.clone() for state in pipeline.states([seed], **settings)]
            pipeline.decode(states[-1][-1], torch.Generator().manual_seed(mix_seed(seed, ImageStream.SPIKES)))
    counter.remove()
    named = {name: f"{STAGES[part]}.{layer}" for name in costs for part, _, layer in [name.partition(".")]}
    return Generation(
        len(calls),
        calls[0],
        {named[name]: cost for name, cost in costs.items() if cost.has_run},  # the encoder has not
        {named[name]: torch.cat(spikes[name], dim=1) for name in costs if name in spikes},
        {named[name]: count for name, count in steps.items()},
        states,
    )


def energy_report(pipeline: Pipeline, settings: dict[str, Any], generation: Generation, seed: int) -> dict[str, Any]:
    """Costs of an image by spikes and by the twins, which generate one image of this seed, latency, and verdicts."""
    report = {
        "picojoules": PICOJOULES,
        "constants": constants(),
        "spiking": image_costs(generation, pipeline.num_steps),
    }
    kept = {name: value for name, value in settings.items() if name not in SPIKING_SETTINGS}
    for neuron in TWINS:
        twin = twin_of(pipeline, neuron)
        report[neuron] = image_costs(observe(twin, kept, [seed]), twin.num_steps)
    rate, ours = report["spiking"]["image"]["firing_rate"], report["spiking"]["energy_pj"]
    report["turning_rates"], report["verdict"] = {}, {}
    for neuron, name in TWINS.items():
        theirs = report[neuron]["energy_pj"]["image"]
        report["turning_rates"][neuron] = turning_rates(rate, ours["image"], ours["by_spikes"], theirs)
        report["verdict"][neuron] = verdict(rate, ours["image"], ours["by_spikes"], theirs, name)
    return report | {"latency": latency(pipeline, generation)}


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
    decoder = {name: cost for name, cost in costs.items() if _is_decoder(name)}
    network = [cost for name, cost in costs.items() if name not in decoder]
    by_spikes = [cost for cost in costs.values() if cost.is_fed_by_spikes]

    def layer(name: str, cost: LayerCost) -> dict[str, Any]:
        kind = {"kind": cost.kind, "input_bits": cost.input_bits, "output_bits": cost.output_bits}
        row = metrics([cost], num_images) | kind
        if cost.connections:  # spikes that a connection carries in the T steps of a call
            row["spikes_per_synapse"] = cost.accumulates / cost.connections * steps[name.partition(".")[0]]
        return row

    return {
        "calls": num_calls / num_images,
        "call": metrics(network, num_calls),
        "decoder": metrics(decoder.values(), num_images),
        "image": metrics(costs.values(), num_images),
        "by_spikes": metrics(by_spikes, num_images),
        "operations": operations(costs.values(), num_images),
        "energy_pj": {"image": energies(costs.values(), num_images), "by_spikes": energies(by_spikes, num_images)},
        "layers": {name: layer(name, cost) for name, cost in costs.items()},
    }


def metrics(costs: Iterable[LayerCost], share: float) -> dict[str, float | None]:
    """Counts, traffic and energy of layers divided by `share`, in 32 bits and without reuse, and the firing rate.

    Spikes, slots and firing rate of several layers are those of their neurons.
    """
    costs = list(costs)
    whole = costs[0] if len(costs) == 1 else total(costs)
    spent = energy(costs, ARITHMETICS["fp32"], MEMORIES["none_reused"])
    counts = {name: getattr(whole, name) for name in COUNTS} | asdict(spent.traffic)
    counts |= {"arithmetic_pj": spent.arithmetic_pj, "memory_pj": spent.traffic.pj}
    return {name: value / share for name, value in counts.items()} | {"firing_rate": whole.firing_rate}


def operations(costs: Iterable[LayerCost], share: float) -> dict[str, float]:
    """What hardware papers report of layers, divided by `share`.

    Effective ACs and MACs are those of synapses and attention; a MAC is counted for every connection that numbers go
    through, zero or not.
    """
    costs = list(costs)
    neurons, connections = (
        total(cost for cost in costs if is_counted(cost))
        for is_counted in (lambda cost: cost.kind == "neuron", lambda cost: cost.is_connection)
    )
    counts = {
        "spikes": neurons.spikes,
        "effective_acs": connections.accumulates,
        "effective_macs": connections.multiplies,
        "neuron_updates": neurons.slots,
        "connections": connections.connections,
    }
    return {name: count / share for name, count in counts.items()}


def energies(costs: Iterable[LayerCost], share: float) -> dict[str, dict[str, float]]:
    """Arithmetic -> `ALONE` or model of memory -> picojoules of layers, divided by `share`."""
    costs = list(costs)
    table = {}
    for name, arithmetic in ARITHMETICS.items():
        spent = {memory: energy(costs, arithmetic, model) for memory, model in MEMORIES.items()}
        alone = sum(arithmetic.pj(cost) for cost in costs)
        table[name] = {ALONE: alone / share} | {memory: part.pj / share for memory, part in spent.items()}
    return table


def latency(pipeline: Pipeline, generation: Generation) -> dict[str, dict[str, float]]:
    """What an asynchronous chip waits for, in an image: of each stage that generates, and of the image.

    Returns:
        `steps`, time steps an image; `path`, the longest path of synapses in a step; `spikes`, in a step; and
        `waits`, steps x path, synapses one after another where no step begins before the last has ended.
    """
    network, states = pipeline.network, generation.states
    paths = {pipeline.stage: longest_path(network, lambda: network(*generation.call))}
    if any(_is_decoder(name) for name in generation.costs):
        generator = torch.Generator().manual_seed(0)
        paths["vq_svae"] = longest_path(pipeline.model, lambda: pipeline.decode(states[0][-1], generator))
    parts = {}
    for stage, path in paths.items():
        steps = max(count for name, count in generation.steps.items() if name.startswith(f"{stage}."))
        spikes = total(cost for name, cost in generation.costs.items() if name.startswith(f"{stage}.")).spikes
        steps_an_image = steps / len(states)
        parts[stage] = {"steps": steps_an_image, "path": path, "spikes": spikes / steps, "waits": steps_an_image * path}
    steps, waits = (sum(part[name] for part in parts.values()) for name in ("steps", "waits"))
    spikes = sum(part["steps"] * part["spikes"] for part in parts.values())
    longest = max(paths.values())
    return parts | {"image": {"steps": steps, "path": longest, "spikes": spikes / steps, "waits": waits}}


def _is_decoder(name: str) -> bool:
    return name.startswith("vq_svae.")

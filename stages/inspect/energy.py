"""What an image costs in operations and picojoules: `spiking-vq inspect energy data=mnist`.

Counts over the generation of `n` images, one by one: every call of the denoiser, and the decoder; see
`spiking_vq.energy`. Beside it stands the same network without spikes (`neuron=relu`, T = 1), and with activations of as
few bits as T spikes need (`neuron=quantised`): what they multiply does not depend on their weights, so none are needed.
Writes `<results>/<data>/<preset>/energy.json`.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from spiking_vq.checkpoint.build import PixelModel, build_model
from spiking_vq.config.load import twin_bits
from spiking_vq.config.schema import AbsorbingConfig, DenoiserConfig, SpikingConfig
from spiking_vq.energy import PICOJOULES, LayerCost, count_operations, total
from spiking_vq.errors import require
from spiking_vq.pipelines.base import Pipeline
from spiking_vq.pipelines.load import pipeline_of, load
from spiking_vq.randomness import mix_seed
from stages.cli.machine import check_device
from stages.cli.options import MODEL, SAMPLER, model_file, parse_options, sampler_settings
from stages.reporting.report import claim_model_report, heading, write_report

OPTIONS = {
    **MODEL,
    **SAMPLER,
    "n": 8,
    "seed": 0,
    "device": "cpu",
    "results": Path("results"),
}

TWINS = {"relu": "twin without spikes", "quantised": "quantised twin"}


def main(arguments: list[str]) -> None:
    """Count, print, write."""
    options = parse_options(arguments, OPTIONS)
    check_device(options["device"])
    require(options["n"] >= 1, "n, the number of images,", "at least 1", options["n"])
    path = model_file(options)
    generator = load(path, options["device"])
    config = generator.config
    require(config.neuron == "lif", "the model's neuron", "lif: its twin is counted beside it", config.neuron)
    out = claim_model_report(options["results"], "energy.json", config)
    settings = sampler_settings(generator, options)
    own_steps = {"guidance_T": None} if "guidance_T" in settings else {}  # a twin has no fewer
    n, seed = options["n"], options["seed"]
    report = heading("inspect energy", arguments, config, path) | {
        "images": n,
        "sampler": settings,
        "T": generator.num_steps,
        "picojoules": PICOJOULES,
        "spiking": generation_cost(generator, settings, n, seed),
    }
    for neuron in TWINS:
        report[neuron] = generation_cost(twin_of(generator, neuron), settings | own_steps, 1, seed)
    report["verdict"] = {neuron: verdict(report["spiking"], report[neuron], name) for neuron, name in TWINS.items()}
    print_report(report)
    write_report(out, report)


def twin_of(generator: Pipeline, neuron: str) -> Pipeline:
    """The same networks without spikes, untrained, which costs the same; what the sampler was told it keeps."""
    config = twin_config(generator.config, neuron)
    model = build_model(config)
    if isinstance(model, PixelModel):
        model.image_error.copy_(generator.model.image_error)
    return pipeline_of(model, config, generator.device)


def twin_config(config: DenoiserConfig, neuron: str) -> DenoiserConfig:
    """The configuration of the same networks without spikes; activations of as many bits as T spikes have levels."""

    def plain(stage: SpikingConfig) -> dict[str, Any]:
        return {
            "neuron": neuron,
            "T": 1,
            "tsm": False,
            "activation_bits": twin_bits(stage.T) if neuron == "quantised" else None,
        }

    twin = replace(config, **plain(config))
    if isinstance(config, AbsorbingConfig):
        sample = replace(config.sample, guidance_T=None)
        twin = replace(twin, early_T=None, sample=sample, vq_svae=replace(config.vq_svae, **plain(config.vq_svae)))
    return twin


@torch.no_grad()
def generation_cost(generator: Pipeline, settings: dict[str, Any], n: int, seed: int) -> dict[str, Any]:
    """Costs of an image, in the mean over `n`, of a call of the generating network, and of what decodes.

    One image at a time, so that no call works on one that is finished.
    """
    calls = 0

    def count(module: nn.Module, inputs: Any) -> None:
        nonlocal calls
        calls += 1

    counter = generator.network.register_forward_pre_hook(count)
    with count_operations(generator.model) as costs:
        for index in range(n):
            generator.make_alone(mix_seed(seed, index), **settings)
    counter.remove()
    costs = {name: cost for name, cost in costs.items() if cost.state_bits}  # the encoder has not run
    decoder = {name: cost for name, cost in costs.items() if name.startswith("vq_svae.")}
    network = {name: cost for name, cost in costs.items() if name not in decoder}
    return {
        "calls": calls / n,
        "call": figures(total(network.values()), calls),
        "decoder": figures(total(decoder.values()), n),
        "image": figures(total(costs.values()), n),
        "by_spikes": figures(total(cost for cost in costs.values() if cost.is_fed_by_spikes), n),
        "layers": {
            name: figures(cost, n)
            | {"kind": cost.kind, "input_bits": cost.input_bits}
            | spikes_per_synapse(cost, generator.num_steps[name.partition(".")[0]])
            for name, cost in costs.items()
        },
    }


def figures(cost: LayerCost, share: float) -> dict[str, float]:
    """A cost as the files tell it, divided by `share`."""
    counted = {name: value / share for name, value in asdict(cost).items() if isinstance(value, float)}
    return counted | {"firing_rate": cost.firing_rate if cost.slots else None}


def spikes_per_synapse(cost: LayerCost, steps: int) -> dict[str, float]:
    """Spikes that a connection carries in the T steps of a call."""
    return {"spikes_per_synapse": cost.accumulates / cost.connections * steps} if cost.connections else {}


def verdict(spiking: dict[str, Any], twin: dict[str, Any], name: str) -> str:
    """Who wins, and at what firing rate it would turn: what spikes cause grows with the rate, the rest does not."""
    rate, sentences = spiking["image"]["firing_rate"], []
    for what, kinds in {"arithmetic": ["arithmetic_pj"], "memory accesses too": ["arithmetic_pj", "memory_pj"]}.items():
        ours, by_spikes, theirs = (
            sum(part[kind] for kind in kinds) for part in (spiking["image"], spiking["by_spikes"], twin["image"])
        )
        winner = "the spiking network" if ours < theirs else f"the {name}"
        turn = turning_point(rate, ours, by_spikes, theirs)
        sentences.append(
            f"Counting {what}, {winner} wins: {ours / 1e6:,.0f} uJ an image with spikes at a firing rate of {rate:.2f},"
            f" {theirs / 1e6:,.0f} uJ for the {name}; {turn}."
        )
    return " ".join(sentences)


def turning_point(rate: float, ours: float, by_spikes: float, theirs: float) -> str:
    """At which firing rate the twin's energy would be reached, as a sentence.

    Args:
        rate: firing rate that was measured.
        ours, by_spikes: energy of the spiking network at that rate, and the part of it that grows with the rate.
        theirs: energy of the twin.
    """
    if not by_spikes:
        return "no turning point, as no synapse saw a spike"
    turns = rate * (theirs - ours + by_spikes) / by_spikes
    return f"it would turn at {turns:.2f}" if 0 < turns < 1 else "it would do so at any firing rate"


def print_report(report: dict[str, Any]) -> None:
    """Layers, totals and the verdict."""
    for side in ("spiking", *TWINS):
        part = report[side]
        print(f"\n{TWINS.get(side, 'spiking network')}: {part['calls']:.1f} calls an image")
        print(f"  {'':44}{'rate':>6}{'accumulates':>15}{'multiplies':>15}{'arithmetic nJ':>15}{'memory nJ':>15}")
        rows = part["layers"] | {name: part[name] for name in ("call", "decoder", "image")}
        for name, row in rows.items():
            print(
                f"  {name:44}{'' if row['firing_rate'] is None else format(row['firing_rate'], '.2f'):>6}"
                f"{row['accumulates']:15,.0f}{row['multiplies']:15,.0f}"
                f"{row['arithmetic_pj'] / 1e3:15,.1f}{row['memory_pj'] / 1e3:15,.1f}"
            )
    print("", *report["verdict"].values(), sep="\n")

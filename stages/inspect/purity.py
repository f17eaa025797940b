"""Is a network purely spiking? `spiking-vq inspect purity data=mnist preset=base` (or `ckpt=FILE`).

Names every synapse that is fed by something else than 0 and 1 while real work is done: stage 1 encodes and decodes
images; what generates makes some. Prints a table and writes `<results>/<data>/<preset>/spiking_report.json`, of stage 1
alone `spiking_report-vq_svae.json`. `stage=` is `vq_svae`, `absorbing` or `gaussian`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from spiking_vq.checkpoint.file import load_model
from spiking_vq.config.schema import Config
from spiking_vq.data.datasets import load_dataset
from spiking_vq.data.levels import to_unit
from spiking_vq.energy import LayerCost, count_operations
from spiking_vq.errors import require
from spiking_vq.models.vq_svae import VQSVAE
from spiking_vq.pipelines.base import Pipeline
from spiking_vq.pipelines.load import load
from spiking_vq.randomness import mix_seed
from stages.cli.machine import check_device
from stages.cli.options import MODEL, SAMPLER, model_file, parse_options, sampler_settings
from stages.reporting.report import claim_model_report, heading, write_report

OPTIONS = {
    **MODEL,
    **SAMPLER,
    "n": 4,
    "seed": 0,
    "device": "cpu",
    "data_dir": Path("data"),
    "results": Path("results"),
}


def main(arguments: list[str]) -> None:
    """Watch every synapse, print, write."""
    options = parse_options(arguments, OPTIONS)
    check_device(options["device"])
    require(options["n"] >= 1, "n, the number of images,", "at least 1", options["n"])
    path = model_file(options)
    model, config = load_model(path)
    name = "spiking_report-vq_svae.json" if config.stage == "vq_svae" else "spiking_report.json"
    out = claim_model_report(options["results"], name, config)
    if isinstance(model, VQSVAE):
        costs = watch_stage1(model, config, options)
    else:
        costs = watch_generation(load(path, options["device"]), options)
    synapses = {name: cost for name, cost in costs.items() if cost.is_connection and cost.slots}
    real = {name: cost for name, cost in synapses.items() if cost.input_bits > 1}
    operations = sum(map(work, synapses.values())) or 1.0  # where nothing spikes and nothing is real-valued
    shares = {name: work(cost) / operations for name, cost in real.items()}
    report = heading("inspect purity", arguments, config, path) | {
        "images": options["n"],
        "synapses": len(synapses),
        "real_valued": {name: {"share_of_operations": share} for name, share in shares.items()},
        "verdict": verdict(len(synapses), len(real), sum(shares.values())),
    }
    for name, share in shares.items():
        print(f"  {name:48} {share:8.2%} of the operations")
    print(report["verdict"])
    write_report(out, report)


@torch.no_grad()
def watch_stage1(model: VQSVAE, config: Config, options: dict[str, Any]) -> dict[str, LayerCost]:
    """What the layers of stage 1 do while it encodes and decodes validation images."""
    images = load_dataset(config.data, options["data_dir"], config.image_size).val.images[: options["n"]]
    model = model.to(options["device"])
    with count_operations(model) as costs:
        tokens = model.tokenize(to_unit(images).to(options["device"]))
        model.decode(tokens, torch.Generator().manual_seed(options["seed"]))
    return costs


def watch_generation(generator: Pipeline, options: dict[str, Any]) -> dict[str, LayerCost]:
    """What all layers do while images are made."""
    settings = sampler_settings(generator, options)
    with count_operations(generator.model) as costs:
        for index in range(options["n"]):
            generator.make_alone(mix_seed(options["seed"], index), **settings)
    return costs


def work(cost: LayerCost) -> float:
    """Operations of a synapse: additions by spikes, multiplications by any other number."""
    return cost.accumulates + cost.multiplies


def verdict(synapses: int, real: int, share: float) -> str:
    """The sentence that answers the question."""
    if not real:
        return f"Purely spiking: all {synapses} synapses are fed by 0 and 1 only."
    return f"Not purely spiking: {real} of {synapses} synapses are fed by real numbers, {share:.1%} of the operations."

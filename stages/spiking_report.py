"""Is a network purely spiking? `python -m stages.spiking_report data=mnist preset=base` (or `ckpt=FILE`).

Names every synapse that is fed by something else than 0 and 1 while real work is done: stage 1 encodes and decodes
images; what generates makes some. Prints a table and writes `<results>/<data>/<preset>/spiking_report.json`. `stage=`
is `vq_svae`, `absorbing` or `gaussian`.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch

from spiking_vq.checkpoint import atomic_write, load_model
from spiking_vq.data import load_dataset, mix_seed, to_unit
from spiking_vq.energy import LayerCost, count_operations
from spiking_vq.errors import require
from spiking_vq.generators import load_generator
from spiking_vq.models.vq_svae import VQSVAE
from stages.command import (
    MODEL,
    SAMPLER,
    check_device,
    model_file,
    parse_options,
    recorded_command,
    report_folder,
    run_command,
    sampler_settings,
)

OPTIONS = {
    **MODEL,
    **SAMPLER,
    "n": 4,
    "seed": 0,
    "device": "cpu",
    "data_dir": "data",
    "results": "results",
}


def main(arguments: list[str]) -> None:
    """Watch every synapse, print, write."""
    options = parse_options(arguments, OPTIONS)
    check_device(options["device"])
    require(options["n"] >= 1, "n, the number of images,", "at least 1", options["n"])
    path = model_file(options)
    model, config = load_model(path)
    costs = watch_stage1(model, config.data, config.image_size, options) if isinstance(model, VQSVAE) else {}
    if not costs:
        generator = load_generator(path, options["device"])
        settings = sampler_settings(generator, options)
        with count_operations(generator.model) as costs:
            for index in range(options["n"]):
                generator.make_alone(mix_seed(options["seed"], index), **settings)
    synapses = {name: cost for name, cost in costs.items() if cost.kind == "synapse" and cost.slots}
    real = {name: cost for name, cost in synapses.items() if cost.input_bits > 1}
    operations = sum(map(work, synapses.values()))
    report = {
        "command": recorded_command("stages.spiking_report", arguments),
        "stage": config.stage,
        "data": config.data,
        "preset": config.preset,
        "checkpoint": {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()},
        "images": options["n"],
        "synapses": len(synapses),
        "real_valued": {name: {"share_of_operations": work(cost) / operations} for name, cost in real.items()},
        "verdict": verdict(len(synapses), len(real), sum(map(work, real.values())) / operations),
    }
    for name, cost in real.items():
        print(f"  {name:48} {work(cost) / operations:8.2%} of the operations")
    print(report["verdict"])
    out = report_folder(options["results"], config.stage, config.data, config.preset) / "spiking_report.json"
    with atomic_write(out) as temporary:
        temporary.write_text(json.dumps(report, indent=2) + "\n")
    print(f"wrote {out}")


@torch.no_grad()
def watch_stage1(model: VQSVAE, data: str, image_size: int | None, options: dict[str, Any]) -> dict[str, LayerCost]:
    """What the layers of stage 1 do while it encodes and decodes validation images."""
    images = load_dataset(data, options["data_dir"], image_size).val.images[: options["n"]]
    model = model.to(options["device"])
    with count_operations(model) as costs:
        tokens = model.tokenize(to_unit(images).to(options["device"]))
        model.decode(tokens, torch.Generator().manual_seed(options["seed"]))
    return costs


def work(cost: LayerCost) -> float:
    """Operations of a synapse: additions by spikes, multiplications by any other number."""
    return cost.accumulates + cost.multiplies


def verdict(synapses: int, real: int, share: float) -> str:
    """The sentence that answers the question."""
    if not real:
        return f"Purely spiking: all {synapses} synapses are fed by 0 and 1 only."
    return f"Not purely spiking: {real} of {synapses} synapses are fed by real numbers, {share:.1%} of the operations."


if __name__ == "__main__":
    run_command(main)

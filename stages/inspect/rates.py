"""Mean firing rate of every layer: `spiking-vq inspect rates data=mnist preset=base`.

Stage 1 is measured on `n` validation images, encoded and decoded; what generates, over all calls for `n` images.
Prints a table and writes `<results>/<data>/<preset>/firing_rates.json`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spiking_vq.activity import LayerActivity, record_activity
from spiking_vq.data.datasets import load_dataset
from spiking_vq.data.levels import to_unit
from spiking_vq.errors import require
from spiking_vq.models.vq_svae import VQSVAE
from spiking_vq.pipelines.base import CHUNK, Pipeline
from spiking_vq.pipelines.latent import LatentPipeline
from spiking_vq.pipelines.load import load
from stages.cli.machine import check_device
from stages.cli.options import MODEL, model_file, parse_options
from stages.reporting.report import claim_model_report, heading, write_report

OPTIONS = {
    **MODEL,
    "data_dir": Path("data"),
    "results": Path("results"),
    "n": 256,
    "seed": 0,
    "device": "cpu",
}


def main(arguments: list[str]) -> None:
    """Measure both stages, print, write."""
    options = parse_options(arguments, OPTIONS)
    check_device(options["device"])
    n, seed = options["n"], options["seed"]
    require(n >= 1 and n % CHUNK == 0, "n, the number of images,", f"a multiple of {CHUNK}, generated at once", n)
    path = model_file(options)
    generator = load(path, options["device"])
    config = generator.config
    require(config.neuron == "lif", "the model's neuron", "lif, which fires", config.neuron)
    out = claim_model_report(options["results"], "firing_rates.json", config)
    data = load_dataset(config.data, options["data_dir"], config.image_size)
    report = heading("inspect rates", arguments, config, path) | {
        "images": n,
        "T": generator.num_steps,
        "firing_rate": firing_rates(generator, data.val.images[:n], seed),
    }
    for part, rates in report["firing_rate"].items():
        print(part)
        for name, rate in rates.items():
            print(f"  {name:<24} {rate:.4f}")
    write_report(out, report)


def firing_rates(generator: Pipeline, images: Tensor, seed: int, **sampling: Any) -> dict[str, dict[str, float]]:
    """Stage -> layer -> firing rate: stage 1 on uint8 images, the network that generates on as many as it makes."""
    rates = {}
    if isinstance(generator, LatentPipeline):
        rates["vq_svae"] = stage1_rates(generator.model.vq_svae, images, seed)
    return rates | {generator.config.stage: generation_rates(generator, len(images), seed, **sampling)}


@torch.no_grad()
def stage1_rates(vq_svae: VQSVAE, images: Tensor, seed: int) -> dict[str, float]:
    """Firing rate of each layer that encodes and decodes uint8 images [n, C, H, W], and of all neurons as `all`."""
    device = next(vq_svae.parameters()).device
    with record_activity(vq_svae) as activity:
        vq_svae.decode(vq_svae.tokenize(to_unit(images).to(device)), torch.Generator().manual_seed(seed))
    return _rates(activity)


def generation_rates(generator: Pipeline, n: int, seed: int, **sampling: Any) -> dict[str, float]:
    """The same of the network that is called again and again, over all calls that generate `n` images."""
    with record_activity(generator.network) as activity:
        generator.sample(n, seed, **sampling)
    return _rates(activity)


def _rates(activity: dict[str, LayerActivity]) -> dict[str, float]:
    """Firing rate of each layer, and their mean weighted by the number of neurons."""
    total = LayerActivity(sum(a.spikes for a in activity.values()), sum(a.slots for a in activity.values()))
    return {name: layer.firing_rate for name, layer in activity.items()} | {"all": total.firing_rate}

"""Mean firing rate of every layer: `python -m stages.firing_rates data=mnist preset=base`.

Stage 1 is measured on `n` validation images, encoded and decoded; stage 2 over all calls that generate `n` images.
Prints a table and writes `<results>/<data>/<preset>/firing_rates.json`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spiking_vq.activity import LayerActivity, record_activity
from spiking_vq.checkpoint import atomic_write
from spiking_vq.data import load_dataset, to_unit
from spiking_vq.errors import require
from spiking_vq.generators import CHUNK, LatentGenerator
from spiking_vq.models.vq_svae import VQSVAE
from stages.command import MODEL, check_device, model_file, parse_options, recorded_command, run_command

OPTIONS = {
    **MODEL,
    "data_dir": "data",
    "results": "results",
    "n": 256,
    "seed": 0,
    "device": "cpu",
}


def main(arguments: list[str]) -> None:
    """Measure both stages, print, write."""
    options = parse_options(arguments, OPTIONS)
    check_device(options["device"])
    path = model_file("absorbing", options)
    n, seed = options["n"], options["seed"]
    require(n >= 1 and n % CHUNK == 0, "n, the number of images,", f"a multiple of {CHUNK}, generated at once", n)
    generator = LatentGenerator.from_pretrained(path, options["device"])
    config = generator.config
    require(config.neuron == "lif", "the model's neuron", "lif, which fires", config.neuron)
    data = load_dataset(config.data, options["data_dir"], config.image_size)
    images = data.val.images[:n]
    rates = {
        "vq_svae": stage1_rates(generator.model.vq_svae, images, seed),
        "absorbing": stage2_rates(generator, n, seed),
    }
    report = {
        "data": config.data,
        "preset": config.preset,
        "command": recorded_command("stages.firing_rates", arguments),
        "images": {"vq_svae": len(images), "absorbing": n},
        "vq_svae": {"T": config.vq_svae.T, "firing_rate": rates["vq_svae"]},
        "absorbing": {"T": config.T, "firing_rate": rates["absorbing"]},
    }
    for stage in ("vq_svae", "absorbing"):
        print(f"{stage} (T = {report[stage]['T']})")
        for name, rate in report[stage]["firing_rate"].items():
            print(f"  {name:<24} {rate:.4f}")
    out = Path(options["results"]) / config.data / config.preset / "firing_rates.json"
    with atomic_write(out) as temporary:
        temporary.write_text(json.dumps(report, indent=2) + "\n")
    print(f"wrote {out}")


@torch.no_grad()
def stage1_rates(vq_svae: VQSVAE, images: Tensor, seed: int) -> dict[str, float]:
    """Firing rate of each layer that encodes and decodes uint8 images [n, C, H, W], and of all neurons as `all`."""
    device = next(vq_svae.parameters()).device
    with record_activity(vq_svae) as activity:
        vq_svae.decode(vq_svae.tokenize(to_unit(images).to(device)), torch.Generator().manual_seed(seed))
    return _rates(activity)


def stage2_rates(generator: LatentGenerator, n: int, seed: int, **sampling: Any) -> dict[str, float]:
    """The same of the denoiser, over all calls that generate `n` images."""
    with record_activity(generator.model.denoiser) as activity:
        generator.sample(n, seed, **sampling)
    return _rates(activity)


def _rates(activity: dict[str, LayerActivity]) -> dict[str, float]:
    """Firing rate of each layer, and their mean weighted by the number of neurons."""
    total = LayerActivity(sum(a.spikes for a in activity.values()), sum(a.slots for a in activity.values()))
    return {name: layer.firing_rate for name, layer in activity.items()} | {"all": total.firing_rate}


if __name__ == "__main__":
    run_command(main)

"""Measure what the analytic sampler needs: `spiking-vq study analytic data=mnist preset=base` (or `ckpt=FILE`).

The error of the network's estimates of an image, at `times` diffusion times spread evenly over all, on `n` training
images each; in between it is interpolated. The result is written into the model's file, so that it travels with the
weights. That changes the file's hash: reports on it are then of another file.

Reference: Bao et al., Analytic-DPM, arXiv:2201.06503.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from spiking_vq.checkpoint.file import is_checkpoint, load_model, save_model
from spiking_vq.data.datasets import load_dataset
from spiking_vq.data.levels import to_unit
from spiking_vq.errors import require
from spiking_vq.pipelines.base import CHUNK
from spiking_vq.pipelines.pixel import PixelPipeline
from spiking_vq.pipelines.zoo import ZOO
from spiking_vq.randomness import mix_seed, permutation
from stages.cli.machine import check_device
from stages.cli.options import MODEL, model_file, parse_options

OPTIONS = {
    **MODEL,
    "stage": "gaussian",
    "times": 50,
    "n": 256,
    "seed": 0,
    "device": "cpu",
    "data_dir": Path("data"),
}


def main(arguments: list[str]) -> None:
    """Measure, write."""
    options = parse_options(arguments, OPTIONS)
    check_device(options["device"])
    for name in ("times", "n"):
        require(options[name] >= 1, name, "at least 1", options[name])
    path = model_file(options)
    require(not is_checkpoint(path), "the model", "a model.safetensors, into which the result is written", path)
    require(path.parent.resolve() != ZOO, "the model", "your own: what ships is not changed", path)
    generator = PixelPipeline.from_pretrained(path, options["device"])
    config = generator.config
    require(not generator.diffusion.on_currents, "the model", "one of images: currents are sampled by ddim", path)
    images = load_dataset(config.data, options["data_dir"], config.image_size).train.images
    error = measure(generator, images, options["times"], options["n"], options["seed"])
    model, _ = load_model(path)  # as it is in the file, whatever the generator made of it
    model.image_error.copy_(error)
    save_model(path, model, config)
    print(f"wrote the error of its estimates into {path}: sample with sampler=analytic")


@torch.no_grad()
def measure(generator: PixelPipeline, images: Tensor, num_times: int, n: int, seed: int) -> Tensor:
    """V_t at all times, [N + 1], from `num_times` of them on `n` of the uint8 images [M, C, H, W] each."""
    diffusion, randomness = generator.diffusion, torch.Generator(generator.device).manual_seed(mix_seed(seed))
    last = diffusion.diffusion_steps
    times = sorted({round(1 + (last - 1) * index / max(num_times - 1, 1)) for index in range(num_times)})
    rows = permutation(len(images), torch.Generator().manual_seed(seed))[:n]
    total = 0
    for some in rows.split(CHUNK):
        batch = 2 * to_unit(images[some]).to(generator.device) - 1
        total = total + len(some) * diffusion.image_error(generator.network, batch, times, randomness)
    return torch.from_numpy(np.interp(np.arange(last + 1), [0, *times], [0.0, *(total / len(rows)).tolist()]))

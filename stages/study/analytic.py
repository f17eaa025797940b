"""Measure the errors that `sampler=analytic` needs, and write them into the model's file.

They are the errors of the network's estimates of training images, at diffusion times spread evenly over all and
interpolated in between; they travel with the weights. Writing them changes the file's hash, so that earlier reports on
it are of another file.

Reference: Bao et al., Analytic-DPM, arXiv:2201.06503.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from spiking_vq.checkpoint.file import is_checkpoint, load_model, save_model
from spiking_vq.data.levels import to_unit
from spiking_vq.errors import require
from spiking_vq.fields import Count, OneOf, Seed
from spiking_vq.pipelines.base import CHUNK
from spiking_vq.pipelines.load import load
from spiking_vq.pipelines.pixel import PixelPipeline
from spiking_vq.pipelines.zoo import ZOO
from spiking_vq.randomness import mix_seed, permutation
from stages.cli.data import data_of
from stages.cli.machine import check_device
from stages.cli.options import LOADABLE, ModelOptions, read_options

EXAMPLE = "spiking-vq study analytic runs/mnist/base/gaussian"


@dataclass(frozen=True, kw_only=True)
class Options(ModelOptions):
    """Options of the measurement.

    Attributes:
        times: number of diffusion times.
        n: number of training images at each time.
        seed: of the noise.
        device: torch's name of the device, such as `cpu` or `cuda`.
        data_dir: folder of the data sets.
    """

    stage: Annotated[str, OneOf(LOADABLE)] = "gaussian"
    times: Count = 50
    n: Count = 256
    seed: Seed = 0
    device: str = "cpu"
    data_dir: Path = Path("data")


def main(arguments: list[str]) -> None:
    """Measure, and write the errors into the model's file."""
    options = read_options(Options, arguments)
    check_device(options.device)
    path = options.find()
    require(not is_checkpoint(path), "the model", "a model.safetensors, into which the result is written", path)
    require(path.parent.resolve() != ZOO, "the model", "your own: what ships is not changed", path)
    pipeline = load(path, options.device)
    config = pipeline.config
    require(isinstance(pipeline, PixelPipeline), "the model", "one of stage gaussian", config.stage)
    require(not pipeline.diffusion.on_currents, "the model", "one of images: currents are sampled by ddim", path)
    images = data_of(config, options.data_dir).train.images
    error = measure(pipeline, images, options.times, options.n, options.seed)
    model, _ = load_model(path)  # as it is in the file: the pipeline may have converted its own
    model.image_error.copy_(error)
    save_model(path, model, config)
    print(f"wrote the errors into {path}: sample with sampler=analytic")


@torch.no_grad()
def measure(pipeline: PixelPipeline, images: Tensor, num_times: int, n: int, seed: int) -> Tensor:
    """V_t at all times, [N + 1], from `num_times` of them on `n` of the uint8 images [M, C, H, W] each."""
    diffusion, generator = pipeline.diffusion, torch.Generator(pipeline.device).manual_seed(mix_seed(seed))
    last = diffusion.diffusion_steps
    times = sorted({round(1 + (last - 1) * index / max(num_times - 1, 1)) for index in range(num_times)})
    rows = permutation(len(images), torch.Generator().manual_seed(seed))[:n]
    total = 0
    for some in rows.split(CHUNK):
        batch = 2 * to_unit(images[some]).to(pipeline.device) - 1
        total = total + len(some) * diffusion.image_error(pipeline.network, batch, times, generator)
    return torch.from_numpy(np.interp(np.arange(last + 1), [0, *times], [0.0, *(total / len(rows)).tolist()]))

"""Generate images with a trained model.

Writes `grid.png`, `images/000000.png`... and, of a discrete model, `tokens.npy` into a folder of samples, in which
earlier samples are replaced. Image i of a seed is the same whatever their number.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Annotated, Any

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor
from torchvision.transforms.functional import to_pil_image
from torchvision.utils import make_grid

from spiking_vq.errors import InputError
from spiking_vq.fields import OneOf, Range, Seed
from spiking_vq.files import atomic_write
from spiking_vq.pipelines.base import GROUP, MOST, Pipeline, Samples
from spiking_vq.pipelines.load import load
from spiking_vq.runtime.distributed import num_ranks, rank
from spiking_vq.runtime.precision import PRECISIONS
from stages.cli.machine import check_device, worth_compiling
from stages.cli.options import ModelOptions, SamplerArguments, read_options, sampler_settings
from stages.cli.progress import progress
from stages.cli.ranks import gathered, launch, leave

ImageCount = Annotated[int, Range(f"in 1..{MOST}", lambda n: 1 <= n <= MOST)]

EXAMPLE = "spiking-vq sample mnist n=16"

UNFINISHED, FORMER = ".images.part", ".images.former.part"
"""Folders of new images until all are there, and of earlier ones while the new ones take their name."""


@dataclass(frozen=True, kw_only=True)
class Options(ModelOptions, SamplerArguments):
    """Options of `sample`.

    Attributes:
        n: number of images.
        seed: of the noise.
        out: folder to write to; None (default) is `<runs>/<data>/<preset>/samples`, of a continuous model
            `gaussian-samples` there.
        device: torch's name of the device, such as `cpu` or `cuda`.
        devices: number of devices, or of processes on a CPU, that share the images.
        precision: `bf16` is autocast, with membranes in fp32.
    """

    n: ImageCount = 64
    seed: Seed = 0
    out: Path | None = None
    device: str = "cpu"
    devices: int = 1
    precision: Annotated[str, OneOf(tuple(PRECISIONS))] = "fp32"


def main(arguments: list[str]) -> None:
    """Find the model, sample, write."""
    options = read_options(Options, arguments)
    check_device(options.device, options.devices)
    path = options.find()
    pipeline = load(path, precision=options.precision)
    config, settings = pipeline.config, sampler_settings(pipeline, options)
    pipeline.compile = worth_compiling(options.n * pipeline.evaluations(**settings).calls)
    folder = "samples" if config.stage == "absorbing" else f"{config.stage}-samples"
    out = options.out or options.runs / config.data / config.preset / folder
    claim_folder(out)
    pipeline.to(launch(options.device, options.devices))
    samples = sample_together(pipeline, options.n, f"sampling from {path}", seed=options.seed, **settings)
    if rank() == 0:
        write_samples(out, samples)
        print(f"wrote {out / 'grid.png'} and {out / 'images'} ({len(samples.images)} images)")
    leave()


def sample_together(pipeline: Pipeline, n: int, title: str, **options: Any) -> Samples:
    """Sample `n` images on all ranks, each of which makes every R-th group; the images do not depend on R."""
    sizes = {first: min(GROUP, n - first) for first in range(0, n, GROUP)}
    own = list(sizes)[rank() :: num_ranks()]
    parts, made = {}, 0
    with progress(title=title, total=sum(sizes[first] for first in own)) as bar:
        for first in own:

            def advance(done: int, _: int, before: int = made) -> None:
                bar.update(before + done - bar.n)

            parts[first] = pipeline.sample(sizes[first], first=first, progress=advance, **options)
            made += sizes[first]
    images, tokens = zip(*gathered(parts).values(), strict=True)
    return Samples(torch.cat(images), None if tokens[0] is None else torch.cat(tokens))


def claim_folder(out: Path) -> None:
    """Make the folder, before anything is computed for it.

    Raises:
        InputError: it cannot be written to, or holds a file that `write_samples` would replace and did not write.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=out).close()
        foreign = foreign_files(out)
    except OSError as error:
        raise InputError(f"cannot write to {out}: {error.strerror}. Choose another folder with out=.") from error
    if foreign:
        raise InputError(
            f"{out} holds {foreign[0].relative_to(out)}, which sampling did not write and would replace: choose another"
            " folder with out=, or move it away"
        )


def foreign_files(out: Path) -> list[Path]:
    """Files that stand where samples go, and were not written by `write_samples`.

    Its own images are `images/000000.png` and on, without a gap, next to a `grid.png`. If it was killed, the folder of
    unfinished images says that the other files are its own.
    """
    images, others = out / "images", [out / "grid.png", out / "tokens.npy"]
    if images.is_symlink() or (images.exists() and not images.is_dir()):
        return [images]
    files = sorted(images.iterdir()) if images.exists() else []
    foreign = [path for index, path in enumerate(files) if path.name != image_name(index) or not path.is_file()]
    if foreign or (out / UNFINISHED).is_dir():
        return foreign
    if files:
        return [] if others[0].is_file() else files
    return [path for path in others if path.exists()]


def image_name(index: int) -> str:
    """Name of an image's file."""
    return f"{index:06d}.png"


def columns(n: int) -> int:
    """Columns of a grid of `n` images."""
    return max(1, round(n**0.5))


def as_grid(images: Tensor) -> Image:
    """All of the uint8 images [n, C, H, W] as one picture."""
    return to_pil_image(make_grid(images, nrow=columns(len(images))))


def write_samples(out: Path, samples: Samples) -> None:
    """Write images one by one and as a grid, and tokens if there are any, into a folder that `claim_folder` took.

    Earlier samples there are replaced, the images all at once.
    """
    images, tokens = samples
    folder, unfinished, former = out / "images", out / UNFINISHED, out / FORMER
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    for index, image in enumerate(images):
        to_pil_image(image).save(unfinished / image_name(index))
    with atomic_write(out / "grid.png") as temporary:
        as_grid(images).save(temporary, format="png")
    if tokens is not None:
        with atomic_write(out / "tokens.npy") as temporary, temporary.open("wb") as file:
            np.save(file, tokens.numpy())
    shutil.rmtree(former, ignore_errors=True)
    if folder.exists():
        folder.rename(former)
    unfinished.rename(folder)
    shutil.rmtree(former, ignore_errors=True)

"""Generate images: `spiking-vq sample data=mnist preset=base n=64` (or `ckpt=FILE`).

`stage=gaussian` takes a model of the continuous stage. Writes `grid.png`, `images/000000.png`... and, where there are
tokens, `tokens.npy` into `out` (default `<runs>/<data>/<preset>/samples`, of the continuous stage `gaussian-samples`).
"""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import torch
from torchvision.transforms.functional import to_pil_image
from torchvision.utils import make_grid
from tqdm import tqdm

from spiking_vq.errors import InputError, require
from spiking_vq.files import atomic_write
from spiking_vq.pipelines.base import GROUP, Pipeline, Samples
from spiking_vq.pipelines.load import load
from spiking_vq.runtime.distributed import num_ranks, rank
from stages.cli.machine import check_device
from stages.cli.options import MODEL, SAMPLER, model_file, parse_options, sampler_settings, worth_compiling
from stages.cli.ranks import gathered, launch

OPTIONS = {
    **MODEL,
    **SAMPLER,
    "out": Path,
    "n": 64,
    "seed": 0,
    "device": "cpu",
    "devices": 1,
    "precision": "fp32",
}

UNFINISHED, FORMER = ".images.part", ".images.former.part"
"""Where new images are until all are there, and earlier ones while these take their place."""


def main(arguments: list[str]) -> None:
    """Find the weights, sample, write."""
    options = parse_options(arguments, OPTIONS)
    check_device(options["device"], options["devices"])
    require(options["n"] >= 1, "n, the number of images,", "at least 1", options["n"])
    path = model_file(options)
    generator = load(path, precision=options["precision"])
    sampling = sampler_settings(generator, options)
    generator.compile = worth_compiling(options["n"], sampling)
    config = generator.config
    folder = "samples" if config.stage == "absorbing" else f"{config.stage}-samples"
    out = Path(options["out"] or Path(options["runs"]) / config.data / config.preset / folder)
    claim_folder(out)
    generator.to(launch(options["device"], options["devices"]))
    samples = sample_together(generator, options["n"], f"sampling from {path}", seed=options["seed"], **sampling)
    if rank() == 0:
        write_samples(out, samples)
        print(f"wrote {out / 'grid.png'} and {out / 'images'} ({len(samples.images)} images)")


def sample_together(generator: Pipeline, n: int, title: str, **options: Any) -> Samples:
    """`n` images from all ranks, each making every so many groups of them; the same ones whatever their number."""
    sizes = {first: min(GROUP, n - first) for first in range(0, n, GROUP)}
    own = list(sizes)[rank() :: num_ranks()]
    parts = {}
    with tqdm(total=sum(sizes[first] for first in own), desc=title, unit="image", disable=rank() > 0) as bar:
        for first in own:
            before = bar.n

            def tell(done: int, _: int, before: int = before) -> None:
                bar.update(before + done - bar.n)

            parts[first] = generator.sample(sizes[first], first=first, progress=tell, **options)
    images, tokens = zip(*gathered(parts).values(), strict=True)
    return Samples(torch.cat(images), None if tokens[0] is None else torch.cat(tokens))


def claim_folder(out: Path) -> None:
    """Make the folder, before anything is computed for it.

    Raises:
        InputError: it cannot be written to, or `write_samples` would replace something there that it did not write.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=out).close()
        foreign = not_samples(out)
    except OSError as error:
        raise InputError(f"cannot write to {out}: {error.strerror}. Choose another folder with out=.") from error
    if foreign:
        raise InputError(
            f"{out} holds {foreign[0].relative_to(out)}, which sampling did not write and would replace: choose another"
            " folder with out=, or move it away"
        )


def not_samples(out: Path) -> list[Path]:
    """What lies in a folder where samples go and was not written by `write_samples`.

    Its own are `images/000000.png` and on, without a gap and beside a `grid.png`; or, where it was killed, what lies
    beside the images that it had not put in place.
    """
    images, others = out / "images", [out / "grid.png", out / "tokens.npy"]
    if images.is_symlink() or (images.exists() and not images.is_dir()):
        return [images]
    found = sorted(images.iterdir()) if images.exists() else []
    foreign = [path for index, path in enumerate(found) if path.name != image_name(index) or not path.is_file()]
    if foreign or (out / UNFINISHED).is_dir():
        return foreign
    if found:
        return [] if others[0].is_file() else found
    return [path for path in others if path.exists()]


def image_name(index: int) -> str:
    """Name of an image's file."""
    return f"{index:06d}.png"


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
        to_pil_image(make_grid(images, nrow=max(1, round(len(images) ** 0.5)))).save(temporary, format="png")
    if tokens is not None:
        with atomic_write(out / "tokens.npy") as temporary, temporary.open("wb") as file:
            np.save(file, tokens.numpy())
    shutil.rmtree(former, ignore_errors=True)
    if folder.exists():
        folder.rename(former)
    unfinished.rename(folder)
    shutil.rmtree(former, ignore_errors=True)

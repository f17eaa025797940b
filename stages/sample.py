"""Generate images: `python -m stages.sample data=mnist preset=base n=64` (or `ckpt=FILE`).

Writes `grid.png`, `images/000000.png`... and `tokens.npy` into `out` (default `<runs>/<data>/<preset>/samples`).
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from torch import Tensor
from torchvision.transforms.functional import to_pil_image
from torchvision.utils import make_grid
from tqdm import tqdm

from spiking_vq.checkpoint import atomic_write
from spiking_vq.errors import InputError
from spiking_vq.generators import LatentGenerator, find_model
from stages.command import check_device, parse_options, run_command, worth_compiling

OPTIONS = {
    "data": "mnist",
    "preset": "base",
    "ckpt": str,
    "runs": "runs",
    "out": str,
    "n": 64,
    "seed": 0,
    "sample_steps": int,
    "order": str,
    "temperature": float,
    "device": "cpu",
    "precision": "fp32",
}


def main(arguments: list[str]) -> None:
    """Find the weights, sample, write."""
    options = parse_options(arguments, OPTIONS)
    check_device(options["device"])
    place = {key: options[key] for key in ("data", "preset", "runs", "ckpt")}
    path = find_model("absorbing", **place)
    generator = LatentGenerator.from_pretrained(
        path, options["device"], options["precision"], compile=worth_compiling(options["n"])
    )
    config = generator.config
    out = Path(options["out"] or Path(options["runs"]) / config.data / config.preset / "samples")
    claim_folder(out)
    with tqdm(total=options["n"], desc=f"sampling from {path}", unit="image") as bar:
        sampling = {key: options[key] for key in ("sample_steps", "order", "temperature")}
        images, tokens = generator.sample(
            options["n"], options["seed"], **sampling, progress=lambda done, _: bar.update(done - bar.n)
        )
    write_samples(out, images, tokens)
    print(f"wrote {out / 'grid.png'}, {out / 'images'} ({len(images)} images), {out / 'tokens.npy'}")


def claim_folder(out: Path) -> None:
    """Make the folder, before anything is computed for it.

    Raises:
        InputError: it cannot be written to.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / ".claim").touch()
        (out / ".claim").unlink()
    except OSError as error:
        raise InputError(f"cannot write to {out}: {error.strerror}. Choose another folder with out=.") from error


def write_samples(out: Path, images: Tensor, tokens: Tensor) -> None:
    """Write uint8 images [n, C, H, W] one by one and as a grid, and their tokens; earlier images there are replaced."""
    folder, unfinished = out / "images", out / ".images.part"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    for index, image in enumerate(images):
        to_pil_image(image).save(unfinished / f"{index:06d}.png")
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)
    with atomic_write(out / "grid.png") as temporary:
        to_pil_image(make_grid(images, nrow=max(1, round(len(images) ** 0.5)))).save(temporary, format="png")
    with atomic_write(out / "tokens.npy") as temporary, temporary.open("wb") as file:
        np.save(file, tokens.numpy())


if __name__ == "__main__":
    run_command(main)

"""Measure trained models on the test set: `python -m stages.evaluate data=mnist preset=base` (or `ckpt=FILE`).

Writes `evaluation.json`, `reconstructions.png`, `samples.png` and `inpainting.png` into `<results>/<data>/<preset>`.
Training reads nothing of the test set. `only=reconstruction` needs stage 1 alone and no Inception weights;
`only=samples` leaves reconstructions out. `split=val` puts the validation images in the place of the test images: for
choosing a temperature or a number of calls. Whatever departs from the usual stands in the files' names, as in
`evaluation-samples-val-temperature=0.8.json`.

What is compared by FID is always the same number of images: as many generated ones, reconstructions of training images,
and, for the floor, those training images themselves, each against the test images. Reconstructions of the test images
would be paired with what they are compared to, and could fall below the floor.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision.utils import save_image
from tqdm import tqdm

from spiking_vq.checkpoint import atomic_write, load_model
from spiking_vq.config import Config
from spiking_vq.data import SPLIT_SEED, ImageData, load_dataset, to_uint8, to_unit
from spiking_vq.errors import InputError, require
from spiking_vq.generators import LatentGenerator, Samples, find_model
from spiking_vq.metrics.codebook import perplexity
from spiking_vq.metrics.fid import fid
from spiking_vq.metrics.inception import BATCH, WEIGHTS, Inception
from spiking_vq.models.vq_svae import VQSVAE
from stages.command import check_device, parse_options, recorded_command, run_command, worth_compiling
from stages.machine import describe_machine

OPTIONS = {
    "data": "mnist",
    "preset": "base",
    "ckpt": str,
    "only": "all",
    "split": "test",
    "n": 10_000,
    "seed": 0,
    "sample_steps": int,
    "order": str,
    "temperature": float,
    "device": "cpu",
    "precision": "fp32",
    "data_dir": "data",
    "runs": "runs",
    "results": "results",
}
ONLY = ("all", "reconstruction", "samples")
SPLITS = ("test", "val")
SAMPLING = ("sample_steps", "order", "temperature")

# Images in the official training and test files.
OFFICIAL = {
    "mnist": (60_000, 10_000),
    "fmnist": (60_000, 10_000),
    "kmnist": (60_000, 10_000),
    "letters": (124_800, 20_800),
    "cifar10": (50_000, 10_000),
}

MODEL_BATCH = 256
CACHE_CHUNK = 1000  # images a cache file: a minute's work
LIKELIHOOD_IMAGES = 1000
PICTURED = 64


class Subject(NamedTuple):
    """What is being measured.

    Attributes:
        path: its file.
        config: of the stage the file is of.
        vq_svae: stage 1.
        generator: both stages, or None.
    """

    path: Path
    config: Config
    vq_svae: VQSVAE
    generator: LatentGenerator | None


def main(arguments: list[str]) -> None:
    """Find the weights, measure, write, print."""
    options = parse_options(arguments, OPTIONS)
    check_device(options["device"])
    only = options["only"]
    require(only in ONLY, "only", f"one of {', '.join(ONLY)}", repr(only))
    require(options["split"] in SPLITS, "split", f"one of {', '.join(SPLITS)}", repr(options["split"]))
    require(options["n"] >= 2, "n, the number of images to compare,", "at least 2", options["n"])
    subject = find_subject(options)
    told = [] if only == "all" else [only]
    path = Path(options["results"]) / options["data"] / options["preset"] / f"evaluation{_suffix(options, told)}.json"
    with atomic_write(path) as temporary:  # opened first: a place that cannot be written to is found before the work
        report = {"command": recorded_command("stages.evaluate", arguments)}
        report |= evaluate(subject, options, path.parent)
        temporary.write_text(json.dumps(report, indent=2) + "\n")
    print_table(report)
    print(f"wrote {path}")


def find_subject(options: dict[str, Any]) -> Subject:
    """Load what the options name.

    Raises:
        InputError: there is no such file, or it was trained on other data or with another preset.
    """
    place = {key: options[key] for key in ("data", "preset", "runs", "ckpt")}
    if options["only"] == "reconstruction":
        path = find_model("vq_svae", **place)
        model, config = load_model(path)
        vq_svae = getattr(model, "vq_svae", model).to(options["device"])
        subject = Subject(path, config, vq_svae, None)
    else:
        path = find_model("absorbing", **place)
        generator = LatentGenerator.from_pretrained(
            path, options["device"], options["precision"], compile=worth_compiling(options["n"])
        )
        subject = Subject(path, generator.config, generator.model.vq_svae, generator)
    for key in ("data", "preset"):
        trained = getattr(subject.config, key)
        if trained != options[key]:
            raise InputError(f"{path} was trained with {key}={trained}, not {key}={options[key]}: give {key}={trained}")
    return subject


def evaluate(subject: Subject, options: dict[str, Any], out: Path) -> dict[str, Any]:
    """All that `options["only"]` asks for, as it goes into the JSON file; pictures go into the folder `out`."""
    _, config, vq_svae, generator = subject
    n, seed, only = options["n"], options["seed"], options["only"]
    data = load_dataset(config.data, options["data_dir"], config.image_size)
    features = None
    if generator is not None:  # before anything that takes long, since its weights may be missing
        features = CachedFeatures(data.root / WEIGHTS, data.root / "features", options["device"])

    # Test files may be in order of their labels: the first n have to be a fair draw.
    held_out = getattr(data, options["split"]).images
    held_out = held_out[torch.randperm(len(held_out), generator=_random(SPLIT_SEED))]
    reference, training = held_out[:n], data.train.images[:n]
    report = describe(subject, data, options)
    suffix = _suffix(options)

    compared = {"floor": training}
    if generator is not None:
        samples, seconds = draw(generator, len(training), seed, dict(report["sampler"]))
        report["sampler"] |= {"precision": generator.precision, "seconds": seconds}
        report["sampler"]["images_per_second"] = len(training) / seconds
        report["likelihood"] = measure_likelihood(generator, held_out[:LIKELIHOOD_IMAGES], seed)
        compared["samples"] = samples.images
        write_picture(out / f"samples{suffix}.png", samples.images[:PICTURED], 8)
        write_picture(out / f"inpainting{suffix}.png", complete(generator, held_out[:8], seed), 8)
    if only != "samples":
        images, tokens = reconstruct(vq_svae, held_out, seed, "reconstructing held-out images")
        report["reconstruction"] = measure_reconstruction(images, tokens, held_out, vq_svae.codebook_size)
        rows = zip(held_out[:PICTURED].split(16), to_uint8(images[:PICTURED]).split(16), strict=True)
        write_picture(out / f"reconstructions{suffix}.png", torch.cat(list(chain.from_iterable(rows))), 16)
    if only == "all":
        images, _ = reconstruct(vq_svae, training, seed, "reconstructing training images")
        compared["reconstruction"] = to_uint8(images)
    if features is None:
        return report

    target = features(reference, "features: reference")
    report["fid"] = {name: fid(features(images, f"features: {name}"), target) for name, images in compared.items()}
    report["features"] = {"computed": features.computed, "seconds": features.seconds}
    return report


def describe(subject: Subject, data: ImageData, options: dict[str, Any]) -> dict[str, Any]:
    """Which model, data, sampler and machine a report is about."""
    path, config, vq_svae, generator = subject
    n = options["n"]
    counts = {"train": len(data.train.images), "val": len(data.val.images), "test": len(data.test.images)}
    # The codebook is a buffer where it learns by averages, and counts all the same.
    parameters = {"vq_svae": {*vq_svae.parameters(), vq_svae.quantizer.codebook}}
    steps = {"vq_svae": vq_svae.T}
    if generator is not None:
        counts |= {"asked_for": n, "compared": min(n, counts["train"]), "reference": min(n, counts[options["split"]])}
        parameters["denoiser"] = set(generator.model.denoiser.parameters())
        steps["denoiser"] = config.T
    report = {
        "data": config.data,
        "stand_in": stand_in(data),
        "preset": config.preset,
        "only": options["only"],
        "split": options["split"],
        "seed": options["seed"],
        "checkpoint": {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()},
        "machine": describe_machine(options["device"]),
        "counts": counts,
        "neuron": config.neuron,
        "T": steps,
        "parameters": {name: sum(weight.numel() for weight in weights) for name, weights in parameters.items()},
    }
    if generator is not None:
        report["sampler"] = generator.sampling(**{key: options[key] for key in SAMPLING})
    return report


def stand_in(data: ImageData) -> str | None:
    """What to say of files that are not the official ones; None if nothing."""
    found = len(data.train.images) + len(data.val.images), len(data.test.images)
    expected = OFFICIAL.get(data.name, found)
    if found == expected:
        return None
    return (
        f"a stand-in of {found[0]:,} training and {found[1]:,} test images, officially {expected[0]:,} and"
        f" {expected[1]:,}: not comparable with published figures"
    )


@torch.no_grad()
def reconstruct(vq_svae: VQSVAE, images: Tensor, seed: int, title: str) -> tuple[Tensor, Tensor]:
    """Through the bottleneck and back.

    Args:
        vq_svae: in evaluation mode.
        images: uint8 [N, C, H, W].
        seed: of what is random in the decoder, if anything is.
        title: of the progress bar.

    Returns:
        Reconstructions [N, C, H, W] in [0, 1], and tokens [N, h, w], both on the CPU.
    """
    device = next(vq_svae.parameters()).device
    generator = _random(seed)
    reconstructions, tokens = [], []
    for batch in _batches(images, MODEL_BATCH, title):
        ids = vq_svae.tokenize(to_unit(batch.to(device)))
        reconstructions.append(vq_svae.decode(ids, generator).cpu())
        tokens.append(ids.cpu())
    return torch.cat(reconstructions), torch.cat(tokens)


def measure_reconstruction(
    reconstructions: Tensor, tokens: Tensor, images: Tensor, codebook_size: int
) -> dict[str, float]:
    """Mean squared error in units of [0, 1] images, and how the codebook is used."""
    return {
        "images": len(images),
        "mse": (reconstructions - to_unit(images)).square().mean(dtype=torch.float64).item(),
        "codebook_size": codebook_size,
        "codes_used": len(tokens.unique()),
        "perplexity": perplexity(tokens, codebook_size).item(),
    }


@torch.no_grad()
def measure_likelihood(generator: LatentGenerator, images: Tensor, seed: int) -> dict[str, float]:
    """Bound on the tokens' negative log-likelihood under the paper's process; see `AbsorbingDiffusion.elbo_bits`."""
    model, diffusion = generator.model, generator.diffusion
    randomness = torch.Generator(generator.device).manual_seed(seed)
    bits = []
    for batch in _batches(images, MODEL_BATCH, "likelihood of held-out tokens"):
        tokens = model.vq_svae.tokenize(to_unit(batch.to(generator.device)))
        bits.append(diffusion.elbo_bits(model.denoiser, tokens, randomness).cpu())
    bits = torch.cat(bits).double()
    return {
        "images": len(bits),
        "bits_per_image": bits.mean().item(),
        "standard_error": (bits.std() / len(bits) ** 0.5).item(),
        "bits_per_token": bits.mean().item() / diffusion.diffusion_steps,
    }


def draw(generator: LatentGenerator, n: int, seed: int, sampling: dict[str, Any]) -> tuple[Samples, float]:
    """Generate `n` images, and say how many seconds it took."""
    started = time.monotonic()
    with tqdm(total=n, desc="sampling", unit="image") as bar:
        samples = generator.sample(n, seed, **sampling, progress=lambda done, _: bar.update(done - bar.n))
    return samples, time.monotonic() - started


def complete(generator: LatentGenerator, images: Tensor, seed: int) -> Tensor:
    """Each uint8 image [N, C, H, W] and seven ways to go on from the upper half of its tokens: [8 N, C, H, W]."""
    height, width = generator.diffusion.grid
    keep = (torch.arange(height) < height / 2).unsqueeze(1).expand(height, width)
    completed = generator.inpaint(images.repeat_interleave(7, 0), keep, seed).images
    return torch.cat([images.unsqueeze(1), completed.unflatten(0, (-1, 7))], dim=1).flatten(0, 1)


class CachedFeatures:
    """Inception features, kept on disk under a hash of the images.

    Chunks of images are files of their own, so that a run that was stopped goes on where it was, and real images are
    computed once for all models. The folder may be deleted at any time.

    Args:
        weights: Inception's file.
        folder: of the cache.
        device: where to compute.

    Attributes:
        computed: images computed so far, not found in the cache.
        seconds: what that took.
    """

    def __init__(self, weights: Path, folder: Path, device: str) -> None:
        self.network = Inception(weights).to(device)
        self.folder, self.device = folder, device
        self.weights = f"{weights.name} {weights.stat().st_size}"
        self.computed, self.seconds = 0, 0.0

    def __call__(self, images: Tensor, title: str) -> Tensor:
        """Features [N, D] of uint8 images [N, C, H, W], on the CPU; `title` is the progress bar's."""
        with tqdm(total=len(images), desc=title, unit="image") as bar:
            return torch.cat([self._chunk(chunk, bar) for chunk in images.split(CACHE_CHUNK)])

    def _chunk(self, images: Tensor, bar: tqdm) -> Tensor:
        """Features of one chunk, from the cache or into it."""
        described = f"{self.weights} {tuple(images.shape)} ".encode()
        path = self.folder / f"{hashlib.sha256(described + images.numpy().tobytes()).hexdigest()}.npy"
        if path.exists():
            bar.update(len(images))
            return torch.from_numpy(np.load(path))
        started = time.monotonic()
        rows = []
        for batch in images.split(BATCH):
            rows.append(self.network(batch.to(self.device)).cpu())
            bar.update(len(batch))
        features = torch.cat(rows)
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            np.save(file, features.numpy())
        self.computed += len(images)
        self.seconds += time.monotonic() - started
        return features


def write_picture(path: Path, images: Tensor, columns: int) -> None:
    """Write uint8 images [n, C, H, W] as one picture, in rows of `columns`."""
    with atomic_write(path) as temporary:
        save_image(to_unit(images), temporary, nrow=columns, format="png")


def print_table(report: dict[str, Any]) -> None:
    """Print the figures of a report, one a line."""
    if report["stand_in"]:
        print(f"{report['data']} is {report['stand_in']}")
    for group in ("counts", "reconstruction", "likelihood", "sampler", "fid", "features"):
        for name, value in report.get(group, {}).items():
            shown = f"{value:,.5g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else value
            print(f"{group + ' ' + name.replace('_', ' '):34} {shown:>12}")


def _batches(images: Tensor, size: int, title: str) -> Iterator[Tensor]:
    """Cut images into batches, under a progress bar."""
    with tqdm(total=len(images), desc=title, unit="image") as bar:
        for batch in images.split(size):
            yield batch
            bar.update(len(batch))


def _suffix(options: dict[str, Any], told: Sequence[str] = ()) -> str:
    """What the files are called after, besides `told`: the split and the sampler, where not the usual ones."""
    split = [] if options["split"] == "test" else [options["split"]]
    sampler = [f"{key}={options[key]}" for key in SAMPLING if options[key] is not None]
    return "".join(f"-{word}" for word in [*told, *split, *sampler])


def _random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


if __name__ == "__main__":
    run_command(main)

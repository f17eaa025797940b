"""What a user holds: a trained generator that needs one file and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from spiking_vq.checkpoint import LatentModel, load_model
from spiking_vq.compiling import compiled
from spiking_vq.config import AbsorbingConfig
from spiking_vq.data import mix_seed, to_uint8, to_unit
from spiking_vq.diffusion.absorbing import AbsorbingDiffusion
from spiking_vq.errors import InputError, require
from spiking_vq.precision import PRECISIONS, autocast, parameter_type

ZOO = Path(__file__).parent / "zoo"

CHUNK = 64
"""Images computed at once. Fixed, the last chunk padded: convolutions round differently at another batch size, and an
image must be the same however many are asked for."""

GROUP = 16 * CHUNK
"""Images whose noise is held at once; in a group, a finished image leaves its place in the chunk to the next one."""


class Samples(NamedTuple):
    """What a generator makes.

    Attributes:
        images: uint8 [n, C, H, W].
        tokens: int64 [n, h, w] in 0..K-1.
    """

    images: Tensor
    tokens: Tensor


class LatentGenerator:
    """Tokens from absorbing diffusion, images from the VQ-SVAE's decoder.

    Args:
        model: both networks.
        config: the stage-2 configuration they were trained with.
        device: where to compute.
        precision: `fp32`, `bf16` (autocast; membranes stay fp32) or `fp64`.
        compile: compile the neurons' kernels (`spiking_vq.compiling`): faster from some hundred images on.

    Raises:
        InputError: another precision.
    """

    def __init__(
        self,
        model: LatentModel,
        config: AbsorbingConfig,
        device: torch.device | str = "cpu",
        precision: str = "fp32",
        compile: bool = False,
    ) -> None:
        require(precision in PRECISIONS, "precision", f"one of {', '.join(PRECISIONS)}", repr(precision))
        self.model, self.config = model.to(device, parameter_type(precision)).eval(), config
        self.device, self.precision, self.compile = torch.device(device), precision, compile
        self.diffusion = AbsorbingDiffusion(model.vq_svae.grid, model.vq_svae.codebook_size, config.loss)

    @classmethod
    def from_pretrained(
        cls, path: str | Path, device: torch.device | str = "cpu", precision: str = "fp32", compile: bool = False
    ) -> LatentGenerator:
        """Read a stage-2 `model.safetensors`; the other arguments are the constructor's.

        Raises:
            InputError: not such a file, or a stage-1 one.
        """
        model, config = load_model(path)
        if not isinstance(model, LatentModel):
            raise InputError(f"{path} is a {config.stage} model, which cannot generate: name a stage-2 file")
        return cls(model, config, device, precision, compile)

    def sampling(
        self, sample_steps: int | None = None, order: str | None = None, temperature: float | None = None
    ) -> dict[str, Any]:
        """The sampler's settings in force: those given, else the file's own defaults.

        Raises:
            InputError: a value out of range.
        """
        defaults, num_tokens = self.config.sample, self.diffusion.diffusion_steps
        if sample_steps is None:  # a preset's default may be more calls than a small grid has tokens
            sample_steps = min(defaults.sample_steps or num_tokens, num_tokens)
        order = defaults.order if order is None else order
        temperature = defaults.temperature if temperature is None else temperature
        self.diffusion.check_settings(sample_steps, order, temperature)
        return {"sample_steps": sample_steps, "order": order, "temperature": temperature}

    def to(self, device: torch.device | str) -> LatentGenerator:
        """Move the networks to a device, and compute there from now on."""
        self.model, self.device = self.model.to(device), torch.device(device)
        return self

    def sample(
        self,
        n: int,
        seed: int = 0,
        *,
        first: int = 0,
        sample_steps: int | None = None,
        order: str | None = None,
        temperature: float | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Samples:
        """Generate `n` images. Image i depends on (seed, i) alone, not on `n`.

        Args:
            n: how many, at least 1.
            seed: of the whole set.
            first: number of the first image, a multiple of `GROUP`: a large set may be made in parts.
            sample_steps, order, temperature: see `AbsorbingDiffusion.sample`; None takes the file's own default.
            progress: called as `progress(images_done, n)` after each chunk.

        Raises:
            InputError: a value out of range.
        """
        require(n >= 1, "n, the number of images,", "at least 1", n)
        require(first >= 0 and first % GROUP == 0, "first", f"a multiple of {GROUP}, 0 or more", first)
        free = torch.full((n, *self.model.vq_svae.grid), self.diffusion.mask_id)
        return self._complete(free, seed, sample_steps, order, temperature, first, progress)

    def inpaint(
        self,
        images: Tensor,
        keep: Tensor,
        seed: int = 0,
        *,
        sample_steps: int | None = None,
        order: str | None = None,
        temperature: float | None = None,
    ) -> Samples:
        """Keep some places of the token grid of given images, and generate the others.

        Args:
            images: uint8 [n, C, H, W].
            keep: bool [h, w] or [n, h, w], the places of the token grid whose tokens stay.
            seed, sample_steps, order, temperature: as in `sample`.

        Raises:
            InputError: shapes that do not fit, or a value out of range.
        """
        n, grid = len(images), self.model.vq_svae.grid
        require(n >= 1, "images", "at least one", n)
        if keep.dtype != torch.bool or tuple(keep.shape) not in (grid, (n, *grid)):
            raise InputError(
                f"keep must be bool [{grid[0]}, {grid[1]}], or one such grid for each of the {n} images;"
                f" got {keep.dtype} {list(keep.shape)}"
            )
        vq_svae, images = self.model.vq_svae, to_unit(images)
        with torch.no_grad():
            tokens = [vq_svae.tokenize(images[rows].to(self.device))[:kept].cpu() for rows, kept in _chunks(n)]
        known = torch.cat(tokens).where(keep, self.diffusion.mask_id)
        return self._complete(known, seed, sample_steps, order, temperature)

    @torch.no_grad()
    def _complete(
        self,
        known: Tensor,
        seed: int,
        sample_steps: int | None,
        order: str | None,
        temperature: float | None,
        first: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> Samples:
        """Fill in the masked places of `known` [n, h, w], in chunks of one size."""
        options = self.sampling(sample_steps, order, temperature)
        n, images, tokens = len(known), [], []
        with compiled(self.compile), autocast(self.precision, self.device):
            for start in range(0, n, GROUP):
                group = known[start : start + GROUP]

                def tell(calls: int, of: int, start: int = start, held: int = len(group)) -> None:
                    if progress is not None:
                        progress(start + held * calls // of, n)

                seeds = [mix_seed(seed, first + row) for row in range(start, start + len(group))]
                filled = self.diffusion.sample(
                    self.model.denoiser,
                    seeds,
                    known=group,
                    batch_size=CHUNK,
                    device=self.device,
                    progress=tell,
                    **options,
                )
                tokens.append(filled)
            tokens = torch.cat(tokens)
            for rows, kept in _chunks(n):
                spikes_from = torch.Generator().manual_seed(mix_seed(seed, first + int(rows[0]), 1))
                decoded = to_uint8(self.model.vq_svae.decode(tokens[rows.to(self.device)], spikes_from))
                images.append(decoded[:kept].cpu())
        return Samples(torch.cat(images), tokens.cpu())


def _chunks(n: int) -> Iterator[tuple[Tensor, int]]:
    """Row numbers [CHUNK] of each chunk of `n` rows, the last row repeated as padding, and how many count."""
    for first in range(0, n, CHUNK):
        yield torch.arange(first, first + CHUNK).clamp(max=n - 1), min(CHUNK, n - first)


def find_model(stage: str, data: str, preset: str, runs: str | Path = "runs", ckpt: str | None = None) -> Path:
    """The file to use: the one named, else that of your own run, else the one that ships.

    Args:
        stage: `absorbing`; `vq_svae`, which a stage-2 file holds too; or `classifier`.
        data, preset: of the run or of the shipped weights.
        runs: folder of the run folders.
        ckpt: a file that was named; it must exist.

    Raises:
        InputError: there is none; the message names the places looked at.
    """
    holders = [stage, "absorbing"] if stage == "vq_svae" else [stage]
    own = [Path(runs) / data / preset / holder / "model.safetensors" for holder in holders]
    shipped = [ZOO / f"{data}-{preset}-{holder}.safetensors" for holder in holders]
    for path in [Path(ckpt)] if ckpt else [*own, *shipped]:
        if path.is_file():
            return path
    if ckpt:
        raise InputError(f"no model file at {ckpt}")
    there = ", ".join(sorted(path.name for path in ZOO.glob("*.safetensors"))) or "none"
    train, name = (
        ("`make classifier`", "classifier=") if stage == "classifier" else ("`make stage1` and `make stage2`", "CKPT=")
    )
    raise InputError(
        f"no trained {stage} model for DATA={data} PRESET={preset}: looked for {own[0]}, then among the shipped ones"
        f" ({there}). Train it with {train}, or name a file with {name}."
    )

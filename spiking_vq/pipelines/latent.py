"""The discrete pipeline: tokens from absorbing diffusion, images from the decoder of the VQ-SVAE."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spiking_vq.checkpoint.build import LatentModel
from spiking_vq.data.images import as_uint8_images
from spiking_vq.data.levels import to_uint8, to_unit
from spiking_vq.diffusion.absorbing import AbsorbingDiffusion
from spiking_vq.diffusion.guidance import guided
from spiking_vq.errors import InputError, described, require, require_seed
from spiking_vq.pipelines.base import CHUNK, GROUP, Pipeline, Samples, chunks, within
from spiking_vq.randomness import mix_seed
from spiking_vq.runtime.precision import autocast
from spiking_vq.runtime.running import run_with


class LatentPipeline(Pipeline):
    """Tokens from absorbing diffusion, images from the VQ-SVAE's decoder; the arguments are those of `Pipeline`."""

    kind, stage = LatentModel, "absorbing"

    @property
    def network(self) -> nn.Module:
        """The denoiser."""
        return self.model.denoiser

    @property
    def num_steps(self) -> dict[str, int]:
        """Of stage 1 and of the denoiser."""
        return {"vq_svae": self.config.vq_svae.T, "denoiser": self.config.T}

    @property
    def diffusion(self) -> AbsorbingDiffusion:
        """The process that the denoiser was trained on."""
        return AbsorbingDiffusion(self.model.vq_svae.grid, self.model.vq_svae.codebook_size, self.config.loss)

    def sampling(self, **given: Any) -> dict[str, Any]:
        """Settings: `sample_steps`, `order`, `temperature`, `last_temperature`, `top_p`, `remask_calls` and `schedule`
        of `AbsorbingDiffusion.sample`; `guidance`, `guidance_T`, `label`. A `temperature` given alone is that of all
        calls.
        """
        settings = self._in_force(given, asdict(self.config.sample))
        if given.get("temperature") is not None:
            settings["last_temperature"] = given.get("last_temperature")
        most = self.diffusion.diffusion_steps + settings["remask_calls"]
        if given.get("sample_steps") is None:  # a preset's default may be more calls than a small grid has tokens
            settings["sample_steps"] = min(settings["sample_steps"] or most, most)
        names = ("sample_steps", "order", "temperature", "last_temperature", "top_p", "remask_calls", "schedule")
        self.diffusion.check_settings(**{name: settings[name] for name in names})
        steps, most = settings.get("guidance_T"), self.config.T
        require(steps is None or 1 <= steps <= most, "guidance_T", f"in 1..{most}, the network's T", steps)
        return settings

    @torch.no_grad()
    def make_alone(self, seed: int, **settings: Any) -> Tensor:
        """See `Pipeline.make_alone`."""
        tokens = self.tokens([seed], **settings)
        return self.model.vq_svae.decode(tokens, torch.Generator().manual_seed(mix_seed(seed, 1)))

    def tokens(self, seeds: Sequence[int], watch: Callable[[Tensor], None] | None = None, **settings: Any) -> Tensor:
        """Tokens [n, h, w] of one image for each seed, by settings in force, and where `known` places are among these.

        Autocast is the caller's.

        Args:
            seeds: of the images.
            watch: called with the tokens that the denoiser sees in each call.
            settings: of `AbsorbingDiffusion.sample`, and the labels'.
        """
        labels, guidance, settings = self._split(settings, seeds)
        unlabelled = within(self.network, num_steps=settings.pop("guidance_T", None))
        denoiser = guided(self.network, guidance, unlabelled)

        def watched(tokens: Tensor, *rest: Tensor) -> Tensor:
            watch(tokens)
            return denoiser(tokens, *rest)

        settings |= {"labels": labels, "device": self.device}
        return self.diffusion.sample(watched if watch else denoiser, seeds, **settings)

    def inpaint(self, images: Any, keep: Any, seed: int = 0, **settings: Any) -> Samples:
        """Keep some positions of the token grid of given images, and generate the others.

        Args:
            images: [n, C, H, W] or one image, as tensor, NumPy array, PIL image or a list of these; see
                `spiking_vq.images.as_uint8_images`.
            keep: bool [h, w] or [n, h, w], as tensor, NumPy array or lists; positions of the grid whose tokens stay.
            seed, settings: as in `sample`; a label that is not given is not drawn, as it could contradict the images.

        Raises:
            InputError: shapes that do not fit, or a value out of range.
        """
        require_seed(seed)
        vq_svae, settings = self.model.vq_svae, self.sampling(**settings)
        if settings.get("label", 0) is None:
            settings["guidance"] = 0.0
        images = to_unit(as_uint8_images(images, vq_svae.image_shape))
        n, keep = len(images), as_grids(keep, len(images), vq_svae.grid)
        with torch.no_grad(), autocast("fp32", self.device):  # whatever autocast the caller is in
            tokens = [vq_svae.tokenize(images[rows].to(self.device))[:kept].cpu() for rows, kept in chunks(n)]
        known = torch.cat(tokens).where(keep, self.diffusion.mask_id)
        with torch.no_grad(), run_with(compile=self.compile), autocast(self.precision, self.device):
            return self._complete(known, seed, 0, settings, lambda done, of: None)

    def _sample(
        self, n: int, seed: int, first: int, settings: dict[str, Any], progress: Callable[[int, int], None]
    ) -> Samples:
        free = torch.full((n, *self.model.vq_svae.grid), self.diffusion.mask_id, device="cpu")
        return self._complete(free, seed, first, settings, progress)

    def _complete(
        self, known: Tensor, seed: int, first: int, settings: dict[str, Any], progress: Callable[[int, int], None]
    ) -> Samples:
        """Fill in the masked places of `known` [n, h, w], in chunks of one size."""
        n, images, tokens = len(known), [], []
        for start in range(0, n, GROUP):
            group = known[start : start + GROUP]

            def tell(calls: int, of: int, start: int = start, held: int = len(group)) -> None:
                progress(start + held * calls // of, n)

            seeds = [mix_seed(seed, first + row) for row in range(start, start + len(group))]
            tokens.append(self.tokens(seeds, known=group, progress=tell, batch_size=CHUNK, **settings))
        tokens = torch.cat(tokens)
        for rows, kept in chunks(n):
            spikes_from = torch.Generator().manual_seed(mix_seed(seed, first + int(rows[0]), 1))
            decoded = to_uint8(self.model.vq_svae.decode(tokens[rows.to(self.device)], spikes_from))
            images.append(decoded[:kept].cpu())
        return Samples(torch.cat(images), tokens.cpu())


def as_grids(keep: Any, n: int, grid: tuple[int, int]) -> Tensor:
    """The positions to keep, bool [h, w] or [n, h, w] on the CPU, of a tensor, a NumPy array or lists.

    Raises:
        InputError: another type or shape.
    """
    try:
        found = keep if isinstance(keep, Tensor) else np.array(keep)
    except ValueError as error:
        raise InputError("keep must be grids of one size; got lists of different lengths") from error
    if isinstance(found, np.ndarray) and found.dtype == np.bool_:
        found = torch.from_numpy(found)
    if not isinstance(found, Tensor) or found.dtype != torch.bool or tuple(found.shape) not in (grid, (n, *grid)):
        shapes = f"{list(grid)}, or one such grid for each of the {n} images"
        raise InputError(f"keep must be bool {shapes}; got {described(found)}")
    return found.detach().cpu()

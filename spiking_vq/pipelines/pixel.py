"""The continuous pipeline: images from Gaussian diffusion, by a spiking U-Net."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from spiking_vq.checkpoint.build import PixelModel
from spiking_vq.data.levels import to_uint8
from spiking_vq.diffusion.gaussian import GaussianDiffusion
from spiking_vq.diffusion.guidance import guided, told
from spiking_vq.errors import require
from spiking_vq.neurons.lif import check_threshold_shift
from spiking_vq.pipelines.base import Pipeline, Samples, chunks, within
from spiking_vq.randomness import mix_seed
from spiking_vq.runtime.precision import parameter_type


class PixelPipeline(Pipeline):
    """Images from Gaussian diffusion, by a spiking U-Net; the arguments are those of `Pipeline`."""

    kind, stage = PixelModel, "gaussian"

    @property
    def network(self) -> nn.Module:
        """The U-Net."""
        return self.model.unet

    @property
    def num_steps(self) -> dict[str, int]:
        """Of the U-Net."""
        return {"unet": self.config.T}

    @property
    def diffusion(self) -> GaussianDiffusion:
        """The process that the U-Net was trained on."""
        return GaussianDiffusion(**asdict(self.config.diffusion))

    def sampling(self, **given: Any) -> dict[str, Any]:
        """Settings: `sampler`, `sample_steps` and `eta` of `GaussianDiffusion.trajectory`; `contrast`, by which the
        images are multiplied about mid-grey; `threshold_shift`, which is added to every neuron's threshold; `label`,
        `guidance`.
        """
        settings = self._in_force(given, asdict(self.config.sample))
        diffusion, sampler = self.diffusion, settings["sampler"]
        if settings["sample_steps"] is None:
            settings["sample_steps"] = diffusion.diffusion_steps
        if given.get("eta") is None and sampler != "ddim":  # the file's own is of the file's own sampler
            settings["eta"] = 0.0
        diffusion.check_settings(sampler, settings["sample_steps"], settings["eta"], self.model.image_error)
        require(settings["contrast"] > 0, "contrast", "greater than 0", settings["contrast"])
        shift = settings["threshold_shift"]
        require(self.config.neuron == "lif" or not shift, "threshold_shift", "0 without spikes", shift)
        check_threshold_shift(self.network, shift)
        return settings

    @torch.no_grad()
    def make_alone(self, seed: int, **settings: Any) -> Tensor:
        """See `Pipeline.make_alone`."""
        *_, images = self.trajectory([seed], **settings)
        return images

    def trajectory(self, seeds: Sequence[int], **settings: Any) -> Iterator[Tensor]:
        """The images so far after each call, [B, C, H, W] in [0, 1], one for each seed, all at once.

        The settings are those in force (`sampling` gives them). Autocast is the caller's.
        """
        labels, guidance, settings = self._split(settings, seeds)
        diffusion, contrast = self.diffusion, settings.pop("contrast")
        network = within(self.network, threshold_shift=settings.pop("threshold_shift"))
        states = diffusion.trajectory(
            told(guided(network, guidance), labels),
            seeds,
            self.model.image_shape,
            image_error=self.model.image_error,
            num_currents=self.config.T if diffusion.on_currents else None,
            device=self.device,
            dtype=parameter_type(self.precision),
            **settings,
        )
        for state in states:
            yield as_images(state.noisy, contrast)

    def _sample(
        self, n: int, seed: int, first: int, settings: dict[str, Any], progress: Callable[[int, int], None]
    ) -> Samples:
        finished, steps = [], settings["sample_steps"]
        for rows, kept in chunks(n):
            seeds = [mix_seed(seed, first + row) for row in rows.tolist()]
            for done, so_far in enumerate(self.trajectory(seeds, **settings), start=1):
                images = so_far
                progress(int(rows[0]) + kept * done // steps, n)
            finished.append(to_uint8(images)[:kept].cpu())
        return Samples(torch.cat(finished))


def as_images(noisy: Tensor, contrast: float = 1.0) -> Tensor:
    """Images [B, C, H, W] in [0, 1] of a state of sampling in [-1, 1], or of its currents `[T, B, C, H, W]`.

    Above 1, `contrast` takes what is nearly black or white for black or white.
    """
    decoded = noisy.mean(0) if noisy.dim() == 5 else noisy
    return ((contrast * decoded).clamp(-1, 1) + 1) / 2

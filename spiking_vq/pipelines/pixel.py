"""The continuous pipeline: images from Gaussian diffusion, by a spiking U-Net."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from spiking_vq.checkpoint.build import PixelModel
from spiking_vq.data.levels import to_uint8
from spiking_vq.diffusion.gaussian import GaussianDiffusion
from spiking_vq.diffusion.gaussian_sampler import GaussianSampler, GaussianSamplerOptions
from spiking_vq.diffusion.guidance import guided
from spiking_vq.diffusion.sampling import State
from spiking_vq.errors import InputError, require
from spiking_vq.export.folder import claim, export_seeds
from spiking_vq.export.pixel import export_pixel
from spiking_vq.layers.folding import fold_batch_norms
from spiking_vq.models.unet_parts import SpikingUNet
from spiking_vq.neurons.lif import check_threshold_shift
from spiking_vq.pipelines.base import Pipeline, within
from spiking_vq.runtime.precision import parameter_type


class PixelPipeline(Pipeline):
    """Images from Gaussian diffusion, by a spiking U-Net; for the arguments see `Pipeline`."""

    kind, stage = PixelModel, "gaussian"

    @property
    def is_exported(self) -> bool:
        """Whether the U-Net is a graph of an export."""
        return not isinstance(self.model.unet, SpikingUNet)

    @property
    def network(self) -> nn.Module:
        """The U-Net."""
        return self.model.unet

    @property
    def num_steps(self) -> dict[str, int]:
        """Spiking steps of the U-Net."""
        return {"unet": self.config.T}

    @property
    def diffusion(self) -> GaussianDiffusion:
        """The process that the U-Net was trained on."""
        return GaussianDiffusion(**asdict(self.config.diffusion))

    def sampler(self, options: GaussianSamplerOptions) -> GaussianSampler:
        """See `Pipeline.sampler`."""
        shift, diffusion = options.threshold_shift, self.diffusion
        require(self.config.neuron == "lif" or not shift, "threshold_shift", "0 without spikes", shift)
        check_threshold_shift(self.network, shift)
        return GaussianSampler(
            diffusion,
            options,
            self.model.image_shape,
            self.model.image_error,
            self.config.T if diffusion.on_currents else None,
            parameter_type(self.precision),
        )

    def _states(
        self,
        sampler: GaussianSampler,
        seeds: Sequence[int],
        labels: Sequence[int | None],
        known: None,
        batch_size: int | None,
    ) -> Iterator[State]:
        options = sampler.options
        network = within(self.network, threshold_shift=options.threshold_shift)
        denoiser = guided(network, options.guidance)
        for state in sampler.states(denoiser, seeds, self.labels(seeds, labels), batch_size, self.device):
            yield state._replace(x=as_images(state.x, options.contrast))

    def decode(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """The images of the last state, as they are."""
        return x

    def export(self, folder: str | Path, to: str = "nir", form: str = "standard", n: int = 2) -> Path:
        """Export the U-Net, with results to check a receiver against; `spiking_vq.load(folder)` runs it.

        Args:
            folder: to write to; files of an earlier export there are replaced.
            to: `nir`.
            form: of the neurons, see `spiking_vq.export.graphs.neurons`.
            n: number of images that the expected results are of.

        Returns:
            The folder.

        Raises:
            InputError: a network that cannot be exported so, a missing package, or a folder that cannot be written to.
        """
        require(to == "nir", "to", "nir for a continuous model", repr(to))
        folder, seeds, model = claim(folder, to), export_seeds(n), copy.deepcopy(self.model).cpu()
        self._require_networks()
        exact = PixelPipeline(fold_batch_norms(copy.deepcopy(model).float()), self.config, precision="fp64")
        *_, last = exact.states(seeds)
        export_pixel(model.float(), self.config, folder, to_uint8(last.x), exact.labels(seeds), form)
        return folder

    def stream(self, seed: int = 0, **settings: Any) -> NoReturn:
        """Raise `InputError`: the U-Net has no spikes at its ends, see `LatentPipeline.stream`."""
        raise InputError(
            "a continuous model has no events to stream: what enters its U-Net is a noisy image, and what leaves it a"
            " prediction, both of real numbers. Take a model of tokens, such as mnist."
        )


def as_images(noisy: Tensor, contrast: float = 1.0) -> Tensor:
    """Images [n, C, H, W] in [0, 1] from a state in [-1, 1], or from its synaptic currents `[T, n, C, H, W]`.

    A `contrast` above 1 (default) makes nearly black or white pixels black or white.
    """
    decoded = noisy.mean(0) if noisy.dim() == 5 else noisy
    return ((contrast * decoded).clamp(-1, 1) + 1) / 2

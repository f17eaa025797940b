"""The discrete pipeline: tokens from absorbing diffusion, images from the decoder of the VQ-SVAE."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spiking_vq.checkpoint.build import LatentModel
from spiking_vq.data.images import as_uint8_images
from spiking_vq.data.levels import to_unit
from spiking_vq.diffusion.absorbing import AbsorbingDiffusion
from spiking_vq.diffusion.absorbing_sampler import AbsorbingSampler, AbsorbingSamplerOptions
from spiking_vq.diffusion.guidance import guided
from spiking_vq.diffusion.sampling import State
from spiking_vq.errors import InputError, described, require, require_one_of, require_seed
from spiking_vq.export.events import LAYERS, Events, image_of, on_graphs, tapped
from spiking_vq.export.folder import claim, export_seeds
from spiking_vq.export.latent import export_latent
from spiking_vq.export.traced import export_traced
from spiking_vq.layers.folding import fold_batch_norms
from spiking_vq.models.vq_svae import VQSVAE
from spiking_vq.pipelines.base import Pipeline, Samples, chunks, within
from spiking_vq.randomness import ImageStream, mix_seed
from spiking_vq.runtime.precision import autocast


class LatentPipeline(Pipeline):
    """Tokens from absorbing diffusion, images from the decoder of the VQ-SVAE; for the arguments see `Pipeline`."""

    kind, stage = LatentModel, "absorbing"

    @property
    def is_exported(self) -> bool:
        """Whether the networks are graphs of an export."""
        return not isinstance(self.model.vq_svae, VQSVAE)

    @property
    def network(self) -> nn.Module:
        """The denoiser."""
        return self.model.denoiser

    @property
    def num_steps(self) -> dict[str, int]:
        """Spiking steps of stage 1 and of the denoiser."""
        return {"vq_svae": self.config.vq_svae.T, "denoiser": self.config.T}

    @property
    def diffusion(self) -> AbsorbingDiffusion:
        """The process that the denoiser was trained on."""
        return AbsorbingDiffusion(self.model.vq_svae.code_grid, self.model.vq_svae.codebook_size, self.config.loss)

    def sampler(self, options: AbsorbingSamplerOptions) -> AbsorbingSampler:
        """See `Pipeline.sampler`."""
        steps, T = options.guidance_T, self.config.T
        require(steps is None or steps <= T, "guidance_T", f"in 1..{T}, the network's T", steps)
        return AbsorbingSampler(self.diffusion, options)

    def _states(
        self,
        sampler: AbsorbingSampler,
        seeds: Sequence[int],
        labels: Sequence[int | None],
        known: Tensor | None,
        batch_size: int | None,
    ) -> Iterator[State]:
        unconditional = within(self.network, num_steps=sampler.options.guidance_T)
        denoiser = guided(self.network, sampler.options.guidance, unconditional)
        return sampler.states(denoiser, seeds, self.labels(seeds, labels), known, batch_size, self.device)

    def decode(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Images [n, C, H, W] in [0, 1] of tokens int64 [n, G, h, w] in 0..K-1."""
        return self.model.vq_svae.decode(x, generator)

    def inpaint(self, images: Any, keep: Any, seed: int = 0, **settings: Any) -> Samples:
        """Keep some positions of the token grid of given images, and generate the others.

        Args:
            images: [n, C, H, W] or one image, as tensor, NumPy array, PIL image or a list of these; see
                `spiking_vq.data.images.as_uint8_images`.
            keep: bool [h, w] or [n, h, w], as tensor, NumPy array or lists; positions of the grid whose tokens stay.
            seed, settings: as in `sample`; without a label, completions are unconditional, as a drawn label could
                contradict the images.

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
            parts = chunks(n, self.coded_at_once)
            tokens = [vq_svae.tokenize(images[rows].to(self.device))[:kept].cpu() for rows, kept in parts]
        known = torch.cat(tokens).where(keep.unsqueeze(-3), self.diffusion.mask_id)
        return self._generate(n, seed, *self._chosen(settings), known=known)

    def export(
        self, folder: str | Path, to: str = "nir", form: str = "standard", inputs: str = "host", n: int = 2
    ) -> Path:
        """Export the networks, with results to check a receiver against; `spiking_vq.load(folder)` runs them.

        Args:
            folder: to write to; files of an earlier export there are replaced.
            to: `nir`, `onnx` or `pt2` (torch.export).
            form: of the neurons in NIR, see `spiking_vq.export.graphs.neurons`: `standard`, or `feedback` for receivers
                that know no subtracting reset.
            inputs: of the graphs in NIR, see `spiking_vq.export.host`: `host`, or `spikes` for look-ups as synapses.
            n: number of images that the expected results are of.

        Returns:
            The folder.

        Raises:
            InputError: a network that cannot be exported so, an option that the format does not have, a missing
                package, or a folder that cannot be written to.
        """
        folder, seeds, model = claim(folder, to), export_seeds(n), copy.deepcopy(self.model).cpu()
        of_nir = (form, inputs) != ("standard", "host")
        require(to == "nir" or not of_nir, "form and inputs", f"left out with to={to}", f"{form} and {inputs}")
        self._require_networks()
        exact = LatentPipeline(fold_batch_norms(copy.deepcopy(model).float()), self.config, precision="fp64")
        *_, last = exact.states(seeds)
        given = (model.float(), self.config, folder, last.x, exact.labels(seeds))
        if to == "nir":
            export_latent(*given, form, inputs)
        else:
            export_traced(*given, to)
        return folder

    def stream(self, seed: int = 0, layers: str = "ends", **settings: Any) -> Iterator[Events]:
        """Generate image 0 of a seed on graphs of the networks, and yield the spikes that enter and leave these.

        The graphs are those of `export`: of a pipeline that was loaded from an export to NIR its own, else new ones in
        memory, which read one-hot spikes where the model can. A graph that reads a current (`inputs=host`) has no
        events of layer `input`. Computes on the CPU in fp64 or fp32; rounding may differ from `sample`'s.

        Args:
            seed, settings: as in `sample`, whose image 0 this is.
            layers: `ends`, the input and the layers that the read-out sees; or `all`.

        Yields:
            Events in the order in which they happen: call by call of the denoiser, step by step, layer by layer, then
            of the decoder; silent layers too. With guidance every second call is the one without a label.

        Raises:
            InputError: a network that NIR cannot hold, or a value out of range.
        """
        require_seed(seed)
        require_one_of("layers", layers, LAYERS)
        graphs = self._on_graphs()
        states = graphs.states([mix_seed(seed, 0)], **settings)
        return graphs._streamed(states, layers, torch.Generator().manual_seed(mix_seed(seed, 0, ImageStream.SPIKES)))

    def image_of(self, events: Iterable[Events]) -> Tensor:
        """The image, uint8 [1, C, H, W], of the events that `stream` yields, or a chip: the last layer's spikes alone.

        Raises:
            InputError: no events of the decoder's last layer, or events that do not fit it.
        """
        return image_of(events, self._on_graphs().model)

    def _on_graphs(self) -> LatentPipeline:
        """This pipeline with its networks as graphs."""
        return LatentPipeline(
            on_graphs(self.model), self.config, precision="fp64" if self.precision == "fp64" else "fp32"
        )

    def _streamed(self, states: Iterator[State], layers: str, generator: torch.Generator) -> Iterator[Events]:
        """Events of an image, whose states the sampler yields, on graphs; see `stream`."""
        with tapped(self.model, layers) as (denoiser, decoder):
            for state in states:
                tokens = state.x
                yield from denoiser.events
                denoiser.events.clear()
            rows, _ = next(chunks(1, self.coded_at_once))  # as `sample` does, for the same drawn spikes
            with torch.no_grad():
                self.decode(tokens[rows], generator)
            yield from decoder.events


def as_grids(keep: Any, n: int, grid: tuple[int, int]) -> Tensor:
    """Positions to keep, bool [h, w] or [n, h, w] on the CPU, from a tensor, a NumPy array or lists.

    Raises:
        InputError: another type or shape.
    """
    try:
        grids = keep if isinstance(keep, Tensor) else np.array(keep)
    except ValueError as error:
        raise InputError("keep must be grids of one size; got lists of different lengths") from error
    if isinstance(grids, np.ndarray) and grids.dtype == np.bool_:
        grids = torch.from_numpy(grids)
    if not isinstance(grids, Tensor) or grids.dtype != torch.bool or tuple(grids.shape) not in (grid, (n, *grid)):
        shapes = f"{list(grid)}, or one such grid for each of the {n} images"
        raise InputError(f"keep must be bool {shapes}; got {described(grids)}")
    return grids.detach().cpu()

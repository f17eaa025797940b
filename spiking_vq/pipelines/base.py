"""The sampling that both pipelines share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from spiking_vq.config.schema import DenoiserConfig
from spiking_vq.data.levels import to_uint8
from spiking_vq.diffusion.absorbing import AbsorbingDiffusion
from spiking_vq.diffusion.absorbing_sampler import AbsorbingSamplerOptions
from spiking_vq.diffusion.gaussian import GaussianDiffusion
from spiking_vq.diffusion.gaussian_sampler import GaussianSamplerOptions
from spiking_vq.diffusion.sampling import Sampler, State
from spiking_vq.errors import InputError, require, require_integer, require_one_of, require_seed
from spiking_vq.pipelines.conventions import Conventions
from spiking_vq.pipelines.labels import as_labels, each_label, network_labels
from spiking_vq.randomness import ImageStream, mix_seed
from spiking_vq.runtime.memory import images_at_once
from spiking_vq.runtime.precision import PRECISIONS, autocast, parameter_type
from spiking_vq.runtime.running import run_with

CHUNK = 64
"""Images computed at once. Fixed, the last chunk padded: convolutions round differently at another batch size, and an
image must be the same whatever the number of images."""

GROUP = 16 * CHUNK
"""Images whose noise is in memory at once."""

MOST = 2**31 - 1
"""Largest number of images of a call."""


class Samples(NamedTuple):
    """Generated images.

    Attributes:
        images: uint8 [n, C, H, W].
        tokens: int64 [n, G, h, w] in 0..K-1 of discrete models; None of continuous ones.
    """

    images: Tensor
    tokens: Tensor | None = None


class Evaluations(NamedTuple):
    """Work of a network for an image.

    Attributes:
        calls: network function evaluations (NFE).
        steps: spiking steps in all of them.
    """

    calls: int
    steps: int


class Pipeline(Conventions):
    """Trained networks that generate images; a subclass knows the diffusion and its sampler.

    Args:
        model: the networks, of a file of stage `stage`.
        config: its configuration.
        device: where to compute.
        precision: `fp32`, `bf16` (autocast; membranes stay fp32) or `fp64`. A quantised model computes in fp32 for
            `bf16`, which would round its sums of integers.
        compile: compile the neurons' kernels (see `spiking_vq.runtime.compiling`): faster from some hundred images on.

    Attributes:
        kind, stage: class of the model, and stage of its files.
        network: the network that every call of the sampler runs.
        num_steps: part of the model -> its spiking steps T.
        diffusion: the process that the network was trained on.
        is_exported: the networks are graphs of an export.

    Raises:
        InputError: another precision.
    """

    kind: type[nn.Module]
    stage: str
    network: nn.Module
    num_steps: dict[str, int]
    diffusion: AbsorbingDiffusion | GaussianDiffusion

    def __init__(
        self,
        model: nn.Module,
        config: DenoiserConfig,
        device: torch.device | str = "cpu",
        precision: str = "fp32",
        compile: bool = False,
    ) -> None:
        require_one_of("precision", precision, PRECISIONS)
        self.model, self.config = model.to(device, parameter_type(precision)).eval(), config
        rounds = precision == "bf16" and config.weight_bits is not None
        self.device, self.precision, self.compile = torch.device(device), "fp32" if rounds else precision, compile

    def to(self, device: torch.device | str) -> Pipeline:
        """Move the networks to a device, and compute there from now on."""
        self.model, self.device = self.model.to(device), torch.device(device)
        return self

    def sampler(self, options: AbsorbingSamplerOptions | GaussianSamplerOptions) -> Sampler:
        """The sampler with these options.

        Raises:
            InputError: options that do not fit the networks.
        """
        raise NotImplementedError

    def _states(
        self,
        sampler: Sampler,
        seeds: Sequence[int],
        labels: Sequence[int | None],
        known: Tensor | None,
        batch_size: int | None,
    ) -> Iterator[State]:
        """States of the sampler with guidance, as `states` yields them; seeds and labels are those of the images."""
        raise NotImplementedError

    def decode(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Images [n, C, H, W] in [0, 1] from `x` of the last state; the decoder's spikes are drawn by `generator`."""
        raise NotImplementedError

    def sampling(self, **given: Any) -> dict[str, Any]:
        """The settings that `sample` would use: the options of the sampler and, if class-conditional, the `label`.

        Args:
            given: settings that replace the file's own; None, or left out, keeps these.

        Raises:
            InputError: a setting that this sampler does not have, or a value out of range.
        """
        sampler, label = self._chosen(given)
        options = asdict(sampler.options)
        if self.config.conditional:
            return options | {"label": label}
        return {name: value for name, value in options.items() if not name.startswith("guidance")}

    def evaluations(self, **settings: Any) -> Evaluations:
        """Evaluations of the network for one image with these settings, see `sampling`: with guidance, two a call.

        Raises:
            InputError: as `sampling`.
        """
        sampler, _ = self._chosen(settings)
        calls, T = sampler.sample_steps, self.config.T
        if sampler.options.guidance in (0, 1):
            return Evaluations(calls, calls * T)
        return Evaluations(2 * calls, calls * (T + (getattr(sampler.options, "guidance_T", None) or T)))

    def sample(
        self,
        n: int,
        seed: int = 0,
        *,
        first: int = 0,
        progress: Callable[[int, int], None] | None = None,
        watch: Callable[[State], None] | None = None,
        **settings: Any,
    ) -> Samples:
        """Generate `n` images. Image i depends on (seed, i) and its label alone, not on `n`.

        Args:
            n: number of images, at least 1.
            seed: of the whole set, in 0..2^32 - 1.
            first: number of the first image, a multiple of `GROUP`: a large set may be made in parts.
            progress: called as `progress(images_done, n)` along the way.
            watch: called with each state, see `states`, of `GROUP` images at most: at the start, and after each call.
            settings: of the sampler, see `sampling`; None, or left out, takes the file's own. Of class-conditional
                models also `label`, an integer for all images, or `n` of them, one for each; without, labels are drawn
                if `guidance` is above 0.

        Raises:
            InputError: a value out of range.
        """
        require_integer("n, the number of images,", n, 1)
        require(n <= MOST, "n, the number of images,", f"at most {MOST}", n)
        require_seed(seed)
        require_integer("first", first, 0)
        require(first % GROUP == 0, "first", f"a multiple of {GROUP}", first)
        return self._generate(n, seed, *self._chosen(settings), first, progress, watch=watch)

    def states(self, seeds: Sequence[int], **settings: Any) -> Iterator[State]:
        """Generate an image for each seed and yield the state at the start and after each call of the network.

        For watching: all images are in each call; autocast and compilation are the caller's.

        Args:
            seeds: of the images; those of a set are `mix_seed(seed of the set, number of the image)`.
            settings: as in `sample`.

        Yields:
            States of tokens int64 [n, G, h, w] in 0..K, K where masked; of continuous models, of images [n, C, H, W] in
            [0, 1].
        """
        sampler, label = self._chosen(settings)
        return self._states(sampler, seeds, each_label(label, len(seeds)), None, None)

    @torch.no_grad()
    def make_alone(self, seed: int, **settings: Any) -> Tensor:
        """One image [1, C, H, W] in [0, 1] of an image's seed, by itself and not in a chunk; without autocast.

        For counting the operations of an image; rounding may differ from `sample`'s.
        """
        *_, last = self.states([seed], **settings)
        return self.decode(last.x, torch.Generator().manual_seed(mix_seed(seed, ImageStream.SPIKES)))

    @property
    def coded_at_once(self) -> int:
        """Images that are encoded or decoded at once: `CHUNK`, but fewer of large ones."""
        return images_at_once(CHUNK, self.config.image_shape)

    def _generate(
        self,
        n: int,
        seed: int,
        sampler: Sampler,
        label: int | list[int] | None,
        first: int = 0,
        progress: Callable[[int, int], None] | None = None,
        known: Tensor | None = None,
        watch: Callable[[State], None] | None = None,
    ) -> Samples:
        """Images in groups, and within them in chunks of one size; with `known`, their free positions alone."""
        made, images, labels = [], [], each_label(label, n)
        with torch.no_grad(), run_with(compile=self.compile), autocast(self.precision, self.device):
            for start in range(0, n, GROUP):
                numbers = range(first + start, first + min(start + GROUP, n))
                seeds = [mix_seed(seed, number) for number in numbers]
                given = None if known is None else known[start : start + GROUP]
                for state in self._states(sampler, seeds, labels[start : start + GROUP], given, CHUNK):
                    if watch:
                        watch(state)
                    if progress and state.calls:
                        progress(start + len(seeds) * state.calls // state.total, n)
                made.append(state.x)
                for rows, kept in chunks(len(seeds), self.coded_at_once):
                    generator = torch.Generator().manual_seed(mix_seed(seed, numbers[rows[0]], ImageStream.SPIKES))
                    decoded = self.decode(state.x[rows.to(self.device)], generator)
                    images.append(to_uint8(decoded)[:kept].cpu())
        tokens = None if made[0].is_floating_point() else torch.cat(made).cpu()
        return Samples(torch.cat(images), tokens)

    def _chosen(self, given: dict[str, Any]) -> tuple[Sampler, int | list[int] | None]:
        """Sampler and label of settings; with a label, guidance is 1 unless given or above 0 in the file."""
        given = {name: value for name, value in given.items() if value is not None}
        own = asdict(self.config.sample)
        if foreign := given.keys() - own - {"label"}:
            raise InputError(
                f"the sampler of a {self.config.stage} model has no {', '.join(sorted(foreign))}: its settings are"
                f" {', '.join([*own, 'label'])}"
            )
        if not self.config.conditional and given.keys() & {"label", "guidance", "guidance_T"}:
            raise InputError("this model is not class-conditional: train one with conditional=true")
        label = given.pop("label", None)
        if label is not None:
            label = as_labels(label, self.config.labels)
            given.setdefault("guidance", own["guidance"] or 1.0)
        options, most = self.config.sample.replaced(**given), self.diffusion.diffusion_steps
        if "sample_steps" not in given:  # a preset's own may be more calls than a small grid has tokens
            options = replace(options, sample_steps=min(options.sample_steps or most, most))
        return self.sampler(options), label

    def labels(self, seeds: Sequence[int], labels: Sequence[int | None] | None = None) -> Tensor | None:
        """Labels int64 [n] for images of these seeds, as class-conditional networks take them; None for any other.

        Args:
            seeds: of the images.
            labels: of the images, drawn where None; None (default) draws all. See `network_labels`.
        """
        if not self.config.conditional:
            return None
        labels = [None] * len(seeds) if labels is None else labels
        return torch.tensor(network_labels(self.config, seeds, labels), device=self.device)


def within(network: nn.Module, **settings: Any) -> Callable[..., Tensor]:
    """The network, each of its calls with these settings of `running.Run`."""

    def call(*inputs: Tensor) -> Tensor:
        with run_with(**settings):
            return network(*inputs)

    return call


def chunks(n: int, size: int) -> Iterator[tuple[Tensor, int]]:
    """Row numbers [size] of each chunk of `n` rows, the last row repeated as padding, and how many of them count."""
    for first in range(0, n, size):
        yield torch.arange(first, first + size, device="cpu").clamp(max=n - 1), min(size, n - first)

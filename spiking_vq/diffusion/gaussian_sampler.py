"""The samplers of Gaussian diffusion: DDPM, DDIM, Analytic-DPM and DPM-Solver++, one loop for all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count, pairwise
from typing import Annotated, Any

import torch
from torch import Tensor

from spiking_vq.diffusion.dpm_solver import dpm_solver
from spiking_vq.diffusion.gaussian import TRANSITIONS, GaussianDiffusion, image_noise
from spiking_vq.diffusion.guidance import with_labels
from spiking_vq.diffusion.sampling import Sampler, State
from spiking_vq.errors import InputError, require
from spiking_vq.fields import Count, NonNegative, OneOf, Positive, Share, check_fields

SAMPLERS = (*TRANSITIONS, "dpm_solver")


@dataclass(frozen=True)
class GaussianSamplerOptions:
    """Options of `GaussianSampler`; those of a model file are the defaults of its pipeline.

    Attributes:
        sample_steps: number of calls of the denoiser; None (default) is N.
        sampler: DDPM with the larger or the smaller variance, DDIM, Analytic-DPM, or DPM-Solver++ (needs diffusers);
            see `GaussianDiffusion.transition` and `dpm_solver`.
        eta: of `ddim`, its share of the noise of `ddpm_small`.
        contrast: images are multiplied by it about mid-grey, by the pipeline.
        threshold_shift: added to every neuron's threshold by the pipeline (threshold guidance, arXiv:2306.17046).
        guidance: strength of classifier-free guidance, applied by the pipeline; 0 (default) is unconditional. Above 0,
            labels are drawn where none are given.
    """

    sample_steps: Count | None = None
    sampler: Annotated[str, OneOf(SAMPLERS)] = "ddim"
    eta: Share = 0.0
    contrast: Positive = 1.0
    threshold_shift: float = 0.0
    guidance: NonNegative = 0.0

    def __post_init__(self) -> None:
        """Raise `InputError` if an option is out of range."""
        check_fields(self)
        if self.eta and self.sampler != "ddim":
            raise InputError(f"eta is ddim's, and must be 0 with sampler={self.sampler}; got {self.eta}")

    def replaced(self, **given: Any) -> GaussianSamplerOptions:
        """The options with those given in their place; a `sampler` given alone has eta 0."""
        return replace(self, **({"eta": 0.0} if given.get("sampler", "ddim") != "ddim" else {}) | given)


class GaussianSampler(Sampler):
    """Sampler of Gaussian diffusion. The estimates of x_0 are clipped to [-1, 1], but not currents, nor by DPM-Solver.

    Where the denoiser works on synaptic currents, so do the states: `num_currents` copies of the noise to begin with;
    the recursion runs on each step's current by itself, and nothing is decoded on the way.

    Args:
        diffusion: the process.
        options: `contrast`, `threshold_shift` and `guidance` are the caller's to apply.
        shape: (C, H, W) of an image.
        image_error: V_t, [N + 1], which `analytic` needs; see `GaussianDiffusion.image_error`.
        num_currents: T of a denoiser of currents; None for one of images.
        dtype: of the states.

    Raises:
        InputError: options that do not fit the diffusion.
    """

    def __init__(
        self,
        diffusion: GaussianDiffusion,
        options: GaussianSamplerOptions,
        shape: Sequence[int],
        image_error: Tensor | None = None,
        num_currents: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        sampler, N = options.sampler, diffusion.diffusion_steps
        self.sample_steps = options.sample_steps or N
        require(self.sample_steps <= N, "sample_steps", f"in 1..{N}", self.sample_steps)
        fits = (num_currents is not None) == diffusion.on_currents
        require(fits, "num_currents", "T where the denoiser works on currents, else None", num_currents)
        if diffusion.on_currents and (sampler, options.eta) != ("ddim", 0):
            raise InputError(
                f"synaptic currents are sampled by ddim with eta 0; got sampler={sampler}, eta={options.eta}"
            )
        if sampler == "dpm_solver" and diffusion.prediction == "noise" and diffusion.alpha_bars[-1] < 1e-6:
            raise InputError("dpm_solver with predicted noise needs some image at t = N: linear betas, or predict v")
        if sampler == "analytic" and (image_error is None or image_error.isnan().any()):
            raise InputError(
                "sampler=analytic needs the error of the network's estimates: measure it by `spiking-vq study analytic`"
            )
        self.diffusion, self.options, self.shape, self.dtype = diffusion, options, tuple(shape), dtype
        self.image_error, self.num_currents = image_error, num_currents

    @property
    def times(self) -> list[int]:
        """The times of the calls, evenly spaced from N down, and 0 at the end."""
        N, S = self.diffusion.diffusion_steps, self.sample_steps
        return [round(N * (1 - call / S)) for call in range(S + 1)]

    @torch.no_grad()
    def states(
        self,
        denoiser: Callable[..., Tensor],
        seeds: Sequence[int],
        labels: Tensor | None = None,
        batch_size: int | None = None,
        device: torch.device | str | None = None,
    ) -> Iterator[State]:
        """Generate one image per seed, one batch after another; see `Sampler.states`.

        Args:
            denoiser: called as `(noisy, t)`, or with labels as `(noisy, t, labels)`, with `batch_size` images.
            seeds: one for each image.
            labels: int64 [n] on the device; None for none.
            batch_size: images in each call, the last batch padded by its last image; None for all.
            device: where to sample.

        Yields:
            States of images [n, C, H, W], or of currents `[T, n, C, H, W]`, at the end x_0.
        """
        n, size, calls = len(seeds), batch_size or len(seeds), count(1)
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in [*seeds, *[seeds[-1]] * (-n % size)]]
        x = image_noise(self.shape, generators).to(device, self.dtype)
        if self.num_currents is not None:
            x = x.expand(self.num_currents, *x.shape)
        firsts = range(0, len(generators), size)
        total = len(firsts) * self.sample_steps
        yield State(x[..., :n, :, :, :], 0, total)
        for first in firsts:
            rows = torch.arange(first, first + size, device=x.device)
            denoise = with_labels(denoiser, labels, rows.clamp(max=n - 1))
            step = self._step(generators[first : first + size])
            for t, s in pairwise(self.times):
                noisy = x.index_select(-4, rows)
                prediction = denoise(noisy, torch.full((size,), t, device=x.device)).to(x.dtype)
                x = x.index_copy(-4, rows, step(prediction, noisy, t, s))
                yield State(x[..., :n, :, :, :], next(calls), total)

    def _step(self, generators: Sequence[torch.Generator]) -> Callable[[Tensor, Tensor, int, int], Tensor]:
        """A function `(prediction, x_t, t, s) -> x_s` for the images of these generators."""
        if self.options.sampler == "dpm_solver":
            return dpm_solver(self.diffusion.betas, self.diffusion.prediction, self.times)
        return partial(self._transition_step, generators)

    def _transition_step(
        self, generators: Sequence[torch.Generator], prediction: Tensor, noisy: Tensor, t: int, s: int
    ) -> Tensor:
        times = torch.full((len(generators),), t, device=noisy.device)
        images = self.diffusion.to_images(prediction, noisy, times)
        if not self.diffusion.on_currents:
            images = images.clamp(-1, 1)
        move = self.diffusion.transition(t, s, self.options.sampler, self.options.eta, self.image_error)
        moved = move.image * images + move.noisy * noisy
        return moved + move.std * image_noise(self.shape, generators).to(noisy) if move.std else moved

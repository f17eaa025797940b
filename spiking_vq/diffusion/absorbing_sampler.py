"""The sampler of absorbing diffusion: a loop over a plan of calls."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch
from torch import Tensor

from spiking_vq.diffusion.absorbing import AbsorbingDiffusion
from spiking_vq.diffusion.guidance import with_labels
from spiking_vq.diffusion.sampling import Sampler, State
from spiking_vq.diffusion.unmasking import ORDERS, UNMASK_SCHEDULES, Plan, call_times, plan_calls, unmask_calls
from spiking_vq.errors import InputError, require
from spiking_vq.fields import Count, NonNegative, OneOf, PositiveShare, check_fields
from spiking_vq.randomness import uniform_noise
from spiking_vq.runtime.precision import state_type

COLDEST = 1e-3
"""Lowest temperature at which the most probable tokens of `top_p` are determined."""


@dataclass(frozen=True)
class AbsorbingSamplerOptions:
    """Options of `AbsorbingSampler`; those of a model file are the defaults of its pipeline.

    Attributes:
        sample_steps: number of calls of the denoiser, S; None (default) is N, the number of tokens.
        order: of unmasking the tokens: `random` (default); `bernoulli`, the paper's; `halton`, spread over the grid;
            `positions`, random, but with all codes of a position one after another; or `levels`, code 0 of all
            positions first, then code 1, and so on: coarse to fine for residual codes.
        temperature: of the softmax that tokens are drawn from; 0 takes the most probable token.
        last_temperature: of an image's last call, which it approaches in equal steps from `temperature`; None (default)
            keeps `temperature`. Early tokens decide what an image shows and need variety, late tokens have to fit.
        top_p: tokens are drawn from the most probable ones that together have this probability.
        schedule: of unmasking the positions: `linear`, as many in every call; or `cosine`, few at first.
        guidance: strength of classifier-free guidance, applied by the pipeline; 0 (default) is unconditional. Above 0,
            labels are drawn where none are given.
        guidance_T: spiking steps of the unconditional prediction in guidance, fewer are cheaper; None (default): T.
    """

    sample_steps: Count | None = None
    order: Annotated[str, OneOf(ORDERS)] = "random"
    temperature: NonNegative = 1.0
    last_temperature: NonNegative | None = None
    top_p: PositiveShare = 1.0
    schedule: Annotated[str, OneOf(tuple(UNMASK_SCHEDULES))] = "linear"
    guidance: NonNegative = 0.0
    guidance_T: Count | None = None

    def __post_init__(self) -> None:
        """Raise `InputError` if an option is out of range."""
        check_fields(self)

    def replaced(self, **given: Any) -> AbsorbingSamplerOptions:
        """The options with those given in their place; a `temperature` given alone is that of all calls."""
        return replace(self, **({"last_temperature": None} if "temperature" in given else {}) | given)


class AbsorbingSampler(Sampler):
    """Sampler of absorbing diffusion: every position is unmasked in exactly one of S calls, decided beforehand.

    So one loop serves every order and schedule, images may skip calls, and images at different times share a call; see
    `unmasking`.

    Args:
        diffusion: the process.
        options: `guidance` is the caller's to apply, see `guided`.

    Raises:
        InputError: more calls than tokens.
    """

    def __init__(self, diffusion: AbsorbingDiffusion, options: AbsorbingSamplerOptions | None = None) -> None:
        self.diffusion, self.options = diffusion, options or AbsorbingSamplerOptions()
        self.sample_steps, most = self.options.sample_steps or diffusion.diffusion_steps, diffusion.diffusion_steps
        require(self.sample_steps <= most, "sample_steps", f"in 1..{most}", self.sample_steps)

    @torch.no_grad()
    def states(
        self,
        denoiser: Callable[..., Tensor],
        seeds: Sequence[int],
        labels: Tensor | None = None,
        known: Tensor | None = None,
        batch_size: int | None = None,
        device: torch.device | str | None = None,
    ) -> Iterator[State]:
        """Generate one grid of tokens per seed, or fill in the masked positions of `known`; see `Sampler.states`.

        Args:
            denoiser: called as `(tokens, t)`, or with labels as `(tokens, t, labels)`, with `batch_size` images that
                are not all at the same t.
            seeds: one for each image; the noise of an image takes 4 N K bytes while it has a slot of the batch.
            labels: int64 [n] on the device; None for none.
            known: int64 [n, G, h, w] in 0..K, mask_id where free; the other tokens stay. None: all are free.
            batch_size: images in each call; None for all.
            device: where to sample; None means where `known` is, or torch's default device.

        Yields:
            States of tokens int64 [n, G, h, w] in 0..K, at the end in 0..K-1.

        Raises:
            InputError: at the first state, that `known` does not fit or there are no seeds.
        """
        start, n = self._start(len(seeds), known), len(seeds)
        slots = n if batch_size is None else batch_size
        require(slots >= 1, "batch_size", "at least 1, or None for all images at once", slots)
        plan = self.plan(self._order_noise(seeds), start == self.diffusion.mask_id, slots)
        if device is None:
            device = torch.get_default_device() if known is None else known.device
        noise, total = self._gumbel_noise(seeds, plan.rows.tolist(), device), len(plan.rows)
        plan = Plan(*(each.to(device) for each in plan))
        tokens = torch.cat([start, start.new_zeros(slots, *self.diffusion.grid)])  # rows for slots without an image
        tokens = tokens.to(device)
        yield State(tokens[:n], 0, total)
        for calls, (gumbel, rows, t, chosen, temperature) in enumerate(zip(noise, *plan, strict=True), start=1):
            seen, images = tokens[rows], rows.clamp(max=n - 1)
            logits = with_labels(denoiser, labels, images)(seen, t)
            drawn = draw_chosen(logits, seen, chosen, gumbel, temperature, self.options.top_p)
            tokens = tokens.index_copy(0, rows, drawn)
            yield State(tokens[:n], calls, total)

    def plan(self, order_noise: Tensor, free: Tensor, slots: int) -> Plan:
        """The plan for images with noise [n, N] and free positions [n, G, h, w], by `slots` at once; all on the CPU."""
        options, S = self.options, self.sample_steps
        unmask_call = unmask_calls(options.order, order_noise, free, S, options.schedule)
        last = options.temperature if options.last_temperature is None else options.last_temperature
        times = call_times(self.diffusion.diffusion_steps, S, options.schedule)
        return plan_calls(unmask_call, times, (options.temperature, last), slots)

    def _start(self, n: int, known: Tensor | None) -> Tensor:
        """The tokens to begin with, int64 [n, G, h, w] on the CPU: those known, or all masked."""
        if n == 0:
            raise InputError("seeds must hold at least one seed, one for each image; got none.")
        if known is None:
            return self.diffusion.prior(n, "cpu")
        shape, mask_id = [n, *self.diffusion.grid], self.diffusion.mask_id
        require(list(known.shape) == shape, "known", f"{shape}, one grid for each seed", list(known.shape))
        if known.min() < 0 or known.max() > mask_id:
            raise InputError(
                f"known must hold tokens in 0..{mask_id - 1}, or {mask_id} where free; "
                f"got values in {known.min()}..{known.max()}."
            )
        return known.to("cpu", torch.int64)

    def _order_noise(self, seeds: Sequence[int]) -> Tensor:
        """Uniform noise [n, N], the first of each image's own generator; on the CPU."""
        return torch.stack([self._seeded(seed)[1] for seed in seeds])

    def _gumbel_noise(
        self, seeds: Sequence[int], rows: Sequence[Sequence[int]], device: torch.device
    ) -> Iterator[Tensor]:
        """Gumbel noise [slots, K, G, h, w] of each call, drawn when an image takes a slot, from its own generator.

        Args:
            seeds: of the images.
            rows: the image of each slot in each call, see `Plan`.
            device: of the noise; it is drawn on the CPU.
        """
        shape = *self.diffusion.grid, self.diffusion.codebook_size
        before = [len(seeds)] * len(rows[0]) if rows else []
        noise = torch.zeros(len(before), *shape, device=device, dtype=torch.float32).movedim(-1, 1)
        for images in rows:
            for slot, image in enumerate(images):
                if image != before[slot] and image < len(seeds):
                    noise[slot] = gumbel_noise(shape, self._seeded(seeds[image])[0]).movedim(-1, 0)
            before = images
            yield noise

    def _seeded(self, seed: int) -> tuple[torch.Generator, Tensor]:
        """An image's generator after its first noise, uniform [N], and that noise."""
        generator = torch.Generator("cpu").manual_seed(seed)
        return generator, uniform_noise((self.diffusion.diffusion_steps,), generator)


def gumbel_noise(shape: Sequence[int], generator: torch.Generator | None) -> Tensor:
    """Standard Gumbel noise -ln(-ln(u)), u uniform; float32 of the given shape on the CPU, always finite."""
    uniform = uniform_noise(shape, generator)
    return -torch.log(-torch.log(uniform.clamp(min=torch.finfo(uniform.dtype).tiny)))


def draw_chosen(
    logits: Tensor, tokens: Tensor, chosen: Tensor, gumbel: Tensor, temperature: Tensor, top_p: float = 1.0
) -> Tensor:
    """Replace the chosen positions by draws from softmax(logits / temperature), by the Gumbel-max trick.

    argmax(logits + temperature * gumbel) has that distribution, and the limit at temperature 0 needs no special case.
    The sum is in float32, the type of the noise, for bf16 logits too.

    Args:
        logits: [B, K, G, h, w].
        tokens: int64 [B, G, h, w] in 0..K.
        chosen: bool [B, G, h, w].
        gumbel: float32 [B, K, G, h, w].
        temperature: float32 [B, 1, 1, 1, 1], >= 0.
        top_p: in (0, 1]; below 1 (default) only the most probable tokens are drawn, see `nucleus`.

    Returns:
        int64 [B, G, h, w], equal to `tokens` where not chosen.
    """
    if top_p < 1:
        logits = logits.where(nucleus(logits / temperature.clamp(min=COLDEST), top_p), -math.inf)
    return torch.where(chosen, (logits + temperature * gumbel).argmax(1), tokens)


def nucleus(logits: Tensor, top_p: float) -> Tensor:
    """Select the most probable tokens, whose probabilities first add up to `top_p`.

    Args:
        logits: [B, K, G, h, w].
        top_p: in (0, 1]; the most probable token is always selected.

    Returns:
        bool [B, K, G, h, w].

    Reference: Holtzman et al., arXiv:1904.09751.
    """
    descending, tokens = logits.to(state_type(logits)).softmax(1).sort(1, descending=True)
    before = descending.cumsum(1) - descending
    return torch.empty_like(before, dtype=torch.bool).scatter_(1, tokens, before < top_p)

"""Absorbing (masked) discrete diffusion on a grid of tokens.

Tokens [B, h, w] are int64 in 0..K-1, K the codebook size; mask_id = K. The N = h * w positions set the number of
diffusion steps: at time t in 0..N a token is masked with probability t / N, independently of the others. On the way
back from t to t - 1 a masked token is unmasked with probability 1 / t, and it is never masked again.

A denoiser is any callable `denoiser(tokens, t) -> logits`: tokens int64 [B, h, w] with mask_id at masked positions, t
int64 [B] in 1..N, logits [B, K, h, w] of the tokens at time 0.

Reference: Spiking-Diffusion, Liu et al., arXiv:2308.10187; D3PM, Austin et al., arXiv:2107.03006.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from spiking_vq.diffusion.guidance import told
from spiking_vq.diffusion.unmasking import ORDERS, ROUNDING, UNMASK_SCHEDULES, call_plan, unmask_schedule
from spiking_vq.errors import InputError, require
from spiking_vq.randomness import stratified_times, uniform_noise
from spiking_vq.runtime.precision import state_type

Denoiser = Callable[[Tensor, Tensor], Tensor]


def elbo_weight(t: Tensor, num_masked: Tensor, diffusion_steps: int) -> Tensor:
    """Weight of an image in the paper's bound, 1 / t: N / t for a uniform t, over N to give nats per token."""
    return 1 / t.float()


def reweighted_weight(t: Tensor, num_masked: Tensor, diffusion_steps: int) -> Tensor:
    """Weight of an image in the authors' code, (1 - t / N) / (N ln 2): zero at t = N, where sampling starts."""
    return (1 - t.float() / diffusion_steps) / (diffusion_steps * math.log(2))


def masked_ce_weight(t: Tensor, num_masked: Tensor, diffusion_steps: int) -> Tensor:
    """Weight of an image in the mean over all masked positions of the batch, B / sum(num_masked)."""
    return (len(t) / num_masked.sum().clamp(min=1).float()).expand(t.shape)


LOSSES = {"elbo": elbo_weight, "reweighted": reweighted_weight, "masked_ce": masked_ce_weight}

COLDEST = 1e-3
"""The temperature by which the most probable tokens are found, where that of drawing is lower."""


class Draw(NamedTuple):
    """A batch as training sees it.

    Attributes:
        tokens: int64 [B, h, w] in 0..K-1.
        t: int64 [B] in 1..N.
        noisy: the tokens at time t, int64 [B, h, w] in 0..K.
        weight: of each image's cross-entropy in the mean over the batch, [B].
    """

    tokens: Tensor
    t: Tensor
    noisy: Tensor
    weight: Tensor


class AbsorbingDiffusion:
    """Forward process, objectives, likelihood bound and sampler of absorbing diffusion; no network, no state inside."""

    def __init__(self, grid: tuple[int, int], codebook_size: int, loss: str = "masked_ce") -> None:
        """Set the size of the problem and the objective.

        With ce_b the cross-entropy summed over the masked positions of image b, in nats, the objectives are

            "elbo"        mean_b ce_b / t_b                           the paper's bound, in nats per token
            "reweighted"  mean_b ce_b (1 - t_b / N) / (N ln 2)        what the authors' code trains
            "masked_ce"   sum_b ce_b / (number of masked positions)   the unweighted mean

        Args:
            grid: (h, w) of the tokens.
            codebook_size: K.
            loss: the objective, a key of `LOSSES`.

        Raises:
            InputError: the loss is unknown, or the grid or the codebook is empty.
        """
        if loss not in LOSSES:
            raise InputError(f"loss must be one of {', '.join(LOSSES)}; got {loss!r}.")
        if min(*grid, codebook_size) < 1:
            raise InputError(f"grid and codebook_size must be at least 1; got {tuple(grid)} and {codebook_size}.")
        self.grid = tuple(grid)
        self.codebook_size = codebook_size
        self.objective = loss

    @property
    def diffusion_steps(self) -> int:
        """N, one diffusion step for each position."""
        return math.prod(self.grid)

    @property
    def mask_id(self) -> int:
        """The id after the last code, K."""
        return self.codebook_size

    def prior(self, n: int, device: torch.device | str | None = None) -> Tensor:
        """State at t = N: n grids, all masked, int64 [n, h, w]."""
        return torch.full((n, *self.grid), self.mask_id, dtype=torch.int64, device=device)

    def q_sample(self, tokens: Tensor, t: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Forward process q(x_t | x_0): mask each token with probability t / N.

        Args:
            tokens: int64 [B, h, w] in 0..K-1.
            t: int64 [B] in 0..N.
            generator: on the device of the tokens.

        Returns:
            int64 [B, h, w] in 0..K, mask_id where masked.

        Raises:
            InputError: tokens are not [B, h, w].
        """
        if tokens.ndim != 3 or tuple(tokens.shape[1:]) != self.grid:
            raise InputError(f"tokens must be [B, {self.grid[0]}, {self.grid[1]}]; got {list(tokens.shape)}.")
        uniform = uniform_noise(tokens.shape, generator, tokens.device)
        return tokens.masked_fill(uniform < (t.float() / self.diffusion_steps).view(-1, 1, 1), self.mask_id)

    def loss(self, denoiser: Denoiser, tokens: Tensor, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Training objective at one time per image, the times stratified over 1..N.

        loss = mean_b weight_b * sum over masked i of -ln p(x_0[b, i] | x_t[b]), the weight from `LOSSES`.

        Args:
            denoiser: called once, with gradients.
            tokens: int64 [B, h, w] in 0..K-1.
            generator: on the device of the tokens.

        Returns:
            Scalars: `loss` with its gradient; detached over the masked tokens, `cross_entropy` in nats per token and
            `accuracy` in [0, 1].
        """
        return self.loss_of(denoiser, self.draw(tokens, generator))

    def draw(self, tokens: Tensor, generator: torch.Generator | None = None) -> Draw:
        """The random part of `loss`: times, masked tokens and weights of a whole batch."""
        t = stratified_times(len(tokens), self.diffusion_steps, tokens.device, generator)
        noisy = self.q_sample(tokens, t, generator)
        weight = LOSSES[self.objective](t, (noisy == self.mask_id).sum((1, 2)), self.diffusion_steps)
        return Draw(tokens, t, noisy, weight)

    def loss_of(self, denoiser: Denoiser, drawn: Draw) -> dict[str, Tensor]:
        """What `loss` gives, of a draw or of some of its rows."""
        tokens, t, noisy, weight = drawn
        return summed_up(denoiser(noisy, t), tokens, noisy == self.mask_id, weight)

    @torch.no_grad()
    def elbo_bits(self, denoiser: Denoiser, tokens: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Unbiased estimate of an upper bound on -log2 p(tokens), in bits per image.

        p is the paper's N-step process: `sample` with order "bernoulli", sample_steps N and temperature 1. The bound is

            -ln p(x_0) <= KL(q(x_N | x_0) || prior)
                          + sum_{t=2..N} E KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)) - E ln p(x_0 | x_1)

        The first term is 0, as x_N is all masked under both. In step t both q and p unmask a masked position with
        probability 1 / t and differ only in the token, so its KL is 1/t * -ln p(x_0[i] | x_t). The last term has the
        same form with t = 1. Together

            bits = sum_{t=1..N} 1/t * E_{q(x_t | x_0)} sum over masked i of -log2 p(x_0[i] | x_t)

        Every t is evaluated once, with masks of its own: masks shared between the times would be unbiased too, but all
        terms would err together and make the estimate several times noisier.

        Args:
            denoiser: called N times.
            tokens: int64 [B, h, w] in 0..K-1.
            generator: on the device of the tokens.

        Returns:
            float32 [B], >= 0; divide by N for bits per token.
        """
        nats = torch.zeros(len(tokens), device=tokens.device, dtype=torch.float32)
        for time in range(1, self.diffusion_steps + 1):
            t = torch.full((len(tokens),), time, device=tokens.device)
            noisy = self.q_sample(tokens, t, generator)
            nll = masked_nll(denoiser(noisy, t), tokens, noisy == self.mask_id)
            nats += nll.sum((1, 2)) / time
        return nats / math.log(2)

    @torch.no_grad()
    def p_sample(
        self,
        denoiser: Denoiser,
        tokens: Tensor,
        t: Tensor,
        s: Tensor,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
    ) -> Tensor:
        """One ancestral step from time t to s: unmask each masked position with probability (t - s) / t.

        Args:
            denoiser: called once.
            tokens: int64 [B, h, w] in 0..K, the state at time t.
            t: int64 [B] in 1..N.
            s: int64 [B] in 0..t-1.
            generator: on the device of the tokens.
            temperature: of the softmax the tokens are drawn from, >= 0; 0 takes the most probable token.

        Returns:
            int64 [B, h, w] in 0..K, the state at time s.

        Raises:
            InputError: the temperature or the times are out of range.
        """
        check_temperature(temperature)
        if not ((s >= 0) & (s < t) & (t <= self.diffusion_steps)).all():
            raise InputError(
                f"times must be 0 <= s < t <= {self.diffusion_steps}; got t = {t.tolist()}, s = {s.tolist()}."
            )
        uniform = uniform_noise(tokens.shape, generator, tokens.device)
        chosen = (tokens == self.mask_id) & (uniform < ((t - s).float() / t).view(-1, 1, 1))
        gumbel = gumbel_noise((len(tokens), self.codebook_size, *self.grid), generator, tokens.device)
        return unmask(denoiser, tokens, t, chosen, gumbel, temperature)

    @torch.no_grad()
    def sample(
        self,
        denoiser: Denoiser,
        seeds: list[int],
        *,
        sample_steps: int | None = None,
        order: str = "random",
        temperature: float = 1.0,
        last_temperature: float | None = None,
        top_p: float = 1.0,
        remask_calls: int = 0,
        schedule: str = "linear",
        known: Tensor | None = None,
        labels: Tensor | None = None,
        batch_size: int | None = None,
        device: torch.device | str | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """Generate one grid of tokens per seed, or fill in the masked positions of `known`.

        Every position is unmasked in exactly one of the first S - R calls of the denoiser. So `unmask_schedule` decides
        beforehand which call that is, and one loop serves every order. Call c is told t = ceil(N (1 - s)), s the
        schedule's share after c of the S - R calls.
        An image skips the calls in which it unmasks nothing, as their output would not be used, and leaves its place in
        the batch to the next one when it is done: see `call_plan`.

        What was drawn early was drawn from little: in the last R calls every position is masked once more and drawn
        again, from all the others but the few masked with it, in a random order.

        Each image draws all its noise, 4 N (K + 1) bytes, from its own seed on the CPU: it is the same in any batch and
        on any device, up to the rounding of the denoiser.

        Args:
            denoiser: called with batch_size images each time, not all of them at the same t.
            seeds: one for each image.
            sample_steps: S, the number of calls; None means N + R.
            order: "bernoulli", "random" or "halton", see `unmask_schedule`.
            temperature: of the softmax the tokens are drawn from, >= 0; 0 takes the most probable token.
            last_temperature: that of an image's last call before drawing again, to which it goes in equal steps from
                `temperature`, and of drawing again; None keeps to `temperature`. Where a share of the grid is known, it
                starts that share of the way. What an image will be is decided early, and wants variety; what is drawn
                late has to fit.
            top_p: a token is drawn from the most probable ones that together have this probability, in (0, 1].
            remask_calls: R; S - R, the calls over which the positions are spread at first, is in 1..N.
            schedule: over the S - R calls, a key of `UNMASK_SCHEDULES`.
            known: int64 [B, h, w] in 0..K, mask_id where free; its other tokens come back unchanged.
            labels: int64 [B], one for each image, which the denoiser is told as its third argument; None for none.
            batch_size: images in each call; None means all. An image's place and batch size, hence its rounding, do not
                depend on the images after it.
            device: where to sample; None means where `known` is, or torch's default device.
            progress: called as progress(calls_done, calls_total) after each call of the denoiser.

        Returns:
            int64 [B, h, w] in 0..K-1.

        Raises:
            InputError: an argument is out of its range.

        Reference: drawing again, in the manner of ReMDM, Wang et al., arXiv:2503.00307.
        """
        sample_steps = self.diffusion_steps + remask_calls if sample_steps is None else sample_steps
        self.check_settings(sample_steps, order, temperature, last_temperature, top_p, remask_calls, schedule)
        self._check_state(seeds, known)
        if batch_size is not None and batch_size < 1:
            raise InputError(f"batch_size must be at least 1, or None for all images at once; got {batch_size}.")
        n, batch_size = len(seeds), batch_size or len(seeds)

        tokens = self.prior(n, device) if known is None else known.to(device, torch.int64, copy=True)
        order_noise, gumbel = self._noise(seeds, passes=2 if remask_calls else 1)
        at_first = sample_steps - remask_calls
        free = (tokens == self.mask_id).cpu()
        unmask_call = _drawn_in(order, order_noise, free, at_first, remask_calls, schedule)
        rows, calls = (plan.to(tokens.device) for plan in call_plan(unmask_call, batch_size, idle=sample_steps))
        known_share, last_call = 1 - free.float().mean((1, 2)), unmask_call[:, 0].amax((1, 2))
        # after the images, a row for each place in the batch, to be worked on when it has no image
        tokens, unmask_call, gumbel, known_share, last_call = (
            _with_idle_rows(x.to(tokens.device), batch_size)
            for x in (tokens, unmask_call, gumbel, known_share, last_call)
        )
        labels = None if labels is None else _with_idle_rows(labels.to(tokens.device), batch_size)
        again = ((calls >= at_first) & (calls < sample_steps)).long()
        left = self.times(calls, at_first, schedule)
        times = left.where(again == 0, -(-self.diffusion_steps // max(remask_calls, 1))).clamp(min=1)
        part_of_calls = (calls.float() / last_call[rows].clamp(min=1)).clamp(max=1)
        gone = known_share[rows] + (1 - known_share[rows]) * part_of_calls
        last = temperature if last_temperature is None else last_temperature
        temperatures = (temperature + (last - temperature) * gone)[..., None, None, None]
        plan = zip(rows, calls, times, again, temperatures, strict=True)
        for done, (row, call, t, part, warmth) in enumerate(plan, start=1):
            chosen = unmask_call[row, part] == call.view(-1, 1, 1)
            denoise = told(denoiser, None if labels is None else labels[row])
            seen = tokens[row].masked_fill(chosen, self.mask_id)
            tokens[row] = unmask(denoise, seen, t, chosen, gumbel[row, part], warmth, top_p)
            if progress is not None:
                progress(done, len(rows))
        return tokens[:n]

    def times(self, calls: Tensor, sample_steps: int, schedule: str = "linear") -> Tensor:
        """What t the calls [...] in 0..S-1, of S = sample_steps, are told: int64 [...] in 1..N; below 1 from S on."""
        share = UNMASK_SCHEDULES[schedule].share(calls.double() / sample_steps)
        return self.diffusion_steps - (self.diffusion_steps * share + ROUNDING).long()

    def _noise(self, seeds: list[int], passes: int) -> tuple[Tensor, Tensor]:
        """Uniform order noise [B, P, N] and Gumbel noise [B, P, K, h, w], every image from its own CPU generator."""
        order_noise, gumbel = [], []
        for seed in seeds:
            generator = torch.Generator("cpu").manual_seed(seed)
            for _ in range(passes):
                order_noise.append(uniform_noise((self.diffusion_steps,), generator))
                gumbel.append(gumbel_noise((*self.grid, self.codebook_size), generator, "cpu"))
        order_noise, gumbel = torch.stack(order_noise), torch.stack(gumbel).movedim(-1, 1)
        return order_noise.unflatten(0, (-1, passes)), gumbel.unflatten(0, (-1, passes))

    def check_settings(
        self,
        sample_steps: int,
        order: str,
        temperature: float,
        last_temperature: float | None = None,
        top_p: float = 1.0,
        remask_calls: int = 0,
        schedule: str = "linear",
    ) -> None:
        """Raise `InputError` if a setting of `sample` is out of its range."""
        check_temperature(temperature)
        if last_temperature is not None:
            check_temperature(last_temperature, "last_temperature")
        require(0 < top_p <= 1, "top_p", "in (0, 1]", top_p)
        if remask_calls < 0:
            raise InputError(f"remask_calls must be at least 0; got {remask_calls}.")
        least, most = remask_calls + 1, remask_calls + self.diffusion_steps
        if not least <= sample_steps <= most:
            raise InputError(f"sample_steps must be in {least}..{most}; got {sample_steps}.")
        if order not in ORDERS:
            raise InputError(f"order must be one of {', '.join(ORDERS)}; got {order!r}.")
        require(schedule in UNMASK_SCHEDULES, "schedule", f"one of {', '.join(UNMASK_SCHEDULES)}", repr(schedule))

    def _check_state(self, seeds: list[int], known: Tensor | None) -> None:
        if len(seeds) == 0:
            raise InputError("seeds must hold at least one seed, one for each image; got none.")
        if known is None:
            return
        shape = [len(seeds), *self.grid]
        if list(known.shape) != shape:
            raise InputError(f"known must be {shape}, one grid for each seed; got {list(known.shape)}.")
        if known.min() < 0 or known.max() > self.mask_id:
            raise InputError(
                f"known must hold tokens in 0..{self.mask_id - 1}, or {self.mask_id} where free; "
                f"got values in {known.min()}..{known.max()}."
            )


def _drawn_in(order: str, order_noise: Tensor, free: Tensor, at_first: int, remask_calls: int, schedule: str) -> Tensor:
    """In which call each position is drawn, and where there is remasking drawn again, [B, P, h, w]; -1 if it is not."""
    calls = [unmask_schedule(order, order_noise[:, 0], free, at_first, schedule)]
    if remask_calls:
        calls.append(unmask_schedule("random", order_noise[:, 1], free, remask_calls).add(at_first).where(free, -1))
    return torch.stack(calls, dim=1)


def _with_idle_rows(x: Tensor, count: int) -> Tensor:
    """Rows of zeros behind those of x."""
    return torch.cat([x, x.new_zeros(count, *x.shape[1:])])


def summed_up(logits: Tensor, tokens: Tensor, masked: Tensor, weight: Tensor) -> dict[str, Tensor]:
    """Loss and figures, as `AbsorbingDiffusion.loss` gives them, of logits [B, K, h, w] and weights [B]."""
    rows, targets = logits.movedim(1, -1)[masked], tokens[masked]
    nll = F.cross_entropy(rows.to(state_type(rows)), targets, reduction="none")
    weights = weight.view(-1, 1, 1).expand(masked.shape)[masked]
    num_masked = max(len(rows), 1)  # small t may mask nothing at all
    return {
        "loss": (weights * nll).sum() / len(tokens),
        "cross_entropy": nll.detach().sum() / num_masked,
        "accuracy": (rows.argmax(1) == targets).sum().float() / num_masked,
    }


def masked_nll(logits: Tensor, tokens: Tensor, masked: Tensor) -> Tensor:
    """Negative log-likelihood -ln p(token), in nats, at masked positions and 0 at the others.

    Args:
        logits: [B, K, h, w], any floating type; computed in float32 at least.
        tokens: int64 [B, h, w] in 0..K-1.
        masked: bool [B, h, w].

    Returns:
        float32 or float64 [B, h, w].
    """
    # Ignored rather than multiplied by 0, as a denoiser may say -inf at a visible position.
    return F.cross_entropy(
        logits.to(state_type(logits)), tokens.masked_fill(~masked, -1), ignore_index=-1, reduction="none"
    )


def gumbel_noise(shape: tuple[int, ...], generator: torch.Generator | None, device: torch.device | str) -> Tensor:
    """Standard Gumbel noise -ln(-ln(u)), u uniform, float32 of the given shape, always finite."""
    uniform = uniform_noise(shape, generator, device)
    return -torch.log(-torch.log(uniform.clamp(min=torch.finfo(uniform.dtype).tiny)))


def unmask(
    denoiser: Denoiser,
    tokens: Tensor,
    t: Tensor,
    chosen: Tensor,
    gumbel: Tensor,
    temperature: float | Tensor,
    top_p: float = 1.0,
) -> Tensor:
    """Replace the chosen positions by draws from softmax(logits / temperature), by the Gumbel-max trick.

    argmax(logits + temperature * gumbel) has that distribution, and the limit at temperature 0 needs no special case.
    The sum is in float32, the type of the noise, for bf16 logits too.

    Args:
        denoiser: called once with (tokens, t).
        tokens: int64 [B, h, w] in 0..K.
        t: int64 [B] in 1..N.
        chosen: bool [B, h, w].
        gumbel: float32 [B, K, h, w].
        temperature: >= 0; of each image, [B, 1, 1, 1], or of all.
        top_p: in (0, 1]; below 1 only of the most probable tokens, see `nucleus`.

    Returns:
        int64 [B, h, w], equal to `tokens` where not chosen.
    """
    logits = denoiser(tokens, t)
    if top_p < 1:
        divisor = torch.as_tensor(temperature, device=logits.device, dtype=torch.float32).clamp(min=COLDEST)
        logits = logits.where(nucleus(logits / divisor, top_p), -math.inf)
    drawn = (logits + temperature * gumbel).argmax(1)
    return torch.where(chosen, drawn, tokens)


def nucleus(logits: Tensor, top_p: float) -> Tensor:
    """Which tokens are among the most probable ones whose probabilities first add up to `top_p`.

    Args:
        logits: [B, K, h, w].
        top_p: in (0, 1]; the most probable token is always among them.

    Returns:
        bool [B, K, h, w].

    Reference: Holtzman et al., arXiv:1904.09751.
    """
    descending, tokens = logits.to(state_type(logits)).softmax(1).sort(1, descending=True)
    before = descending.cumsum(1) - descending
    return torch.empty_like(before, dtype=torch.bool).scatter_(1, tokens, before < top_p)


def check_temperature(temperature: float, name: str = "temperature") -> None:
    """Raise InputError unless the temperature is finite and >= 0."""
    if not 0 <= temperature < math.inf:
        raise InputError(f"{name} must be finite and >= 0, 0 meaning the most probable token; got {temperature}.")

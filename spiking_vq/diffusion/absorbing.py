"""Absorbing (masked) discrete diffusion on a grid of tokens.

Tokens [B, G, h, w] are int64 in 0..K-1, G codes a position, each of K classes; mask_id = K. The N = G * h * w tokens
of an image set the number of diffusion steps: at time t in 0..N a token is masked with probability t / N, independently
of the others. On the way back from t to t - 1 a masked token is unmasked with probability 1 / t, and it is never masked
again.

A denoiser is any callable `denoiser(tokens, t) -> logits`: tokens int64 [B, G, h, w] with mask_id at masked positions,
t int64 [B] in 1..N, logits [B, K, G, h, w] of the tokens at time 0.

Reference: Spiking-Diffusion, Liu et al., arXiv:2308.10187; D3PM, Austin et al., arXiv:2107.03006.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from spiking_vq.diffusion.guidance import Denoiser
from spiking_vq.errors import require
from spiking_vq.randomness import stratified_times, uniform_noise
from spiking_vq.runtime.precision import state_type


def elbo_weight(t: Tensor, num_masked: Tensor, diffusion_steps: int) -> Tensor:
    """Weight of an image in the paper's bound, 1 / t: N / t for a uniform t, over N to give nats per token."""
    return 1 / t.float()


def reweighted_weight(t: Tensor, num_masked: Tensor, diffusion_steps: int) -> Tensor:
    """Weight of an image in the authors' code, (1 - t / N) / (N ln 2): zero at t = N, at which sampling starts."""
    return (1 - t.float() / diffusion_steps) / (diffusion_steps * math.log(2))


def masked_ce_weight(t: Tensor, num_masked: Tensor, diffusion_steps: int) -> Tensor:
    """Weight of an image in the mean over all masked positions of the batch, B / sum(num_masked)."""
    return (len(t) / num_masked.sum().clamp(min=1).float()).expand(t.shape)


LOSSES = {"elbo": elbo_weight, "reweighted": reweighted_weight, "masked_ce": masked_ce_weight}


class Draw(NamedTuple):
    """A training batch.

    Attributes:
        tokens: int64 [B, G, h, w] in 0..K-1.
        t: int64 [B] in 1..N.
        noisy: the tokens at time t, int64 [B, G, h, w] in 0..K.
        weight: of each image's cross-entropy in the mean over the batch, [B].
    """

    tokens: Tensor
    t: Tensor
    noisy: Tensor
    weight: Tensor


class AbsorbingDiffusion:
    """Forward process, objectives and likelihood bound of absorbing diffusion; no network, no state inside.

    With ce_b the cross-entropy summed over the masked positions of image b, in nats, the objectives are

        "elbo"        mean_b ce_b / t_b                           the paper's bound, in nats per token
        "reweighted"  mean_b ce_b (1 - t_b / N) / (N ln 2)        that of the authors' code
        "masked_ce"   sum_b ce_b / (number of masked positions)   the unweighted mean

    Args:
        grid: (G, h, w), the shape of an image's tokens.
        codebook_size: K.
        loss: the objective, a key of `LOSSES`.

    Raises:
        InputError: the loss is unknown, or the grid or the codebook is empty.
    """

    def __init__(self, grid: tuple[int, int, int], codebook_size: int, loss: str = "masked_ce") -> None:
        require(loss in LOSSES, "loss", f"one of {', '.join(LOSSES)}", repr(loss))
        sizes = f"{tuple(grid)} and {codebook_size}"
        require(min(*grid, codebook_size) >= 1, "grid and codebook_size", "at least 1", sizes)
        self.grid, self.codebook_size, self.objective = tuple(grid), codebook_size, loss

    @property
    def diffusion_steps(self) -> int:
        """N, one diffusion step for each token."""
        return math.prod(self.grid)

    @property
    def mask_id(self) -> int:
        """The id after the last code, K."""
        return self.codebook_size

    def prior(self, n: int, device: torch.device | str | None = None) -> Tensor:
        """State at t = N: n grids, all masked, int64 [n, G, h, w]."""
        return torch.full((n, *self.grid), self.mask_id, dtype=torch.int64, device=device)

    def q_sample(self, tokens: Tensor, t: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Forward process q(x_t | x_0): mask each token with probability t / N.

        Args:
            tokens: int64 [B, G, h, w] in 0..K-1.
            t: int64 [B] in 0..N.
            generator: on the device of the tokens.

        Returns:
            int64 [B, G, h, w] in 0..K, mask_id where masked.

        Raises:
            InputError: tokens are not [B, G, h, w].
        """
        fits = tokens.ndim == 4 and tuple(tokens.shape[1:]) == self.grid
        require(fits, "tokens", f"[B, {', '.join(map(str, self.grid))}]", list(tokens.shape))
        uniform = uniform_noise(tokens.shape, generator, tokens.device)
        return tokens.masked_fill(uniform < (t.float() / self.diffusion_steps).view(-1, 1, 1, 1), self.mask_id)

    def loss(
        self,
        denoiser: Denoiser,
        tokens: Tensor,
        generator: torch.Generator | None = None,
        teacher: Denoiser | None = None,
    ) -> dict[str, Tensor]:
        """Training objective at one time per image, the times stratified over 1..N.

        loss = mean_b weight_b * sum over masked i of -ln p(x_0[b, i] | x_t[b]), the weight from `LOSSES`. With a
        teacher, the mean of -ln p over its distribution of the token takes the place of -ln p of the token: the
        denoiser is distilled, whatever the data are.

        Args:
            denoiser: called once, with gradients.
            tokens: int64 [B, G, h, w] in 0..K-1.
            generator: on the device of the tokens.
            teacher: called once, without gradients; None (default) trains on the tokens.

        Returns:
            Scalars: `loss` with its gradient; detached over the masked tokens, `cross_entropy` in nats per token and
            `accuracy` in [0, 1].

        Reference: distilled guidance, Meng et al., arXiv:2210.03142.
        """
        return self.loss_of(denoiser, self.draw(tokens, generator), teacher)

    def draw(self, tokens: Tensor, generator: torch.Generator | None = None) -> Draw:
        """The random part of `loss`: times, masked tokens and weights of a whole batch."""
        t = stratified_times(len(tokens), self.diffusion_steps, tokens.device, generator)
        noisy = self.q_sample(tokens, t, generator)
        weight = LOSSES[self.objective](t, (noisy == self.mask_id).sum((1, 2, 3)), self.diffusion_steps)
        return Draw(tokens, t, noisy, weight)

    def loss_of(self, denoiser: Denoiser, drawn: Draw, teacher: Denoiser | None = None) -> dict[str, Tensor]:
        """The objective of a draw, or of some of its rows; see `loss`."""
        tokens, t, noisy, weight = drawn
        masked = (noisy == self.mask_id).flatten()
        # All positions, as the host does not know how many are masked: on a GPU it would have to wait.
        rows, targets = _rows(denoiser(noisy, t)), tokens.flatten()
        taught = targets
        if teacher is not None:
            with torch.no_grad():
                taught = _rows(teacher(noisy, t)).softmax(1)
        nll = F.cross_entropy(rows, taught, reduction="none").where(masked, 0.0)
        num_masked = masked.sum().clamp(min=1)  # small t may mask nothing at all
        return {
            "loss": (weight.repeat_interleave(self.diffusion_steps) * nll).sum() / len(tokens),
            "cross_entropy": nll.detach().sum() / num_masked,
            "accuracy": ((rows.argmax(1) == targets) & masked).sum().float() / num_masked,
        }

    @torch.no_grad()
    def elbo_bits(self, denoiser: Denoiser, tokens: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Unbiased estimate of an upper bound on -log2 p(tokens), in bits per image.

        p is the paper's N-step process: `AbsorbingSampler` with order "bernoulli", N calls and temperature 1.

            -ln p(x_0) <= KL(q(x_N | x_0) || prior)
                          + sum_{t=2..N} E KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)) - E ln p(x_0 | x_1)

        The first term is 0, as x_N is all masked under both. In step t both q and p unmask a masked position with
        probability 1 / t and differ only in the token, so its KL is 1/t * -ln p(x_0[i] | x_t). The last term has the
        same form with t = 1. Together

            bits = sum_{t=1..N} 1/t * E_{q(x_t | x_0)} sum over masked i of -log2 p(x_0[i] | x_t)

        Every t is evaluated once, with its own masks: masks shared between the times would be unbiased too, but make
        the estimate several times noisier.

        Args:
            denoiser: called N times.
            tokens: int64 [B, G, h, w] in 0..K-1.
            generator: on the device of the tokens.

        Returns:
            float32 [B], >= 0; divide by N for bits per token.
        """
        nats = torch.zeros(len(tokens), device=tokens.device, dtype=torch.float32)
        for time in range(1, self.diffusion_steps + 1):
            t = torch.full((len(tokens),), time, device=tokens.device)
            noisy = self.q_sample(tokens, t, generator)
            logits, targets = denoiser(noisy, t), tokens.masked_fill(noisy != self.mask_id, -1)
            # Ignored rather than multiplied by 0, as a denoiser may say -inf at a visible position.
            nll = F.cross_entropy(logits.to(state_type(logits)), targets, ignore_index=-1, reduction="none")
            nats += nll.sum((1, 2, 3)) / time
        return nats / math.log(2)


def _rows(logits: Tensor) -> Tensor:
    """Logits [B, K, G, h, w] of each position, [B * N, K], fp32 at least."""
    return logits.to(state_type(logits)).movedim(1, -1).flatten(0, -2)

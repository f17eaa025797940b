"""Gaussian diffusion of images: forward process, objectives, posterior and transitions; no network, no state inside.

Images x_0 [B, C, H, W] lie in [-1, 1]. At time t in 0..N `x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) e`, e standard normal
noise and a_t the product of `1 - beta` up to t: `a_0 = 1`, and a_N is about 0.

A denoiser is any callable `denoiser(noisy, t) -> prediction`: noisy [B, C, H, W], t int64 [B] in 1..N, and of the
noisy images' shape the prediction of the noise, of the images, or of v, a mixture of both. One that works on synaptic
currents takes and gives `[T, B, C, H, W]`, one for each spiking step; the mean over T is the prediction.

Reference: Ho et al., arXiv:2006.11239 (DDPM); Song et al., arXiv:2010.02502 (DDIM); Nichol and Dhariwal,
arXiv:2102.09672 (cosine schedule); Salimans and Ho, arXiv:2202.00512 (v); Bao et al., arXiv:2201.06503 (Analytic-DPM)
and arXiv:2206.07309 (its form for imperfect networks); Watanabe et al., arXiv:2312.01742 (synaptic currents).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from spiking_vq.diffusion.guidance import Denoiser
from spiking_vq.errors import InputError, require
from spiking_vq.randomness import normal_noise, stratified_times


def linear_betas(diffusion_steps: int) -> Tensor:
    """Evenly spaced from 1e-4 to 0.02 at N = 1000; float64 [N].

    Other N, at least 20, scale both, so that a_N stays about what it is.
    """
    require(diffusion_steps >= 20, "diffusion_steps", "at least 20 with linear betas", diffusion_steps)
    scale = 1000 / diffusion_steps
    return torch.linspace(1e-4 * scale, min(0.02 * scale, 0.999), diffusion_steps, dtype=torch.float64, device="cpu")


def cosine_betas(diffusion_steps: int) -> Tensor:
    """`1 - f(t) / f(t - 1)`, at most 0.999, with `f(t) = cos^2((t / N + s) / (1 + s) * pi / 2)`, s = 0.008; [N]."""
    t = torch.arange(diffusion_steps + 1, dtype=torch.float64, device="cpu") / diffusion_steps
    f = ((t + 0.008) / 1.008 * math.pi / 2).cos().square()
    return (1 - f[1:] / f[:-1]).clamp(max=0.999)


SCHEDULES = {"linear": linear_betas, "cosine": cosine_betas}
PREDICTIONS = ("noise", "v", "images")
LOSSES = ("mse", "synaptic_current")
TRANSITIONS = ("ddpm_large", "ddpm_small", "ddim", "analytic")


class Draw(NamedTuple):
    """A training batch.

    Attributes:
        images: [B, C, H, W] in [-1, 1].
        t: int64 [B] in 1..N.
        noise: [B, C, H, W].
    """

    images: Tensor
    t: Tensor
    noise: Tensor


class Transition(NamedTuple):
    """A step back in time: `x_s = image * x_0 + noisy * x_t + std * z`, z standard normal."""

    image: float
    noisy: float
    std: float


def image_noise(shape: Sequence[int], generators: Sequence[torch.Generator]) -> Tensor:
    """Standard normal noise [B, *shape], float32 on the CPU, every image from its own generator."""
    return torch.stack([normal_noise(shape, generator) for generator in generators])


class GaussianDiffusion:
    """Forward process, objectives, posterior and transitions of Gaussian diffusion.

    Args:
        diffusion_steps: N.
        schedule: of the betas, a key of `SCHEDULES`.
        prediction: of the denoiser: `noise` e, `v = sqrt(a_t) e - sqrt(1 - a_t) x_0`, or `images` x_0.
        loss: `mse` of the prediction, or `synaptic_current`; see `loss_of`.

    Attributes:
        betas: float64 [N]; betas[t - 1] is that of time t.
        alpha_bars: float64 [N + 1]; alpha_bars[t] is a_t.
        current_weights: float64 [N + 1], by how much a prediction at time t enters the state at t - 1 of DDIM, scaled
            to a maximum of 1; entry 0 is 0.

    Raises:
        InputError: an unknown name, or N < 1.
    """

    def __init__(
        self, diffusion_steps: int = 1000, schedule: str = "linear", prediction: str = "noise", loss: str = "mse"
    ) -> None:
        require(diffusion_steps >= 1, "diffusion_steps", "at least 1", diffusion_steps)
        for name, value, known in (
            ("schedule", schedule, SCHEDULES),
            ("prediction", prediction, PREDICTIONS),
            ("loss", loss, LOSSES),
        ):
            require(value in known, name, f"one of {', '.join(known)}", repr(value))
        self.diffusion_steps, self.prediction, self.objective = diffusion_steps, prediction, loss
        self.betas = SCHEDULES[schedule](diffusion_steps)
        self.alpha_bars = torch.cat([torch.ones(1, dtype=torch.float64, device="cpu"), (1 - self.betas).cumprod(0)])
        self.current_weights = self._current_weights()
        self._tables: dict[tuple[str, torch.device], Tensor] = {}

    @property
    def on_currents(self) -> bool:
        """Whether the denoiser is one of synaptic currents."""
        return self.objective == "synaptic_current"

    def q_sample(self, images: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Forward process: x_t of images x_0 and noise, all [B, C, H, W], at times t int64 [B] in 0..N."""
        signal, spread = self._amounts(t, images)
        return signal * images + spread * noise

    def target(self, images: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Prediction of a perfect denoiser, [B, C, H, W]."""
        if self.prediction == "noise":
            return noise
        if self.prediction == "images":
            return images
        signal, spread = self._amounts(t, images)
        return signal * noise - spread * images

    def to_images(self, prediction: Tensor, noisy: Tensor, t: Tensor) -> Tensor:
        """Estimate x_0 from a prediction and x_t; [B, C, H, W] or `[T, B, C, H, W]`; t int64 [B] in 1..N."""
        if self.prediction == "images":
            return prediction
        signal, spread = self._amounts(t, noisy)
        if self.prediction == "noise":
            return (noisy - spread * prediction) / signal
        return signal * noisy - spread * prediction

    def to_noise(self, images: Tensor, noisy: Tensor, t: Tensor) -> Tensor:
        """Noise in x_t, given x_0; all [B, C, H, W], t int64 [B] in 1..N."""
        signal, spread = self._amounts(t, noisy)
        return (noisy - signal * images) / spread

    def loss(self, denoiser: Denoiser, images: Tensor, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Training objective at one time for each image, the times stratified over 1..N; see `loss_of`.

        Args:
            denoiser: called once, with gradients.
            images: [B, C, H, W] in [-1, 1].
            generator: on the device of the images.
        """
        return self.loss_of(denoiser, self.draw(images, generator))

    def draw(self, images: Tensor, generator: torch.Generator | None = None) -> Draw:
        """The random part of `loss`: times and noise of a whole batch."""
        t = stratified_times(len(images), self.diffusion_steps, images.device, generator)
        noise = torch.randn(images.shape, generator=generator, device=images.device, dtype=images.dtype)
        return Draw(images, t, noise)

    def loss_of(self, denoiser: Denoiser, drawn: Draw) -> dict[str, Tensor]:
        """The objective of a draw, or of some of its rows.

        `mse` is the mean squared error of the prediction. `synaptic_current` is for a denoiser of currents
        s `[T, B, C, H, W]`, D(s) their mean over T:

            mean_b a_t |D(s) - target|^2 + w_t |D(s) - s|^2

        w_t is the weight with which s enters the next state of DDIM, scaled to a maximum of 1: the decoded prediction
        must be right, and every step's current must be near it, as sampling never decodes before its end.

        Returns:
            Scalars: `loss` with its gradient; detached, `mse` of the prediction, and with currents their `spread`
            |D(s) - s|^2, unweighted.
        """
        images, t, noise = drawn
        noisy, target = self.q_sample(images, t, noise), self.target(images, t, noise)
        if not self.on_currents:
            loss = (denoiser(noisy, t).to(target.dtype) - target).square().mean()
            return {"loss": loss, "mse": loss.detach()}
        currents = denoiser(noisy.unsqueeze(0), t).to(target.dtype)
        decoded = currents.mean(0)
        error = (decoded - target).square().mean((1, 2, 3))
        spread = (decoded - currents).square().mean((0, 2, 3, 4))
        weight, alpha_bar = (self._at(t, table).to(error.dtype) for table in ("current_weights", "alpha_bars"))
        return {
            "loss": (alpha_bar * error + weight * spread).mean(),
            "mse": error.detach().mean(),
            "spread": spread.detach().mean(),
        }

    def _current_weights(self) -> Tensor:
        signal, spread = self.alpha_bars.sqrt(), (1 - self.alpha_bars).sqrt()
        of_images = signal[:-1] - spread[:-1] / spread[1:] * signal[1:]  # weight of x_0 in the next state
        of_prediction = {"noise": spread / signal, "v": spread, "images": torch.ones_like(signal)}[self.prediction][1:]
        weights = torch.cat([torch.zeros(1, dtype=torch.float64, device="cpu"), (of_images * of_prediction).abs()])
        return weights / weights.max()

    def posterior(self, t: int, s: int) -> Transition:
        """`q(x_s | x_t, x_0)`, s < t: normal with mean `image * x_0 + noisy * x_t` and standard deviation `std`."""
        at, as_ = (self.alpha_bars[time].item() for time in (t, s))
        beta = 1 - at / as_
        return Transition(
            as_**0.5 * beta / (1 - at),
            (at / as_) ** 0.5 * (1 - as_) / (1 - at),
            (beta * (1 - as_) / (1 - at)) ** 0.5,
        )

    def transition(
        self, t: int, s: int, sampler: str, eta: float = 0.0, image_error: Tensor | None = None
    ) -> Transition:
        """A sampler's step from time t to s; the last step, to 0, adds no noise.

        - `ddpm_small`: the posterior itself;
        - `ddpm_large`: its mean, with variance `1 - a_t / a_s`, the beta of the step;
        - `analytic`: its mean, with the variance of the network's estimates of x_0 added, `std^2 + image^2 V_t`, V_t
          their mean squared error per pixel;
        - `ddim`: standard deviation `eta` times the posterior's, and the mean that keeps x_s at its right level of
          noise: eta 1 is `ddpm_small`, eta 0 deterministic.

        Args:
            t, s: times, 0 <= s < t <= N.
            sampler: one of `TRANSITIONS`.
            eta: of `ddim`, in [0, 1].
            image_error: of `analytic`, V_t at t in 0..N, [N + 1].
        """
        exact = self.posterior(t, s)
        at, as_ = (self.alpha_bars[time].item() for time in (t, s))
        if sampler == "ddim":
            std = eta * exact.std
            noisy = ((1 - as_ - std**2) / (1 - at)) ** 0.5
            return Transition(as_**0.5 - noisy * at**0.5, noisy, std)
        if s == 0 or sampler == "ddpm_small":
            return exact
        if sampler == "ddpm_large":
            return exact._replace(std=(1 - at / as_) ** 0.5)
        return exact._replace(std=(exact.std**2 + exact.image**2 * image_error[t].item()) ** 0.5)

    @torch.no_grad()
    def image_error(
        self, denoiser: Denoiser, images: Tensor, times: Sequence[int], generator: torch.Generator | None = None
    ) -> Tensor:
        """Estimate V_t, the mean squared error per pixel of the clipped estimate of x_0, for `analytic`.

        Args:
            denoiser: called once for each time with all images.
            images: real images [B, C, H, W] in [-1, 1].
            times: in 1..N.
            generator: on the device of the images.

        Returns:
            float64 [len(times)], on the CPU.
        """
        errors = []
        for time in times:
            t = torch.full((len(images),), time, device=images.device)
            noise = torch.randn(images.shape, generator=generator, device=images.device, dtype=images.dtype)
            noisy = self.q_sample(images, t, noise)
            estimate = self.to_images(denoiser(noisy, t).to(noisy.dtype), noisy, t).clamp(-1, 1)
            errors.append((estimate - images).double().square().mean())
        return torch.stack(errors).cpu()

    def _amounts(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """`sqrt(a_t)` and `sqrt(1 - a_t)`, [B, 1, 1, 1], which broadcast against `[T, B, C, H, W]` too."""
        if like.dim() < 4 or len(t) != like.shape[-4]:
            raise InputError(f"expected images [B, C, H, W] and times [B]; got {list(like.shape)} and {list(t.shape)}")
        alpha_bars = self._at(t, "alpha_bars").view(-1, 1, 1, 1)
        return alpha_bars.sqrt().to(like.dtype), (1 - alpha_bars).sqrt().to(like.dtype)

    def _at(self, t: Tensor, table: str) -> Tensor:
        """Entries [B] of a table at times t [B]; the table is copied to their device once."""
        key = table, t.device
        if key not in self._tables:
            self._tables[key] = getattr(self, table).to(t.device, non_blocking=True)
        return self._tables[key][t]

"""DPM-Solver++ by diffusers' scheduler, an optional dependency (`pip install spiking_vq[samplers]`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from spiking_vq.errors import InputError

if TYPE_CHECKING:
    from spiking_vq.diffusion.gaussian import GaussianDiffusion

PREDICTION_TYPES = {"noise": "epsilon", "v": "v_prediction", "images": "sample"}
"""Our name of what a denoiser predicts -> theirs."""


def dpm_solver_states(
    diffusion: GaussianDiffusion, denoiser: Callable[[Tensor, Tensor], Tensor], noisy: Tensor, times: Sequence[int]
) -> Iterator[Tensor]:
    """Second-order multistep DPM-Solver++: yields x_t after each call.

    Args:
        diffusion: its betas and prediction are used.
        denoiser: called once a step.
        noisy: the state at the first time, [B, C, H, W].
        times: from N down to 0.

    Raises:
        InputError: diffusers is not installed.

    Reference: Lu et al., arXiv:2211.01095.
    """
    try:
        from diffusers import DPMSolverMultistepScheduler
    except ImportError as error:
        raise InputError(f"sampler=dpm_solver needs diffusers ({error}): `pip install diffusers`") from error
    scheduler = DPMSolverMultistepScheduler(
        num_train_timesteps=diffusion.diffusion_steps,
        trained_betas=diffusion.betas.numpy(),
        prediction_type=PREDICTION_TYPES[diffusion.prediction],
        algorithm_type="dpmsolver++",
        final_sigmas_type="zero",
    )
    scheduler.set_timesteps(timesteps=[t - 1 for t in times[:-1]])  # theirs count from 0
    for t in times[:-1]:
        prediction = denoiser(noisy, torch.full((len(noisy),), t, device=noisy.device))
        noisy = scheduler.step(prediction.to(noisy.dtype), t - 1, noisy).prev_sample
        yield noisy

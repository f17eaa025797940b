"""DPM-Solver++ by diffusers' scheduler, an optional dependency (`pip install spiking_vq[samplers]`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from spiking_vq.errors import InputError

if TYPE_CHECKING:
    from spiking_vq.diffusion.gaussian import GaussianDiffusion

PREDICTION_TYPES = {"noise": "epsilon", "v": "v_prediction", "images": "sample"}
"""Our name of what a denoiser predicts -> theirs."""


def dpm_solver_states(
    diffusion: GaussianDiffusion, denoiser: Callable[[Tensor, Tensor], Tensor], noisy: Tensor, sample_steps: int
) -> Iterator[tuple[int, Tensor]]:
    """Second-order multistep DPM-Solver++ from time N to 0: yields the time in 0..N-1 and x_t after each call.

    Args:
        diffusion: its betas and prediction are used.
        denoiser: called once a step.
        noisy: the state at time N, [B, C, H, W].
        sample_steps: number of calls.

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
        timestep_spacing="trailing",
        final_sigmas_type="zero",
    )
    scheduler.set_timesteps(sample_steps)
    times = [time + 1 for time in scheduler.timesteps.tolist()]  # theirs count from 0
    for time, next_time in zip(times, [*times[1:], 0], strict=True):
        prediction = denoiser(noisy, torch.full((len(noisy),), time, device=noisy.device))
        noisy = scheduler.step(prediction.to(noisy.dtype), time - 1, noisy).prev_sample
        yield next_time, noisy

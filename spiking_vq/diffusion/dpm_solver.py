"""DPM-Solver++ by diffusers' scheduler, an optional dependency (`pip install spiking_vq[samplers]`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from spiking_vq.errors import InputError

PREDICTION_TYPES = {"noise": "epsilon", "v": "v_prediction", "images": "sample"}
"""Our name of a denoiser's prediction -> the scheduler's."""


def dpm_solver(betas: Tensor, prediction: str, times: Sequence[int]) -> Callable[[Tensor, Tensor, int, int], Tensor]:
    """Second-order multistep DPM-Solver++: a function `(prediction, x_t, t, s) -> x_s`, which remembers earlier steps.

    Args:
        betas: of the diffusion, float64 [N].
        prediction: a key of `PREDICTION_TYPES`.
        times: from N down to 0, one step from each to the next.

    Raises:
        InputError: diffusers is not installed.

    Reference: Lu et al., arXiv:2211.01095.
    """
    try:
        from diffusers import DPMSolverMultistepScheduler
    except ImportError as error:
        raise InputError(f"sampler=dpm_solver needs diffusers ({error}): `pip install diffusers`") from error
    scheduler = DPMSolverMultistepScheduler(
        num_train_timesteps=len(betas),
        trained_betas=betas.numpy(),
        prediction_type=PREDICTION_TYPES[prediction],
        algorithm_type="dpmsolver++",
        final_sigmas_type="zero",
    )
    scheduler.set_timesteps(timesteps=[t - 1 for t in times[:-1]])  # theirs count from 0
    return lambda predicted, noisy, t, s: scheduler.step(predicted, t - 1, noisy).prev_sample

"""Absorbing diffusion by a network whose membranes persist: spiking time is diffusion time.

Each call of the sampler is one stretch of the network's spiking time, as short as a single step: an image costs S calls
of T spiking steps each, and with T = 1 no more steps than calls. What a call leaves in the membranes, the next one
finds, so the network has to be trained as it is used, on whole trajectories from all masked to none.
"""

from __future__ import annotations

import torch
from torch import Tensor

from spiking_vq.diffusion.absorbing import LOSSES, AbsorbingDiffusion, Denoiser, Draw, summed_up, unmask_schedule


class TrajectoryDiffusion(AbsorbingDiffusion):
    """Absorbing diffusion whose denoiser is trained on trajectories of S calls, each seen once, in their order.

    The process and the sampler are those of `AbsorbingDiffusion`; the objective is the mean over the calls.

    Args:
        diffusion: that process.
        sample_steps: S, in 1..N.
        order: in which the places of an image are unmasked, one of `ORDERS`.
        schedule: over the calls, a key of `UNMASK_SCHEDULES`.
    """

    def __init__(
        self, diffusion: AbsorbingDiffusion, sample_steps: int, order: str = "random", schedule: str = "linear"
    ) -> None:
        super().__init__(diffusion.grid, diffusion.codebook_size, diffusion.objective)
        self.check_settings(sample_steps, order, temperature=1.0, schedule=schedule)
        self.sample_steps, self.order, self.schedule = sample_steps, order, schedule

    def draw(self, tokens: Tensor, generator: torch.Generator | None = None) -> Draw:
        """The random part of `loss`: an order of unmasking for each image, and what the S calls see of it.

        Returns:
            Of `tokens` [B, h, w]: `t` and `weight` [B, S], `noisy` [B, S, h, w].
        """
        noise = torch.rand(len(tokens), self.diffusion_steps, generator=generator, device=tokens.device)
        free = torch.ones_like(tokens, dtype=torch.bool)
        unmask_call = unmask_schedule(self.order, noise, free, self.sample_steps, self.schedule).unsqueeze(1)
        calls = torch.arange(self.sample_steps, device=tokens.device)
        hidden = unmask_call >= calls.view(1, -1, 1, 1)
        noisy = tokens.unsqueeze(1).masked_fill(hidden, self.mask_id)
        t = self.times(calls, self.sample_steps, self.schedule).expand(len(tokens), -1)
        weight = LOSSES[self.objective](t.flatten(), hidden.flatten(0, 1).sum((1, 2)), self.diffusion_steps)
        return Draw(tokens, t, noisy, weight.view_as(t))

    def loss_of(self, denoiser: Denoiser, drawn: Draw) -> dict[str, Tensor]:
        """What `loss` gives, of a draw or of some of its rows.

        The denoiser is called once, on all calls of the trajectories in order, `(tokens [S, B, h, w], t [S, B]) ->
        logits [S, B, K, h, w]`, and has to see none before its time.
        """
        tokens, t, noisy, weight = drawn
        logits = denoiser(noisy.transpose(0, 1), t.T).transpose(0, 1)
        tokens = tokens.unsqueeze(1).expand_as(noisy)
        return summed_up(*(x.flatten(0, 1) for x in (logits, tokens, noisy == self.mask_id, weight)))

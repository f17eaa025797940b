"""The sampler of absorbing diffusion, and its options."""

from __future__ import annotations

from dataclasses import dataclass

from spiking_vq.fields import Count, Natural, NonNegative, PositiveShare


@dataclass(frozen=True)
class AbsorbingSamplerOptions:
    """Defaults of `sample`, which travel with the weights; see `AbsorbingDiffusion.sample`.

    `guidance` is for networks that know labels: 0 asks for none, above 0 labels are drawn where none is asked for.
    `guidance_T` is the number of spiking steps of the answer without a label, which guidance departs from: it need not
    be as good as the other, and costs so much less; None takes T.
    """

    sample_steps: Count | None = None
    order: str = "random"
    temperature: NonNegative = 1.0
    last_temperature: NonNegative | None = None
    top_p: PositiveShare = 1.0
    remask_calls: Natural = 0
    schedule: str = "linear"
    guidance: NonNegative = 0.0
    guidance_T: Count | None = None

"""The sampler of Gaussian diffusion, and its options."""

from __future__ import annotations

from dataclasses import dataclass

from spiking_vq.fields import Count, NonNegative, Positive, Share


@dataclass(frozen=True)
class GaussianSamplerOptions:
    """Defaults of `sample`, which travel with the weights; see `GaussianDiffusion.trajectory`.

    The images are multiplied about mid-grey by `contrast`; `threshold_shift` is added to every neuron's threshold while
    sampling (threshold guidance); `guidance` is that of `SampleOptions`.
    """

    sample_steps: Count | None = None
    sampler: str = "ddim"
    eta: Share = 0.0
    contrast: Positive = 1.0
    threshold_shift: float = 0.0
    guidance: NonNegative = 0.0

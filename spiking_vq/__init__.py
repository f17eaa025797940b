"""Image generation with spiking neural networks: `spiking_vq.load("mnist").sample(64)`.

The public names are imported when they are used: `spiking_vq.diffusion` alone needs nothing but torch.
"""

from __future__ import annotations

from importlib import import_module, metadata
from typing import Any

_MODULES = {
    "load": "spiking_vq.pipelines.load",
    "LatentPipeline": "spiking_vq.pipelines.latent",
    "PixelPipeline": "spiking_vq.pipelines.pixel",
    "LIF": "spiking_vq.neurons.lif",
}
"""Public name -> its module."""

__all__ = ["LIF", "LatentPipeline", "PixelPipeline", "__version__", "load"]  # noqa: F822


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return metadata.version("spiking_vq")
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

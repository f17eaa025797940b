"""One way to a pipeline: `load`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from spiking_vq.checkpoint.build import LatentModel, PixelModel
from spiking_vq.checkpoint.file import load_model
from spiking_vq.config.schema import DenoiserConfig
from spiking_vq.errors import InputError
from spiking_vq.pipelines.latent import LatentPipeline
from spiking_vq.pipelines.pixel import PixelPipeline
from spiking_vq.pipelines.zoo import shipped

PIPELINES = (LatentPipeline, PixelPipeline)


def load(
    path: str | Path, device: torch.device | str = "cpu", precision: str = "fp32", compile: bool = False
) -> LatentPipeline | PixelPipeline:
    """The generator of a `model.safetensors`, or of the weights that ship for a data set, whichever pipeline's it is.

    Args:
        path: a file; or a data set, `mnist`, or with preset or stage, `mnist-base-gaussian`.
        device, precision, compile: see `Pipeline`.

    Raises:
        InputError: not such a file, or of a model that cannot generate.
    """
    path = shipped(path, *(generator.stage for generator in PIPELINES))
    model, config = load_model(path)
    if not isinstance(model, tuple(generator.kind for generator in PIPELINES)):
        raise InputError(f"{path} is a {config.stage} model, which cannot generate: name a file of another stage")
    return pipeline_of(model, config, device, precision, compile)


def pipeline_of(
    model: LatentModel | PixelModel, config: DenoiserConfig, *arguments: Any
) -> LatentPipeline | PixelPipeline:
    """The generator of this kind of model; the arguments are its constructor's."""
    (kind,) = (generator for generator in PIPELINES if isinstance(model, generator.kind))
    return kind(model, config, *arguments)

"""Loading a pipeline: `load`."""

from __future__ import annotations

from pathlib import Path

import torch

from spiking_vq.checkpoint.build import LatentModel, PixelModel
from spiking_vq.checkpoint.file import load_model
from spiking_vq.config.schema import DenoiserConfig
from spiking_vq.errors import InputError
from spiking_vq.export.folder import read_description
from spiking_vq.export.latent import load_latent
from spiking_vq.export.pixel import load_pixel
from spiking_vq.export.traced import load_traced
from spiking_vq.pipelines.latent import LatentPipeline
from spiking_vq.pipelines.pixel import PixelPipeline
from spiking_vq.pipelines.zoo import EXPORTED, located

PIPELINES = (LatentPipeline, PixelPipeline)


def load(
    model: str | Path,
    device: torch.device | str = "cpu",
    precision: str = "fp32",
    compile: bool = False,
    *,
    revision: str | None = None,
) -> LatentPipeline | PixelPipeline:
    """Load the pipeline of a trained model.

    Args:
        model: a model that ships, by data set (`mnist`), or with preset and stage (`mnist-base-gaussian`); a run folder
            (`runs/mnist/base`), of an unfinished run its best checkpoint so far; a file (`model.safetensors`); the
            folder of an exported model, whose graphs then run; a folder by `save_pretrained`; or `owner/name`, a
            repository of the Hugging Face hub that `push_to_hub` wrote, unless there is such a path.
        device, precision, compile: see `Pipeline`.
        revision: branch, tag or commit of the repository; None (default) for the newest commit of `main`.

    Raises:
        InputError: there is no such model, or one that cannot generate.
    """
    path = located(model, *(pipeline.stage for pipeline in PIPELINES), revision=revision)
    networks, config = load_exported(path.parent) if path.name == EXPORTED else load_model(path)
    if not isinstance(networks, tuple(pipeline.kind for pipeline in PIPELINES)):
        raise InputError(f"{path} is a {config.stage} model, which cannot generate: name a file of another stage")
    return pipeline_of(networks, config, device, precision, compile)


def load_exported(folder: Path) -> tuple[LatentModel | PixelModel, DenoiserConfig]:
    """The model that an export holds, and its configuration.

    Raises:
        InputError: the export is not whole, or a package that runs it is missing.
    """
    description, _ = read_description(folder)
    if description["to"] != "nir":
        return load_traced(folder)
    return load_pixel(folder) if "unet" in description["parts"] else load_latent(folder)


def pipeline_of(
    model: LatentModel | PixelModel,
    config: DenoiserConfig,
    device: torch.device | str = "cpu",
    precision: str = "fp32",
    compile: bool = False,
) -> LatentPipeline | PixelPipeline:
    """The pipeline of networks in memory; for the arguments see `Pipeline`."""
    (kind,) = (pipeline for pipeline in PIPELINES if isinstance(model, pipeline.kind))
    return kind(model, config, device, precision, compile)

"""Import Spiking-Diffusion's networks from its authors' checkpoints (arXiv:2308.10187).

First `model.pth`, which gives a model of stage 1; then `diff_model.pth`, which gives with it a model that samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from spiking_vq.checkpoint.authors.reading import is_own, read_weights
from spiking_vq.checkpoint.authors.spiking_diffusion import (
    convert_denoiser,
    convert_stage1,
    image_channels,
    is_stage1,
)
from spiking_vq.checkpoint.build import LatentModel
from spiking_vq.checkpoint.file import load_model
from spiking_vq.config.schema import VQSVAEConfig
from spiking_vq.errors import InputError, require
from spiking_vq.fields import Positive
from spiking_vq.files import read_path
from spiking_vq.models.vq_svae import VQSVAE
from stages.cli.options import read_options
from stages.importing.model_file import SUFFIX, ImportOptions, described, print_next, side_of, write

EXAMPLE = "spiking-vq import spiking-diffusion diff_model.pth T=16 stage1=model.pth data=mnist"

PRESET = "paper"


@dataclass(frozen=True, kw_only=True)
class Options(ImportOptions):
    """Options of `import spiking-diffusion`.

    Attributes:
        stage1: of a denoiser, the file of its stage 1, imported or the authors'; None (default) is the one that was
            imported for the same data before.
        data_variance: of stage 1, variance of the training images' pixels in [0, 1], which only further training
            needs; None (default) is 1.
    """

    stage1: Path | None = None
    data_variance: Positive | None = None


def main(arguments: list[str]) -> None:
    """Read, convert, write, print."""
    options = read_options(Options, arguments)
    weights = options.read("spiking-diffusion", "16")
    if is_stage1(weights):
        require(options.stage1 is None, "stage1", "left out: this file is a stage 1", options.stage1)
        import_stage1(weights, options)
    else:
        import_denoiser(weights, options)


def import_stage1(weights: Mapping[str, Tensor], options: Options) -> None:
    """Convert the autoencoder, write its file, and print its sizes."""
    model, config = converted_stage1(weights, options)
    out = options.target(config)
    print(
        f"read stage 1, {described(model, config)}: {model.codebook_size} codes of length {config.model.embedding_dim}"
    )
    write(out, model, config)
    if options.data_variance is None:
        print("to train it further, import it again with data_variance=, the variance of the training images' pixels")
    print_next("import", "spiking-diffusion", "diff_model.pth", f"T={config.T}", f"stage1={out}")


def import_denoiser(weights: Mapping[str, Tensor], options: Options) -> None:
    """Convert the denoiser with its stage 1, write the file of both, and print their sizes."""
    vq_svae, stage1 = found_stage1(options)
    like_stage1 = replace(options, data=stage1.data, image_size=stage1.image_size)
    config = like_stage1.config("absorbing", PRESET, stage1.image_shape[0])
    model, config = convert_denoiser(weights, config, vq_svae, stage1)
    out = options.target(config)
    print(f"read the denoiser, {described(model.denoiser, config)}: {vq_svae.codebook_size} codes and their mask")
    write(out, model, config)
    print_next("sample", out)


def converted_stage1(weights: Mapping[str, Tensor], options: Options) -> tuple[VQSVAE, VQSVAEConfig]:
    """Return the authors' autoencoder as ours, and its configuration."""
    config = options.config("vq_svae", PRESET, image_channels(weights))
    return convert_stage1(weights, config, side_of(config), options.data_variance)


def found_stage1(options: Options) -> tuple[VQSVAE, VQSVAEConfig]:
    """Return the stage 1 that the options name, converted if it is the authors', and its configuration.

    Raises:
        InputError: there is none, the file holds another network, or options contradict it.
    """
    known = options.runs / (options.data or "mnist") / f"{PRESET}{SUFFIX}" / "vq_svae" / "model.safetensors"
    path = read_path("stage1", options.stage1 or known)
    if not path.is_file():
        raise InputError(
            f"a denoiser needs the stage 1 that it was trained on, and there is no {path}: import model.pth first, or"
            " name either file with stage1="
        )
    if not is_own(path):
        return converted_stage1(read_weights(path), options)
    model, config = load_model(path)
    if isinstance(model, LatentModel):
        model, config = model.vq_svae, config.vq_svae
    if not isinstance(model, VQSVAE):
        raise InputError(f"{path} is a {config.stage} model: stage1= must name a vq_svae one, or one that holds it")
    own = {"data": config.data, "image_size": config.image_shape[1], "data_variance": model.data_variance.item()}
    for name, value in own.items():
        given = getattr(options, name)
        require(given in (None, value), name, f"left out, or as in {path}: {value}", given)
    return model, config

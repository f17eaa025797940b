"""SDDPM's checkpoints, and SDM's where no step is scaled."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from spiking_vq.checkpoint.authors.reading import without_unit_scales
from spiking_vq.checkpoint.authors.tables import (
    Table,
    check_constant,
    children_of,
    conv_norm,
    filled,
    linear,
    multiples,
    norm,
    rotated,
    shape_of,
)
from spiking_vq.checkpoint.build import PixelModel, build_on_cpu
from spiking_vq.config.options import UNetOptions
from spiking_vq.config.schema import GaussianConfig
from spiking_vq.models.sddpm import PreSpikeBlock, SDDPMUNet
from spiking_vq.models.unet_parts import sinusoid

TIMES = "time_embedding.timembedding.0.weight"
"""Their table of the sinusoids of times 0..N-1, [N, width]."""

FIRST_TIME_LAYER = "time_embedding.timembedding.1.weight"
"""Their layer on that table, [4 width, width]."""


def convert(
    weights: Mapping[str, Tensor], config: GaussianConfig, image_size: int = 32
) -> tuple[PixelModel, GaussianConfig]:
    """The authors' network as a model of this package; its prediction at our time t is theirs at t - 1.

    The authors count diffusion times from 0, we from 1. The first layer on the time's sinusoids absorbs the difference.

    Args:
        weights: state dict of the authors' network, see `state_dict_of`; of SDM with all scales 1.
        config: of the preset `sddpm`, with T, which the weights do not tell.
        image_size: side of the square images in pixels, which the weights do not tell.

    Returns:
        The model in evaluation mode, on the CPU, of the precision of `config`; and the configuration with its sizes.

    Raises:
        InputError: weights of another network, or of SDM with scales other than 1; an image size that does not divide.

    Reference: Cao et al., arXiv:2306.17046, and the authors' program.
    """
    weights = without_unit_scales(weights)
    channels, options = sizes(weights)
    config = replace(config, image_shape=[channels, image_size, image_size], model=options)
    if TIMES in weights:
        num_times, _ = shape_of(weights, TIMES, 2)
        check_constant(weights, TIMES, sinusoid(torch.arange(num_times), options.width))
        config = replace(config, diffusion=replace(config.diffusion, diffusion_steps=num_times))
    shape_of(weights, FIRST_TIME_LAYER, 2)
    half = options.width // 2
    frequencies = torch.exp(-math.log(10_000) * torch.arange(half, dtype=torch.float64) / half)
    model = build_on_cpu(config)
    turned = {FIRST_TIME_LAYER: rotated(weights[FIRST_TIME_LAYER], frequencies)}
    filled(model.unet, {**weights, **turned}, table(model.unet), dropped=(TIMES,))
    return model.eval(), config


def sizes(weights: Mapping[str, Tensor]) -> tuple[int, UNetOptions]:
    """Number of image channels, and sizes of the network.

    Raises:
        InputError: a key from which they follow is missing, or SDM's scales are not 1.
    """
    weights = without_unit_scales(weights)
    width, channels, *_ = shape_of(weights, "conv.weight")
    halves = [f"downblocks.{i}.conv.weight" in weights for i in range(children_of(weights, "downblocks."))]
    num_blocks = halves.index(True) if True in halves else len(halves)
    first_blocks = range(0, max(len(halves), 1), num_blocks + 1)
    widths = [shape_of(weights, f"downblocks.{i}.conv1.weight")[0] for i in first_blocks]
    return channels, UNetOptions("sddpm", width, multiples(widths, width), num_blocks)


def table(unet: SDDPMUNet) -> Table:
    """Their keys -> ours."""
    keys = (
        linear("time_embedding.timembedding.1", "time.0")
        | linear("time_embedding.timembedding.3", "time.2")
        | conv_norm("conv", "bn", "stem")
        | conv_norm("conv_identity", "bn_identity", "entry.1")
        | norm("tail_bn", "head_norm")
        | linear("tail_conv", "head")
        | conv_norm("T_output_layer", "last_bn", "smooth")
    )
    for ours in ("down", "middle", "up"):
        for index, layer in enumerate(unet.get_submodule(ours)):
            keys |= _layer(layer, f"{ours}blocks.{index}", f"{ours}.{index}")
    return keys


def _layer(layer: nn.Module, theirs: str, ours: str) -> Table:
    """A block, or a change of the resolution."""
    if not isinstance(layer, PreSpikeBlock):
        inner = "0.1" if ours.startswith("up") else "0"  # doubling comes before the convolution
        return conv_norm(f"{theirs}.conv", f"{theirs}.bn", f"{ours}.1", inner)
    keys = (
        linear(f"{theirs}.temb_proj.1", f"{ours}.time")
        | conv_norm(f"{theirs}.conv1", f"{theirs}.bn1", f"{ours}.first")
        | conv_norm(f"{theirs}.conv2", f"{theirs}.bn2", f"{ours}.second")
    )
    same_width = isinstance(layer.shortcut, nn.Identity)
    return keys if same_width else keys | linear(f"{theirs}.shortcut", f"{ours}.shortcut")

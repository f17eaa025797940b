"""FSDDIM's checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from spiking_vq.checkpoint.authors.tables import (
    Table,
    check_constant,
    children_of,
    conv_norm,
    filled,
    linear,
    multiples,
    norm,
    shape_of,
)
from spiking_vq.checkpoint.build import PixelModel, build_on_cpu
from spiking_vq.config.options import UNetOptions
from spiking_vq.config.schema import GaussianConfig
from spiking_vq.errors import require_one_of
from spiking_vq.layers.synapses import BatchNorm
from spiking_vq.models.fsddim import FSDDIMUNet, PostSumBlock
from spiking_vq.models.unet_parts import sinusoid

TIMES = "pe"
"""Their table of the sinusoids of times 0..N-1, [N, width]."""

TRAINERS = ("sync_batch_norm", "tdbn")
"""Batch norms that weights may have been trained with."""


def convert(
    weights: Mapping[str, Tensor],
    config: GaussianConfig,
    image_size: int = 32,
    trained_with: str = "sync_batch_norm",
) -> tuple[PixelModel, GaussianConfig]:
    """The authors' network as a model of this package; its currents at our time t are theirs at t - 1.

    The authors write threshold-dependent batch norm, whose gain is 1 / sqrt(2) in both arms of a block. Their trainer
    replaces it by plain batch norm, of gain 1. The weights of our norms make up for it.

    Args:
        weights: state dict of the authors' network, see `state_dict_of`.
        config: of the preset `fsddim`, with T, which the weights do not tell.
        image_size: side of the square images in pixels, which the weights do not tell.
        trained_with: `sync_batch_norm` (default), as by the authors' trainer, or `tdbn`, as written.

    Returns:
        The model in evaluation mode, on the CPU, of the precision of `config`; and the configuration with its sizes.

    Raises:
        InputError: weights of another network, another name, or an image size that does not divide.

    Reference: Watanabe et al., arXiv:2312.01742, and the authors' program.
    """
    require_one_of("trained_with", trained_with, TRAINERS)
    channels, options = sizes(weights)
    if TIMES in weights:
        num_times, _ = shape_of(weights, TIMES, 2)
        check_constant(weights, TIMES, sinusoid(torch.arange(num_times), options.width, to_the_end=True))
    config = replace(config, image_shape=[channels, image_size, image_size], model=options)
    model = build_on_cpu(config)
    filled(model.unet, weights, table(model.unet), dropped=(TIMES,))
    if trained_with == "sync_batch_norm":
        undo_gains(model)
    return model.eval(), config


@torch.no_grad()
def undo_gains(model: nn.Module) -> None:
    """Divide the weight of every batch norm by its gain, so that the norm computes what a plain one does."""
    for module in model.modules():
        if isinstance(module, BatchNorm):
            module.weight /= module.gain


def sizes(weights: Mapping[str, Tensor]) -> tuple[int, UNetOptions]:
    """Number of image channels, and sizes of the network.

    Raises:
        InputError: a key from which they follow is missing.
    """
    width, channels, *_ = shape_of(weights, "conv_in.weight")
    shape_of(weights, "downs.0.0.conv1.weight")
    num_blocks, last = children_of(weights, "downs.0.") - 1, children_of(weights, "downs.") - 1
    changes = [f"downs.{i}.{num_blocks}.conv.1" for i in range(last)] + [f"downs.{last}.{num_blocks}"]
    widths = [shape_of(weights, f"{change}.weight")[0] for change in changes]
    return channels, UNetOptions("fsddim", width, multiples(widths, width), num_blocks)


def table(unet: FSDDIMUNet) -> Table:
    """Their keys -> ours."""
    levels, num_blocks = len(unet.down), len(unet.down[0])
    keys = (
        linear("temb.0", "time_in")
        | linear("temb.1", "time_out")
        | linear("conv_in", "stem")
        | linear("conv_out", "head")
        | _block(unet.middle[0], "mid_block1", "middle.0")
        | _block(unet.middle[1], "mid_block2", "middle.1")
        | _block(unet.last, "final_res_block", "last")
    )
    for ours in ("down", "up"):
        for level, blocks in enumerate(unet.get_submodule(ours)):
            for index, block in enumerate(blocks):
                keys |= _block(block, f"{ours}s.{level}.{index}", f"{ours}.{level}.{index}")
    changes = [(f"downs.{level}.{num_blocks}", f"ups.{level}.{num_blocks}") for level in range(levels)]
    for level, (down, up) in enumerate(changes[:-1]):
        keys |= linear(f"{down}.conv.1", f"shrink.{level}.1") | linear(f"{up}.conv", f"grow.{level}.1")
    down, up = changes[-1]
    return keys | conv_norm(down, f"{down}.bn", "bottom.0") | conv_norm(up, f"{up}.bn", "top.0")


def _block(block: PostSumBlock, theirs: str, ours: str) -> Table:
    keys = (
        linear(f"{theirs}.temb_proj", f"{ours}.time")
        | conv_norm(f"{theirs}.conv1", f"{theirs}.bn1", f"{ours}.first")
        | conv_norm(f"{theirs}.conv2", f"{theirs}.conv2.bn", f"{ours}.second")
    )
    shortcut = f"{theirs}.nin_shortcut", f"{ours}.shortcut"
    if isinstance(block.shortcut, BatchNorm):
        return keys | norm(*shortcut)
    return keys | conv_norm(shortcut[0], f"{shortcut[0]}.bn", shortcut[1])

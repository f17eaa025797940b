"""Presets adapted to data and machine: halvings to the images' size, labels and styles to those that there are."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import TypeVar

from spiking_vq.config.schema import AbsorbingConfig, Config, DenoiserConfig, GaussianConfig, VQSVAEConfig
from spiking_vq.data.image_data import ImageData
from spiking_vq.data.own import OwnData
from stages.cli.machine import emulates_bf16

LEAST_SIDE, MOST_SIDE = 7, 16
"""Positions a side of the token grid, and of the U-Net's lowest level, that presets are made for."""

ADAPTABLE = {
    *("precision", "model.channels", "model.decoder_channels", "model.multipliers", "train.batch_size"),
    *("conditional", "styles", "sample.guidance", "sample.guidance_T", "distilled_guidance", "distilled_T"),
}
"""Fields that `adapted` may change."""

PER_STYLE = 8
"""Training images of a style at least."""

AnyConfig = TypeVar("AnyConfig", bound=Config)


def adapted(config: AnyConfig, data: ImageData, given: Collection[str]) -> tuple[AnyConfig, list[str]]:
    """A preset's configuration adapted to the data and the machine, and the changes in words.

    The number of halvings follows from the size of the images. Of an own data set, the number of styles and the batch
    follow from the number of images, and a preset's class-conditional network becomes unconditional if there are no
    labels. A processor that emulates bf16 computes in fp32. What the user has given is not changed.

    Args:
        config: from a preset and the user's overrides.
        data: its data set.
        given: names of the fields that the user has given, such as `model.channels`.
    """
    changes: dict[str, str] = {}
    if config.precision == "bf16" and "precision" not in given and emulates_bf16(config.device):
        changes["precision"] = "fp32, as this processor emulates bf16, which takes several times as long"
        config = replace(config, precision="fp32")
    sides = data.official_shape[1:]
    if isinstance(config, VQSVAEConfig) and not {"model.channels", "model.decoder_channels"} & set(given):
        config = _with_halvings(config, sides, changes)
    if isinstance(config, GaussianConfig) and "model.multipliers" not in given:
        config = _with_levels(config, sides, changes)
    if isinstance(data, OwnData):
        config = _to_own(config, data, given, changes)
    return config, [f"{name}={value}" for name, value in changes.items()]


def _to_own(config: Config, data: OwnData, given: Collection[str], changes: dict[str, str]) -> Config:
    """The configuration adapted to the labels and the number of images of an own data set."""
    if isinstance(config, DenoiserConfig) and config.conditional:
        if not data.labelled and "conditional" not in given:
            config = _unconditional(config, changes)
        elif "styles" not in given:
            config = _with_fewer_styles(config, data, changes)
    count, devices = len(data.train.images), config.trainer.devices
    if count < config.train.batch_size and "train.batch_size" not in given:
        batch_size = max(devices, count // devices * devices)
        config = replace(config, train=replace(config.train, batch_size=batch_size))
        changes["train.batch_size"] = f"{batch_size}, of {count} training images"
    return config


def _with_halvings(config: VQSVAEConfig, sides: Sequence[int], changes: dict[str, str]) -> VQSVAEConfig:
    """The configuration with as many stride-2 convolutions as keep the grid in `LEAST_SIDE`..`MOST_SIDE`."""
    preset = halvings = len(config.model.channels)
    while max(sides) / 2**halvings > MOST_SIDE:
        halvings += 1
    while halvings > 1 and min(sides) / 2**halvings < LEAST_SIDE and max(sides) / 2 ** (halvings - 1) <= MOST_SIDE:
        halvings -= 1
    if halvings == preset:
        return config
    model = replace(config.model, channels=_resized(config.model.channels, halvings))
    if model.decoder_channels is not None:
        model = replace(model, decoder_channels=_resized(model.decoder_channels, halvings))
    changes["model.channels"] = f"{model.channels}, for images of {sides[0]} x {sides[1]} pixels"
    return replace(config, model=model)


def _with_levels(config: GaussianConfig, sides: Sequence[int], changes: dict[str, str]) -> GaussianConfig:
    """The configuration with more levels, if the lowest one would have more than `MOST_SIDE` positions a side."""
    levels = len(config.model.multipliers)
    while max(sides) / config.model.patch_size / 2 ** (levels - 1) > MOST_SIDE:
        levels += 1
    if levels == len(config.model.multipliers):
        return config
    multipliers = _resized(config.model.multipliers, levels)
    changes["model.multipliers"] = f"{multipliers}, for images of {sides[0]} x {sides[1]} pixels"
    return replace(config, model=replace(config.model, multipliers=multipliers))


def _unconditional(config: DenoiserConfig, changes: dict[str, str]) -> DenoiserConfig:
    """The configuration of an unconditional network."""
    changes["conditional"] = "false, as the images have no labels"
    sample = config.sample.replaced(guidance=0.0)
    if isinstance(config, AbsorbingConfig):
        sample = replace(sample, guidance_T=None)
        return replace(config, conditional=False, styles=1, sample=sample, distilled_guidance=0.0, distilled_T=None)
    return replace(config, conditional=False, styles=1, sample=sample)


def _with_fewer_styles(config: DenoiserConfig, data: ImageData, changes: dict[str, str]) -> DenoiserConfig:
    """The configuration with at most as many styles as leave `PER_STYLE` images for each style of every label."""
    counts = data.train.labels.bincount()
    most = max(1, int(counts[counts > 0].min()) // PER_STYLE)
    styles = min(config.styles, 2 ** (most.bit_length() - 1))
    if styles == config.styles:
        return config
    changes["styles"] = f"{styles}, as the rarest label has {int(counts[counts > 0].min())} training images"
    return replace(config, styles=styles)


def _resized(widths: Sequence[int], count: int) -> list[int]:
    """The first `count` widths, the last one repeated where there are fewer."""
    return [*widths[:count], *[widths[-1]] * (count - len(widths))]

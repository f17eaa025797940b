"""Parts that the imports share: options, the configuration of a preset, and the model file."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from spiking_vq.checkpoint.authors.reading import read_weights
from spiking_vq.checkpoint.build import PixelModel
from spiking_vq.checkpoint.file import load_model, save_model
from spiking_vq.config.load import load_config
from spiking_vq.config.schema import GaussianConfig, SpikingConfig
from spiking_vq.data.datasets import DATASETS, load_dataset
from spiking_vq.errors import InputError, require
from spiking_vq.fields import Count
from spiking_vq.files import read_path
from stages.cli.data import DataName
from stages.cli.options import RUNS, preset_file

SUFFIX = "-imported"
"""End of the preset's name in the configuration of an imported model, so that its folder is not that of a training."""


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """Options of all imports.

    Attributes:
        file: the authors' checkpoint, by torch or as `.safetensors`, written without `file=`.
        T: spiking steps that the network was trained with; must be given, as the weights do not tell.
        data: data set that it was trained on; None (default) is `cifar10` of colour images and `mnist` of grey ones.
        image_size: side of the images in pixels, which the weights do not tell; None (default) is the preset's, or else
            the data set's.
        out: file to write; None (default) is `<runs>/<data>/<preset>-imported/<stage>/model.safetensors`.
        runs: folder of the run folders.
    """

    file: Path | None = None
    T: Count | None = None
    data: DataName | None = None
    image_size: Count | None = None
    out: Path | None = None
    runs: Path = RUNS

    def read(self, kind: str, published: str) -> dict[str, Tensor]:
        """Return the state dict in the file.

        Args:
            kind: name of the import, for messages.
            published: T of the published networks, for messages.

        Raises:
            InputError: no file or no T is given, or the file holds no state dict.
        """
        if self.file is None:
            raise InputError(f"no checkpoint is named: spiking-vq import {kind} FILE T={published.split()[0]}")
        if self.T is None:
            raise InputError(
                f"T= is missing, the number of spiking steps: the weights do not tell it; published is {published}"
            )
        return read_weights(self.file)

    def config(self, stage: str, preset: str, channels: int) -> SpikingConfig:
        """Return the configuration of a preset for the data and T, of images with so many channels.

        Raises:
            InputError: the data set has images of another number of channels.
        """
        data = self.data or ("mnist" if channels == 1 else "cifar10")
        given = {"T": self.T, "data": data, "image_size": self.image_size or ""}
        config = load_config(stage, preset_file(stage, preset), [f"{name}={value}" for name, value in given.items()])
        if data in DATASETS:
            expected = load_dataset(data, config.data_dir).official_shape[0]
            advice = f"a data set of images with {channels} channels, as the checkpoint has"
            require(expected == channels, "data", advice, f"{data}, of {expected}")
        return replace(config, preset=config.preset + SUFFIX)

    def target(self, config: SpikingConfig) -> Path:
        """Return the file to write.

        Raises:
            InputError: a file stands there that no import of this preset wrote.
        """
        out = read_path("out", self.out or self.runs / config.data / config.preset / config.stage / "model.safetensors")
        if out.exists():
            try:
                own = load_model(out)[1].preset == config.preset
            except InputError:
                own = False
            if not own:
                raise InputError(f"{out} is no imported model, and would be replaced: name another file with out=")
        return out


def side_of(config: SpikingConfig) -> int:
    """Side of the images in pixels: that of the configuration, or else of the data set.

    Raises:
        InputError: neither tells it.
    """
    if config.image_size is not None:
        return config.image_size
    require(config.data in DATASETS, "image_size", "given for images of your own", None)
    return load_dataset(config.data, config.data_dir).official_shape[1]


def import_unet(
    convert: Callable[..., tuple[PixelModel, GaussianConfig]],
    weights: Mapping[str, Tensor],
    config: GaussianConfig,
    options: ImportOptions,
    **more: str,
) -> None:
    """Convert a U-Net, write its file, and print its sizes.

    Args:
        convert: that of the system, see `spiking_vq.checkpoint.authors`.
        weights: state dict of the authors' network.
        config: of the preset.
        options: of the command.
        more: further arguments of `convert`.
    """
    model, config = convert(weights, config, side_of(config), **more)
    out = options.target(config)
    print(f"read {described(model.unet, config)}: {sizes(config)}")
    write(out, model, config)
    print_next("sample", out)


def described(network: nn.Module, config: SpikingConfig) -> str:
    """Number of parameters, images and T of a network."""
    shape = " x ".join(map(str, config.image_shape))
    count = sum(parameter.numel() for parameter in network.parameters())
    return f"{count:,} parameters, {shape} pixels, T = {config.T}"


def sizes(config: GaussianConfig) -> str:
    """Widths and depth of a U-Net."""
    widths = ", ".join(str(config.model.width * factor) for factor in config.model.multipliers)
    return f"levels of width {widths}, each of {config.model.num_blocks} blocks"


def write(out: Path, model: nn.Module, config: SpikingConfig) -> None:
    """Write the model file, whole or not at all, and print its name."""
    save_model(out, model, config)
    print(f"wrote {out} ({out.stat().st_size / 1e6:.1f} MB)")


def print_next(*words: object) -> None:
    """Print the command that comes next."""
    print("next:", shlex.join(["spiking-vq", *map(str, words)]))

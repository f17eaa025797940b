"""Options that several studies share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from torch import Tensor

from spiking_vq.config.schema import Config
from spiking_vq.errors import LARGEST_SEED, require
from spiking_vq.fields import Count, OneOf, Range
from spiking_vq.runtime.precision import PRECISIONS
from stages.cli.data import DataName, data_of
from stages.cli.machine import check_device
from stages.cli.options import LOADABLE, RUNS, ModelOptions, SamplerArguments
from stages.evaluate.measures import ClassifierMeasures

Precision = Annotated[str, OneOf(tuple(PRECISIONS))]
Stage = Annotated[str, OneOf(LOADABLE)]


def number_of_seeds(least: int) -> Range:
    """A check that seeds from 0 on are at least so many, for `typing.Annotated`."""
    return Range(f"in {least}..2^32", lambda value: least <= value <= LARGEST_SEED + 1)


@dataclass(frozen=True, kw_only=True)
class Shared:
    """Options of all studies.

    Attributes:
        device: torch's name of the device, such as `cpu` or `cuda`.
        data_dir: folder of the data sets.
        runs: folder of the run folders.
        results: folder of the reports.
    """

    device: str = "cpu"
    data_dir: Path = Path("data")
    runs: Path = RUNS
    results: Path = Path("results")


@dataclass(frozen=True, kw_only=True)
class VariantOptions(Shared):
    """Options of studies that measure variants, each with several seeds.

    Attributes:
        seeds: number of seeds.
        jobs: number of variants that run at the same time, each on its share of the cores.
        precision: of all computation; `bf16` is autocast, with membranes in fp32.
    """

    seeds: Annotated[int, number_of_seeds(1)] = 2
    jobs: Count = 1
    precision: Precision = "bf16"


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(VariantOptions):
    """Options of studies that train variants.

    Attributes:
        data: name of the data set.
    """

    data: DataName = "mnist"


@dataclass(frozen=True, kw_only=True)
class SamplingOptions(Shared, ModelOptions, SamplerArguments):
    """Options of studies that sample one model and let a classifier read the images.

    Attributes:
        classifier: `model.safetensors` of the classifier; None (default) is your own, else the one that ships.
        precision: of sampling; `bf16` is autocast, with membranes in fp32.
    """

    classifier: Path | None = None
    precision: Precision = "fp32"

    def check(self, *varied: str) -> None:
        """Raise `InputError` if the device cannot be used, or settings are given that the study varies."""
        check_device(self.device)
        for name in varied:
            require(getattr(self, name) is None, name, "left out, as the study varies it", getattr(self, name))

    def examiner(self, config: Config) -> tuple[ClassifierMeasures, Tensor]:
        """The classifier of a model's data, and the validation images uint8 [N, C, H, W] to compare with."""
        data = data_of(config, self.data_dir)
        return ClassifierMeasures.of(data, self), data.val.images

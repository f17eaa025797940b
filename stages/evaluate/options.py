"""Options of `evaluate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from spiking_vq.data.images import BACKGROUNDS
from spiking_vq.fields import OneOf, Range, Seed
from spiking_vq.runtime.precision import PRECISIONS
from stages.cli.data import DataName
from stages.cli.options import ModelOptions, SamplerArguments
from stages.evaluate.protocols import PROTOCOLS

NETWORKS = ("all", "classifier")
"""Values of the option `features`: Inception and the classifier, or the classifier alone."""

LEAST = 10
"""Images that can be compared at least: neighbourhoods are of up to five, the Inception score of ten parts."""

NumImages = Annotated[int, Range(f"at least {LEAST}", lambda value: value >= LEAST)]


@dataclass(frozen=True, kw_only=True)
class Options(ModelOptions, SamplerArguments):
    """Options of `evaluate`.

    Attributes:
        images: folder of PNG files to measure instead of a model; of more than are compared, a random draw.
        background: colour behind transparent pixels of `images`.
        protocol: names the number of generated images, and the real ones they are compared with.
        n: number of generated images; by default the protocol's.
        only: `reconstruction` measures stage 1 alone; `samples` leaves out stage 1 and the likelihood.
        features: networks whose features are compared: Inception and the classifier, or the classifier alone.
        inception: file of Inception's weights; by default they are downloaded into `data_dir`.
        classifier: `model.safetensors` of the classifier; by default your own or the one that ships.
        seed: of the generated images.
        device: of torch, such as `cpu` or `cuda`.
        precision: of sampling and of the Inception; a quantised model samples in `fp32` for `bf16`.
        data_dir: folder of the data sets.
        results: folder of the reports.
    """

    data: DataName = "mnist"
    images: Path | None = None
    background: Annotated[str, OneOf(tuple(BACKGROUNDS))] = "black"
    protocol: Annotated[str, OneOf(tuple(PROTOCOLS))] = "test-10k"
    n: NumImages | None = None
    only: Annotated[str, OneOf(("all", "reconstruction", "samples"))] = "all"
    features: Annotated[str, OneOf(NETWORKS)] = "all"
    inception: Path | None = None
    classifier: Path | None = None
    seed: Seed = 0
    device: str = "cpu"
    precision: Annotated[str, OneOf(tuple(PRECISIONS))] = "fp32"
    data_dir: Path = Path("data")
    results: Path = Path("results")

"""Data sets on the command line: by name, or by the path of a folder of images or of an `.npz` file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated

from torch import Tensor

from spiking_vq.config.schema import Config
from spiking_vq.data.datasets import CHOICES, DATASETS, is_path, load_dataset
from spiking_vq.data.image_data import ImageData
from spiking_vq.data.own import is_own_name, register
from spiking_vq.fields import Range
from stages.cli.progress import progress

DataName = Annotated[str, Range(CHOICES, lambda name: name in DATASETS or is_own_name(name))]
"""Name of a data set, where `with_data_names` has replaced paths."""


def with_data_names(arguments: Sequence[str]) -> list[str]:
    """The arguments of a command, in which the name of an own data set stands in place of its path.

    So no path enters the name of a run folder, a recorded command, a report or a weight file.

    Raises:
        InputError: there are no images at a path.
    """
    given = dict(text.partition("=")[::2] for text in arguments)
    root = given.get("data_dir") or Config.data_dir

    def named(text: str) -> str:
        key, _, word = text.partition("=")
        return f"data={register(word, root)}" if key == "data" and word and is_path(word) else text

    return [named(text) for text in arguments]


def data_of(config: Config, data_dir: str | None = None) -> ImageData:
    """The data set of a configuration, read as it says; `data_dir` (default: the configuration's) is its folder."""
    return load_dataset(config.data, data_dir or config.data_dir, **config.reading, progress=_shown)


def _shown(batches: Iterator[Tensor], count: int, title: str) -> Iterator[Tensor]:
    with progress(total=count, title=title) as bar:
        for batch in batches:
            yield batch
            bar.update(len(batch))

"""Labels of the images to generate: as callers give them, and as class-conditional networks take them."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from spiking_vq.config.schema import DenoiserConfig
from spiking_vq.errors import require, require_integer
from spiking_vq.randomness import ImageStream, mix_seed


def as_labels(label: Any, known: Sequence[int]) -> int | list[int]:
    """The label of all images, or the list of each image's own.

    Args:
        label: an integer; or a sequence of integers, a NumPy array or a tensor [n].
        known: the labels that there are.

    Raises:
        InputError: something else, or a label that there is not.
    """
    label = label.tolist() if hasattr(label, "tolist") else label
    several = isinstance(label, Sequence) and not isinstance(label, str)
    for each in label if several else [label]:
        require_integer("label", each, 0)
        require(each in known, "label", f"one of {', '.join(map(str, known))}", each)
    return list(label) if several else label


def each_label(label: int | list[int] | None, n: int) -> list[int] | list[None]:
    """The labels of `n` images, from one of all images, a list of each image's own, or None for none.

    Raises:
        InputError: a list of another length.
    """
    if not isinstance(label, list):
        return [label] * n
    require(len(label) == n, "label", f"one integer, or {n} of them, one for each image", f"{len(label)} of them")
    return label


def network_labels(config: DenoiserConfig, seeds: Sequence[int], labels: Sequence[int | None]) -> list[int]:
    """Labels with styles, as a class-conditional network takes them.

    Args:
        config: of the network.
        seeds: of the images.
        labels: of the images. None draws one from the image's seed, as probable as in the training data; the style is
            drawn in any case, all styles being equally probable.
    """
    styles, ends = config.styles, list(accumulate(config.counts))

    def drawn(seed: int, label: int | None) -> int:
        own = bisect(ends, mix_seed(seed, ImageStream.LABEL) % ends[-1]) if label is None else label
        return own * styles + mix_seed(seed, ImageStream.STYLE) % styles

    return [drawn(seed, label) for seed, label in zip(seeds, labels, strict=True)]

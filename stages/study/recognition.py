"""Read the digits that `make demo` sampled with a support-vector classifier of real digits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from spiking_vq.data.datasets import load_dataset
from spiking_vq.data.images import list_png_files, read_images
from spiking_vq.data.levels import resize_images
from spiking_vq.errors import require
from stages.cli.options import RUNS, read_options

EXAMPLE = "spiking-vq study recognition runs=runs/demo"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of the reading.

    Attributes:
        runs: folder of the run folders.
        preset: preset of the model that sampled.
    """

    runs: Path = RUNS
    preset: str = "base"


def main(arguments: list[str]) -> None:
    """Train the classifier, let it read, print how sure it is."""
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.svm import SVC

    options = read_options(Options, arguments)
    folder = options.runs / "digits" / options.preset / "samples"
    files = list_png_files(folder / "images") if (folder / "images").exists() else []
    require(files != [], f"the samples in {folder / 'images'}", "at least one: run `make demo` first", 0)
    data = load_dataset("digits", "data")
    samples = resize_images(read_images(files, data.official_shape[0]).images, data.image_shape[1:])
    classifier = CalibratedClassifierCV(SVC(), ensemble=False).fit(rows(data.train.images), data.train.labels)
    probabilities = classifier.predict_proba(rows(samples))
    accuracy = classifier.score(rows(data.test.images), data.test.labels)
    print(f"The classifier reads {accuracy:.1%} of real test digits correctly.")
    print(
        f"It reads the {len(files)} generated ones with a median confidence of {np.median(probabilities.max(1)):.2f}."
    )
    counts = np.bincount(probabilities.argmax(1), minlength=10)
    print("Generated of each class: " + ", ".join(f"{digit}: {count}" for digit, count in enumerate(counts)))
    print(f"Look at them: {folder / 'grid.png'}")


def rows(images: Tensor) -> np.ndarray:
    """uint8 images [N, C, H, W] as rows in [0, 1]."""
    return images.flatten(1).numpy() / 255

"""Let a classifier that knows real digits read the generated ones: `spiking-vq study recognition runs=runs`.

A plain support-vector classifier is trained on scikit-learn's digits, which `make demo` trains the generator on, and
reads what `stages.sample` wrote.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
from sklearn.calibration import CalibratedClassifierCV
from sklearn.svm import SVC
from torch import Tensor

from spiking_vq.data.datasets import load_dataset
from spiking_vq.data.images import list_png_files, read_images
from spiking_vq.data.levels import resize_images
from spiking_vq.errors import InputError
from stages.cli.options import parse_options

OPTIONS = {"runs": Path("runs"), "preset": "base"}


def main(arguments: list[str]) -> None:
    """Train the classifier, read the samples, print what it thinks of them."""
    options = parse_options(arguments, OPTIONS)
    folder = Path(options["runs"]) / "digits" / options["preset"] / "samples"
    files = list_png_files(folder / "images") if (folder / "images").exists() else []
    if not files:
        raise InputError(f"no samples in {folder / 'images'}: run `make demo`, or `make sample DATA=digits`, first")
    data = load_dataset("digits", "data")
    samples = resize_images(read_images(files, data.official_shape[0]).images, data.image_shape[1:])
    classifier = CalibratedClassifierCV(SVC(), ensemble=False).fit(features(data.train.images), data.train.labels)
    accuracy = classifier.score(features(data.test.images), data.test.labels)
    probabilities = classifier.predict_proba(features(samples))
    counts = Counter(probabilities.argmax(1).tolist())
    print(f"The classifier reads {accuracy:.1%} of real test digits correctly.")
    print(
        f"It reads the {len(files)} generated ones with a median confidence of {np.median(probabilities.max(1)):.2f}."
    )
    print("Generated of each class: " + ", ".join(f"{digit}: {counts[digit]}" for digit in range(10)))
    print(f"Look at them: {folder / 'grid.png'}")


def features(images: Tensor) -> np.ndarray:
    """uint8 images [N, C, H, W] as rows in [0, 1]."""
    return images.flatten(1).numpy() / 255

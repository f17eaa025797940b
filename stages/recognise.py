"""Let a classifier that knows real digits read the generated ones: `python -m stages.recognise runs=runs`.

A plain support-vector classifier is trained on scikit-learn's digits, which `make demo` trains the generator on, and
reads what `stages.sample` wrote.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.calibration import CalibratedClassifierCV
from sklearn.svm import SVC
from torch import Tensor

from spiking_vq.data import load_dataset
from spiking_vq.errors import InputError
from stages.command import parse_options, run_command

OPTIONS = {"runs": Path("runs"), "preset": "base"}


def main(arguments: list[str]) -> None:
    """Train the classifier, read the samples, print what it thinks of them."""
    options = parse_options(arguments, OPTIONS)
    folder = Path(options["runs"]) / "digits" / options["preset"] / "samples"
    files = sorted((folder / "images").glob("*.png"))
    if not files:
        raise InputError(f"no samples in {folder / 'images'}: run `make demo`, or `make sample DATA=digits`, first")
    data = load_dataset("digits", "data")
    classifier = CalibratedClassifierCV(SVC(), ensemble=False).fit(features(data.train.images), data.train.labels)
    accuracy = classifier.score(features(data.test.images), data.test.labels)
    samples = np.stack([np.asarray(Image.open(file).convert("L")) for file in files])
    probabilities = classifier.predict_proba(samples.reshape(len(samples), -1) / 255)
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


if __name__ == "__main__":
    run_command(main)

"""Table of models with integer weights next to the real-valued models that they come from."""

from __future__ import annotations

from pathlib import Path

from stages.compare.tables import NOT_RUN, title_of
from stages.reporting.hardware import TITLES as HARDWARE
from stages.reporting.report import Report, evaluation_name, inspected

MODELS = {"mnist": "large", "fmnist": "large", "cifar10": "base"}
"""Data set -> preset of the model that is quantised."""

BITS = (8, 6, 4)

PROTOCOL = "test-10k"

METRICS = {"fid": "FID", "recall": "recall", "classifier_distance": "classifier distance"}

ARITHMETIC, MEMORY = "int8", "weight_stationary"


def quantised(results: Path) -> list[dict[str, str]]:
    """Quality, spikes and energy of 8, 6 and 4 bits; what was not run says so."""
    rows = []
    for data, preset in MODELS.items():
        real = _row(results / data / preset, f"{PROTOCOL}.json")
        rows.append({"model": f"{title_of(data)}, `{preset}`", "weights": "real"} | real)
        samples = evaluation_name({"protocol": PROTOCOL, "only": "samples"})
        for bits in BITS:
            row = _row(results / data / f"{preset}-int{bits}", samples)
            rows.append({"model": f"{title_of(data)}, `{preset}`", "weights": f"{bits} bits"} | row)
    return rows


def _row(folder: Path, evaluation: str) -> dict[str, str]:
    energy = f"uJ an image, {HARDWARE[ARITHMETIC]}, {HARDWARE[MEMORY]}"
    row = dict.fromkeys((*METRICS.values(), "sampled in", "thousand spikes an image", energy), NOT_RUN)
    if (folder / evaluation).is_file():
        report = Report.read(folder / evaluation)
        row |= {title: report.spread("metrics", name).text() for name, title in METRICS.items()}
        row["sampled in"] = report.get(str, "sampler", "precision")
    if report := inspected(folder, "energy"):
        row["thousand spikes an image"] = f"{report.get(float, 'spiking', 'image', 'spikes') / 1e3:.1f}"
        row[energy] = f"{report.get(float, 'spiking', 'energy_pj', 'image', ARITHMETIC, MEMORY) / 1e6:.1f}"
    return row

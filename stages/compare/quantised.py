"""Table of models with integer weights next to the real-valued models that they come from."""

from __future__ import annotations

from pathlib import Path

from stages.compare.tables import NOT_RUN, title_of
from stages.reporting.hardware import TITLES as HARDWARE
from stages.reporting.report import Report, evaluation_name, inspected

MODELS = (
    ("mnist", "large", "test-10k"),
    ("fmnist", "large", "test-10k"),
    ("fmnist", "base", "n1280-test"),
    ("cifar10", "base", "n1280-test"),
)
"""Data set, preset and protocol of each model that is quantised."""

BITS = (8, 6, 4)

METRICS = {"fid": "FID", "recall": "recall", "classifier_distance": "classifier distance"}

ARITHMETIC, MEMORY = "int8", "weight_stationary"


def quantised(results: Path) -> list[dict[str, str]]:
    """Quality, spikes and energy of 8, 6 and 4 bits; what was not run says so."""
    rows = []
    for data, preset, protocol in MODELS:
        model = {"model": f"{title_of(data)}, `{preset}`", "protocol": f"`{protocol}`"}
        rows.append(model | {"weights": "real"} | _row(results / data / preset, f"{protocol}.json"))
        samples = evaluation_name({"protocol": protocol, "only": "samples"})
        for bits in BITS:
            row = _row(results / data / f"{preset}-int{bits}", samples)
            rows.append(model | {"weights": f"{bits} bits"} | row)
    return rows


def _row(folder: Path, evaluation: str) -> dict[str, str]:
    energy = f"uJ an image, {HARDWARE[ARITHMETIC]}, {HARDWARE[MEMORY]}"
    row = dict.fromkeys((*METRICS.values(), "sampled in", "Inception in", "thousand spikes an image", energy), NOT_RUN)
    if (folder / evaluation).is_file():
        report = Report.read(folder / evaluation)
        row |= {title: report.spread("metrics", name).text() for name, title in METRICS.items()}
        row["sampled in"] = report.get(str, "sampler", "precision")
        row["Inception in"] = report.get(str, "features", "inception", "precision")
    if report := inspected(folder, "energy"):
        row["thousand spikes an image"] = f"{report.get(float, 'spiking', 'image', 'spikes') / 1e3:.1f}"
        row[energy] = f"{report.get(float, 'spiking', 'energy_pj', 'image', ARITHMETIC, MEMORY) / 1e6:.1f}"
    return row

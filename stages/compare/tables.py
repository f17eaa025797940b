"""Rows of figures from the files that evaluation and energy left."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spiking_vq.config.schema import TWINS
from spiking_vq.errors import InputError
from stages.compare.published import PUBLISHED
from stages.evaluate.protocols import PROTOCOLS
from stages.reporting.report import read_report

NOT_RUN = "not run"
TITLES = {
    "mnist": "MNIST",
    "fmnist": "FashionMNIST",
    "kmnist": "KMNIST",
    "letters": "EMNIST Letters",
    "cifar10": "CIFAR-10",
}
COMPARED = ("test-10k", "n1280-test", "fsddim-10k", "train-50k")
QUALITY = (
    "system",
    *(f"FID {name}" for name in COMPARED),
    "published FID",
    "protocol of what follows",
    "KID x 1000",
    "classifier distance",
    "precision / recall",
    "bits / image",
    "reconstruction MSE",
    "reconstruction FID",
)
COST = ("T", "calls", "parameters", "firing rate", "uJ / image", "with memory", "images / s")
COLUMNS = QUALITY + COST


@dataclass
class System:
    """All files of one data set and preset.

    Attributes:
        data, preset: which.
        folder: where the files are.
        evaluations: protocol -> its report.
        energy: the energy report, or nothing.
    """

    data: str
    preset: str
    folder: Path
    evaluations: dict[str, dict[str, Any]] = field(default_factory=dict)
    energy: dict[str, Any] = field(default_factory=dict)

    @property
    def headline(self) -> dict[str, Any]:
        """The report that figures other than FID are taken from: the first protocol that was run."""
        return next((self.evaluations[name] for name in COMPARED if name in self.evaluations), {})

    @property
    def images_per_second(self) -> float | None:
        """The fastest of the protocols' runs, as noise only slows; of those sampled as the headline was."""
        head = self.headline
        alike = [
            report.get("images_per_second") or 0.0  # none where only existing images were measured
            for name, report in self.evaluations.items()
            if name in COMPARED
            and report.get("sampler") == head.get("sampler")
            and report["machine"]["device"] == head["machine"]["device"]
        ]
        return max(alike, default=0.0) or None


def read_systems(results: Path) -> list[System]:
    """All data sets and presets of which there is a report, in the order of `TITLES`.

    Raises:
        InputError: no report that is compared, or one that cannot be read.
    """
    systems = []
    for data in TITLES:
        for folder in sorted(path for path in (results / data).glob("*") if path.is_dir()):
            system = System(data, folder.name, folder)
            for name in PROTOCOLS:
                if (folder / f"{name}.json").is_file():
                    system.evaluations[name] = read_report(folder / f"{name}.json")
            if (folder / "energy.json").is_file():
                system.energy = read_report(folder / "energy.json")
            if system.headline:  # what was evaluated for tuning alone is no result
                systems.append(system)
    if not systems:
        raise InputError(f"no reports in {results}: make some with `make evaluate` or `make all-runs`")
    return systems


def table(data: str, systems: list[System], presets: list[str]) -> list[dict[str, str]]:
    """The rows of one data set: the presets, run or not, then what is published."""
    found = {system.preset: system for system in systems if system.data == data}
    rows = [system_row(preset, found.get(preset), image_energy(preset, found)) for preset in presets]
    for published in PUBLISHED:
        if data in published.fid:
            rows.append(dict.fromkeys(COLUMNS, "") | {"system": published.system})
            rows[-1]["published FID"] = f"{published.fid[data]:g}"
    return rows


def in_two(rows: list[dict[str, str]]) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """A table as two that fit a page: quality, and the cost of those of which any is known."""
    known = [row for row in rows if {row[name] for name in COST} - {NOT_RUN, ""}]
    return tuple(
        [{name: row[name] for name in names} for row in part]
        for part, names in ((rows, QUALITY), (known, ("system", *COST)))
    )


def system_row(preset: str, system: System | None, energy: dict[str, float]) -> dict[str, str]:
    """One of ours; what was not run says so."""
    row = dict.fromkeys(COLUMNS, NOT_RUN) | {"system": f"ours, {preset}", "published FID": ""}
    if energy:
        row["uJ / image"] = shown(energy["arithmetic_pj"] / 1e6)
        row["with memory"] = shown((energy["arithmetic_pj"] + energy["memory_pj"]) / 1e6)
    if system is None:
        return row
    for name, report in system.evaluations.items():
        if name in COMPARED:
            row[f"FID {name}"] = beside_floor(report, "fid")
    head = system.headline
    if head.get("sampler", {}).get("guidance"):
        row["system"] += ", told class labels"
    row |= {
        "protocol of what follows": head.get("protocol", ""),
        "KID x 1000": beside_floor(head, "kid", 1000),
        "classifier distance": beside_floor(head, "classifier_distance"),
        "precision / recall": " / ".join(f"{mean(head, name):.2f}" for name in ("precision", "recall")),
        "bits / image": shown(head.get("likelihood", {}).get("bits_per_image")),
        "reconstruction MSE": shown(head.get("stage1", {}).get("mse")),
        "reconstruction FID": shown(head.get("reconstruction", {}).get("fid")),
        "T": " + ".join(str(T) for T in head["T"].values()) if "T" in head else "",
        "calls": shown(head.get("network_calls")),
        "parameters": f"{sum(head['parameters'].values()):,}" if "parameters" in head else "",
        "images / s": shown(system.images_per_second),
    }
    if not head.get("firing_rate"):
        row["firing rate"] = ""
    else:
        row["firing rate"] = " + ".join(f"{rates['all']:.2f}" for rates in head["firing_rate"].values())
    return row


def image_energy(preset: str, found: dict[str, System]) -> dict[str, float]:
    """What an image of a preset costs; a twin stands in the report of the network it is the twin of."""
    base, _, neuron = preset.rpartition("-")
    name, side = (base, neuron) if neuron in TWINS else (preset, "spiking")
    return found[name].energy.get(side, {}).get("image", {}) if name in found else {}


def mean(report: dict[str, Any], name: str) -> float:
    """Mean of a figure over the seeds; nan where it is not there."""
    value = report.get("metrics", {}).get(name)
    return value["mean"] if isinstance(value, dict) else float("nan")


def beside_floor(report: dict[str, Any], name: str, scale: float = 1.0) -> str:
    """A figure, its spread over the seeds, and in brackets its floor."""
    value = report.get("metrics", {}).get(name)
    if not isinstance(value, dict):
        return "not available"
    spread = f" ± {scale * value['std']:.1g}" if value["std"] else ""
    return f"{scale * value['mean']:.3g}{spread} ({scale * report['floor'][name]:.2g})"


def shown(value: float | int | None) -> str:
    """A number, or nothing."""
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"

"""What spikes cost in quality and save in energy: the base models next to their trained twins without spikes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from spiking_vq.energy import MEMORIES
from stages.compare.tables import NOT_RUN, beside_floor, shown, title_of
from stages.reporting.hardware import ALONE, TITLES
from stages.reporting.report import Report, evaluation_name, inspected

COMPARED_DATA = ("mnist", "fmnist", "cifar10")
NETWORKS = {"base": ("spikes", "spiking"), "base-quantised": ("3 bits", "quantised"), "base-relu": ("ReLU", "relu")}
"""Preset -> its name in the table, and its name in the report on the energy of `base`."""

PROTOCOL = "n1280-test"
SPEED = evaluation_name({"protocol": "val", "features": "classifier", "only": "samples"})
"""The report that all networks of a data set have from one machine, from which their speeds are taken."""

METRICS = {"fid": "FID (floor)", "classifier_distance": "classifier distance (floor)"}
SHARES = ("precision", "recall")
ENERGIES = {kind: f"uJ, {TITLES[kind]}" for kind in (ALONE, *MEMORIES)}
"""What is counted of the energy, with 32-bit floats -> title of its column."""


def twins(results: Path) -> list[dict[str, str]]:
    """Quality, energy of an image and speed with spikes, with activations of 3 bits and with ReLUs."""
    return [_row(results / data, preset) for data in COMPARED_DATA for preset in NETWORKS]


def verdicts(results: Path) -> list[str]:
    """A sentence for each data set whose ReLU twin was measured."""
    return [f"- {sentence}" for data in COMPARED_DATA for sentence in _verdict(results / data)] or [f"- {NOT_RUN}"]


def _row(folder: Path, preset: str) -> dict[str, str]:
    name, side = NETWORKS[preset]
    columns = (*METRICS.values(), *SHARES, "FID of reconstructions", *ENERGIES.values(), "images / s")
    row = {"data": title_of(folder.name), "network": name} | dict.fromkeys(columns, NOT_RUN)
    if report := _evaluation(folder / preset):
        row |= {title: beside_floor(report, metric) for metric, title in METRICS.items()}
        row |= {metric: report.spread("metrics", metric).text() for metric in SHARES}
        row["FID of reconstructions"] = shown(report.get(float, "reconstruction", "fid", default=None))
    if energy := _energy(folder, side):
        row |= {title: shown(energy.get(float, kind) / 1e6) for kind, title in ENERGIES.items()}
    if (folder / preset / SPEED).is_file():
        row["images / s"] = shown(Report.read(folder / preset / SPEED).get(float, "images_per_second"))
    return row


def _verdict(folder: Path) -> Iterator[str]:
    """What spikes cost against the ReLU twin, and against the quantised twin where that was measured."""
    ours, energy = _evaluation(folder / "base"), _energy(folder, "spiking")
    for preset, (name, side) in NETWORKS.items():
        twin, its_energy = _evaluation(folder / preset), _energy(folder, side)
        if preset == "base" or None in (ours, twin, energy, its_energy):
            continue
        fids = [report.spread("metrics", "fid") for report in (ours, twin)]
        shares = [f"{energy.get(float, kind) / its_energy.get(float, kind):.0%}" for kind in ENERGIES]
        difference = fids[0].mean - fids[1].mean
        yield (
            f"{title_of(folder.name)}, against {name}: FID {fids[0].text()} in place of {fids[1].text()}"
            f" ({difference:+.1f}), for {shares[0]} of the energy in arithmetic; with memory {shares[1]} where nothing"
            f" is reused, {shares[2]} weight-stationary."
        )


def _evaluation(folder: Path) -> Report | None:
    path = folder / f"{PROTOCOL}.json"
    return Report.read(path) if path.is_file() else None


def _energy(folder: Path, side: str) -> Report | None:
    energy = inspected(folder / "base", "energy")
    return energy and energy.part(side, "energy_pj", "image", "fp32")

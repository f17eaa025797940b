"""Tables of energy and latency of the models that ship, from the reports of inspection."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from spiking_vq.energy import ARITHMETICS, MEMORIES
from stages.compare.models import shipped_models
from stages.compare.tables import NOT_RUN, title_of
from stages.reporting.hardware import ALONE
from stages.reporting.hardware import TITLES as HARDWARE
from stages.reporting.report import Report, inspected, report_folder

SIDES = {"spiking": "spikes", "relu": "ReLU", "quantised": "quantised"}

COUNTS = {"effective_acs": "million ACs", "effective_macs": "million MACs", "neuron_updates": "million neuron updates"}

COLUMNS = {
    (arithmetic, memory): f"{HARDWARE[arithmetic]}, {HARDWARE[memory]}"
    for arithmetic in ARITHMETICS
    for memory in (ALONE, *MEMORIES)
}
"""Arithmetic and model of memory -> title of their column."""

LATENCY = {
    "steps": "time steps an image",
    "path": "longest path of synapses",
    "spikes": "spikes a step",
    "waits": "steps x path",
}


def energy(results: Path) -> list[dict[str, str]]:
    """Operations and microjoules of an image: a row for each model and network."""
    return [row for model, report in _reports(results) for row in _energy_rows(model, report)]


def _energy_rows(model: str, report: Report | None) -> Iterator[dict[str, str]]:
    for side, name in SIDES.items():
        row = {"model": model, "network": name} | dict.fromkeys((*COUNTS.values(), *COLUMNS.values()), NOT_RUN)
        if report:
            counts, image = report.part(side, "operations"), report.part(side, "energy_pj", "image")
            row |= {title: _figure(counts.get(float, count) / 1e6) for count, title in COUNTS.items()}
            row |= {title: _figure(image.get(float, *keys) / 1e6) for keys, title in COLUMNS.items()}
        yield row


def turning_rates(results: Path) -> list[dict[str, str]]:
    """The firing rate below which the spiking network needs less energy than the ReLU twin, and the quantised twin."""
    rows = []
    for model, report in _reports(results):
        row = {"model": model} | dict.fromkeys(("firing rate", *COLUMNS.values()), NOT_RUN)
        if report:
            row["firing rate"] = f"{report.get(float, 'spiking', 'image', 'firing_rate'):.2f}"
            for keys, title in COLUMNS.items():
                row[title] = ", ".join(_wins_below(report, twin, *keys) for twin in ("relu", "quantised"))
        rows.append(row)
    return rows


def _wins_below(report: Report, twin: str, *keys: str) -> str:
    """The firing rate below which the spiking network wins; "always" or "never" where there is none in (0, 1)."""
    turns = report.get(float, "turning_rates", twin, *keys, default=None)
    if turns is not None:
        return f"{turns:.2f}"
    ours, theirs = (report.get(float, side, "energy_pj", "image", *keys) for side in ("spiking", twin))
    return "always" if ours < theirs else "never"


def latency(results: Path) -> list[dict[str, str]]:
    """What an asynchronous chip waits for."""
    rows = []
    for model, report in _reports(results):
        row = {"model": model} | dict.fromkeys(LATENCY.values(), NOT_RUN)
        if report:
            image = report.part("latency", "image")
            row |= {title: f"{image.get(float, name):,.0f}" for name, title in LATENCY.items()}
        rows.append(row)
    return rows


def _reports(results: Path) -> Iterator[tuple[str, Report | None]]:
    """Each model that ships, and the report on its energy; None where an older version made it, or none was made."""
    for stage, data, preset in shipped_models():
        report = inspected(report_folder(results, stage, data, preset), "energy")
        name = f"`{preset}`" if stage == "absorbing" else "U-Net"
        yield f"{title_of(data)}, {name}", report if report and "turning_rates" in report.contents else None


def _figure(value: float) -> str:
    """A number of three digits or more."""
    return "0" if not value else f"{value:.2g}" if value < 10 else f"{value:,.0f}"

"""Put all measurements side by side, next to published ones.

Reads `<results>/<data>/<preset>/*.json` and writes `comparison.md`, `comparison.csv`, `quality-by-energy.svg` and
`report.html` there; then renders the tables of the documents (see `stages.compare.documents`). What was not run says
so.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from spiking_vq.errors import InputError
from spiking_vq.files import read_path
from stages.cli.options import read_options
from stages.compare import page
from stages.compare.documents import comparison, encodings, protocols, rendered
from stages.compare.pictures import costs, firing_rates, quality_by_calls, quality_by_energy
from stages.compare.tables import PRESETS, System, data_sets, read_systems, split, system_table, title_of, with_best
from stages.reporting.report import Report, write_text

EXAMPLE = "spiking-vq compare"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `spiking-vq compare`.

    Attributes:
        results: folder of the reports.
        presets: that the tables show, run or not; those of the continuous stage begin with `gaussian-`.
        documents: Markdown files whose tables are made anew.
    """

    results: Path = Path("results")
    presets: str = " ".join(PRESETS)
    documents: str = ""


PICTURES = {
    "{protocol}-reconstructions.png": "Test images, each row above its reconstructions by stage 1",
    "{protocol}-neighbours.png": "First column: generated; then the seven nearest training images",
    "{protocol}-inpainting.png": "First column: test images; then completions of their upper halves",
    "labels.png": "Asked for: one row a label, with guidance, of a network that was trained to know labels",
    "filmstrip.png": "Images emerging from the first call to the last; grey: still masked",
    "raster.png": "Spikes of some neurons of every layer while one image is made",
}
TUNING = re.compile(r"val-(samples-)?classifier-sample_steps=\d+\.json")
"""Reports in which the number of calls alone departs from the model's own settings."""

ENERGY_CHART = (
    "A dot is a model: FID against the energy of an image, 32-bit floats at 45 nm, arithmetic alone; open, with memory"
    " accesses where nothing is reused. The lower left corner is best."
)

NOTES = [
    "FID, KID and classifier distance: mean ± standard deviation over the seeds, in brackets the floor, the same figure"
    " of real training images. A model cannot be expected below it. What stands right of the FIDs is of the first"
    " protocol run, which is named there: compare it within that protocol only. Images / s is the fastest run's.",
    "T and firing rate: stage 1 + stage 2, or the U-Net's. Parameters: of all networks. uJ / image: all calls and the"
    " decoder, where there is one, arithmetic alone, then with memory accesses; 45 nm.",
    "Images are compared at the size the model makes: gaussian-sddpm and gaussian-fsddim make 32 x 32 of all data.",
    "The lowest FID under a protocol is bold.",
    "Ours were sampled, and their features computed, in the precision each report tells; with bf16 FIDs are off by a"
    " relative 0.2 %.",
]


def main(arguments: list[str]) -> None:
    """Read all reports, then write."""
    options = read_options(Options, arguments)
    results, presets = options.results, options.presets.split()
    systems = read_systems(results)
    tables = {data: system_table(data, systems, presets) for data in data_sets(systems)}
    notes = [*(f"- {text}" for text in NOTES), *protocols(results)]
    texts = {
        results / "comparison.md": "\n".join(["# Comparison", "", *notes, "", *comparison(results, *presets)]) + "\n",
        results / "comparison.csv": as_csv(tables),
        results / "report.html": report(results, tables, systems),
    }
    if chart := cost_chart(systems):
        texts[results / "quality-by-energy.svg"] = chart
    texts |= {path: rendered(text, results) for path, text in map(read_document, options.documents.split())}
    for path, text in texts.items():
        write_text(path, text)


def read_document(name: str) -> tuple[Path, str]:
    """The path and the text of a Markdown file.

    Raises:
        InputError: it cannot be read.
    """
    path = read_path("documents", name)
    try:
        return path, path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InputError(f"documents: {path} cannot be read ({error}): name Markdown files") from error


def as_csv(tables: dict[str, list[dict[str, str]]]) -> str:
    """All tables in one, the data set in the first column."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, ["data", *next(iter(tables.values()))[0]], lineterminator="\n")
    writer.writeheader()
    writer.writerows({"data": data} | row for data, rows in tables.items() for row in rows)
    return stream.getvalue()


def report(results: Path, tables: dict[str, list[dict[str, str]]], systems: Sequence[System]) -> str:
    """Tables, pictures and charts on one page."""
    notes = NOTES + [line.removeprefix("- ").replace("`", "") for line in protocols(results)]
    parts = [page.items(notes), page.heading("Quality and energy"), page.chart(cost_chart(systems))]
    parts.append(page.paragraph(ENERGY_CHART))
    for data, rows in tables.items():
        parts += [page.heading(title_of(data)), *map(page.table, split(with_best(rows)))]
        ours = [system for system in systems if system.data == data]
        parts += [page.paragraph(text) for text in {system.stand_in for system in ours} - {""}]
        curves = {system.preset: points for system in ours if (points := calls_and_distances(system.folder))}
        parts.append(page.chart(quality_by_calls(curves, f"{title_of(data)}: quality against number of calls, val")))
        if ours:
            parts.append(page.heading(f"{title_of(data)}: the same seeds, side by side", 3))
            parts += [page.picture(*samples_of(system)) for system in ours]
        for system in ours:
            parts += system_parts(system)
        if (results / data / "ablation.json").is_file():
            parts.append(page.heading(f"{title_of(data)}: encoding and spike generator", 3))
            parts.append(page.table(encodings(results, data)))
    return page.page("Image generation with spiking neural networks", parts)


def cost_chart(systems: Sequence[System]) -> str:
    """FID against energy, data set by data set; nothing where no energy was measured."""
    by_data = {data: [system for system in systems if system.data == data] for data in data_sets(systems)}
    return quality_by_energy([found for ours in by_data.values() if ours and (found := costs(ours))])


def samples_of(system: System) -> tuple[Path, str]:
    """The picture of a system's first samples under its headline protocol, and its caption."""
    return system.folder / f"{system.headline.get(str, 'protocol')}-samples.png", f"{system.preset}: not chosen"


def system_parts(system: System) -> list[str]:
    """Pictures, firing rates and the verdict on energy of one system."""
    protocol = system.headline.get(str, "protocol")
    pictures = {system.folder / name.format(protocol=protocol): caption for name, caption in PICTURES.items()}
    parts = [page.heading(f"{title_of(system.data)}, {system.preset}", 3)]
    parts += [page.picture(path, caption) for path, caption in pictures.items()]
    parts.append(page.chart(firing_rates(system)))
    verdicts = system.energy.get(dict, "verdict", default={}) if system.energy else {}
    return parts + [page.paragraph(sentence) for sentence in verdicts.values()]


def calls_and_distances(folder: Path) -> list[tuple[int, float]]:
    """Numbers of calls and classifier distances of the tuning runs on the validation split."""
    files = [path for path in sorted(folder.glob("val-*.json")) if TUNING.fullmatch(path.name)]
    reports = map(Report.read, files)
    return [(found.get(int, "network_calls"), found.spread("metrics", "classifier_distance").mean) for found in reports]

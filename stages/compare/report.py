"""Put all measurements side by side: `spiking-vq compare [results=results] [presets="base ..."]`.

Reads `<results>/<data>/<preset>/*.json` and writes `comparison.md`, `comparison.csv` and `report.html` there. What was
not run says so; published figures stand below ours with their protocols.
"""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import Any

from spiking_vq.files import atomic_write
from stages.cli.options import parse_options
from stages.compare import page
from stages.compare.pictures import firing_rates, quality_by_calls
from stages.compare.published import PUBLISHED
from stages.compare.tables import COMPARED, TITLES, System, in_two, read_systems, table
from stages.evaluate.protocols import PROTOCOLS
from stages.reporting.markdown import table as markdown_table
from stages.reporting.report import checked_contents, read_report
from stages.study.encodings import ABOUT_DIFFERENCES, about, shown_differences, shown_rows
from stages.study.encodings import lines as ablation_lines

OPTIONS = {
    "results": Path("results"),
    "presets": "base base-relu base-quantised paper gaussian-base gaussian-sddpm gaussian-fsddim",
}
PICTURES = {
    "{protocol}-samples.png": "Generated images, not chosen",
    "{protocol}-reconstructions.png": "Test images, each row above its reconstructions by stage 1",
    "{protocol}-neighbours.png": "First column: generated; then the seven nearest training images",
    "{protocol}-inpainting.png": "First column: test images; then completions of their upper halves",
    "labels.png": "Asked for: one row a label, with guidance, of a network that was trained to know labels",
    "filmstrip.png": "Images emerging from the first call to the last; grey: still masked",
    "raster.png": "Spikes of some neurons of every layer while one image is made",
}
TUNING = re.compile(r"val-(samples-)?classifier-sample_steps=\d+\.json")
"""Reports in which the number of calls alone departs from the model's own settings."""

ABLATION = "{}: encoding and spike generator"
NOTES = [
    "FID, KID and classifier distance: mean ± standard deviation over the seeds, in brackets the floor, the same figure"
    " of real training images. A model cannot be expected below it. What stands right of the FIDs is of the first"
    " protocol run, which is named there: compare it within that protocol only. Images / s is the fastest run's.",
    "T and firing rate: stage 1 + stage 2, or the U-Net's. Parameters: of all networks. uJ / image: all calls and the"
    " decoder, where there is one, arithmetic alone, then with memory accesses; 45 nm.",
    "Images are compared at the size the model makes: gaussian-sddpm and gaussian-fsddim make 32 x 32 of all data.",
    "Ours were sampled, and their features computed, in the precision each report tells; with bf16 FIDs are off by a"
    " relative 0.2 %.",
]


def main(arguments: list[str]) -> None:
    """Read, write, print."""
    options = parse_options(arguments, OPTIONS)
    results, presets = Path(options["results"]), options["presets"].split()
    with checked_contents(results):
        systems = read_systems(results)
        tables = {data: table(data, systems, presets) for data in TITLES}
        ablations = [read_report(path) for data in TITLES if (path := results / data / "ablation.json").is_file()]
        documents = {
            "comparison.md": markdown(tables, systems, ablations),
            "comparison.csv": as_csv(tables),
            "report.html": report(tables, systems, ablations),
        }
    for name, text in documents.items():
        with atomic_write(results / name) as temporary:
            temporary.write_text(text)
        print(f"wrote {results / name}")
    print("\n" + documents["comparison.md"])


def protocols() -> list[str]:
    """What every column of FIDs means, and the published ones."""
    ours = [f"{name}: {PROTOCOLS[name].about}." for name in COMPARED]
    return ours + [f"{published.system}: {published.about}." for published in PUBLISHED]


def stand_ins(data: str, systems: list[System]) -> str:
    """What to say of a data set whose files are not the official ones; nothing otherwise."""
    told = {system.headline["stand_in"] for system in systems if system.data == data} - {None}
    return f"{TITLES[data]} here is {told.pop()}." if told else ""


def markdown(tables: dict[str, list[dict[str, str]]], systems: list[System], ablations: list[dict[str, Any]]) -> str:
    """The tables of each data set, then the ablations."""
    lines = ["# Comparison", "", *(f"- {text}" for text in NOTES + protocols())]
    for data, rows in tables.items():
        lines += ["", f"## {TITLES[data]}", ""]
        if told := stand_ins(data, systems):
            lines += [told, ""]
        quality, cost = in_two(rows)
        lines += markdown_table(quality)
        if cost:
            lines += ["", *markdown_table(cost)]
    for ablation in ablations:
        lines += ["", f"## {ABLATION.format(TITLES[ablation['data']])}", "", *ablation_lines(ablation)]
    return "\n".join(lines) + "\n"


def as_csv(tables: dict[str, list[dict[str, str]]]) -> str:
    """All tables in one, the data set in the first column."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, ["data", *next(iter(tables.values()))[0]], lineterminator="\n")
    writer.writeheader()
    writer.writerows({"data": data} | row for data, rows in tables.items() for row in rows)
    return stream.getvalue()


def report(tables: dict[str, list[dict[str, str]]], systems: list[System], ablations: list[dict[str, Any]]) -> str:
    """Tables, pictures and charts on one page."""
    parts = [page.items(NOTES), page.heading("Protocols", 3), page.items(protocols())]
    for data, rows in tables.items():
        parts += [page.heading(TITLES[data]), *(page.table(part) for part in in_two(rows) if part)]
        if told := stand_ins(data, systems):
            parts.append(page.paragraph(told))
        ours = [system for system in systems if system.data == data]
        curves = {system.preset: points for system in ours if (points := calls_and_distances(system.folder))}
        parts.append(page.chart(quality_by_calls(curves, f"{TITLES[data]}: quality against number of calls, val")))
        for system in ours:
            parts.append(page.heading(f"{TITLES[data]}, {system.preset}", 3))
            protocol = system.headline["protocol"]
            parts += [
                page.picture(system.folder / name.format(protocol=protocol), caption)
                for name, caption in PICTURES.items()
            ]
            parts.append(page.chart(firing_rates(system)))
            parts += [page.paragraph(sentence) for sentence in system.energy.get("verdict", {}).values()]
    for ablation in ablations:
        parts += [page.heading(ABLATION.format(TITLES[ablation["data"]])), page.paragraph(about(ablation))]
        parts += [page.table(shown_rows(ablation)), page.paragraph(ABOUT_DIFFERENCES)]
        parts.append(page.table(shown_differences(ablation)))
    return page.page("Image generation with spiking neural networks", parts)


def calls_and_distances(folder: Path) -> list[tuple[int, float]]:
    """Numbers of calls and classifier distances of the tuning runs on the validation split, where there are any."""
    files = [path for path in sorted(folder.glob("val-*.json")) if TUNING.fullmatch(path.name)]
    reports = [read_report(path) for path in files]
    return [(found["network_calls"], found["metrics"]["classifier_distance"]["mean"]) for found in reports]

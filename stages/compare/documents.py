"""Tables of the README and the documentation, rendered from reports into the text between two markers.

A line `<!-- table: NAME ARGUMENT... -->` opens a table and `<!-- end -->` closes it. What stands between them is
replaced by what the function of that name in `TABLES` makes of the reports.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from spiking_vq.config.schema import STAGES
from spiking_vq.errors import require
from stages.cli.help import described
from stages.compare.energy import energy, latency, turning_rates
from stages.compare.exports import exports, runtimes
from stages.compare.models import overview, shipped, unet
from stages.compare.published import PUBLISHED, UNKNOWN
from stages.compare.quantised import quantised
from stages.compare.tables import (
    COMPARED,
    PRESETS,
    TITLES,
    data_sets,
    read_systems,
    shown,
    split,
    system_table,
    title_of,
    with_best,
)
from stages.compare.twins import twins, verdicts
from stages.evaluate.protocols import PROTOCOLS
from stages.reporting.markdown import table
from stages.reporting.report import Report

MARKED = re.compile(r"(<!-- table: ([^\n]+?) -->\n).*?(<!-- end -->)", re.DOTALL)


def rendered(text: str, results: Path) -> str:
    """A document with all its tables made anew.

    Raises:
        InputError: an unknown table, or a report that is missing or damaged.
    """

    def replaced(match: re.Match[str]) -> str:
        name, *arguments = match[2].split()
        require(name in TABLES, "a table in the documents", f"one of {', '.join(TABLES)}", name)
        made = TABLES[name](results, *arguments)
        lines = table(made) if made and isinstance(made[0], dict) else made
        return match[1] + "\n".join(lines) + "\n" + match[3]

    return MARKED.sub(replaced, text)


def comparison(results: Path, *presets: str) -> list[str]:
    """Our presets and published figures, data set by data set."""
    systems, lines = read_systems(results), []
    for data in data_sets(systems):
        lines += [f"### {title_of(data)}", ""]
        for text in {system.stand_in for system in systems if system.data == data} - {""}:
            lines += [text, ""]
        for part in split(with_best(system_table(data, systems, presets or PRESETS))):
            lines += [*table(part), ""]
    return lines[:-1]


def protocols(results: Path) -> list[str]:
    """One line for each protocol that is compared, and for each published row."""
    ours = [f"- `{name}`: {PROTOCOLS[name].about}." for name in COMPARED]
    published = [
        f"- {row.system}: {row.about}{f'; comparable with `{row.protocol}`' if row.protocol else ''}."
        for row in PUBLISHED
        if row.about != UNKNOWN
    ]
    return ours + published


def first_steps(results: Path) -> list[dict[str, str]]:
    """The first training steps of the published networks."""
    rows = []
    for path in sorted(results.glob("*/*/first-*.json")):
        report = Report.read(path)
        losses = list(report.get(dict, "loss").values())
        width = ", width 32" if path.stem.endswith("width-32") else ""
        rows.append(
            {
                "preset": f"{report.get(str, 'stage')} {report.get(str, 'preset')}{width}",
                "data": title_of(report.get(str, "data")),
                "parameters": f"{report.get(int, 'parameters'):,}",
                "steps": str(report.get(int, "steps")),
                "images/s": f"{report.get(int, 'images') / report.get(float, 'seconds'):.2g}",
                "loss, first to last": f"{losses[0]:.2f} to {losses[-1]:.2f}",
            }
        )
    return rows


def decomposition(results: Path) -> list[dict[str, str]]:
    """Classifier distance from real images to generated ones."""
    files = {title: results / data / "base" / "decomposition.json" for data, title in TITLES.items()}
    columns = {title: Report.read(path).get(list, "rows") for title, path in files.items() if path.is_file()}
    return [
        {"images": rows[0]["images"]}
        | {title: f"{row['classifier distance']:.2f}" for title, row in zip(columns, rows, strict=True)}
        for rows in zip(*columns.values(), strict=True)
    ]


def candidates(results: Path, data: str, stage: str) -> list[dict[str, str]]:
    """The rows of one study of candidates."""
    rows = Report.read(results / data / f"candidates-{stage}.json").parts("rows")
    return [
        {"candidate": row.get(str, "candidate"), "changes": f"`{row.get(str, 'changes')}`".replace("``", "")}
        | {name: row.spread(name).text() for name, value in row.contents.items() if isinstance(value, dict)}
        for row in rows
    ]


def scaling(results: Path, data: str) -> list[dict[str, str]]:
    """Designs of codes at equal training time."""
    rows = Report.read(results / data / "scaling.json").parts("rows")
    return [
        {"design": row.get(str, "design"), "steps": " + ".join(f"{steps:,}" for steps in row.get(list, "steps"))}
        | {name: row.spread(name).text() for name, value in row.contents.items() if isinstance(value, dict)}
        for row in rows
    ]


def encodings(results: Path, data: str) -> list[dict[str, str]]:
    """FID of reconstructions by encoding and spike generator."""
    table: dict[str, dict[str, str]] = {}
    for row in Report.read(results / data / "ablation.json").parts("rows"):
        encoding = row.get(str, "encoding")
        cells = table.setdefault(encoding, {"encoding": encoding})
        cells[row.get(str, "spike_generator")] = row.spread("FID").text(".0f", ".0f")
    return list(table.values())


def labels(results: Path) -> list[dict[str, str]]:
    """How often the classifier agrees with the label that was asked for."""
    return [
        {
            "model": f"{title_of(path.parts[-3])}, {path.parts[-2]}",
            "guidance": f"{row.get(float, 'guidance'):g}",
            "agreement": f"{row.get(float, 'agreement'):.0%}",
            "classifier distance": f"{row.get(float, 'classifier_distance'):.2f}",
        }
        for path in sorted(results.glob("*/*/labels.json"))
        for row in Report.read(path).parts("rows")
    ]


def bench(results: Path, name: str = "bench") -> list[dict[str, str]]:
    """Images a second of every variant of a benchmark, and the ratio to the first of its task."""
    return [
        {
            "task": row.get(str, "name"),
            "variant": row.get(str, "variant"),
            "images/s": shown(row.get(float, "images_per_second")),
            "ratio": f"{row.get(float, 'ratio'):.2g}",
            "peak MB": f"{row.get(float, 'peak_mb'):,.0f}",
        }
        for row in Report.read(results / f"{name}.json").parts("rows")
        if row.get(str, "variant") != "spikes copied once"
    ]


def configuration_fields(results: Path) -> list[str]:
    """Every configuration field of every stage, with its default."""
    lines = []
    for stage, cls in STAGES.items():
        rows = [
            {"field": f"`{row.name}`", "default": f"`{row.default or 'null'}`", "": row.explanation}
            for row in described(cls)
        ]
        lines += [f"### {stage}", "", *table(rows), ""]
    return lines[:-1]


TABLES: dict[str, Callable[..., list]] = {
    "overview": overview,
    "shipped": shipped,
    "unet": unet,
    "twins": twins,
    "cost-of-spikes": verdicts,
    "comparison": comparison,
    "protocols": protocols,
    "first-steps": first_steps,
    "decomposition": decomposition,
    "candidates": candidates,
    "scaling": scaling,
    "encodings": encodings,
    "labels": labels,
    "energy": energy,
    "turning-rates": turning_rates,
    "latency": latency,
    "quantised": quantised,
    "exports": exports,
    "runtimes": runtimes,
    "bench": bench,
    "fields": configuration_fields,
}
"""Name -> the rows of a table, or its lines."""

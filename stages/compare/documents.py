"""Tables of the README and the documentation, rendered from reports into the text between two markers.

A line `<!-- table: NAME ARGUMENT... -->` opens a table and `<!-- end -->` closes it. What stands between them is
replaced by what the function of that name in `TABLES` makes of the reports.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from spiking_vq.config.schema import STAGES
from spiking_vq.errors import require
from spiking_vq.pipelines.zoo import ZOO
from stages.cli.help import described
from stages.compare.published import PUBLISHED, UNKNOWN
from stages.compare.tables import (
    COMPARED,
    NOT_RUN,
    PRESETS,
    TITLES,
    UNCONDITIONAL,
    beside_floor,
    microjoules,
    read_systems,
    shown,
    split,
    system_table,
)
from stages.evaluate.protocols import PROTOCOLS
from stages.reporting.markdown import table
from stages.reporting.report import Report, inspected

MARKED = re.compile(r"(<!-- table: ([^\n]+?) -->\n).*?(<!-- end -->)", re.DOTALL)
SIDES = ("spiking", "relu", "quantised")


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


def overview(results: Path) -> list[dict[str, str]]:
    """The README's table: one row a discrete model that ships."""
    return [_overview_row(results / data / preset) for data, preset in _models()]


def _overview_row(folder: Path) -> dict[str, str]:
    """The row of a model, of the reports in its folder; what was not run says so."""
    data, preset = folder.parts[-2:]
    row = {"data": TITLES[data], "model": f"`{preset}`"} | dict.fromkeys(
        ("FID (floor)", "recall (floor)", "best published spiking", "spiking steps", "firing rate, stage 1, 2"), NOT_RUN
    )
    if (folder / "test-10k.json").is_file():
        report = _evaluation(folder, "test-10k")
        stand_in, generated = bool(report.get(str, "stand_in", default="")), report.get(int, "counts", "generated")
        row |= {
            "data": TITLES[data] + (", a stand-in" if stand_in else ""),
            "FID (floor)": f"**{beside_floor(report, 'fid')}**" + (f" of {generated:,}" if stand_in else ""),
            "recall (floor)": beside_floor(report, "recall"),
            "best published spiking": "" if stand_in else best_published(folder),
            "spiking steps": str(report.get(int, "network_steps")),
            "firing rate, stage 1, 2": ", ".join(f"{rate:.2f}" for rate in _rates(report)),
        }
    energies = [f"{arithmetic:,.0f}" for arithmetic, _ in _energies(folder)]
    return row | {
        "uJ an image: spikes, ReLU, 3-bit": ", ".join([f"**{energies[0]}**", *energies[1:]]),
        "minutes of training": " + ".join(f"{minutes:.0f}" for minutes in _minutes(data, preset)),
    }


def best_published(folder: Path) -> str:
    """The lowest published FID of a spiking network, and that of our model under its protocol where that was run.

    `folder` holds the reports on our model.
    """
    data = folder.parent.name
    spiking = [row for row in PUBLISHED if data in row.fid and "no spikes" not in row.system]
    best = min(spiking, key=lambda row: row.fid[data])
    text = f"{best.fid[data]:g}, {re.split(r'[,(]', best.system)[0].strip()}"
    protocol = best.about.rpartition("comparable with ")[2]
    if not (folder / f"{protocol}.json").is_file():
        return text
    ours = _evaluation(folder, protocol).spread("metrics", "fid").text()
    return f"{text} (ours by its protocol: {ours})"


def shipped(results: Path, preset: str) -> list[dict[str, str]]:
    """Metrics of the discrete models of a preset that ship: one column a data set."""
    folders = {TITLES[data]: results / data / preset for data, name in _models() if name == preset}
    columns = {
        title: dict(_shipped(folder)) for title, folder in folders.items() if (folder / "test-10k.json").is_file()
    }
    names = dict.fromkeys(name for column in columns.values() for name in column)
    return [{"": name} | {title: column.get(name, NOT_RUN) for title, column in columns.items()} for name in names]


def _shipped(folder: Path) -> Iterator[tuple[str, str]]:
    """Name and text of each metric of one model, of the reports in its folder."""
    report = _evaluation(folder, "test-10k")
    minutes = " + ".join(f"{minutes:.1f}" for minutes in _minutes(folder.parent.name, folder.name))
    yield "minutes of training, stage 1 + 2", minutes
    yield "images generated", f"{report.get(int, 'counts', 'generated'):,}"
    yield "FID (floor)", beside_floor(report, "fid")
    yield "KID x 1000 (floor)", beside_floor(report, "kid", 1000)
    yield "classifier distance (floor)", beside_floor(report, "classifier_distance")
    yield "FID of stage 1's reconstructions", f"{report.get(float, 'reconstruction', 'fid'):.3g}"
    for name in ("precision", "recall"):
        yield f"{name} (floor)", beside_floor(report, name)
    authentic, held_out = (
        report.get(float, "memorisation", name) for name in ("authenticity", "authenticity_held_out")
    )
    yield "authentic (test images)", f"{authentic:.2f} ({held_out:.2f})"
    yield "MSE of reconstructed test images", f"{report.get(float, 'stage1', 'mse'):.4f}"
    codes = report.get(int, "stage1", "codebook_size")
    yield "perplexity of the codes", f"{report.get(float, 'stage1', 'perplexity'):.0f} of {codes}"
    for protocol in ("n1280-test", "fsddim-10k"):
        if (folder / f"{protocol}.json").is_file():
            yield f"FID under {protocol} (floor)", beside_floor(_evaluation(folder, protocol), "fid")
    for protocol in COMPARED:
        if (folder / f"{UNCONDITIONAL.format(protocol)}.json").is_file():
            unconditional = _evaluation(folder, UNCONDITIONAL.format(protocol))
            yield f"without labels: FID under {protocol} (floor)", beside_floor(unconditional, "fid")
            yield f"without labels: recall under {protocol} (floor)", beside_floor(unconditional, "recall")
    if (folder / "labels.json").is_file():
        agreement = {row["guidance"]: row["agreement"] for row in Report.read(folder / "labels.json").get(list, "rows")}
        yield "label agreement at guidance 1, 1.5", ", ".join(f"{share:.0%}" for share in agreement.values())
    yield "firing rate, stage 1, 2", ", ".join(f"{rate:.3f}" for rate in _rates(report))
    calls, steps = (report.get(int, name) for name in ("network_calls", "network_steps"))
    yield "network evaluations, spiking steps an image", f"{calls}, {steps}"
    yield from _energy_lines(folder)


def unet(results: Path) -> list[dict[str, str]]:
    """Metrics of the U-Net that ships."""
    folder, training = results / "mnist" / "gaussian-base", Report.read(ZOO / "mnist-base-gaussian.json")
    report, few = (Report.read(folder / f"{name}.json") for name in ("test-10k", "n1280-test"))
    metrics = {
        "parameters": f"{sum(report.get(dict, 'parameters').values()):,}",
        "minutes of training, two cores": f"{training.get(float, 'training', 'gaussian', 'seconds') / 60:.1f}",
        f"FID of 10,000 in {report.get(int, 'network_calls')} calls (floor)": beside_floor(report, "fid"),
        "FID under n1280-test (floor)": beside_floor(few, "fid"),
        "classifier distance (floor)": beside_floor(report, "classifier_distance"),
        "precision (floor)": beside_floor(report, "precision"),
        "recall (floor)": beside_floor(report, "recall"),
        "firing rate": f"{_rates(report)[0]:.2f}",
        **dict(_energy_lines(folder)),
    }
    return [{"U-Net, MNIST": name, "": text} for name, text in metrics.items()]


def comparison(results: Path, *presets: str) -> list[str]:
    """Our presets and published figures, data set by data set."""
    systems, lines = read_systems(results), []
    for data, title in TITLES.items():
        lines += [f"### {title}", ""]
        for text in {system.stand_in for system in systems if system.data == data} - {""}:
            lines += [text, ""]
        for part in split(system_table(data, systems, presets or PRESETS)):
            lines += [*table(part), ""]
    return lines[:-1]


def protocols(results: Path) -> list[str]:
    """One line for each protocol that is compared, and for each published row."""
    ours = [f"- `{name}`: {PROTOCOLS[name].about}." for name in COMPARED]
    return ours + [f"- {row.system}: {row.about}." for row in PUBLISHED if row.about != UNKNOWN]


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
                "data": TITLES[report.get(str, "data")],
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
            "model": f"{TITLES[path.parts[-3]]}, {path.parts[-2]}",
            "guidance": f"{row.get(float, 'guidance'):g}",
            "agreement": f"{row.get(float, 'agreement'):.0%}",
            "classifier distance": f"{row.get(float, 'classifier_distance'):.2f}",
        }
        for path in sorted(results.glob("*/*/labels.json"))
        for row in Report.read(path).parts("rows")
    ]


def bench(results: Path) -> list[dict[str, str]]:
    """Images a second of every variant, and the ratio to the first of its task."""
    return [
        {
            "task": row.get(str, "name"),
            "variant": row.get(str, "variant"),
            "images/s": shown(row.get(float, "images_per_second")),
            "ratio": f"{row.get(float, 'ratio'):.2g}",
            "peak MB": f"{row.get(float, 'peak_mb'):,.0f}",
        }
        for row in Report.read(results / "bench.json").parts("rows")
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
    "comparison": comparison,
    "protocols": protocols,
    "first-steps": first_steps,
    "decomposition": decomposition,
    "candidates": candidates,
    "scaling": scaling,
    "encodings": encodings,
    "labels": labels,
    "bench": bench,
    "fields": configuration_fields,
}
"""Name -> the rows of a table, or its lines."""


def _models() -> list[tuple[str, str]]:
    """Data set and preset of the discrete models that ship."""
    pairs = itertools.product(TITLES, PRESETS)
    return [(data, preset) for data, preset in pairs if (ZOO / f"{data}-{preset}-absorbing.json").is_file()]


def _evaluation(folder: Path, name: str) -> Report:
    return Report.read(folder / f"{name}.json")


def _rates(report: Report) -> list[float]:
    return [report.get(float, "firing_rate", stage, "all") for stage in report.get(dict, "firing_rate")]


def _energies(folder: Path) -> list[tuple[float, float]]:
    """Energy of an image in uJ, with spikes and of both twins: arithmetic, and with memory."""
    energy = inspected(folder, "energy")
    require(energy is not None, str(folder), "the folder of an inspected model", "no report on its energy")
    return [microjoules(energy.part(side, "image")) for side in SIDES]


def _energy_lines(folder: Path) -> Iterator[tuple[str, str]]:
    arithmetic, with_memory = zip(*_energies(folder), strict=True)
    yield "uJ an image: spikes, ReLU, 3-bit", ", ".join(f"{value:,.0f}" for value in arithmetic)
    yield "the same with memory accesses", ", ".join(f"{value:,.0f}" for value in with_memory)


def _minutes(data: str, preset: str) -> list[float]:
    training = Report.read(ZOO / f"{data}-{preset}-absorbing.json").part("training")
    return [training.get(float, stage, "seconds") / 60 for stage in training.contents]

"""Tables of the models that ship."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

from spiking_vq.errors import require
from spiking_vq.pipelines.zoo import ZOO
from stages.compare.published import PUBLISHED
from stages.compare.tables import COMPARED, NOT_RUN, PRESETS, TITLES, UNLABELLED, beside_floor, microjoules, title_of
from stages.reporting.report import Report, inspected

SIDES = ("spiking", "relu", "quantised")


def overview(results: Path) -> list[dict[str, str]]:
    """The README's table: one row a discrete model that ships."""
    return [_overview_row(results / data / preset) for data, preset in _models()]


def _overview_row(folder: Path) -> dict[str, str]:
    """The row of a model, of the reports in its folder; what was not run says so."""
    data, preset = folder.parts[-2:]
    stand_in = _description(data, preset).get(str, "stand_in", default="")
    row = {"data": title_of(data) + (", a stand-in" if stand_in else ""), "model": f"`{preset}`"} | dict.fromkeys(
        ("FID (floor)", "recall (floor)", "best published spiking", "spiking steps", "firing rate, stage 1, 2"), NOT_RUN
    )
    if (folder / "test-10k.json").is_file():
        report = _evaluation(folder, "test-10k")
        generated = report.get(int, "counts", "generated")
        row |= {
            "FID (floor)": f"**{beside_floor(report, 'fid')}**" + (f" of {generated:,}" if stand_in else ""),
            "recall (floor)": beside_floor(report, "recall"),
            "best published spiking": "" if stand_in else best_published(folder),
            "spiking steps": str(report.get(int, "network_steps")),
            "firing rate, stage 1, 2": ", ".join(f"{rate:.2f}" for rate in _rates(report)),
        }
    energies = [f"{arithmetic:,.0f}" for arithmetic, _ in _energies(folder)]
    return row | {
        "uJ an image: spikes, ReLU, quantised": ", ".join([f"**{energies[0]}**", *energies[1:]]),
        "minutes of training": " + ".join(f"{minutes:.0f}" for minutes in _minutes(data, preset)),
    }


def best_published(folder: Path) -> str:
    """The lowest published FID of a spiking network, and that of our model under its protocol where that was run.

    `folder` holds the reports on our model.
    """
    data = folder.parent.name
    best = min((row for row in PUBLISHED if data in row.fid and row.spikes), key=lambda row: row.fid[data])
    text = f"{best.fid[data]:g}, {re.split(r'[,(]', best.system)[0].strip()}"
    if not best.protocol or not (folder / f"{best.protocol}.json").is_file():
        return text
    ours = _evaluation(folder, best.protocol).spread("metrics", "fid").text()
    return f"{text} (ours by its protocol: {ours})"


def shipped(results: Path, preset: str) -> list[dict[str, str]]:
    """Metrics of the discrete models of a preset that ship: one column a data set."""
    folders = {title_of(data): results / data / preset for data, name in _models() if name == preset}
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
        if (folder / f"{UNLABELLED.format(protocol)}.json").is_file():
            unlabelled = _evaluation(folder, UNLABELLED.format(protocol))
            yield f"without labels: FID under {protocol} (floor)", beside_floor(unlabelled, "fid")
            yield f"without labels: recall under {protocol} (floor)", beside_floor(unlabelled, "recall")
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


def shipped_models() -> list[tuple[str, str, str]]:
    """Stage, data set and preset of the models that ship and generate."""
    unets = [(data, "base") for data in TITLES if (ZOO / f"{data}-base-gaussian.json").is_file()]
    return [("absorbing", *names) for names in _models()] + [("gaussian", *names) for names in unets]


def _models() -> list[tuple[str, str]]:
    """Data set and preset of the discrete models that ship."""
    pairs = itertools.product(TITLES, PRESETS)
    return [(data, preset) for data, preset in pairs if (ZOO / f"{data}-{preset}-absorbing.json").is_file()]


def _description(data: str, preset: str) -> Report:
    """What ships beside the weights of a model."""
    return Report.read(ZOO / f"{data}-{preset}-absorbing.json")


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
    yield "uJ an image: spikes, ReLU, quantised", ", ".join(f"{value:,.0f}" for value in arithmetic)
    yield "the same with memory accesses", ", ".join(f"{value:,.0f}" for value in with_memory)


def _minutes(data: str, preset: str) -> list[float]:
    training = _description(data, preset).part("training")
    return [training.get(float, stage, "seconds") / 60 for stage in training.contents]

"""Charts of studies, as PNG."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from spiking_vq.errors import require
from spiking_vq.files import atomic_write

SCALED = ("classifier distance", "recall", "FID")
"""Columns of `quality_by_core_hours`, a panel each."""


def require_matplotlib() -> None:
    """Raise `InputError` unless charts can be drawn."""
    installed = find_spec("matplotlib") is not None
    require(installed, "matplotlib", "installed, for the chart (pip install 'spiking_vq[metrics]')", "none")


def quality_by_rate(report: dict[str, Any], out: Path) -> None:
    """Draw all candidates, each a cross of standard deviations: the lower left corner is best."""
    from matplotlib import pyplot as plt  # of the extra `metrics`

    chart, axis = plt.subplots(figsize=(8, 5), layout="constrained")
    rows = sorted(report["rows"], key=lambda row: row["classifier distance"]["mean"])
    # many rates are alike: the names stand in a column, each with a line to its cross
    for index, row in enumerate(rows):
        (x, dx), (y, dy) = ((row[name]["mean"], row[name]["std"]) for name in ("firing rate", "classifier distance"))
        color = axis.errorbar(x, y, dy, dx, fmt="o", markersize=4).lines[0].get_color()
        axis.annotate(
            row["candidate"],
            (x, y),
            xytext=(1.03, (index + 0.5) / len(rows)),
            textcoords="axes fraction",
            fontsize=8,
            verticalalignment="center",
            arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.6, "relpos": (0, 0.5)},
        )
    axis.set(xlabel="mean firing rate", ylabel="classifier distance", title=f"{report['data']}, {report['stage']}")
    axis.set_xlim(left=0)
    axis.set_yscale("log")  # most candidates are close together, some far off
    for formatter in (axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter):
        formatter("{x:g}")
    axis.spines[["top", "right"]].set_visible(False)
    _save(chart, out)


def quality_by_core_hours(report: dict[str, Any], out: Path) -> None:
    """Draw metrics of all designs against the measured time of training: a panel a metric, a line a design."""
    from matplotlib import pyplot as plt  # of the extra `metrics`

    rows = sorted(report["rows"], key=lambda row: row["core-hours"]["mean"])
    names = [name for name in SCALED if name in rows[0]]
    chart, axes = plt.subplots(1, len(names), figsize=(4 * len(names), 3.6), layout="constrained", squeeze=False)
    for axis, name in zip(axes.flat, names, strict=True):
        for design in dict.fromkeys(row["design"] for row in report["rows"]):
            line = [(row["core-hours"]["mean"], row[name]) for row in rows if row["design"] == design]
            hours, means, stds = zip(*((x, y["mean"], y["std"] or 0) for x, y in line), strict=True)
            axis.errorbar(hours, means, stds, marker="o", markersize=4, capsize=2, label=design)
        axis.set(xlabel="core-hours, both stages", ylabel=name)
        axis.set_xlim(left=0)
        axis.spines[["top", "right"]].set_visible(False)
    chart.suptitle(report["data"])
    chart.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    _save(chart, out)


def _save(chart: Any, out: Path) -> None:
    """Write a figure of matplotlib, whole or not at all, and print its path."""
    from matplotlib import pyplot as plt

    with atomic_write(out) as temporary:
        chart.savefig(temporary, format="png", dpi=120)
    plt.close(chart)
    print(f"wrote {out}")

"""Charts of the report, as SVG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stages.compare.tables import COMPARED, System, image_energy, microjoules, title_of


def firing_rates(system: System) -> str:
    """Mean firing rate of every layer, stage by stage."""
    named = [
        (f"{stage}: {layer}", rate) for stage, layers in system.firing_rates().items() for layer, rate in layers.items()
    ]
    named = [(name, rate) for name, rate in named if not name.endswith(": all")]
    if not named:
        return ""
    plt = pyplot()
    figure, axis = plt.subplots(figsize=(7, 0.22 * len(named) + 0.8), layout="constrained")
    names, values = zip(*named, strict=True)
    axis.barh(range(len(named)), values, color="#4878a8")
    axis.set_yticks(range(len(named)), names, fontsize=7)
    axis.invert_yaxis()
    axis.set(xlim=(0, 1), xlabel="firing rate", title=f"{system.data}, {system.preset}: spikes per neuron and step")
    axis.spines[["top", "right"]].set_visible(False)
    return as_svg(figure)


def quality_by_calls(curves: dict[str, list[tuple[int, float]]], title: str) -> str:
    """System -> (number of calls, distance): one line each."""
    if not curves:
        return ""
    plt = pyplot()
    figure, axis = plt.subplots(figsize=(7, 3), layout="constrained")
    for name, points in curves.items():
        axis.plot(*zip(*sorted(points), strict=True), marker="o", label=name)
    axis.set(xscale="log", xlabel="calls of the denoiser", ylabel="classifier distance", title=title)
    calls = sorted({calls for points in curves.values() for calls, _ in points})
    axis.set_xticks(calls, [str(number) for number in calls])
    axis.minorticks_off()
    axis.set_ylim(0, 1.1 * max(distance for points in curves.values() for _, distance in points))
    axis.legend(frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    return as_svg(figure)


@dataclass(frozen=True)
class Costs:
    """FIDs and energies of the models of one data set, under the protocol that most of them were measured by.

    Attributes:
        title: the data set and the protocol.
        floor: FID of real training images.
        points: model -> its FID, and uJ of an image: of the arithmetic alone, and with memory.
    """

    title: str
    floor: float
    points: dict[str, tuple[float, float, float]]


def costs(systems: Sequence[System]) -> Costs | None:
    """The costs of the models of one data set; None where no energy was measured."""
    known = {system.preset: system for system in systems}
    energies = {name: energy for name in known if (energy := image_energy(name, known))}
    protocol = max(COMPARED, key=lambda name: sum(name in known[preset].evaluations for preset in energies))
    reports = {name: known[name].evaluations[protocol] for name in energies if protocol in known[name].evaluations}
    if not reports:
        return None
    points = {name: (of.spread("metrics", "fid").mean, *microjoules(energies[name])) for name, of in reports.items()}
    floor = next(iter(reports.values())).get(float, "floor", "fid")
    return Costs(f"{title_of(systems[0].data)}, {protocol}", floor, points)


def quality_by_energy(panels: Sequence[Costs]) -> str:
    """FID against the energy of an image, a panel a data set: a dot a model, with memory an open one."""
    if not panels:
        return ""
    plt = pyplot()
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    size = 4.4 * columns, 3.4 * rows
    figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False, sharex=True)
    for axis, panel in zip(axes.flat, panels, strict=False):
        for name, (fid, alone, with_memory) in panel.points.items():
            (dot,) = axis.plot(alone, fid, "o", markersize=6)
            axis.plot([alone, with_memory], [fid, fid], color=dot.get_color(), linewidth=0.8)
            axis.plot(with_memory, fid, "o", color=dot.get_color(), markersize=6, markerfacecolor="white")
            axis.annotate(name, (alone, fid), (0, 6), textcoords="offset points", fontsize=8)
        axis.axhline(panel.floor, color="#888", linewidth=0.8, linestyle="--")
        axis.annotate(
            "real images", (1, panel.floor), (-2, 3), ("axes fraction", "data"), "offset points", ha="right", fontsize=7
        )
        axis.set(xscale="log", xlabel="uJ an image", ylabel="FID", title=panel.title)
        axis.tick_params(labelbottom=True)
        axis.set_ylim(0, 1.15 * max(fid for fid, *_ in panel.points.values()))
        axis.margins(x=0.15)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    return as_svg(figure)


def as_svg(figure: Any) -> str:
    """The figure as an element for a page."""
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None})
    pyplot().close(figure)
    text = stream.getvalue()
    return text[text.index("<svg") :]


def pyplot() -> Any:
    """matplotlib, imported when the first chart is drawn; the same chart from the same numbers is the same file."""
    import matplotlib as mpl
    from matplotlib import pyplot

    mpl.rcParams["svg.hashsalt"] = "spiking_vq"
    return pyplot

"""Charts of the report, as SVG."""

from __future__ import annotations

import io
from typing import Any

from stages.compare.tables import System


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

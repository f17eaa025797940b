"""Energy and latency of an image as printed tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stages.inspect.verdicts import Energies, microjoules
from stages.reporting.hardware import TITLES, TWINS

SIDES = {"spiking": "spiking network"} | TWINS
NAME = 48
"""Characters of the first column."""


def print_energy(report: dict[str, Any]) -> None:
    """Print the layers of the spiking network, the costs of all networks side by side, verdicts, and latency."""
    columns = ("accumulates", "multiplies", "arithmetic_pj", "memory_pj")
    print(f"\n{'':{NAME}}{'rate':>6}" + "".join(f"{name.replace('_', ' '):>17}" for name in columns))
    part = report["spiking"]
    for name, row in (part["layers"] | {name: part[name] for name in ("call", "decoder", "image")}).items():
        rate = "" if row["firing_rate"] is None else f"{row['firing_rate']:.2f}"
        print(f"  {name:{NAME - 2}}{rate:>6}" + "".join(f"{row[name]:17,.0f}" for name in columns))
    print("\nan image by")
    _print_table([{"calls": report[side]["calls"]} | report[side]["operations"] for side in SIDES], "{:,.0f}".format)
    print(f"\nuJ an image; {report['constants']['source']}")
    _print_table([by_hardware(report[side]["energy_pj"]["image"]) for side in SIDES], microjoules)
    for twin, lines in report["verdict"].items():
        print(f"\nagainst the {TWINS[twin]}", lines, sep="\n")
    print("\nlatency: time steps an image, longest path of synapses in a step, spikes in a step, steps x path")
    for part, row in report["latency"].items():
        figures = (row[name] for name in ("steps", "path", "spikes", "waits"))
        print(f"  {part:{NAME - 2}}" + "".join(f"{figure:15,.0f}" for figure in figures))


def by_hardware(energies: Energies) -> dict[str, float]:
    """Names of arithmetic and memory -> picojoules."""
    rows = ((bits, memory, pj) for bits, memories in energies.items() for memory, pj in memories.items())
    return {f"{TITLES[bits]}, {TITLES[memory]}": pj for bits, memory, pj in rows}


def _print_table(columns: list[dict[str, float]], text: Callable[[float], str]) -> None:
    """Print a column for each of `SIDES`, and a row for each figure."""
    print(" " * NAME + "".join(f"{title:>22}" for title in SIDES.values()))
    for row in columns[0]:
        print(f"  {row.replace('_', ' '):{NAME - 2}}" + "".join(f"{text(column[row]):>22}" for column in columns))

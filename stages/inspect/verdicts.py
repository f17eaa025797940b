"""Verdicts: which of two networks needs less energy on which hardware, and at which firing rate that turns."""

from __future__ import annotations

from typing import Any

from stages.reporting.hardware import TITLES

Energies = dict[str, dict[str, Any]]
"""Arithmetic -> model of memory -> picojoules of an image."""


def turning_rates(rate: float, image: Energies, by_spikes: Energies, twin: Energies) -> Energies:
    """Arithmetic -> model of memory -> the firing rate at which the verdict turns, see `turning_rate`."""
    return {
        arithmetic: {
            memory: turning_rate(rate, ours, by_spikes[arithmetic][memory], twin[arithmetic][memory])
            for memory, ours in memories.items()
        }
        for arithmetic, memories in image.items()
    }


def verdict(rate: float, image: Energies, by_spikes: Energies, twin: Energies, name: str) -> str:
    """A sentence for each arithmetic and model of memory, a line each: who wins, and where that turns.

    Args:
        rate: measured firing rate.
        image, by_spikes: energy of the spiking network, and the part of it that spikes cause.
        twin: energy of the twin.
        name: of the twin, for the reader.
    """
    lines = []
    for arithmetic, memories in image.items():
        for memory, ours in memories.items():
            caused, theirs = by_spikes[arithmetic][memory], twin[arithmetic][memory]
            at = turning_rate(rate, ours, caused, theirs)
            end = f"it would turn at {at:.2f}" if at is not None else "it would do so at any firing rate"
            lines.append(
                f"{TITLES[arithmetic]}, {TITLES[memory]}: {'the spiking network' if ours < theirs else f'the {name}'}"
                f" wins: {microjoules(ours)} uJ an image at a firing rate of {rate:.2f}, {microjoules(theirs)} uJ for"
                f" the {name}; {end if caused else 'no turning point, as no synapse saw a spike'}."
            )
    return "\n".join(lines)


def turning_rate(rate: float, ours: float, by_spikes: float, theirs: float) -> float | None:
    """The firing rate at which both networks need the same energy; None if there is none in (0, 1).

    It is `rate (theirs - ours + by_spikes) / by_spikes`: energy caused by spikes grows with the rate, the rest does
    not.

    Args:
        rate: measured firing rate.
        ours, by_spikes: energy of the spiking network at that rate, and the part of it that spikes cause.
        theirs: energy of the twin.
    """
    if not by_spikes:
        return None
    turns = rate * (theirs - ours + by_spikes) / by_spikes
    return turns if 0 < turns < 1 else None


def microjoules(pj: float) -> str:
    """Picojoules as microjoules; a decimal below 100."""
    return f"{pj / 1e6:,.0f}" if pj >= 1e8 else f"{pj / 1e6:.1f}"

"""What comparisons of several trainings have in common: figures of their reports, mean and spread over the seeds."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from stages.reporting.report import read_report


def figure(path: Path, keys: tuple[str, ...], factor: float = 1.0) -> float | None:
    """One figure of a report; None where it was not measured."""
    value = read_report(path)
    for key in keys:
        value = value[key]
    return None if value is None else factor * value


def spread(values: list[float | None]) -> dict[str, Any]:
    """Mean and standard deviation over the seeds; None if one of them was not measured."""
    if None in values:
        return {"mean": None, "std": None, "per_seed": values}
    return {"mean": fmean(values), "std": stdev(values) if len(values) > 1 else None, "per_seed": values}


def told(found: dict[str, Any]) -> str:
    """What `spread` gave, as text."""
    if found["mean"] is None:
        return "not measured"
    return f"{found['mean']:.3g}" + ("" if found["std"] is None else f" ± {found['std']:.2g}")

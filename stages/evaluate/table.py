"""The printed table of an evaluation."""

from __future__ import annotations

from stages.reporting.report import Report
from stages.reporting.spread import Spread


def print_table(report: Report) -> None:
    """Print the metrics: generated images next to the floor and the reconstructions by stage 1."""
    if report.get(str, "stand_in", default=""):
        print(f"{report.get(str, 'data')} is {report.get(str, 'stand_in')}")
    print(f"{report.get(str, 'protocol')}: {report.get(str, 'about')}\n{counts_text(report.get(dict, 'counts'))}\n")
    print(f"{'':24}{'generated':>22}{'floor':>22}{'stage 1':>22}")
    for name in report.get(dict, "floor"):
        columns = [_cell(report, part, name) for part in ("metrics", "floor", "reconstruction")]
        print(f"{name.replace('_', ' '):24}" + "".join(f"{column:>22}" for column in columns))
    for group in ("stage1", "likelihood", "memorisation"):
        for name, value in report.get(dict, group, default={}).items():
            shown = f"{value:,.4g}" if isinstance(value, float) else f"{value:,}"
            print(f"{group + ' ' + name.replace('_', ' '):36} {shown:>12}")


def counts_text(counts: dict[str, int]) -> str:
    """Numbers of images that are compared, and of a folder's files that these were drawn from."""
    generated = f"{counts['generated']:,}"
    if counts.get("folder", 0) > counts["generated"]:
        generated += f" of {counts['folder']:,}"
    return f"generated: {generated}; floor: {counts['floor']:,}; reference: {counts['reference']:,}"


def _cell(report: Report, part: str, name: str) -> str:
    """A metric of generated images, or of those in their place, with its deviation; empty where there are none."""
    if part not in report.contents:
        return ""
    metric = report.spread(part, name)
    std = report.get(float, f"{part}_std", name, default=None)
    return (metric if std is None else Spread(metric.mean, std)).text(",.4g")

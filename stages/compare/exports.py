"""Tables of exported models: how far every receiver agrees with the network."""

from __future__ import annotations

from pathlib import Path

from stages.compare.tables import title_of
from stages.reporting.report import Report

RECEIVERS = ("snnTorch", "Norse", "SpikingJelly", "Sinabs")


def exports(results: Path) -> list[dict[str, str]]:
    """Exports to NIR: spikes that differ by our receiver in float64, and by other libraries in float32."""
    rows = []
    for report in _reports(results, "nir"):
        form = report.path.stem.removeprefix("export-nir-")
        own = list(report.get(dict, "parts").values())
        row = {"model": _title(report), "form": form}
        row["MB"] = f"{sum(report.get(dict, 'files').values()) / 1e6:.1f}"
        row["ours, float64"] = _differ(own) + f"; {report.get(int, 'pixels_that_differ')} pixels"
        if integers := report.get(dict, "integers", default={}):
            row["ours, float64"] += f"; in integers {_differ(list(integers.values()))}"
        for name in RECEIVERS:
            row[name] = _receiver(report.get(dict, "receivers", name, default={}))
        rows.append(row)
    return rows


def runtimes(results: Path) -> list[dict[str, str]]:
    """Exports to ONNX and torch.export: the largest difference of their outputs."""
    rows = []
    for to in ("onnx", "pt2"):
        for report in _reports(results, to):
            parts = report.get(dict, "parts")
            row = {"model": _title(report), "to": to}
            row["MB"] = f"{sum(report.get(dict, 'files').values()) / 1e6:.1f}"
            row |= {name: f"within {part['output']:.1g}" for name, part in parts.items()}
            rows.append(row | {"argmax of the logits": "equal" if parts["denoiser"]["argmax"] else "differs"})
    return rows


def _reports(results: Path, to: str) -> list[Report]:
    return [Report.read(path) for path in sorted(results.glob(f"*/*/export-{to}*.json"))]


def _title(report: Report) -> str:
    stage = " U-Net" if report.get(str, "stage") == "gaussian" else ""
    return f"{title_of(report.get(str, 'data'))}, `{report.get(str, 'preset')}`{stage}"


def _differ(rows: list[dict]) -> str:
    return f"{sum(row['differ'] for row in rows):,} of {sum(row['slots'] for row in rows):,}"


def _receiver(found: dict) -> str:
    """What a library made of the parts, and of a whole image."""
    if not found:
        return "not run"
    ran = {name: row for name, row in found["parts"].items() if "error" not in row}
    cells = [f"{row['differ']:,} of {row['slots']:,} ({name})" for name, row in ran.items() if row["differ"]]
    if exact := [name for name, row in ran.items() if not row["differ"]]:
        cells.append(f"0: {', '.join(exact)}")
    if refused := [name for name in found["parts"] if name not in ran]:
        cells.append(f"cannot run: {', '.join(refused)}")
    image = found["image"]
    if "error" not in image:
        cells.append("image equal" if not image["pixels"] else f"{image['pixels']} pixels of the image differ")
    return "; ".join(cells)

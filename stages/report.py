"""What all reports on a trained model have in common: whose they are, and where they go."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spiking_vq.checkpoint import atomic_write
from spiking_vq.config import Config
from stages.command import SAMPLER, recorded_command


def heading(module: str, arguments: Sequence[str], config: Config, path: Path) -> dict[str, Any]:
    """The beginning of a report: its command, and the model that it is on.

    Args:
        module: the command, such as `stages.energy`.
        arguments: as they were given.
        config: of the model.
        path: its file.
    """
    return {
        "command": recorded_command(module, arguments),
        "stage": config.stage,
        "data": config.data,
        "preset": config.preset,
        "checkpoint": identity(path),
    }


def identity(path: Path) -> dict[str, str]:
    """Name and hash of a file."""
    return {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def report_folder(results: str, stage: str, data: str, preset: str) -> Path:
    """Where reports on a model go: presets of the continuous stage have its name before theirs."""
    return Path(results) / data / (f"{stage}-{preset}" if stage == "gaussian" else preset)


def evaluation_name(options: Mapping[str, Any]) -> str:
    """Name of the report that `stages.evaluate` leaves with options: the protocol, and what departs from usual."""
    usual = {"only": "all", "features": "all"}
    told = [options[name] for name, value in usual.items() if options.get(name, value) != value]
    settings = [f"{name}={options[name]}" for name in ("n", *SAMPLER) if options.get(name) is not None]
    return "-".join([options["protocol"], *told, *settings]) + ".json"


def write_report(results: str, name: str, report: dict[str, Any]) -> None:
    """Write a report that has a `heading` into its model's folder, whole or not at all, and say where."""
    out = report_folder(results, report["stage"], report["data"], report["preset"]) / name
    with atomic_write(out) as temporary:
        temporary.write_text(json.dumps(report, indent=2) + "\n")
    print(f"wrote {out}")

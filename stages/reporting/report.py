"""What all reports on a trained model have in common: whose they are, and where they go."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spiking_vq.config.schema import Config
from spiking_vq.errors import InputError, require
from spiking_vq.files import atomic_write, json_text, require_writable
from stages.cli.options import SAMPLER, recorded_command


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


def report_folder(results: str | Path, stage: str, data: str, preset: str) -> Path:
    """Where reports on a model go: presets of the continuous stage have its name before theirs."""
    return Path(results) / data / (f"{stage}-{preset}" if stage == "gaussian" else preset)


def evaluation_name(options: Mapping[str, Any]) -> str:
    """Name of the report that `stages.evaluate` leaves with options: the protocol, and what departs from usual.

    The options may be text, as in a command line.
    """
    usual = {"only": "all", "features": "all"} | dict.fromkeys(("n", *SAMPLER)) | {"background": "black", "seed": 0}
    unusual = [name for name, value in usual.items() if str(options.get(name, value)) != str(value)]
    told = [f"{options[name]}" if name in ("only", "features") else f"{name}={options[name]}" for name in unusual]
    return "-".join([options["protocol"], *told]) + ".json"


def claim_report(path: Path, **subject: Any) -> None:
    """See, before any work, that a report can be written: a report on anything else is never replaced.

    Args:
        path: of the report.
        subject: keys of the report that say what it is about, and their values.

    Raises:
        InputError: the folder cannot be written to, or at the path is something else than a report on the subject.
    """
    require_writable(path.parent)
    if not path.exists():
        return
    ways = "choose another folder with results=, or remove it"
    try:
        there = json.loads(path.read_text())
    except (OSError, ValueError):
        there = None
    if not isinstance(there, dict):
        raise InputError(f"{path} is not a whole report, and would be replaced by one: {ways}")
    named = [f"{key} {there.get(key)}" for key, value in subject.items() if there.get(key) != value]
    if named:
        ours = ", ".join(f"{key} {value}" for key, value in subject.items())
        raise InputError(f"{path} is a report on {', '.join(named)}, and would be replaced by one on {ours}: {ways}")


def claim_model_report(results: str | Path, name: str, config: Config) -> Path:
    """Claim the report of this name on a model, see `claim_report`; the path."""
    subject = {"stage": config.stage, "data": config.data, "preset": config.preset}
    path = report_folder(results, **subject) / name
    claim_report(path, **subject)
    return path


def read_report(path: Path) -> dict[str, Any]:
    """A JSON file that a command left.

    Raises:
        InputError: it is not whole.
    """
    try:
        report = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not a whole report ({error}): make it again") from error
    require(isinstance(report, dict), f"{path}, a report,", "a JSON object", f"a {type(report).__name__}")
    return report


@contextmanager
def checked_contents(reports: Path) -> Iterator[None]:
    """Inside the block, a report that lacks something, or holds it in another type, is an `InputError`.

    Args:
        reports: the file or folder that is read from, for the message.
    """
    try:
        yield
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise InputError(
            f"a report in {reports} is of another version, or was changed by hand ({error!r}): make it again, or"
            " remove it"
        ) from error


def write_report(path: Path, report: dict[str, Any]) -> None:
    """Write a report, whole or not at all, and say where."""
    with atomic_write(path) as temporary:
        temporary.write_text(json_text(report))
    print(f"wrote {path}")

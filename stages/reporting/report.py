"""Reports on trained models as JSON files: their heading, their folder, and typed reading."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from spiking_vq.config.schema import Config
from spiking_vq.errors import InputError, require
from spiking_vq.files import atomic_write, json_text, require_writable, sha256_of
from stages.cli.options import recorded_command
from stages.reporting.spread import Spread

Value = TypeVar("Value")

REQUIRED: Any = object()
"""Stands for no default."""

KINDS = {str: "text", int: "an integer", float: "a number", list: "a list", dict: "an object", object: "a value"}
"""Type -> its name in messages."""


@dataclass(frozen=True)
class Report:
    """A report that a command wrote, or a part of one; errors of reading name file and key.

    Attributes:
        path: the JSON file.
        contents: the report, or the object under `keys`.
        keys: position of the part in the report; empty for a whole report.
    """

    path: Path
    contents: dict[str, Any]
    keys: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: Path) -> Report:
        """Read a file.

        Raises:
            InputError: it is no JSON object.
        """
        try:
            contents = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise InputError(f"{path} is not a whole report ({error}): make it again") from error
        require(isinstance(contents, dict), f"{path}, a report,", "a JSON object", f"a {type(contents).__name__}")
        return cls(path, contents)

    def get(self, kind: type[Value], *keys: str, default: Any = REQUIRED) -> Value:
        """The value under keys.

        Args:
            kind: one of `KINDS`; a float may be an integer.
            keys: of the report, of the object under the first key, and so on.
            default: returned where a key is missing or the value is null; without one, that is an error.

        Raises:
            InputError: a key is missing, or the value is of another type.
        """
        value: Any = self.contents
        for depth, key in enumerate(keys):
            if not isinstance(value, dict):
                raise self._another_version(keys[:depth], KINDS[dict], value)
            value = value.get(key, REQUIRED)
            if value is REQUIRED or value is None:
                if default is REQUIRED:
                    raise self._another_version(keys[: depth + 1], KINDS[kind], None)
                return default
        if not isinstance(value, (int, float) if kind is float else kind) or isinstance(value, bool):
            raise self._another_version(keys, KINDS[kind], value)
        return value

    def part(self, *keys: str, default: Any = REQUIRED) -> Report:
        """The object under keys, see `get`."""
        return Report(self.path, self.get(dict, *keys, default=default), self.keys + keys)

    def parts(self, *keys: str) -> list[Report]:
        """The objects of the list under keys, see `get`."""
        rows = self.get(list, *keys)
        whole = Report(self.path, {str(index): row for index, row in enumerate(rows)}, self.keys + keys)
        return [whole.part(index) for index in whole.contents]

    def spread(self, *keys: str) -> Spread:
        """A metric: mean and deviation, or a single number; without a mean where it is missing or was not measured."""
        value: Any = self.get(object, *keys, default="not available")
        if isinstance(value, str):
            return Spread()
        if not isinstance(value, dict):
            return Spread(self.get(float, *keys))
        mean, std = (self.get(float, *keys, name, default=None) for name in ("mean", "std"))
        return Spread(mean, std, self.get(list, *keys, "per_seed", default=[]))

    def is_on(self, sha256: str) -> bool:
        """Whether this is a report on the model file with this hash."""
        return self.get(str, "checkpoint", "sha256", default="") == sha256

    def _another_version(self, keys: Sequence[str], expected: str, got: Any) -> InputError:
        name = ".".join((*self.keys, *keys)) or "the report"
        shown = "nothing" if got is None else f"the {type(got).__name__} {str(got)[:40]!r}"
        return InputError(
            f"{self.path}: {name} must be {expected}; got {shown}. The report is of another version, or was changed by"
            " hand: make it again, or remove it"
        )


def inspected(folder: Path, part: str, sha256: str | None = None) -> Report | None:
    """A part of the inspection of a model; None where it was not measured.

    Older versions wrote each part into a file of its own, `INSPECTED`, which is read as well.

    Args:
        folder: of the reports on the model.
        part: `energy`, `firing_rate` or `purity`.
        sha256: hash of the model file; reports on other files are passed over. None accepts any.

    Raises:
        InputError: a report cannot be read.
    """
    for name in ("inspection.json", INSPECTED[part]):
        if (folder / name).is_file() and (sha256 is None or Report.read(folder / name).is_on(sha256)):
            report = Report.read(folder / name)
            if name == "inspection.json" or part == "firing_rate":
                report = report.part(part, default={})
            if report.contents:
                return report
    return None


STAGES = {"vq_svae": "vq_svae", "denoiser": "absorbing", "unet": "gaussian"}
"""Part of a model -> the stage that trains it, by which reports name it."""

INSPECTED = {"energy": "energy.json", "firing_rate": "firing_rates.json", "purity": "spiking_report.json"}
"""Part of an inspection -> the file that older versions wrote it into."""


def heading(command: str, arguments: Sequence[str], config: Config, path: Path) -> dict[str, Any]:
    """The first entries of a report: its command and its model.

    Args:
        command: such as `study labels`.
        arguments: as given.
        config: of the model.
        path: the model's file.
    """
    return {"command": recorded_command(command, arguments), **_subject(config), "checkpoint": identity(path)}


def _subject(config: Config) -> dict[str, str]:
    return {"stage": config.stage, "data": config.data, "preset": config.preset}


def identity(path: Path) -> dict[str, str]:
    """Name and hash of a file."""
    return {"file": path.name, "sha256": sha256_of(path)}


def report_folder(results: str | Path, stage: str, data: str, preset: str) -> Path:
    """Folder of the reports on a model; the name of the continuous stage stands before its presets."""
    return Path(results) / data / (f"{stage}-{preset}" if stage == "gaussian" else preset)


def evaluation_name(options: Mapping[str, Any]) -> str:
    """File name of the report that `evaluate` writes with these options: the protocol, and all that is not the default.

    The options may be text, as in a command line.
    """
    usual = {"only": "all", "features": "all"} | dict.fromkeys(NAMED) | {"background": "black", "seed": 0}
    unusual = [name for name, value in usual.items() if str(options.get(name, value)) != str(value)]
    named = [f"{options[name]}" if name in ("only", "features") else f"{name}={options[name]}" for name in unusual]
    return "-".join([options["protocol"], *named]) + ".json"


NAMED = (
    *("n", "sample_steps", "order", "temperature", "last_temperature", "top_p", "schedule"),
    *("sampler", "eta", "contrast", "threshold_shift", "label", "guidance", "guidance_T"),
)
"""Options in the order in which they stand in file names: the number of images, and those of the samplers."""


def claim_report(path: Path, **subject: Any) -> None:
    """Check, before any work, that a report can be written: a report on another subject is never replaced.

    Args:
        path: of the report.
        subject: entries of the report that name its subject.

    Raises:
        InputError: the folder cannot be written to, or something else than a report on the subject is there.
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
    """The path of the report of this name on a model, claimed by `claim_report`."""
    path = report_folder(results, **_subject(config)) / name
    claim_report(path, **_subject(config))
    return path


def write_report(path: Path, report: dict[str, Any]) -> None:
    """Write a report as JSON, see `write_text`."""
    write_text(path, json_text(report))


def write_text(path: Path, text: str) -> None:
    """Write a file, whole or not at all, and print its path."""
    with atomic_write(path) as temporary:
        temporary.write_text(text)
    print(f"wrote {path}")

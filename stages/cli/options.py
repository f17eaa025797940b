"""Options of the commands: one dataclass a command, read from a model word and `key=value` arguments."""

from __future__ import annotations

import difflib
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

from spiking_vq.checkpoint.file import checkpoint_step, is_checkpoint
from spiking_vq.config.text import FROM_TEXT, read_number
from spiking_vq.diffusion.absorbing_sampler import AbsorbingSamplerOptions
from spiking_vq.diffusion.gaussian_sampler import GaussianSamplerOptions
from spiking_vq.errors import InputError
from spiking_vq.fields import OneOf, check_fields, value_of
from spiking_vq.pipelines import zoo
from spiking_vq.pipelines.base import Pipeline
from spiking_vq.pipelines.zoo import find_model

CONFIGS = next(
    folder for folder in (Path(__file__).parents[1] / "configs", Path(__file__).parents[2] / "configs")
    if folder.is_dir()
)
"""Folder of the presets. A wheel holds it inside the package; in the repository it lies next to it."""

RUNS = Path("runs")
LOADABLE = ("vq_svae", "absorbing", "gaussian")

Options = TypeVar("Options")


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Options that name a trained model.

    Attributes:
        model: a model that ships (`mnist`), a run folder (`runs/mnist/base`) or a file (`model.safetensors`); the one
            word without `=`. Given, it replaces the other four.
        stage: `vq_svae`, `absorbing` or `gaussian`.
        data: name of the data set.
        preset: name of the preset.
        ckpt: a `model.safetensors`, or a checkpoint in its run folder.
        runs: folder of the run folders.
    """

    model: str | None = None
    stage: Annotated[str, OneOf(LOADABLE)] = "absorbing"
    data: str = "mnist"
    preset: str = "base"
    ckpt: Path | None = None
    runs: Path = RUNS

    def find(self) -> Path:
        """The model's file: the one named, else that of your own run, else the one that ships.

        Raises:
            InputError: there is none, or `runs` names a folder that does not exist.
        """
        if self.model:
            return zoo.located(self.model)
        if not self.ckpt and self.runs != RUNS and not self.runs.is_dir():
            raise InputError(f"no folder {self.runs}: runs= names the one you trained in. Leave it out to use what ships.")
        path = find_model(self.stage, self.data, self.preset, self.runs, self.ckpt)
        if not self.ckpt:
            say_which_weights(path, self.runs)
        return path


def _sampler_fields() -> list[tuple[str, Any, Any]]:
    """Name, type and default of each option of the samplers; None stands for the model's own."""
    hints: dict[str, Any] = {"label": int}
    for options in (AbsorbingSamplerOptions, GaussianSamplerOptions):
        hints = get_type_hints(options, include_extras=True) | hints
    return [(name, hint | None, field(default=None)) for name, hint in hints.items()]


SamplerArguments = make_dataclass("SamplerArguments", _sampler_fields(), frozen=True, kw_only=True)
SamplerArguments.__doc__ = """Options of the samplers; one that is not given is the model's own."""

SAMPLER = tuple(name for name, *_ in _sampler_fields())
"""Names of the samplers' options."""


def sampler_settings(pipeline: Pipeline, options: Any) -> Any:
    """The sampler settings in force; see `Pipeline.sampling`."""
    return pipeline.sampling(**{name: getattr(options, name, None) for name in SAMPLER})


def read_options(cls: type[Options], arguments: Sequence[str]) -> Options:
    """The options that arguments give; an empty value keeps the default, the last of several counts.

    Args:
        cls: dataclass of the command's options.
        arguments: such as `["mnist", "n=16", "order=halton"]`; a word without `=` is the `model`, where there is one.

    Raises:
        InputError: an unknown option (the nearest is suggested), or a value of another type or out of its range.
    """
    hints, given = get_type_hints(cls, include_extras=True), {}
    for text in arguments:
        key, separator, value = text.partition("=")
        if not separator and "model" in hints and "model" not in given:
            key, value = "model", text
        elif not separator or key not in hints:
            near = difflib.get_close_matches(key, hints, n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(near)}?" if near and separator else f"the options are {', '.join(hints)}"
            raise InputError(f"unknown argument {text!r}: expected key=value; {hint}")
        if value:
            given[key] = value_of(key, value, hints[key], FROM_TEXT)
    return cls(**given)


def say_which_weights(path: Path, runs: Path) -> None:
    """Tell a person who named no file if the model that was found is not a finished run's."""
    if path.parent == zoo.ZOO:
        print(f"no such model in {runs}: using the weights that ship, {path}", file=sys.stderr)
    elif is_checkpoint(path):
        step, total_steps = checkpoint_step(path)
        progress = f"step {step}" + (f" of {total_steps}" if total_steps else "")
        print(f"{path.parent} is unfinished: using its best checkpoint, {progress}", file=sys.stderr)


def read_numbers(name: str, text: str, example: str) -> list[float]:
    """The numbers of an option that takes several, such as `"1 1.5"`.

    Raises:
        InputError: not numbers; the message shows the example.
    """
    try:
        return [read_number(name, part) for part in text.split()]
    except InputError as error:
        raise InputError(f'{name} must be numbers such as "{example}"; got {text!r}') from error


def recorded_command(command: str, arguments: Sequence[str]) -> str:
    """The command line as a report tells it; of an absolute path, or one in a home folder, only the last part.

    Args:
        command: such as `train` or `study labels`.
        arguments: `key=value` strings, or a word.
    """
    return shlex.join(["spiking-vq", *command.split(), *map(_portable, arguments)])


def _portable(argument: str) -> str:
    key, separator, value = argument.rpartition("=")
    return key + separator + (Path(value).name if value.startswith("~") or Path(value).is_absolute() else value)

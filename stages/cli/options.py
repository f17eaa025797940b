"""Options of the commands: one dataclass a command, read from a model word and `key=value` arguments."""

from __future__ import annotations

import difflib
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

from spiking_vq.checkpoint.file import checkpoint_step, is_checkpoint
from spiking_vq.config.schema import STAGES
from spiking_vq.config.text import FROM_TEXT, read_number
from spiking_vq.diffusion.absorbing_sampler import AbsorbingSamplerOptions
from spiking_vq.diffusion.gaussian_sampler import GaussianSamplerOptions
from spiking_vq.errors import InputError, require
from spiking_vq.fields import Natural, OneOf, value_of
from spiking_vq.pipelines import zoo
from spiking_vq.pipelines.base import Pipeline
from stages.cli.help import POSITIONAL, explanations

CONFIGS = next(
    folder
    for folder in (Path(__file__).parents[1] / "configs", Path(__file__).parents[2] / "configs")
    if folder.is_dir()
)
"""Folder of the presets. A wheel holds it inside the package; in the repository it lies next to it."""

RUNS = Path("runs")
"""Default folder of the run folders."""

LOADABLE = ("vq_svae", "absorbing", "gaussian")
"""Stages of the models that commands take."""

NAMING = ("stage", "data", "preset", "ckpt")
"""Options that name a model where `model` does not."""

Options = TypeVar("Options")


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Options that name a trained model.

    Attributes:
        model: a model that ships (`mnist`, `mnist-base-gaussian`), a run folder (`runs/mnist/base`), a file
            (`model.safetensors`, `best.ckpt`) or a repository of the Hugging Face hub (`owner/name`), written without
            `model=`; it excludes the four options below, which its file answers. None (default) takes `ckpt`, or else
            the model of this stage, data and preset, your own run before the one that ships.
        stage: stage of the model.
        data: data set of the model.
        preset: preset of the model.
        ckpt: file of the model, a `model.safetensors` or a checkpoint in its run folder.
        runs: folder of the run folders.
    """

    model: str | None = None
    stage: Annotated[str, OneOf(LOADABLE)] = "absorbing"
    data: str = "mnist"
    preset: str = "base"
    ckpt: Path | None = None
    runs: Path = RUNS

    def find(self) -> Path:
        """Return the model's file; see `model`.

        Raises:
            InputError: there is none, or `runs` names a folder that does not exist.
        """
        if self.model:
            path = zoo.located(self.model)
            if path.parent != zoo.ZOO:
                say_which_weights(path, self.runs)
            return path
        if not self.ckpt and self.runs != RUNS and not self.runs.is_dir():
            raise InputError(f"no folder {self.runs}: runs= names the one you trained in; without it, take what ships")
        path = zoo.find_model(self.stage, self.data, self.preset, self.runs, self.ckpt)
        if not self.ckpt:
            say_which_weights(path, self.runs)
        return path


def _sampler_arguments() -> type:
    """Dataclass of all options of the samplers and the label; each may be None, which is the model's own."""
    hints, texts = {}, {"label": "class of the images, for class-conditional models"}
    for options in (GaussianSamplerOptions, AbsorbingSamplerOptions):
        hints |= get_type_hints(options, include_extras=True)
        texts |= explanations(options)
    hints["label"] = Natural
    given = [(name, hint | None, field(default=None)) for name, hint in hints.items()]
    cls = make_dataclass("SamplerArguments", given, frozen=True, kw_only=True)
    explained = "".join(f"    {name}: {text}\n" for name, text in texts.items())
    cls.__doc__ = f"Options of the samplers; None (default) is the model's own.\n\nAttributes:\n{explained}"
    return cls


SamplerArguments = _sampler_arguments()
"""Mixin for the options of commands that sample."""

SAMPLER = tuple(SamplerArguments.__dataclass_fields__)
"""Names of the samplers' options."""


def sampler_settings(pipeline: Pipeline, options: Any) -> dict[str, Any]:
    """Return the settings of the sampler that the options and the model give; see `Pipeline.sampling`."""
    return pipeline.sampling(**{name: getattr(options, name, None) for name in SAMPLER})


def read_options(cls: type[Options], arguments: Sequence[str]) -> Options:
    """Return the options that arguments give; an empty value is ignored, the last of several counts.

    Args:
        cls: dataclass of the command's options.
        arguments: such as `["mnist", "n=16", "order=halton"]`; a word without `=` is the option of `POSITIONAL`.

    Raises:
        InputError: an unknown option (the nearest is suggested), a value of another type or out of its range, or a
            model that is named twice.
    """
    hints, given = get_type_hints(cls, include_extras=True), {}
    positional = next((name for name in POSITIONAL if name in hints), None)
    for text in arguments:
        key, separator, value = text.partition("=")
        if not separator and positional and positional not in given:
            key, value = positional, text
        elif not separator or key not in hints:
            raise InputError(f"unknown argument {text!r}: expected key=value; {nearest(key, list(hints), 'options')}")
        if value:
            given[key] = value_of(key, value, hints[key], FROM_TEXT)
    if issubclass(cls, ModelOptions) and "model" in given:
        doubled = [name for name in NAMING if name in given]
        expected = f"left out with the model {given['model']}, whose file says it (name another, such as mnist-base)"
        require(not doubled, ", ".join(doubled), expected, ", ".join(f"{name}={given[name]}" for name in doubled))
    return cls(**given)


def nearest(word: str, names: Sequence[str], kind: str) -> str:
    """Return the end of a message about an unknown word: the most similar names, or else all names of this kind."""
    near = difflib.get_close_matches(word, names, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else f"the {kind} are {', '.join(names)}"


def preset_file(stage: str, preset: str) -> Path:
    """Return the YAML file of a preset of a stage.

    Raises:
        InputError: there is none; the message names the nearest stage or preset.
    """
    if stage not in STAGES:
        raise InputError(f"unknown stage {stage!r}: {nearest(stage, list(STAGES), 'stages')}")
    files = {file.stem: file for file in sorted((CONFIGS / stage).glob("*.yaml"))}
    if preset not in files:
        raise InputError(f"no preset {preset!r} for stage {stage}: {nearest(preset, list(files), 'presets')}")
    return files[preset]


def say_which_weights(path: Path, runs: Path) -> None:
    """Print a line on stderr if a model that was searched for is not that of a finished run."""
    if path.parent == zoo.ZOO:
        print(f"no such model in {runs}: using the weights that ship, {path}", file=sys.stderr)
    elif is_checkpoint(path):
        step, total_steps = checkpoint_step(path)
        progress = f"step {step}" + (f" of {total_steps}" if total_steps else "")
        print(f"{path.parent} is unfinished: using its best checkpoint, {progress}", file=sys.stderr)


def read_numbers(name: str, text: str, example: str) -> list[float]:
    """Return the numbers of an option that takes several, such as `"1 1.5"`.

    Raises:
        InputError: not numbers; the message shows the example.
    """
    try:
        return [read_number(name, part) for part in text.split()]
    except InputError as error:
        raise InputError(f'{name} must be numbers such as "{example}"; got {text!r}') from error


def recorded_command(command: str, arguments: Sequence[str]) -> str:
    """Return the command line for a report, with the last part only of paths that are absolute or in a home folder.

    Args:
        command: such as `train` or `study labels`.
        arguments: `key=value` strings, or a word.
    """
    return shlex.join(["spiking-vq", *command.split(), *map(_portable, arguments)])


def _portable(argument: str) -> str:
    key, separator, value = argument.rpartition("=")
    return key + separator + (Path(value).name if value.startswith("~") or Path(value).is_absolute() else value)

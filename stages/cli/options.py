"""Options of the commands: `key=value` arguments, and the model and sampler settings that they name."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spiking_vq.checkpoint.file import checkpoint_step, is_checkpoint
from spiking_vq.config.text import FROM_TEXT, read_number
from spiking_vq.errors import InputError, require, require_seed
from spiking_vq.pipelines import zoo
from spiking_vq.pipelines.base import Pipeline
from spiking_vq.pipelines.zoo import find_model
from stages.cli.machine import can_compile

MODEL = {"stage": "absorbing", "data": "mnist", "preset": "base", "ckpt": Path, "runs": Path("runs")}
"""Options that say which trained model."""

SAMPLER = {
    "sample_steps": int,
    "order": str,
    "temperature": float,
    "last_temperature": float,
    "top_p": float,
    "remask_calls": int,
    "schedule": str,
    "sampler": str,
    "eta": float,
    "contrast": float,
    "threshold_shift": float,
    "label": int,
    "guidance": float,
    "guidance_T": int,
}
"""Options of the samplers; what is not given is the model's own."""

_PACKAGED = Path(__file__).parents[1] / "configs"

CONFIGS = _PACKAGED if _PACKAGED.is_dir() else Path(__file__).parents[2] / "configs"
"""Folder of the presets. A wheel holds it inside the package; in the repository it lies next to it."""

LOADABLE = ("vq_svae", "absorbing", "gaussian")
"""Stages of models that commands take."""

COMPILE_FROM = 10_000
"""Images times calls of the network from which on sampling compiles first: beyond the break-even if the kernels are on
disk already, about at it if they are not."""


def parse_options(arguments: Sequence[str], defaults: dict[str, Any]) -> dict[str, Any]:
    """Read `key=value` arguments into the types of `defaults`; an empty value keeps the default.

    Args:
        arguments: such as `["n=16", "order=halton"]`.
        defaults: name -> default; the value is an int, float, str or Path as the default is (see
            `spiking_vq.values.FROM_TEXT`). A default that is a type stands for "not given": the value is None unless it
            is given.

    Raises:
        InputError: not `key=value`, an unknown key, a value of the wrong type, a number that is not finite, or a seed
            out of range.
    """
    options = {key: None if isinstance(default, type) else default for key, default in defaults.items()}
    for text in arguments:
        key, separator, value = text.partition("=")
        if not separator or key not in defaults:
            raise InputError(f"unknown argument {text!r}: expected key=value with a key of {', '.join(defaults)}")
        if value == "":
            continue
        default = defaults[key]
        kind = default if isinstance(default, type) else Path if isinstance(default, Path) else type(default)
        options[key] = FROM_TEXT[kind](key, value)
    if "seed" in options:
        require_seed(options["seed"])
    return options


def model_file(options: dict[str, Any]) -> Path:
    """The file that the options in `MODEL` name; see `find_model`. If it is not a finished run's, say so.

    Raises:
        InputError: there is none, or `runs` names a folder that does not exist.
    """
    require(options["stage"] in LOADABLE, "stage", f"one of {', '.join(LOADABLE)}", repr(options["stage"]))
    runs = options["runs"]
    if not options["ckpt"] and runs != MODEL["runs"] and not runs.is_dir():
        raise InputError(f"no folder {runs}: runs= names the one you trained in. Leave it out to use what ships.")
    path = find_model(**{key: options[key] for key in MODEL})
    if not options["ckpt"]:
        say_which_weights(path, runs)
    return path


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

    Args:
        name: of the option.
        text: as it was given.
        example: for the error.

    Raises:
        InputError: not numbers.
    """
    try:
        return [read_number(name, part) for part in text.split()]
    except InputError as error:
        raise InputError(f'{name} must be numbers such as "{example}"; got {text!r}') from error


def sampler_settings(generator: Pipeline, options: dict[str, Any]) -> dict[str, Any]:
    """The settings that the options in `SAMPLER` amount to; see `Pipeline.sampling`."""
    return generator.sampling(**{key: options[key] for key in SAMPLER})


def recorded_command(command: str, arguments: Sequence[str]) -> str:
    """The command line as a results file tells it; of an absolute path, or one in a home folder, only the last part.

    Args:
        command: such as `train` or `study labels`.
        arguments: `key=value` strings, or a stage's name.
    """
    return shlex.join(["spiking-vq", *command.split(), *map(_portable, arguments)])


def _portable(argument: str) -> str:
    key, separator, value = argument.partition("=")
    return key + separator + (Path(value).name if value.startswith("~") or Path(value).is_absolute() else value)


def network_calls(settings: dict[str, Any]) -> int:
    """How often the network is asked for an image: with guidance, with and without the label."""
    return settings["sample_steps"] * (1 if settings.get("guidance", 0) in (0, 1) else 2)


def network_steps(settings: dict[str, Any], T: int) -> int:
    """Spiking steps of the network in all its calls for an image, T in one that is told the label."""
    guiding = network_calls(settings) - settings["sample_steps"]
    return settings["sample_steps"] * T + guiding * (settings.get("guidance_T") or T)


def worth_compiling(num_images: int, settings: dict[str, Any]) -> bool:
    """Whether sampling so many images takes longer than what compiling saves on them, and compiling works."""
    return num_images * network_calls(settings) >= COMPILE_FROM and can_compile()

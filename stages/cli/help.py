"""Help texts, generated from the docstrings and dataclasses of the commands."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields
from importlib.util import find_spec
from pathlib import Path
from textwrap import fill
from types import ModuleType, NoneType
from typing import Annotated, Any, NamedTuple, get_args, get_origin, get_type_hints

from spiking_vq.config.load import DERIVED, group_of
from spiking_vq.fields import FilePath, OneOf, Range

WORDS = ("-h", "--help")
"""Arguments that ask for help."""

POSITIONAL = {"model": "[MODEL]", "file": "FILE"}
"""Option that may be given as a word without its name -> how it is written in the usage; a command has one at most."""

KINDS = {bool: "true|false", int: "integer", float: "number", str: "text", Path: "path", FilePath: "path"}


class Described(NamedTuple):
    """An option of a command or a field of a configuration.

    Attributes:
        name: dotted where it is a field of a group.
        kind: type and range, such as `integer, at least 1`.
        default: as it is typed; empty where the default is None.
        explanation: from the docstring; empty if there is none.
    """

    name: str
    kind: str
    default: str
    explanation: str


def described(cls: type, prefix: str = "") -> Iterator[Described]:
    """Yield the fields of a dataclass, its own before its bases', but for those that training fills in."""
    hints, texts = get_type_hints(cls, include_extras=True), explanations(cls)
    own_first = list(dict.fromkeys(name for base in cls.__mro__ for name in vars(base).get("__annotations__", ())))
    for field in sorted(fields(cls), key=lambda field: own_first.index(field.name)):
        name, group = prefix + field.name, group_of(hints[field.name])
        if name.startswith(DERIVED):
            continue
        if group:
            yield from described(group, f"{name}.")
        else:
            default = field.default if field.default_factory is MISSING else field.default_factory()
            yield Described(name, kind_of(hints[field.name]), as_typed(default), texts.get(field.name, ""))


def explanations(cls: type) -> dict[str, str]:
    """Field -> explanation, from the `Attributes:` sections in the docstrings of a dataclass and its bases."""
    explained = {}
    for base in reversed(cls.__mro__):
        section = inspect.cleandoc(base.__doc__ or "").partition("\nAttributes:\n")[2].partition("\n\n")[0]
        entries = re.findall(r"^    (\w[\w, ]*): (.*(?:\n {8}.*)*)", section, re.MULTILINE)
        explained |= {name: " ".join(words.split()) for names, words in entries for name in names.split(", ")}
    return explained


def kind_of(hint: Any) -> str:
    """Type and range of a field in words."""
    if hint in KINDS:
        return KINDS[hint]
    parts = get_args(hint)
    if get_origin(hint) is Annotated:
        for check in parts[1:]:
            if isinstance(check, OneOf):
                return "|".join(check.names)
            if isinstance(check, Range):
                return f"{kind_of(parts[0])}, {check.expected}"
        return kind_of(parts[0])
    if NoneType in parts:
        return kind_of(next(part for part in parts if part is not NoneType))
    return f"list: {kind_of(parts[0])}"


def as_typed(value: Any) -> str:
    """A default as it would be typed; None is empty."""
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def overview(commands: Mapping[str, str]) -> str:
    """The verbs with a line each.

    Args:
        commands: verb, or verb and name, such as `study labels` -> module.
    """
    modules = {}
    for name, module in commands.items():
        verb, _, second = name.partition(" ")
        modules.setdefault(verb, module.rpartition(".")[0] if second else module)
    lines = "\n".join(f"  {verb:<10}{summary(module)}" for verb, module in modules.items())
    return (
        "spiking-vq VERB [MODEL] [key=value ...]\n\nImage generation with spiking neural networks.\n\n"
        f"{lines}\n\nspiking-vq VERB --help lists the options of a verb."
    )


def group_help(verb: str, commands: Mapping[str, str]) -> str:
    """The names that a verb such as `study` takes, with a line each; see `overview`."""
    named = {name.removeprefix(f"{verb} "): module for name, module in commands.items() if name.startswith(f"{verb} ")}
    width = max(map(len, named)) + 2
    lines = "\n".join(f"  {name:<{width}}{summary(module)}" for name, module in named.items())
    return f"spiking-vq {verb} NAME [key=value ...]\n\n{lines}\n\nspiking-vq {verb} NAME --help lists the options."


def summary(module: str) -> str:
    """First sentence of a module's docstring; the module is not imported, as some take seconds to load."""
    text = ast.get_docstring(ast.parse(Path(find_spec(module).origin).read_text(encoding="utf-8")))
    return re.split(r"(?<=[.?])\s", text)[0]


def command_help(name: str, module: ModuleType, word: str = "") -> str:
    """Usage, purpose, options and an example of a command.

    Args:
        name: such as `sample` or `study labels`.
        module: of the command.
        word: first argument; of a command whose options depend on it, such as `train`.
    """
    options, purpose = module.Options, fill(module.__doc__.partition("\n\n")[0], 100)
    example = f"Example:\n  {module.EXAMPLE}"
    if isinstance(options, Mapping):
        if word not in options:
            usage, more = f"spiking-vq {name}", f"spiking-vq {name} {next(iter(options))} --help lists its options."
            return f"{usage} {'|'.join(options)} [key=value ...]\n\n{purpose}\n\n{more}\n\n{example}"
        name, options = f"{name} {word}", options[word]
        title = "Options, with their defaults; a preset, `base` if none is named, changes some of these"
    else:
        word, title = "", "Options"
    listed = [option for option in described(options) if option.name != "stage" or not word]
    positional = "".join(f" {POSITIONAL[option.name]}" for option in listed if option.name in POSITIONAL)
    lines = "\n".join(
        fill(
            f"{option.explanation.rstrip('.')} [{option.kind}]",
            100,
            initial_indent=f"  {option.name + '=' + option.default:<26}  ",
            subsequent_indent=" " * 30,
        )
        for option in listed
    )
    return f"spiking-vq {name}{positional} [key=value ...]\n\n{purpose}\n\n{title}:\n{lines}\n\n{example}"

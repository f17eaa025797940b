"""Values of options and configuration fields, read from text or checked where they come from a file.

There is one grammar: an integer is decimal digits, so that `010` is 10; a number is finite; text is taken as it is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple, get_args, get_origin

from spiking_vq.errors import InputError, require, require_finite, require_integer, require_seed

INTEGER = r"[-+]?[0-9]+"
NUMBER = r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"
LARGEST_INTEGER = 2**63 - 1
"""torch takes no larger one."""


class Range(NamedTuple):
    """A check of a field, for `typing.Annotated`.

    Attributes:
        expected: what the value must be, for the message.
        holds: whether it is.
    """

    expected: str
    holds: Callable[[Any], bool]

    def __call__(self, name: str, value: Any) -> Any:
        """The value.

        Raises:
            InputError: it is out of range.
        """
        require(self.holds(value), name, self.expected, value)
        return value


def checked_seed(name: str, value: int) -> int:
    """The value, for `typing.Annotated`.

    Raises:
        InputError: it is no seed.
    """
    require_seed(value, name)
    return value


def read_integer(name: str, text: str) -> int:
    """The integer that a text is.

    Raises:
        InputError: it is none, such as `1.5`, `1e3`, `0x10`, `1_000` or `true`, or takes more than 64 bits.
    """
    require(re.fullmatch(INTEGER, text) is not None and len(text) <= 100, name, "an integer", repr(text))
    return integer(name, int(text))


def read_number(name: str, text: str) -> float:
    """The number that a text is.

    Raises:
        InputError: it is none, or not finite.
    """
    is_number = re.fullmatch(NUMBER, text) is not None
    require(is_number and math.isfinite(float(text)), name, "a finite number", repr(text))
    return float(text)


def read_flag(name: str, text: str) -> bool:
    """The truth value that a text is.

    Raises:
        InputError: it is neither `true` nor `false`.
    """
    require(text.lower() in ("true", "false"), name, "true or false", repr(text))
    return text.lower() == "true"


def read_text(name: str, text: str) -> str:
    """The text as it is.

    Raises:
        InputError: it has bytes that are no UTF-8, which no configuration file could hold.
    """
    require(text.encode(errors="ignore").decode() == text, name, "text in UTF-8", repr(text))
    return text


def read_path(name: str, text: str | Path) -> Path:
    """The path that a text is; `~` is the home folder.

    Raises:
        InputError: it begins with the `~` of an unknown user, or no file can have this path: a name may be too long.
    """
    require("\0" not in str(text), name, "a path without NUL", repr(str(text)))
    try:
        path = Path(text).expanduser()
        path.exists()
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{name}={text} is no path that can be used ({reason}): give the whole path") from None
    return path


def expanded(name: str, text: str) -> str:
    """`read_path` as text, for `typing.Annotated`."""
    return str(read_path(name, text))


def integer(name: str, value: Any) -> int:
    """The value as an int.

    Raises:
        InputError: it is no integer, or takes more than 64 bits.
    """
    require_integer(name, value, -LARGEST_INTEGER - 1, LARGEST_INTEGER)
    return int(value)


def number(name: str, value: Any) -> float:
    """The value as a float.

    Raises:
        InputError: it is no number, or not finite.
    """
    require_finite(name, value)
    return float(value)


def _instance(kind: type, expected: str) -> Callable[[str, Any], Any]:
    def checked(name: str, value: Any) -> Any:
        require(isinstance(value, kind), name, expected, repr(value))
        return value

    return checked


def _listed(name: str, text: str) -> list[str]:
    listed = re.fullmatch(r"\[(.*)\]", text)
    require(listed is not None, name, "a list such as [32, 64]", repr(text))
    return [item.strip() for item in listed[1].split(",")] if listed[1].strip() else []


FROM_TEXT = {
    int: read_integer,
    float: read_number,
    bool: read_flag,
    str: read_text,
    Path: read_path,
    list: _listed,
    NoneType: lambda text: text == "null",
}
"""Type -> how a value of it is read from the text of a `key=value` argument."""

FROM_FILE = {
    int: integer,
    float: number,
    bool: _instance(bool, "true or false"),
    str: _instance(str, "text (quote it)"),
    list: _instance(list | tuple, "a list such as [32, 64]"),
    NoneType: lambda value: value is None,
}
"""Type -> how a value of it is checked that YAML or JSON has read."""


def value_of(name: str, given: Any, hint: Any, readers: Mapping[type, Callable[..., Any]]) -> Any:
    """The value of a field.

    Args:
        name: of the field, for the message.
        given: text, or what a file holds.
        hint: type of the field: int, float, bool, str, a list of these, or one of these or None; where it is
            `Annotated`, the annotations are called with name and value.
        readers: `FROM_TEXT` or `FROM_FILE`.

    Raises:
        InputError: `given` is of another type, or out of range.
    """
    parts = get_args(hint)
    if hasattr(hint, "__metadata__"):
        value = value_of(name, given, hint.__origin__, readers)
        for check in hint.__metadata__:
            value = check(name, value)
        return value
    if NoneType in parts:
        (kind,) = (part for part in parts if part is not NoneType)
        return None if readers[NoneType](given) else value_of(name, given, kind, readers)
    if get_origin(hint) is list:
        return [value_of(name, item, parts[0], readers) for item in readers[list](name, given)]
    return readers[hint](name, given)

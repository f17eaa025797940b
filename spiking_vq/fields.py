"""Types and ranges of the fields of dataclasses, from their annotations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from types import NoneType
from typing import Annotated, Any, NamedTuple, get_args, get_origin, get_type_hints

from spiking_vq.errors import require, require_finite, require_integer, require_one_of, require_seed
from spiking_vq.files import read_path

LARGEST_INTEGER = 2**63 - 1
"""The largest integer of torch."""


class Range(NamedTuple):
    """A check for `typing.Annotated`: the value satisfies a condition.

    Attributes:
        expected: the condition in words, for the message.
        holds: the condition.
    """

    expected: str
    holds: Callable[[Any], bool]

    def __call__(self, name: str, value: Any) -> Any:
        """Return the value of the field `name`.

        Raises:
            InputError: it is out of range.
        """
        require(self.holds(value), name, self.expected, value)
        return value


class OneOf(NamedTuple):
    """A check for `typing.Annotated`: the value is one of these names."""

    names: tuple[str, ...]

    def __call__(self, name: str, value: str) -> str:
        """Return the value of the field `name`.

        Raises:
            InputError: it is another name.
        """
        require_one_of(name, value, self.names)
        return value


def checked_seed(name: str, value: int) -> int:
    """Return a seed, for `typing.Annotated`.

    Raises:
        InputError: the value is not a seed.
    """
    require_seed(value, name)
    return value


def expanded(name: str, text: str) -> str:
    """Return `read_path` of a text as text, for `typing.Annotated`."""
    return str(read_path(name, text))


AT_MOST = Range("at most 2^31 - 1", lambda value: value < 2**31)

Count = Annotated[int, Range("at least 1", lambda value: value >= 1), AT_MOST]
Natural = Annotated[int, Range("at least 0", lambda value: value >= 0), AT_MOST]
Bits = Annotated[int, Range("in 1..16", lambda value: 1 <= value <= 16)]
WeightBits = Annotated[int, Range("in 2..8", lambda value: 2 <= value <= 8)]
Seed = Annotated[int, checked_seed]
Positive = Annotated[float, Range("greater than 0", lambda value: value > 0)]
NonNegative = Annotated[float, Range("at least 0", lambda value: value >= 0)]
Share = Annotated[float, Range("in [0, 1]", lambda value: 0 <= value <= 1)]
PositiveShare = Annotated[float, Range("in (0, 1]", lambda value: 0 < value <= 1)]
ProperShare = Annotated[float, Range("between 0 and 1", lambda value: 0 < value < 1)]
Decay = Annotated[float, Range("in [0, 1)", lambda value: 0 <= value < 1)]
FilePath = Annotated[str, expanded]


def integer(name: str, value: Any) -> int:
    """Return the value as an int.

    Raises:
        InputError: it is not an integer, or takes more than 64 bits.
    """
    require_integer(name, value, -LARGEST_INTEGER - 1, LARGEST_INTEGER)
    return int(value)


def number(name: str, value: Any) -> float:
    """Return the value as a float.

    Raises:
        InputError: it is not a number, or not finite.
    """
    require_finite(name, value)
    return float(value)


def _instance(kind: type, expected: str) -> Callable[[str, Any], Any]:
    def checked(name: str, value: Any) -> Any:
        require(isinstance(value, kind), name, expected, repr(value))
        return value

    return checked


FROM_FILE = {
    int: integer,
    float: number,
    bool: _instance(bool, "true or false"),
    str: _instance(str, "text (quote it)"),
    list: _instance(list | tuple, "a list such as [32, 64]"),
    NoneType: lambda value: value is None,
}
"""Type -> reader of a value from YAML, JSON or Python."""


def value_of(name: str, given: Any, hint: Any, readers: Mapping[type, Callable[..., Any]]) -> Any:
    """Return the value of a field.

    Args:
        name: of the field, for the message.
        given: text, or a value from YAML, JSON or Python.
        hint: type of the field: int, float, bool, str, a list of these, or one of these or None; the annotations of an
            `Annotated` type are called with name and value.
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


def check_fields(instance: Any) -> None:
    """Convert every field of a dataclass to its type and check its range; for `__post_init__`.

    Fields that are dataclasses check themselves.

    Raises:
        InputError: a value of another type, or out of range; the message names the field.
    """
    for name, hint in _hints(type(instance)).items():
        value = getattr(instance, name)
        if not any(is_dataclass(part) for part in (hint, *get_args(hint))):
            object.__setattr__(instance, name, value_of(name, value, hint, FROM_FILE))


@cache
def _hints(cls: type) -> dict[str, Any]:
    """Field -> its type, annotations included."""
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in fields(cls)}

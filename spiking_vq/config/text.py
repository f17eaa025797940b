"""Values of options and configuration fields, read from text.

An integer is decimal digits, so that `010` is 10; a number is finite; text is taken literally.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from types import NoneType

from spiking_vq.errors import require
from spiking_vq.fields import integer
from spiking_vq.files import read_path

INTEGER = r"[-+]?[0-9]+"

NUMBER = r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"


def read_integer(name: str, text: str) -> int:
    """Read an integer.

    Raises:
        InputError: the text is not one, such as `1.5`, `1e3`, `0x10`, `1_000` or `true`, or takes more than 64 bits.
    """
    require(re.fullmatch(INTEGER, text) is not None and len(text) <= 100, name, "an integer", repr(text))
    return integer(name, int(text))


def read_number(name: str, text: str) -> float:
    """Read a number.

    Raises:
        InputError: the text is not one, or it is not finite.
    """
    is_number = re.fullmatch(NUMBER, text) is not None
    require(is_number and math.isfinite(float(text)), name, "a finite number", repr(text))
    return float(text)


def read_flag(name: str, text: str) -> bool:
    """Read a truth value.

    Raises:
        InputError: the text is neither `true` nor `false`.
    """
    require(text.lower() in ("true", "false"), name, "true or false", repr(text))
    return text.lower() == "true"


def read_text(name: str, text: str) -> str:
    """Return the text.

    Raises:
        InputError: it has bytes that are not UTF-8, which no configuration file could hold.
    """
    require(text.encode(errors="ignore").decode() == text, name, "text in UTF-8", repr(text))
    return text


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
"""Type -> reader of a value from the text of a `key=value` argument."""

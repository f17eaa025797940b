"""The error of wrong input, and the checks that raise it."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable

LARGEST_SEED = 2**32 - 1
"""The largest seed of NumPy, whose generators Lightning seeds too."""


class InputError(ValueError):
    """Input that cannot be used.

    The message names what was expected and what was given, and says what to do about it. Commands print it without a
    traceback and exit with code 2.
    """


def require(holds: bool, name: str, expected: str, got: object) -> None:
    """Raise `InputError("<name> must be <expected>; got <got>")` unless the condition holds."""
    if not holds:
        raise InputError(f"{name} must be {expected}; got {got}")


def require_multiples(height: int, width: int, divisor: int, reason: str, options: str) -> None:
    """Raise `InputError` unless an image's height and width are multiples of `divisor`; it names the nearest sizes.

    Args:
        height, width: in pixels.
        divisor: at least 1.
        reason: why they have to be, for the message.
        options: other options that would change the divisor.
    """
    if height % divisor == 0 and width % divisor == 0:
        return
    below = min(height, width) // divisor * divisor
    near = " or ".join(str(size) for size in (below, below + divisor) if size)
    raise InputError(
        f"image height and width must be multiples of {divisor}, as {reason}; got {height}x{width}: set"
        f" image_size={near}, or other {options}"
    )


def require_one_of(name: str, value: object, names: Iterable[str]) -> None:
    """Raise `InputError` unless the value is one of the names."""
    names = list(names)
    require(value in names, name, f"one of {', '.join(names)}", repr(value))


def require_integer(name: str, value: object, least: int, most: int | None = None) -> None:
    """Raise `InputError` unless the value is an integer of Python or NumPy in `least..most`.

    A bool, a float such as 2.0, and text are not integers.

    Args:
        name: of the value, for the message.
        value: to check.
        least: smallest allowed value.
        most: largest allowed value; None (default) for no limit.
    """
    _require_integral(name, value)
    expected = f"at least {least}" if most is None else f"in {least}..{most}"
    require(value >= least and (most is None or value <= most), name, expected, value)


def require_seed(value: object, name: str = "seed") -> None:
    """Raise `InputError` unless the value is a seed, an integer in 0..`LARGEST_SEED`."""
    _require_integral(name, value)
    require(0 <= value <= LARGEST_SEED, name, "in 0..2^32 - 1", value)


def require_finite(name: str, value: object) -> None:
    """Raise `InputError` unless the value is a finite real number of Python or NumPy; a bool is not one."""
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    try:
        holds = is_number and math.isfinite(value)
    except OverflowError:  # an integer beyond the largest float
        holds = False
    require(holds, name, "a finite number", repr(value))


def require_unit_range(name: str, images: object, given: object = None) -> None:
    """Raise `InputError` unless `images` is a floating-point torch tensor with finite values in [0, 1].

    Args:
        name: of the images, for the message.
        images: to check; a tensor without elements passes.
        given: the caller's own images, for the message to describe; None (default) for `images`.
    """
    if not hasattr(images, "is_floating_point") or not images.is_floating_point():
        raise InputError(f"{name} must be a floating-point torch tensor with values in [0, 1]; got {described(images)}")
    if not images.numel():
        return
    lowest, highest = (bound.item() for bound in images.aminmax())
    if not 0 <= lowest <= highest <= 1:  # false for NaN
        raise InputError(
            f"{name} must be finite and in [0, 1]; got {described(images if given is None else given)} with values from"
            f" {lowest} to {highest}."
            " Divide levels 0..255 by 255; replace x in [-1, 1] by (x + 1) / 2."
        )


def described(value: object) -> str:
    """Type and shape of an argument, such as `torch.uint8 [2, 1, 28, 28]` or `numpy.float64 [28, 28]`."""
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        library = type(value).__module__.partition(".")[0]
        return f"{library}.{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    if hasattr(value, "mode") and hasattr(value, "size"):
        width, height = value.size
        return f"a PIL image of mode {value.mode}, {height} x {width} pixels"
    return f"an object of type {type(value).__name__}"


def _require_integral(name: str, value: object) -> None:
    is_integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    require(is_integer, name, "an integer", repr(value))

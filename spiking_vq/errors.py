"""The one error a person can cause and can mend, and the checks that raise it."""

from __future__ import annotations

import math
import numbers

LARGEST_SEED = 2**32 - 1
"""NumPy's generators, which Lightning seeds too, take no larger one."""


class InputError(ValueError):
    """What was given cannot be used.

    The message says what was expected, what came, and what to do about it.
    Commands print it without a traceback and exit with code 2.
    """


def require(holds: bool, name: str, expected: str, got: object) -> None:
    """Raise `InputError("<name> must be <expected>; got <got>")` unless the condition holds."""
    if not holds:
        raise InputError(f"{name} must be {expected}; got {got}")


def require_integer(name: str, value: object, least: int, most: int | None = None) -> None:
    """Raise `InputError` unless the value is an integer of Python or NumPy in `least..most`.

    A bool, a float such as 2.0, and text are no integers.

    Args:
        name: of the value, for the message.
        value: to check.
        least: smallest allowed value.
        most: largest allowed value; None for no limit.
    """
    _require_integral(name, value)
    expected = f"at least {least}" if most is None else f"in {least}..{most}"
    require(value >= least and (most is None or value <= most), name, expected, value)


def require_seed(value: object, name: str = "seed") -> None:
    """Raise `InputError` unless the value is a seed, an integer in 0..`LARGEST_SEED`."""
    _require_integral(name, value)
    require(0 <= value <= LARGEST_SEED, name, "in 0..2^32 - 1", value)


def require_finite(name: str, value: object) -> None:
    """Raise `InputError` unless the value is a finite real number of Python or NumPy; a bool is none."""
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
        given: the caller's own images, which the message describes; None for `images`.
    """
    if not hasattr(images, "is_floating_point") or not images.is_floating_point():
        raise InputError(f"{name} must be a floating-point torch tensor with values in [0, 1]; got {described(images)}")
    if not images.numel():
        return
    lowest, highest = (bound.item() for bound in images.aminmax())
    if not 0 <= lowest <= highest <= 1:  # nor is NaN
        raise InputError(
            f"{name} must be finite and in [0, 1]; got {described(images if given is None else given)} with values from"
            f" {lowest} to {highest}."
            " Divide levels 0..255 by 255; of x in [-1, 1] take (x + 1) / 2."
        )


def described(value: object) -> str:
    """Type and shape of what a caller passed, such as `torch.uint8 [2, 1, 28, 28]`, `numpy.float64 [28, 28]`."""
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

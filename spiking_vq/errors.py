"""The one error a person can cause and can mend."""


class InputError(ValueError):
    """What was given cannot be used.

    The message says what was expected, what came, and what to do about it.
    Commands print it without a traceback and exit with code 2.
    """


def require(holds: bool, name: str, expected: str, got: object) -> None:
    """Raise `InputError("<name> must be <expected>; got <got>")` unless the condition holds."""
    if not holds:
        raise InputError(f"{name} must be {expected}; got {got}")

"""The one error a person can cause and can mend."""


class InputError(ValueError):
    """What was given cannot be used.

    The message says what was expected, what came, and what to do about it.
    Commands print it without a traceback and exit with code 2.
    """

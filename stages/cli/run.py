"""Running a command: a person's mistakes become a message and exit code 2."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable

from spiking_vq.errors import InputError
from spiking_vq.files import NO_SPACE
from spiking_vq.runtime.memory import keep_freed_memory


def quiet_warnings() -> None:
    """Keep warnings and notices of other libraries, which a user cannot act on, off the screen.

    `PYTHONWARNINGS=default` shows them.
    """
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)


def run_command(main: Callable[[list[str]], None]) -> None:
    """Run `main` on the command line's arguments.

    The exit code is 0; 2 for an `InputError` and a full disk, which are printed without a traceback; 130 for Ctrl-C.
    """
    keep_freed_memory()
    for stream in (sys.stdout, sys.stderr):  # the name of a file need not be printable; logs show lines as they come
        stream.reconfigure(errors="backslashreplace", line_buffering=True)
    try:
        main(sys.argv[1:])
        sys.stdout.flush()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # the reader has seen enough, such as `| head`
        _drop_output()
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        print(f"error: cannot write: {error.strerror}. Free some space.", file=sys.stderr)
        _drop_output()
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)


def _drop_output() -> None:
    """Let Python's last flush, at exit, succeed."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

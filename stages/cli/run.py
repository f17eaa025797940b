"""Running a command: a person's mistakes become a message and exit code 2."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from spiking_vq.errors import InputError
from spiking_vq.files import NO_SPACE
from spiking_vq.runtime.memory import keep_freed_memory


def run_command(main: Callable[[list[str]], None]) -> None:
    """Run `main` on the command line's arguments; an `InputError` is printed without a traceback, exit code 2.

    So is a full disk, under what is printed. Ctrl-C exits with 130, as shells expect.
    """
    keep_freed_memory()
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # a file's name need not be text that can be printed
    try:
        main(sys.argv[1:])
        sys.stdout.flush()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        print(f"error: cannot write: {error.strerror}. Free some space.", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more when it exits
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)

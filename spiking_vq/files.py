"""Files: paths from users, SHA-256, strict JSON, and writing whole or not at all."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from errno import EDQUOT, EFBIG, ENOSPC
from pathlib import Path
from typing import Any

from spiking_vq.errors import InputError, require

NO_SPACE = (ENOSPC, EDQUOT, EFBIG)
"""Error numbers of a full disk, of an exhausted quota, and of a file beyond the largest size."""

PROBE = bytes(2**20)
"""Enough bytes to fail on a full disk, on which a failed serializer may have left a few free blocks."""


def read_path(name: str, text: str | Path) -> Path:
    """The path of a user's text; `~` is the home folder.

    Args:
        name: of the option, for the message.
        text: the path.

    Raises:
        InputError: the path begins with the `~` of an unknown user, holds NUL, or is too long for a file's name.
    """
    require("\0" not in str(text), name, "a path without NUL", repr(str(text)))
    try:
        path = Path(text).expanduser()
        path.exists()
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{name}={text} is no path that can be used ({reason}): give the whole path") from None
    return path


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def json_text(content: Any) -> str:
    """`content` as indented JSON with a line break at the end.

    Raises:
        InputError: a number is NaN or infinite, which JSON cannot express; the message names it.
    """
    if names := list(_not_finite(content)):
        raise InputError(f"a report must hold finite numbers only; not finite: {', '.join(names)}")
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path next to `path`, which replaces `path`, synced to disk, when the block ends without error.

    The temporary file lies in the same folder because only a rename within one file system is atomic.

    Raises:
        InputError: the folder cannot be written to, or has no space left; `path` is as it was.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"cannot write {path}: it is a folder. Choose another path, or remove it.")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        mode = temporary.stat().st_mode
    except OSError as error:
        raise cannot_write(path, error) from error
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(mode)  # safetensors makes a file that only its owner can read
        temporary.replace(path)
    except Exception as error:
        if (reason := _refusal(temporary, error)) is None:
            raise
        raise cannot_write(path, reason) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def cannot_write(path: str | Path, reason: OSError) -> InputError:
    """The error for a file or folder that the operating system refuses to write."""
    text = reason.strerror or str(reason)
    text = text[:1].lower() + text[1:]
    if reason.errno not in NO_SPACE:
        return InputError(f"cannot write {path}: {text}. Choose a folder you can write to.")
    untouched = " The file that stood there is untouched." if Path(path).is_file() else ""
    return InputError(f"cannot write {path}: {text}. Free some space, or choose another folder.{untouched}")


def require_writable(folder: str | Path) -> None:
    """Raise `InputError` unless `folder` can be written to or created. Writes nothing, so misses a full disk."""
    folder = Path(folder)
    nearest = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not nearest.is_dir():
        raise InputError(f"cannot write {folder}: {nearest} is not a folder. Choose a folder you can write to.")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise InputError(f"cannot write {folder}: permission denied. Choose a folder you can write to.")


def _refusal(temporary: Path, error: Exception) -> OSError | None:
    """The operating system's reason not to write `temporary`, if that is the cause of `error`.

    torch and safetensors wrap the operating system's error, NumPy and Pillow drop its number; a probe finds it again.
    """
    if isinstance(error, OSError) and error.errno is not None:
        if str(error.filename) == str(temporary):
            return error
        if error.errno not in NO_SPACE:
            return None
    try:
        with temporary.open("rb+") as file:
            file.seek(0, os.SEEK_END)
            file.write(PROBE)
            file.flush()
            os.fsync(file.fileno())
    except OSError as refused:
        return refused
    return None


def _not_finite(content: Any, name: str = "") -> Iterator[str]:
    """`name = value` for each NaN or infinite number in nested dicts and lists."""
    if isinstance(content, float) and not math.isfinite(content):
        yield f"{name or 'the value'} = {content}"
    elif isinstance(content, dict):
        for key, value in content.items():
            yield from _not_finite(value, f"{name}.{key}" if name else str(key))
    elif isinstance(content, list | tuple):
        for index, value in enumerate(content):
            yield from _not_finite(value, f"{name}[{index}]")

"""Arrays on disk that could be computed again."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from spiking_vq.errors import InputError
from spiking_vq.files import atomic_write


class ArrayCache:
    """Arrays kept in a folder, which may be deleted at any time.

    If the folder cannot be written to, nothing is kept, and a message is printed once.

    Args:
        folder: of the files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writable = True

    def load(self, name: str) -> np.ndarray | None:
        """The array of a name; None if there is none or its file is damaged."""
        try:
            return np.load(self.folder / f"{name}.npy")
        except (OSError, ValueError, EOFError):
            return None

    def save(self, name: str, array: np.ndarray) -> None:
        """Keep an array under a name, where possible."""
        if not self._writable:
            return
        try:
            with atomic_write(self.folder / f"{name}.npy") as temporary, temporary.open("wb") as file:
                np.save(file, array)
        except InputError as error:
            self._writable = False
            print(f"going on without a cache: {error}")

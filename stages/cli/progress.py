"""Progress bars: on a terminal, of the first of several processes."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

from spiking_vq.runtime.distributed import rank


def progress(items: Iterable[Any] | None = None, *, title: str, total: int | None = None, unit: str = "image") -> tqdm:
    """A bar over `items`, or over `total` units that its `update` counts; invisible where stderr is no terminal."""
    return tqdm(items, total=total, desc=title, unit=unit, disable=not sys.stderr.isatty() or rank() > 0)

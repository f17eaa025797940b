"""Memory: images computed at once, and freed memory that the process keeps."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence

_SMALL, _PIXELS = 32 * 32, 64 * 32 * 32

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # glibc's malloc.h


def images_at_once(most: int, image_shape: Sequence[int]) -> int:
    """Images [C, H, W] to compute at once: `most` of up to 32 x 32 pixels, of larger ones 64 such images' pixels."""
    pixels = image_shape[-2] * image_shape[-1]
    return most if pixels <= _SMALL else max(1, min(most, _PIXELS // pixels))


def keep_freed_memory() -> bool:
    """Tell the C library to keep freed memory; returns whether it does.

    glibc maps every tensor above 32 MB anew and unmaps it when freed, and the kernel clears each page at its first use,
    a large part of a training step at T = 16. In exchange the process never shrinks. Without glibc this does nothing.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, -1))

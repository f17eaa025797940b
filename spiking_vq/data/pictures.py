"""Picture files of any usual kind as uint8 tensors of the wanted size and channels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageColor, ImageOps
from torch import Tensor

from spiking_vq.data.levels import resize, to_unit
from spiking_vq.errors import InputError, require, require_one_of

RESIZES = ("crop", "stretch")
"""Ways to a square: the shorter side is resized and the middle cropped, or both sides are resized."""

SUFFIXES = frozenset(Image.registered_extensions()) - {".pdf", ".eps", ".ps", ".wmf", ".emf", ".mpg", ".mpeg", ".hdf"}
"""Suffixes of picture files, in lower case: those that Pillow reads, without documents and films."""

_GREY = ("1", "L", "LA", "La", "I", "F", "I;16", "I;16L", "I;16B", "I;16N")


class Wanted(NamedTuple):
    """How pictures are read.

    Attributes:
        image_size: side in pixels of the square to which they are resized; None (default) keeps their size.
        channels: 1 for grey or 3 for colour; None (default) is what most of the pictures have.
        resize: one of `RESIZES`, where an `image_size` is given.
        background: colour behind transparent pixels: a name such as `black` (default), or `#rrggbb`.
        skip_broken: leave out files that cannot be read; false (default) is an error that names them.
    """

    image_size: int | None = None
    channels: int | None = None
    resize: str = "crop"
    background: str = "black"
    skip_broken: bool = False

    def checked(self) -> Wanted:
        """These options.

        Raises:
            InputError: one is out of range.
        """
        size, channels = self.image_size, self.channels
        require(size is None or size >= 1, "image_size", "at least 1 pixel", size)
        require(channels in (None, 1, 3), "channels", "1 for grey or 3 for colour", channels)
        require_one_of("resize", self.resize, RESIZES)
        colour_of(self.background)
        return self


def colour_of(name: str) -> tuple[int, int, int]:
    """Levels (R, G, B) of a colour, by a name such as `white`, or `#rrggbb`.

    Raises:
        InputError: there is no such colour.
    """
    try:
        return ImageColor.getrgb(name)[:3]
    except ValueError:
        raise InputError(f"background must be a colour such as black, white or #20a0ff; got {name!r}") from None


def has_colour(path: Path) -> bool:
    """Whether the file of a picture is of a kind that holds colour. A palette holds colour unless all of it is grey.

    Raises:
        Exception: Pillow's, of any type, where the file is no picture.
    """
    with Image.open(path) as image:
        if image.mode in ("P", "PA"):
            entries = np.array(image.getpalette("RGB") or [0, 0, 0]).reshape(-1, 3)
            return bool((entries != entries[:, :1]).any())
        return image.mode not in _GREY


def read_picture(
    source: Path | BinaryIO, channels: int, background: str = "black", formats: Sequence[str] | None = None
) -> Tensor:
    """A picture of any mode as uint8 [channels, H, W]: its first frame, turned as its EXIF orientation says.

    A 16-bit level v is `round(v / 257)`, as in `spiking_vq.data.images`; transparent pixels are composited on the
    background; grey becomes colour by repetition, and colour grey by its luma (ITU-R BT.601, as Pillow's `L`).

    Args:
        source: a file.
        channels: 1 for grey or 3 for colour.
        background: a name such as `black` (default), or `#rrggbb`.
        formats: Pillow's names of the formats that are read; None (default) for all.

    Raises:
        InputError: the levels of a picture of 32-bit numbers are not those of a picture.
        Exception: Pillow's, of any type, where the file is broken.
    """
    with Image.open(source, formats=formats) as image:
        image.seek(0)
        image.load()
        image = ImageOps.exif_transpose(image)
        if image.mode in ("I", "F", "I;16", "I;16L", "I;16B", "I;16N"):
            return _of_array(_levels_of_numbers(image, getattr(source, "name", "the picture")), channels)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            under = Image.new("RGBA", image.size, (*colour_of(background), 255))
            image = Image.alpha_composite(under, image)
        return _of_array(np.asarray(image.convert("L" if channels == 1 else "RGB")), channels)


def fitted(image: Tensor, wanted: Wanted) -> Tensor:
    """A picture uint8 [C, H, W] at the wanted size."""
    size = wanted.image_size
    return image if size is None else resized(image, (size, size), wanted.resize)


def resized(image: Tensor, size: Sequence[int], way: str = "crop") -> Tensor:
    """A picture uint8 [C, H, W] as [C, h, w] of a size (h, w): bilinear, antialiased.

    Args:
        image: the picture.
        size: (h, w).
        way: `crop` (default) resizes until the picture covers the size, and takes the middle; `stretch` resizes both
            sides.
    """
    (height, width), (h, w) = image.shape[1:], size
    if (height, width) == (h, w):
        return image
    scale = max(h / height, w / width)
    covering = (max(h, round(height * scale)), max(w, round(width * scale))) if way == "crop" else (h, w)
    top, left = (covering[0] - h) // 2, (covering[1] - w) // 2
    return resize(to_unit(image).unsqueeze(0), covering)[0, :, top : top + h, left : left + w]


def with_channels(images: Tensor, channels: int) -> Tensor:
    """uint8 images [N, C, H, W] of 1 or 3 channels as those of `channels`; colour becomes grey by its luma."""
    if images.shape[1] == channels:
        return images
    if channels == 3:
        return images.expand(-1, 3, -1, -1)
    red, green, blue = images.int().unbind(1)
    return ((19595 * red + 38470 * green + 7471 * blue + 2**15) >> 16).to(torch.uint8).unsqueeze(1)  # as Pillow's L


def _levels_of_numbers(image: Image.Image, name: str) -> np.ndarray:
    """Levels uint8 [H, W] of a grey picture of 16-bit numbers, which Pillow may hold in 32 bits."""
    values = np.asarray(image)
    lowest, highest = values.min(), values.max()
    # 32-bit numbers up to 255 are levels that a program wrote so, not a black picture
    if image.mode == "F" or lowest < 0 or highest > 65535 or (image.mode == "I" and 0 < highest <= 255):
        kind = "floating-point" if image.mode == "F" else "32-bit"
        raise InputError(
            f"{name} has {kind} levels from {lowest:g} to {highest:g}, and 0..65535 are black to white in so many"
            " bits: save it with 8 or 16 bits"
        )
    return ((values.astype(np.int64) + 128) // 257).astype(np.uint8)  # 257 is odd: v / 257 rounded


def _of_array(levels: np.ndarray, channels: int) -> Tensor:
    """uint8 [channels, H, W] of levels [H, W] or [H, W, 3]."""
    image = torch.from_numpy(np.array(np.atleast_3d(levels))).permute(2, 0, 1)
    return image.expand(channels, -1, -1).contiguous()

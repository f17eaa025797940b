"""Completion of a picture: reading an upload, erasing positions of the token grid, and generating these anew."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from spiking_vq.data.images import as_uint8_images
from spiking_vq.data.pictures import read_picture, resized
from spiking_vq.errors import InputError, require_one_of, require_seed
from spiking_vq.pipelines.base import Pipeline, Samples
from stages.app.models import completes, settings

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""Formats of uploads."""

MOST_BYTES, MOST_PIXELS = 10 * 2**20, 50_000_000
"""Size of an upload at most."""

COMPLETIONS = 9
"""Completions of a picture: they take as long as one, since images are computed 64 at once."""

PIXELS_ONLY = "This model makes pixels, not tokens, and cannot complete a picture: choose another model."

PARTS: dict[str, Callable[[float, float], bool]] = {
    "upper half": lambda y, x: y < 0.5,
    "lower half": lambda y, x: y > 0.5,
    "left half": lambda y, x: x < 0.5,
    "right half": lambda y, x: x > 0.5,
    "middle": lambda y, x: abs(y - 0.5) < 0.25 and abs(x - 0.5) < 0.25,
    "nothing": lambda y, x: False,
}
"""Part of a picture -> whether a position is in it, by its middle in [0, 1]."""


class Upload(NamedTuple):
    """A picture that a model can complete.

    Attributes:
        image: uint8 [C, H, W].
        changes: what was done to the given one, in words; empty for nothing.
    """

    image: Tensor
    changes: str


def read_upload(content: bytes, pipeline: Pipeline) -> Upload:
    """Convert a picture of any usual format to the size and the channels of a model's images.

    Transparent pixels become black. A grey picture with a bright border is inverted, since the data sets in grey have
    bright ink on black.

    Raises:
        InputError: it is too large, no picture, or damaged.
    """
    if len(content) > MOST_BYTES:
        raise InputError(f"the file must have at most {MOST_BYTES // 2**20} MB; got {len(content) / 2**20:.1f} MB")
    channels, *size = pipeline.model.vq_svae.image_shape
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as opened:
            if opened.width * opened.height > MOST_PIXELS:
                raise InputError(f"a picture must have at most {MOST_PIXELS // 10**6} million pixels")
        picture = read_picture(io.BytesIO(content), channels, formats=FORMATS)
    except InputError:
        raise
    except Exception as error:  # damaged files make the parsers raise anything
        raise InputError(f"this is no picture that can be read ({', '.join(FORMATS)})") from error
    changes, (height, width) = [], picture.shape[1:]
    if width * size[0] != height * size[1]:
        changes.append("cropped")
    if (height, width) != tuple(size):
        changes.append(f"resized to {size[1]} x {size[0]} pixels")
    image = resized(picture, size)
    if channels == 1 and _border(image).float().mean() > 127:
        image = 255 - image
        changes.append("inverted, as the data have bright ink on black")
    return Upload(image, " and ".join(changes))


def _border(images: Tensor) -> Tensor:
    """Pixels at the edge of images [..., H, W]."""
    sides = (images[..., 0, :], images[..., -1, :], images[..., 0], images[..., -1])
    return torch.cat([side.flatten() for side in sides])


def part(name: str, pipeline: Pipeline) -> str:
    """A part of a picture as the page writes erased positions: a `1` for each of them, a `0` for others, row by row.

    Raises:
        InputError: there is no such part.
    """
    require_one_of("the part", name, PARTS)
    height, width = pipeline.model.vq_svae.grid
    middles = [((row + 0.5) / height, (column + 0.5) / width) for row in range(height) for column in range(width)]
    return "".join("1" if PARTS[name](*middle) else "0" for middle in middles)


def kept(erased: Any, grid: tuple[int, int]) -> Tensor:
    """Positions that stay, bool [h, w], of those erased, see `part`.

    Raises:
        InputError: another text, or nothing is erased.
    """
    height, width = grid
    if not isinstance(erased, str) or len(erased) != height * width or not set(erased) <= {"0", "1"}:
        raise InputError("choose a picture first: generate one, or upload one")
    if "1" not in erased:
        raise InputError("erase a part of the picture first: drag over it, or choose a half")
    return torch.tensor([cell == "0" for cell in erased]).view(height, width)


def complete(pipeline: Pipeline, image: Tensor | None, erased: Any, seed: int, given: dict[str, Any]) -> Samples:
    """Complete a picture in several ways.

    Args:
        pipeline: of the model.
        image: uint8 [C, H, W]; None for none.
        erased: see `part`.
        seed: of the completions.
        given: see `models.settings`; without a label, completions are unconditional.

    Raises:
        InputError: no picture, nothing erased, a value out of range, or a model without tokens.
    """
    if not completes(pipeline):
        raise InputError(PIXELS_ONLY)
    keep, shape = kept(erased, pipeline.model.vq_svae.grid), pipeline.model.vq_svae.image_shape
    if image is None:
        raise InputError("choose a picture first: generate one, or upload one")
    require_seed(seed)
    images = as_uint8_images(image, shape).expand(COMPLETIONS, -1, -1, -1)
    return pipeline.inpaint(images, keep, seed, **settings(pipeline, given))

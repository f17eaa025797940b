"""Users' images, from PNG files, NumPy arrays, PIL images and tensors, as uint8 tensors: exactly or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from spiking_vq.data.levels import to_uint8
from spiking_vq.errors import InputError, described, require, require_one_of, require_unit_range

BACKGROUNDS = {"black": 0, "white": 255}
"""Name of a background -> its level. Grey data sets show white ink on black."""

_16_BIT_GREY = ("I", "I;16", "I;16L", "I;16B", "I;16N")

_STEPS = {"L;2": 85, "L;4": 17}
"""Raw mode of grey in fewer than 8 bits -> levels 0..255 a step; Pillow gives the transparent level in such steps."""


class ReadImages(NamedTuple):
    """Images of several files.

    Attributes:
        images: uint8 [n, C, H, W].
        composited: number of images with transparent pixels, composited on the background.
    """

    images: Tensor
    composited: int


def list_png_files(folder: str | Path) -> list[Path]:
    """The PNG files of a folder in order of their names: suffix `.png` in any case, no leading dot.

    Raises:
        InputError: there is no such folder, or it cannot be listed.
    """
    folder = Path(folder)
    require(not folder.is_file(), "the folder of images", "a folder", f"the file {folder}")
    try:
        paths = list(folder.iterdir())
    except OSError as error:
        raise InputError(f"cannot read the folder of images {folder}: {error.strerror}") from error
    return sorted(
        path for path in paths if path.suffix.lower() == ".png" and not path.name.startswith(".") and not path.is_dir()
    )


def read_images(paths: Iterable[Path], channels: int, background: str = "black") -> ReadImages:
    """Read PNG files of one size.

    Grey (up to 16 bits), palettes and colour (8 bits) are exact; a 16-bit level v is `round(v / 257)`. Transparent
    pixels are composited on the background. Grey becomes colour by repetition; colour becomes grey where R = G = B.
    Any other conversion would lose something and is refused: colour to grey, 16 bits of colour, several frames.

    Args:
        paths: of the files, at least one.
        channels: 1 for grey, 3 for colour.
        background: one of `BACKGROUNDS`, under transparent pixels; default black.

    Raises:
        InputError: a file is damaged, is no PNG, or would lose something, or sizes differ; the message names the file.
    """
    require(channels in (1, 3), "channels", "1 for grey or 3 for colour", channels)
    require_one_of("background", background, BACKGROUNDS)
    images, composited = [], 0
    first: tuple[Path, list[int]] | None = None
    for path in paths:
        with _named_errors(str(path)), Image.open(path, formats=["PNG"]) as image:
            levels, was_transparent = _levels(image, str(path), BACKGROUNDS[background])
        images.append(_with_channels(levels, channels, str(path)))
        composited += was_transparent
        size = list(images[-1].shape[1:])
        first = first or (path, size)
        if size != first[1]:
            sizes = [f"{height} x {width} in {name}" for name, (height, width) in (first, (path, size))]
            raise InputError(f"images must be of one size; got {' and '.join(sizes)}: resize or remove some")
    require(len(images) >= 1, "the number of images", "at least 1", 0)
    return ReadImages(torch.stack(images), composited)


def as_uint8_images(images: Any, image_shape: Sequence[int]) -> Tensor:
    """Convert images of any usual kind to a uint8 tensor.

    Args:
        images: a torch tensor, a NumPy array, a PIL image, or a list or tuple of these. Tensors and arrays are uint8,
            or floating point in [0, 1], of shape [n, C, H, W], [n, H, W, C] or, where C = 1, [n, H, W]; n may be left
            out for one image. Modes of PIL images are converted as `read_images` does, on black.
        image_shape: required (C, H, W).

    Returns:
        uint8 [n, C, H, W] on the CPU; floating-point values are rounded to the nearest of 256 levels.

    Raises:
        InputError: no images, another kind, type, shape or range; the message describes the given ones.
    """
    return _as_uint8("images", images, tuple(image_shape))


def _as_uint8(name: str, images: Any, shape: tuple[int, int, int]) -> Tensor:
    """As `as_uint8_images`; error messages call the images `name`."""
    if isinstance(images, list | tuple):
        require(len(images) >= 1, name, "at least one image", f"an empty {type(images).__name__}")
        return torch.cat([_as_uint8(f"{name}[{index}]", image, shape) for index, image in enumerate(images)])
    if isinstance(images, Image.Image):
        return _from_pil(f"{name} ({described(images)})", images, shape)
    if not isinstance(images, Tensor | np.ndarray):
        raise InputError(
            f"{name} must be a torch tensor, a NumPy array, a PIL image, or a list of these; got {described(images)}"
        )
    _require_levels(name, images)
    batch = _as_batch(name, images, shape)
    if isinstance(batch, np.ndarray):
        # a copy, since torch takes neither negative strides nor another byte order
        batch = torch.from_numpy(np.array(batch, np.uint8 if batch.dtype == np.uint8 else np.float32, order="C"))
    batch = batch.detach().cpu()
    if batch.dtype != torch.uint8:
        require_unit_range(name, batch, given=images)
        batch = to_uint8(batch)
    return batch.contiguous()


def _from_pil(name: str, image: Image.Image, shape: tuple[int, int, int]) -> Tensor:
    """uint8 [1, C, H, W] of a PIL image."""
    require(shape[0] in (1, 3), name, f"an array or a tensor, as it is to have {shape[0]} channels", "a PIL image")
    with _named_errors(name):
        levels, _ = _levels(image, name, BACKGROUNDS["black"])
    converted = _with_channels(levels, shape[0], name)
    if tuple(converted.shape) != shape:
        raise InputError(f"{name} must be {shape[1]} x {shape[2]} pixels: image.resize({shape[:0:-1]}) makes it so")
    return converted.unsqueeze(0)


def _require_levels(name: str, images: Tensor | np.ndarray) -> None:
    """Raise `InputError` unless the type of images is uint8 or floating point."""
    is_array = isinstance(images, np.ndarray)
    if is_array and (images.dtype == np.uint8 or np.issubdtype(images.dtype, np.floating)):
        return
    if not is_array and (images.dtype == torch.uint8 or images.is_floating_point()):
        return
    kind = str(images.dtype).removeprefix("torch.")
    levels = "images.astype(numpy.uint8)" if is_array else "images.to(torch.uint8)"
    way = {"bool": f"255 * {levels} makes it black and white", "uint16": "images / 65535 is in [0, 1]"}
    raise InputError(
        f"{name} must be uint8, or floating point in [0, 1]; got {described(images)}:"
        f" {way.get(kind, f'of levels 0..255, {levels} is uint8')}"
    )


def _as_batch(name: str, images: Tensor | np.ndarray, shape: tuple[int, int, int]) -> Tensor | np.ndarray:
    """A view [n, C, H, W] of images, n >= 1, in any layout of `as_uint8_images`."""
    channels, *size = shape
    got = tuple(images.shape)
    if got in (shape, (*size, channels)) or (channels == 1 and got == tuple(size)):
        images, got = images[None], (1, *got)
    if channels == 1 and got[1:] == tuple(size):
        images, got = images[:, None], (got[0], *shape)
    if got[1:] == (*size, channels) != shape:
        images = images.permute(0, 3, 1, 2) if isinstance(images, Tensor) else images.transpose(0, 3, 1, 2)
        got = tuple(images.shape)
    if got[1:] != shape or got[0] < 1:
        layouts = [f"[n, {', '.join(map(str, sides))}]" for sides in (shape, (*size, channels))]
        layouts += [f"[n, {size[0]}, {size[1]}]"] if channels == 1 else []
        raise InputError(
            f"{name} must be of shape {', '.join(layouts[:-1])} or {layouts[-1]}, n at least 1 and left out for one"
            f" image; got {described(images)}: spiking_vq.data.levels.resize_images changes height and width"
        )
    return images


@contextmanager
def _named_errors(name: str) -> Iterator[None]:
    """Turn Pillow's errors into an `InputError` that names the image."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # damaged files make parsers raise anything: OSError, SyntaxError, struct.error
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{name} is not a whole image ({reason}): make it again, or remove it") from error


def _levels(image: Image.Image, name: str, background: int) -> tuple[np.ndarray, bool]:
    """Levels of a PIL image, uint8 [H, W, 1 or 3], and whether some of its pixels were transparent.

    Raises:
        InputError: a conversion would lose something; the message calls the image `name`.
    """
    raw = _raw_mode(image)
    if getattr(image, "n_frames", 1) > 1:
        raise InputError(f"{name} has {image.n_frames} frames: save the one that is meant as an image of its own")
    # Pillow drops the low bytes; torchvision reads them, but a damaged file ends its process
    if ";16" in raw and image.mode not in _16_BIT_GREY:
        raise InputError(
            f"{name} has 16 bits a channel, of which only grey without alpha is read: save it with 8 bits a channel,"
            " for example by ImageMagick's `magick mogrify -depth 8`"
        )
    colour, alpha = _16_bit_levels(image, name, raw) if image.mode in _16_BIT_GREY else _8_bit_levels(image, name, raw)
    if alpha is None or (alpha == 255).all():
        return colour.astype(np.uint8), False
    mixed = alpha[..., None] * colour + (255 - alpha[..., None]) * background
    return ((2 * mixed + 255) // 510).astype(np.uint8), True  # mixed / 255 rounded


def _8_bit_levels(image: Image.Image, name: str, raw: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Levels int64 [H, W, 1 or 3] of a PIL image of at most 8 bits; and alpha [H, W] in 0..255, None without any."""
    mode, key = image.mode, image.info.get("transparency")
    if mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA"):
        raise InputError(
            f"{name} is of Pillow's mode {mode}, of which no conversion to levels 0..255 is exact: convert it to L"
            " (grey) or RGB"
        )
    whole = {"1": "L", "P": "RGBA", "PA": "RGBA"}.get(mode, mode)
    bands = np.atleast_3d(np.asarray(image.convert(whole))).astype(np.int64)
    if whole in ("LA", "RGBA"):
        return bands[..., :-1], bands[..., -1]
    if key is None:
        return bands, None
    return bands, np.where((bands == np.multiply(key, _STEPS.get(raw, 1))).all(-1), 0, 255)


def _16_bit_levels(image: Image.Image, name: str, raw: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Levels and alpha, as `_8_bit_levels` gives them, of a grey PIL image of 16 bits."""
    values, key = np.asarray(image).astype(np.int64), image.info.get("transparency")
    lowest, highest = values.min(), values.max()
    # Pillow's 32-bit mode I holds 16 bits of a file, or any numbers by a program
    if lowest < 0 or highest > 65535 or (image.mode == "I" and ";16" not in raw and 0 < highest <= 255):
        raise InputError(
            f"{name} has levels from {lowest} to {highest} in 32 bits, and 0..65535 are black to white there: make it"
            " of mode L with levels 0..255"
        )
    colour = (values[..., None] + 128) // 257  # 257 is odd, so this is v / 257 rounded
    return colour, None if key is None else np.where(values == key, 0, 255)


def _raw_mode(image: Image.Image) -> str:
    """Pixel format in the file of a PIL image, such as `RGB;16B`; empty if the image is loaded already."""
    tiles = getattr(image, "tile", None)
    raw = tiles[0][3] if tiles else ""
    return raw if isinstance(raw, str) else str(raw[0]) if raw else ""


def _with_channels(levels: np.ndarray, channels: int, name: str) -> Tensor:
    """uint8 [channels, H, W] of levels [H, W, 1 or 3]."""
    if channels == 1 and levels.shape[2] == 3:
        if not (levels == levels[..., :1]).all():
            raise InputError(
                f"{name} has colour (R, G and B differ), and grey is expected: if its luma will do, Pillow's"
                " image.convert('L') makes it grey"
            )
        levels = levels[..., :1]
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(levels, 2, 0))).expand(channels, -1, -1).clone()

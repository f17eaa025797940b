"""Conversion of images between levels 0..255 and numbers in [0, 1], and resizing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from spiking_vq.errors import InputError, described, require

_RESIZE_CHUNK = 4096  # images that exist as floats at once while a whole set is resized


def to_unit(images: Tensor) -> Tensor:
    """Map uint8 levels 0..255 of any shape to float32 in [0, 1].

    Raises:
        InputError: the images are not a uint8 tensor.
    """
    require_uint8(images)
    return images.float() / 255


def to_uint8(images: Tensor) -> Tensor:
    """Map floating-point images of any shape to the nearest uint8 levels, 0 for 0 and less, 255 for 1 and more.

    It undoes `to_unit` exactly.

    Raises:
        InputError: the images are not a floating-point tensor.
    """
    if not isinstance(images, Tensor):
        raise not_a_tensor("floating-point images in [0, 1]", images)
    if not images.is_floating_point():
        raise InputError(
            f"expected floating-point images in [0, 1], got {images.dtype} {list(images.shape)}:"
            " divide levels 0..255 by 255, as to_unit does"
        )
    return (images.float() * 255).round().clamp(0, 255).to(torch.uint8)


def resize_images(images: Tensor, size: Sequence[int]) -> Tensor:
    """Resize uint8 images [N, C, H, W] to a (height, width), bilinear and antialiased, unless they have that size.

    Raises:
        InputError: the images are not a uint8 tensor of this rank.
    """
    require_uint8(images)
    require(images.dim() == 4, "images", "of shape [N, C, H, W]", described(images))
    if tuple(images.shape[2:]) == tuple(size):
        return images
    return torch.cat([resize(to_unit(chunk), size) for chunk in images.split(_RESIZE_CHUNK)])


def require_uint8(images: object) -> None:
    """Raise `InputError` unless the images are a uint8 tensor."""
    if not isinstance(images, Tensor):
        raise not_a_tensor("uint8 images", images)
    if images.dtype != torch.uint8:
        way = "to_uint8 makes them of images in [0, 1]" if images.is_floating_point() else "images.to(torch.uint8)"
        raise InputError(f"expected uint8 images, got {images.dtype} {list(images.shape)}: {way}")


def not_a_tensor(expected: str, images: object) -> InputError:
    """The error for images of another type than a tensor."""
    return InputError(
        f"expected {expected} as a torch tensor, got {described(images)}:"
        " spiking_vq.data.images.as_uint8_images takes NumPy arrays and PIL images, torch.from_numpy arrays"
    )


def resize(images: Tensor, size: Sequence[int]) -> Tensor:
    """Resize float images [N, C, H, W] in [0, 1] to uint8 images of a (height, width)."""
    return to_uint8(F.interpolate(images, tuple(size), mode="bilinear", antialias=True))

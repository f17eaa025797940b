"""Fields of every configuration that say how images are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from spiking_vq.data.pictures import RESIZES, Wanted
from spiking_vq.fields import Count, OneOf


@dataclass
class ReadingConfig:
    """How images are read; all but the first field are of a folder of images or an `.npz` file.

    Attributes:
        image_size: resize the images to this square; None (default) keeps the data's own size.
        channels: 1 for grey or 3 for colour; None (default) is what most of the images have.
        resize: way to the square: `crop` the middle, or `stretch` both sides.
        background: colour behind transparent pixels: a name, or `#rrggbb`.
        skip_broken: leave out images that cannot be read.
    """

    image_size: Count | None = None
    channels: Count | None = None
    resize: Annotated[str, OneOf(RESIZES)] = "crop"
    background: str = "black"
    skip_broken: bool = False

    @property
    def reading(self) -> dict[str, Any]:
        """Keyword arguments of `load_dataset` besides name and folder."""
        return {name: getattr(self, name) for name in Wanted._fields}

"""Pictures of a network at work: a film strip of images emerging, and a raster of its spikes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from spiking_vq.data.levels import to_uint8
from spiking_vq.errors import InputError
from spiking_vq.files import atomic_write
from spiking_vq.pipelines.base import Pipeline

FRAMES = 12
"""Frames of a film strip."""

ABOVE = 9
"""Frames above a raster."""

GREY = 0.5
"""Masked tokens, in [0, 1]."""

SLOT = "0.96"
"""Colour of a place above a raster where a frame is to come."""

TITLES = {"absorbing": "denoiser", "gaussian": "U-Net", "vq_svae": "decoder"}
"""Stage -> title of its part of the raster; the network that is called again and again stands first."""


class RasterPart(NamedTuple):
    """The raster of one network.

    Attributes:
        title: of `TITLES`.
        steps: number of columns.
        axis: of matplotlib.
        pictures: drawn above it, an `AxesImage` a frame.
        dashes: a `PathCollection` a layer, its spikes in the order of their steps.
    """

    title: str
    steps: int
    axis: Any
    pictures: list[Any]
    dashes: list[Any]


class Raster(NamedTuple):
    """A drawing by `raster`.

    Attributes:
        figure: of matplotlib.
        parts: the networks in the order in which they run.
    """

    figure: Any
    parts: list[RasterPart]


def require_matplotlib() -> None:
    """Raise `InputError` unless matplotlib is installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        ways = "install the extra `metrics` (pip install 'spiking_vq[metrics]'), or give only=report"
        raise InputError(f"the raster needs matplotlib: {ways}") from error


def chosen_states(count: int, num_frames: int) -> list[int]:
    """Numbers of the states, of so many, that the frames of a film show."""
    return torch.linspace(0, count - 1, num_frames).round().long().tolist()


@torch.no_grad()
def film(pipeline: Pipeline, states: Sequence[Tensor], num_frames: int = FRAMES) -> Tensor:
    """Frames of one image emerging, uint8 [num_frames, C, H, W]; masked tokens are grey.

    Args:
        pipeline: that generated it.
        states: after each call, see `Pipeline.states`: tokens [1, G, h, w], or images [1, C, H, W] in [0, 1].
        num_frames: spread evenly from the first state to the last.
    """
    frames = torch.cat([states[index] for index in chosen_states(len(states), num_frames)])
    return visible(pipeline, frames, states[-1])


@torch.no_grad()
def visible(pipeline: Pipeline, x: Tensor, filling: Tensor) -> Tensor:
    """Images of a state, uint8 [n, C, H, W]; masked tokens are grey.

    Args:
        pipeline: that generates them.
        x: see `Pipeline.states`.
        filling: tokens that the decoder reads in place of masked ones, which neighbouring pixels show a little.
    """
    if x.is_floating_point():
        return to_uint8(x.cpu())
    masked = x == pipeline.diffusion.mask_id
    images = pipeline.decode(torch.where(masked, filling, x), torch.Generator().manual_seed(0))
    height, width = (side // cells for side, cells in zip(images.shape[2:], masked.shape[2:], strict=True))
    hidden = masked.to(images.dtype).mean(1, keepdim=True)  # share of a position's codes
    hidden = hidden.repeat_interleave(height, 2).repeat_interleave(width, 3)
    return to_uint8(images.lerp(images.new_tensor(GREY), hidden).cpu())


def draw_raster(path: Path, frames: Tensor, spikes: dict[str, Tensor]) -> None:
    """Draw an image emerging, and below it the spikes that make it, as `path`, a PNG file; see `raster`."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(raster_png(frames, spikes))


def raster_png(frames: Tensor, spikes: dict[str, Tensor]) -> bytes:
    """The `raster` as a PNG file."""
    with raster(frames, spikes) as drawn:
        drawn.figure.savefig(file := BytesIO(), format="png", dpi=110, facecolor="white")
    return file.getvalue()


@contextmanager
def raster(frames: Tensor, spikes: dict[str, Tensor], size: tuple[float, float] = (11, 4.6)) -> Iterator[Raster]:
    """A drawing of an image emerging, and below it of the spikes that make it; closed after the block.

    A dash is a spike; a row is a neuron, a column a spiking step. The first layer stands at the top. The last frame
    stands above the decoder, where there is one.

    Args:
        frames: uint8 [n, C, H, W], see `film`.
        spikes: layer, named by its stage -> spikes [neurons, steps], of equally many neurons.
        size: (width, height) in inches.
    """
    import matplotlib as mpl  # here, as it is an extra
    from matplotlib import pyplot as plt

    named = {title: [spk for name, spk in spikes.items() if name.startswith(f"{s}.")] for s, title in TITLES.items()}
    named = {title: layers for title, layers in named.items() if layers}
    with mpl.rc_context({"font.size": 8, "axes.spines.left": False, "axes.spines.bottom": False}):
        mpl.rcParams |= {"axes.spines.top": False, "axes.spines.right": False}
        shape = {"figsize": size, "width_ratios": [4.6, 1.1][: len(named)], "layout": "constrained"}
        figure, axes = plt.subplots(1, len(named), **shape, squeeze=False)
        figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1, rect=(0, 0, 1, 0.97))
        above = [frames] if len(named) == 1 else [frames[:-1], frames[-1:]]
        parts = []
        for axis, colors, shown, (title, layers) in zip(axes[0], ("viridis", "plasma"), above, named.items()):  # noqa: B905
            pictures, dashes = _draw_frames(axis, shown), []
            height = 1.2 * len(layers[0])
            for index, spk in enumerate(layers):
                steps, rows = spk.T.nonzero().T.tolist()
                color = plt.get_cmap(colors)(0.8 * index / len(layers))
                rows = [index * height + row for row in rows]
                dashes.append(axis.scatter(steps, rows, s=5, marker="|", color=color, linewidths=1.2))
            axis.set_yticks([(index + 0.4) * height for index in range(len(layers))], range(1, len(layers) + 1))
            axis.set(xlabel=f"spiking step, {title}", xlim=(-0.5, layers[0].shape[1] - 0.5))
            axis.set_ylim(len(layers) * height, -1)
            axis.tick_params(length=0, labelcolor="0.4")
            parts.append(RasterPart(title, layers[0].shape[1], axis, pictures, dashes))
        axes[0, 0].set_ylabel("layer", color="0.4")
        try:
            yield Raster(figure, parts)
        finally:
            plt.close(figure)


def _draw_frames(axis: Any, frames: Tensor) -> list[Any]:
    """A row of frames above an axis, evenly over its width; the pictures drawn."""
    width, pictures = 1 / len(frames), []
    for index, frame in enumerate(frames):
        inset = axis.inset_axes((index * width, 1.02, 0.92 * width, 0.34))
        pictures.append(inset.imshow(frame.permute(1, 2, 0).numpy(), cmap="gray", vmin=0, vmax=255))
        inset.set_anchor("SW")  # above the steps that follow it
        inset.set(xticks=[], yticks=[], facecolor=SLOT)
    return pictures

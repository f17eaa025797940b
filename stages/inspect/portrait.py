"""Pictures of a network at work: a film strip of images emerging, and a raster of its spikes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

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

TITLES = {"absorbing": "denoiser", "gaussian": "U-Net", "vq_svae": "decoder"}
"""Stage -> title of its part of the raster; the network that is called again and again stands first."""


def require_matplotlib() -> None:
    """Raise `InputError` unless matplotlib is installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        ways = "install the extra `metrics` (pip install 'spiking_vq[metrics]'), or give only=report"
        raise InputError(f"the raster needs matplotlib: {ways}") from error


@torch.no_grad()
def film(pipeline: Pipeline, states: Sequence[Tensor], num_frames: int = FRAMES) -> Tensor:
    """Frames of one image emerging, uint8 [num_frames, C, H, W]; masked tokens are grey.

    Args:
        pipeline: that generated it.
        states: after each call, see `Pipeline.states`: tokens [1, G, h, w], or images [1, C, H, W] in [0, 1].
        num_frames: spread evenly from the first state to the last.
    """
    chosen = torch.linspace(0, len(states) - 1, num_frames).round().long().tolist()
    frames = torch.cat([states[index] for index in chosen])
    if frames.is_floating_point():
        return to_uint8(frames.cpu())
    masked = frames == pipeline.diffusion.mask_id
    images = pipeline.decode(torch.where(masked, states[-1], frames), torch.Generator().manual_seed(0))
    height, width = (side // cells for side, cells in zip(images.shape[2:], masked.shape[2:], strict=True))
    hidden = masked.to(images.dtype).mean(1, keepdim=True)  # share of a position's codes
    hidden = hidden.repeat_interleave(height, 2).repeat_interleave(width, 3)
    return to_uint8(images.lerp(images.new_tensor(GREY), hidden).cpu())


def draw_raster(path: Path, frames: Tensor, spikes: dict[str, Tensor]) -> None:
    """Draw an image emerging, and below it the spikes that make it.

    A dash is a spike; a row is a neuron, a column a spiking step. The first layer stands at the top. The last frame
    stands above the decoder, where there is one.

    Args:
        path: the PNG file to write.
        frames: uint8 [n, C, H, W], see `film`.
        spikes: layer, named by its stage -> spikes [neurons, steps], of equally many neurons.
    """
    import matplotlib as mpl  # here, as it is an extra
    from matplotlib import pyplot as plt

    parts = {title: [spk for name, spk in spikes.items() if name.startswith(f"{s}.")] for s, title in TITLES.items()}
    parts = {title: layers for title, layers in parts.items() if layers}
    with mpl.rc_context({"font.size": 8, "axes.spines.left": False, "axes.spines.bottom": False}):
        mpl.rcParams |= {"axes.spines.top": False, "axes.spines.right": False}
        shape = {"figsize": (11, 4.6), "width_ratios": [4.6, 1][: len(parts)], "layout": "constrained"}
        figure, axes = plt.subplots(1, len(parts), **shape, squeeze=False)
        above = [frames] if len(parts) == 1 else [frames[:-1], frames[-1:]]
        for axis, colors, shown, (title, layers) in zip(axes[0], ("viridis", "plasma"), above, parts.items()):  # noqa: B905
            _draw_frames(axis, shown)
            height = 1.2 * len(layers[0])
            for index, spk in enumerate(layers):
                rows, steps = spk.nonzero().T.tolist()
                color = plt.get_cmap(colors)(0.8 * index / len(layers))
                axis.scatter(
                    steps, [index * height + row for row in rows], s=5, marker="|", color=color, linewidths=1.2
                )
            axis.set_yticks([(index + 0.4) * height for index in range(len(layers))], range(1, len(layers) + 1))
            axis.set(xlabel=f"spiking step of the {title}", xlim=(-0.5, layers[0].shape[1] - 0.5))
            axis.set_ylim(len(layers) * height, -1)
            axis.tick_params(length=0, labelcolor="0.4")
        axes[0, 0].set_ylabel("layer", color="0.4")
        with atomic_write(path) as temporary:
            figure.savefig(temporary, format="png", dpi=110, facecolor="white")
        plt.close(figure)


def _draw_frames(axis: Any, frames: Tensor) -> None:
    """A row of frames above an axis, evenly over its width."""
    width = 1 / len(frames)
    for index, frame in enumerate(frames):
        inset = axis.inset_axes((index * width, 1.02, 0.92 * width, 0.34))
        inset.imshow(frame.permute(1, 2, 0).numpy(), cmap="gray", vmin=0, vmax=255)
        inset.axis("off")

"""The raster of an image being made, as an animation: spikes and frames appear as they happen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from spiking_vq.data.levels import to_uint8
from spiking_vq.files import atomic_write
from spiking_vq.pipelines.base import Pipeline
from spiking_vq.runtime.running import run_with
from stages.inspect.portrait import ABOVE, Raster, RasterPart, chosen_states, film, raster

SIZE, DPI = (8.4, 4.4), 105
"""Of the picture, in inches, and dots an inch: about as wide as a page shows it."""

CURSOR = "0.8"
"""Colour of the line at the step that is being computed."""

CODE = np.array([2**16, 2**8, 1], dtype=np.int32)
"""Of a colour as one integer."""

SECONDS = 8.0
"""That the steps of the first network take together."""

MOST = 120
"""Pictures of the first network at most; of more steps, several appear at once."""

DECODING, PAUSE, HELD = 500, 600, 2500
"""Milliseconds of a step of the decoder, of the empty raster, and of the finished image."""


def animate_raster(path: Path, pipeline: Pipeline, states: list[Tensor], spikes: dict[str, Tensor]) -> None:
    """Draw the raster of one image step by step, as a GIF that loops.

    Above the first network stand the states that it has reached, above the decoder what its read-out has made of its
    steps so far.

    Args:
        path: the file to write.
        pipeline: that generated the image.
        states: after each call, see `film`.
        spikes: see `raster`.
    """
    frames = film(pipeline, states, ABOVE)
    with raster(frames, spikes, SIZE) as drawn:
        drawn.figure.set_dpi(DPI)
        decoding = decoded_steps(pipeline, states[-1], drawn.parts[1].steps) if len(drawn.parts) > 1 else None
        shown = list(_appear(drawn, chosen_states(len(states), ABOVE), decoding))
    pictures = [picture for picture, _ in shown]
    first, *rest = _in_few_colors(pictures)
    durations = [duration for _, duration in shown]
    with atomic_write(path) as temporary:
        first.save(temporary, "GIF", save_all=True, append_images=rest, duration=durations, loop=0)


@torch.no_grad()
def decoded_steps(pipeline: Pipeline, tokens: Tensor, num_steps: int) -> Tensor:
    """What the read-out shows after each step of the decoder, uint8 [num_steps, C, H, W]."""
    images = []
    for steps in range(1, num_steps + 1):
        with run_with(num_steps=steps):
            images.append(pipeline.decode(tokens, torch.Generator().manual_seed(0)))
    return to_uint8(torch.cat(images).cpu())


def _appear(drawn: Raster, chosen: list[int], decoding: Tensor | None) -> Iterator[tuple[np.ndarray, int]]:
    """Pictures uint8 [H, W, 3], each with the milliseconds that it stands.

    Args:
        drawn: the whole raster.
        chosen: number of the state that each frame shows.
        decoding: see `decoded_steps`; None without a decoder.
    """
    network, *others = drawn.parts
    status = network.axis.text(0, 1.36, "", transform=network.axis.transAxes, fontsize=10, color="0.2", va="top")
    offsets = {dashes: dashes.get_offsets() for part in drawn.parts for dashes in part.dashes}
    drawn.figure.canvas.draw()  # places everything, once
    drawn.figure.set_layout_engine("none")
    cursors = {part.axis: part.axis.axvline(-1, color=CURSOR, linewidth=1, zorder=0) for part in drawn.parts}

    def picture(part: RasterPart, steps: int, ends: bool = False) -> np.ndarray:
        for dashes in part.dashes:
            dashes.set_offsets(offsets[dashes][offsets[dashes][:, 0] < steps])
        cursors[part.axis].set(xdata=[steps - 0.5] * 2, visible=not ends)
        drawn.figure.canvas.draw()
        return np.asarray(drawn.figure.canvas.buffer_rgba())[..., :3].copy()

    for part in others:
        part.pictures[0].set_visible(False)
        picture(part, 0, ends=True)
    calls, count = chosen[-1], min(network.steps, MOST)
    for steps in (index * network.steps // count for index in range(count + 1)):
        done = steps * calls // network.steps
        for frame, state in zip(network.pictures, chosen, strict=False):
            frame.set_visible(state <= done)
        status.set_text(f"{network.title}, call {min(done + 1, calls)} of {calls}")
        yield picture(network, steps), round(SECONDS * 100 / count) * 10 if steps else PAUSE
    picture(network, network.steps, ends=True)
    for part in others:
        status.set_text(part.title)
        part.pictures[0].set_visible(True)
        for steps, image in enumerate(decoding, start=1):
            part.pictures[0].set_data(image.permute(1, 2, 0).numpy())
            yield picture(part, steps), DECODING
    last = drawn.parts[-1]
    yield picture(last, last.steps, ends=True), HELD


def _in_few_colors(pictures: list[np.ndarray]) -> list[Image.Image]:
    """Pictures in the colours that are most frequent at the end, so that white is white and nothing flickers."""
    codes = [picture.astype(np.int32) @ CODE for picture in pictures]
    colors, counts = np.unique(np.stack(codes[-2:]), return_counts=True)
    palette = colors[np.argsort(-counts)[:256], None] // CODE % 256
    drawn = []
    for code in codes:
        own, places = np.unique(code, return_inverse=True)
        distances = np.square(own[:, None, None] // CODE % 256 - palette).sum(2)
        drawn.append(Image.fromarray(distances.argmin(1).astype(np.uint8)[places].reshape(code.shape)))
        drawn[-1].putpalette(palette.astype(np.uint8).tobytes())
    return drawn

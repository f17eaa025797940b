"""Generation that can be watched: states while it happens, then the very images that `spiking-vq sample` makes."""

from __future__ import annotations

import io
import shlex
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from threading import Event
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from spiking_vq.diffusion.sampling import State
from spiking_vq.errors import require_integer, require_seed
from spiking_vq.pipelines.base import CHUNK, Pipeline, Samples
from spiking_vq.runtime.running import run_with
from stages.app.models import Models, settings
from stages.cli.machine import worth_compiling
from stages.inspect.portrait import visible
from stages.sample import as_grid, image_name

MOST_IMAGES = 256
"""Images of a set at most."""


class Frame(NamedTuple):
    """Images on their way.

    Attributes:
        images: uint8 [n, C, H, W]; masked tokens are grey.
        calls, total: calls of the network so far, and in all.
    """

    images: Tensor
    calls: int
    total: int


class Made(NamedTuple):
    """A set of images, and all that makes it again.

    Attributes:
        model: name of the model.
        seed: of the set.
        settings: of the sampler.
        samples: the images.
        line: the command that makes them again.
    """

    model: str
    seed: int
    settings: dict[str, Any]
    samples: Samples
    line: str

    def image(self, index: int) -> Tensor:
        """One of the images, uint8 [C, H, W].

        Raises:
            InputError: there is no such image.
        """
        require_integer("the number of the image", index, 0, len(self.samples.images) - 1)
        return self.samples.images[index]


def generate(models: Models, name: str, n: int, seed: int, given: dict[str, Any], ended: Event) -> Iterator[Any]:
    """Generate images, and yield a `Frame` at the start and after each call of the network, at the end a `Made`.

    Args:
        models: of the page.
        name: of the model.
        n: number of images, in 1..`MOST_IMAGES`.
        seed: of the set.
        given: see `models.settings`.
        ended: ends the work early when set.

    Raises:
        InputError: a value out of range.
    """
    require_integer("the number of images", n, 1, MOST_IMAGES)
    require_seed(seed)
    pipeline = models.pipeline(name)
    chosen = settings(pipeline, given)
    pipeline.compile = worth_compiling(n * pipeline.evaluations(**chosen).calls)  # as `sample` does: equal rounding
    show = Watched(pipeline)

    def work(give: Callable[[Frame], None]) -> Samples:
        def watch(state: State) -> None:
            give(Frame(show(state.x), state.calls, state.total))

        return pipeline.sample(n, seed, watch=watch, **chosen)

    for item in streamed(work, ended):
        if isinstance(item, Samples):
            item = Made(name, seed, chosen, item, sample_line(name, n, seed, chosen, models.device))
        yield item


class Watched:
    """Makes visible what the sampler has reached: `watched(x)` is uint8 [n, C, H, W]; decodes only what has changed.

    Args:
        pipeline: that generates.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self.x: Tensor | None = None
        self.images: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """Images of a state, see `visible`."""
        changed = torch.arange(len(x), device=x.device)
        if self.x is not None:
            changed = changed[(x != self.x).flatten(1).any(1)]
        with run_with(compile=False):  # which would compile for every number of changed images
            parts = [visible(self.pipeline, x[rows], torch.zeros_like(x[rows])) for rows in changed.split(CHUNK)]
        if self.images is None:
            self.images = torch.cat(parts)
        elif len(changed):
            self.images = self.images.index_copy(0, changed.cpu(), torch.cat(parts))
        self.x = x
        return self.images


class Ended(Exception):
    """Nobody waits for the work any more."""


def streamed(work: Callable[[Callable[[Any], None]], Any], ended: Event) -> Iterator[Any]:
    """Yield what `work` gives while it runs in a thread of its own, then what it returns.

    Args:
        work: called with a function `give(item)`, which raises `Ended` once this iterator is closed or `ended` is set.
        ended: see `work`.
    """
    items: SimpleQueue[Any] = SimpleQueue()
    closed, last = Event(), object()

    def give(item: Any) -> None:
        if closed.is_set() or ended.is_set():
            raise Ended
        items.put(item)

    pool = ThreadPoolExecutor(1)
    future = pool.submit(work, give)
    future.add_done_callback(lambda _: items.put(last))
    try:
        while (item := items.get()) is not last:
            yield item
        yield future.result()
    finally:
        closed.set()
        pool.shutdown(wait=False)


def sample_line(model: str, n: int, seed: int, chosen: dict[str, Any], device: str = "cpu") -> str:
    """The command that makes the same images, with every setting."""
    words = {"n": n, "seed": seed} | {name: value for name, value in chosen.items() if value is not None}
    words |= {} if device == "cpu" else {"device": device}
    return shlex.join(["spiking-vq", "sample", model, *(f"{name}={value}" for name, value in words.items())])


def png(image: Image) -> bytes:
    """A picture as a PNG file."""
    image.save(file := io.BytesIO(), format="png")
    return file.getvalue()


def files(samples: Samples) -> dict[str, bytes]:
    """The files that `sample` writes, by name; the images one by one are in an archive."""
    with zipfile.ZipFile(archive := io.BytesIO(), "w") as folder:
        for index, image in enumerate(samples.images):
            folder.writestr(image_name(index), png(to_pil_image(image)))
    made = {"grid.png": png(as_grid(samples.images)), "images.zip": archive.getvalue()}
    if samples.tokens is not None:
        np.save(tokens := io.BytesIO(), samples.tokens.numpy())
        made["tokens.npy"] = tokens.getvalue()
    return made

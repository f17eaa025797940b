"""What a run will take: tokens an image; time and memory, measured over the first steps."""

from __future__ import annotations

import sys
import time
from typing import Any

from lightning.pytorch import Callback, Trainer

from spiking_vq.models.vq_svae import VQSVAE
from stages.cli.machine import peak_memory_mb
from stages.training.stage import Stage

WARM, MEASURED = 10, 20
"""Steps before the measurement, in which kernels are compiled, and steps of it."""


class Forecast(Callback):
    """Prints one line on stderr, after the first steps of a session, that says what the rest of the run will take.

    Validations and checkpoints are not part of the time. A session of few steps prints nothing.

    Args:
        title: of the run.
        total_steps: its length.
        device: that it trains on.
    """

    def __init__(self, title: str, total_steps: int, device: str) -> None:
        self.title, self.total_steps, self.device = title, total_steps, device
        self.first, self.started = 0, 0.0

    def on_train_start(self, trainer: Trainer, stage: Stage) -> None:
        """Begin at the step that the run resumes from."""
        self.first = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, stage: Stage, *_: Any) -> None:
        """Measure, and print when enough is known."""
        step = trainer.global_step - self.first
        if step == WARM:
            self.started = time.monotonic()
        left = self.total_steps - trainer.global_step
        if step != WARM + MEASURED or not trainer.is_global_zero or left < MEASURED:
            return
        seconds = (time.monotonic() - self.started) / MEASURED
        print(
            f"{self.title}: {left:,} more steps of {seconds:.2g} s take about {_duration(left * seconds)};"
            f" {peak_memory_mb(self.device) / 1e3:.1f} GB of memory so far",
            file=sys.stderr,
        )


def tokens_of(vq_svae: VQSVAE) -> str:
    """The tokens of an image, in words."""
    codes, (height, width), size = vq_svae.code_grid[0], vq_svae.grid, vq_svae.codebook_size
    return f"{codes * height * width} tokens an image ({codes} x {height} x {width}), each one of {size}"


def _duration(seconds: float) -> str:
    """A time in words, such as `42 min` or `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"

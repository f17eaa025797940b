"""Callbacks of a run: validation, metrics, pictures and checkpoints to resume from; its progress bar."""

from __future__ import annotations

import csv
import math
import sys
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import Logger
from torch import Tensor
from torchvision.utils import save_image
from tqdm import tqdm

from spiking_vq.checkpoint.file import not_finite, some_of
from spiking_vq.config.schema import TrainOptions
from spiking_vq.errors import InputError
from spiking_vq.files import atomic_write
from spiking_vq.runtime.distributed import rank
from stages.cli.progress import progress
from stages.training.run_folder import RunFolder
from stages.training.stage import Stage

LOG_EVERY = 10
"""Steps between logged losses; shorter runs log more often."""

LOGGED = 20
"""Losses of a run at least, where it has as many steps, and about as many in its `training.json`."""


class MetricsTable(Logger):
    """`metrics.csv`, one row per logged step. Rows are kept in memory and written together with `last.ckpt`.

    Lightning's own CSV logger deletes the rows of the run that is resumed.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path, self.rows = path, {}

    @property
    def name(self) -> None:
        """None: the run folder has the name."""
        return None

    @property
    def version(self) -> None:
        """None: a run has one version."""
        return None

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: `config.yaml` holds them."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Add to the row of `step`, the number of steps done."""
        self.rows.setdefault(step, {}).update(metrics)

    def read(self, up_to: int) -> None:
        """Take over the rows of the run so far, up to step `up_to`; the resumed run makes later ones again.

        A missing or damaged table is begun anew, and a line printed.
        """
        try:
            with self.path.open(newline="") as file:
                rows = {int(row.pop("step")): row for row in csv.DictReader(file)}
            self.rows = {
                step: {key: float(value) for key, value in row.items() if value}
                for step, row in rows.items()
                if step <= up_to
            }
        except (OSError, ValueError, TypeError, KeyError, csv.Error) as error:
            print(f"{self.path} is begun anew after step {up_to}: it cannot be read ({error})")

    def write(self) -> None:
        """Write all rows."""
        columns = sorted({key for row in self.rows.values() for key in row})
        with atomic_write(self.path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["step", *columns])
            writer.writeheader()
            writer.writerows({"step": step, **row} for step, row in sorted(self.rows.items()))


class KeepRun(Callback):
    """Logs, validates, and writes the checkpoints, metrics and pictures of a run; stops a run that diverges.

    The metrics of a step stay on the device until a step that logs, validates or saves: reading them makes the host
    wait for a GPU. A loss that was not finite is found then, before anything is saved.

    It does not use Lightning's own loop for this: each `last.ckpt` is written after the logging and validation that are
    due at its step, so that a resumed run has the same rows and best step as an unbroken one.

    Args:
        folder: of the run.
        table: its metrics.
        bar: its progress bar.
        total_steps: length of the run.
        train: says how often to validate and to write `last.ckpt`.
    """

    def __init__(
        self, folder: RunFolder, table: MetricsTable, bar: RunBar, total_steps: int, train: TrainOptions
    ) -> None:
        self.folder, self.table, self.bar, self.total_steps, self.train = folder, table, bar, total_steps, train
        self.log_every = max(1, min(LOG_EVERY, total_steps // LOGGED))
        self.best, self.best_step, self.validation = math.inf, 0, {}
        self.step, self.saved_step, self.seconds, self.started = 0, 0, 0.0, time.monotonic()
        self.validation_seconds = 0.0
        self.unread: dict[int, dict[str, Tensor]] = {}

    def state_dict(self) -> dict[str, Any]:
        """The state to resume from: the step, the best validation so far, and the time spent."""
        return {
            "step": self.step,
            "total_steps": self.total_steps,
            "best": self.best,
            "best_step": self.best_step,
            "validation": self.validation,
            "seconds": self.elapsed(),
            "validation_seconds": self.validation_seconds,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken, with the metrics of the steps done until then."""
        self.step = self.saved_step = state["step"]
        self.best, self.best_step, self.seconds = state["best"], state["best_step"], state["seconds"]
        self.validation_seconds = state["validation_seconds"]
        if rank() == 0:  # only rank 0 writes them
            self.table.read(up_to=state["step"])
        row = self.table.rows.get(self.best_step, {})  # older checkpoints do not hold the validation
        self.validation = state.get("validation", {key: row[key] for key in row if key.startswith("val/")})

    def on_train_batch_end(self, trainer: Trainer, stage: Stage, *_: Any) -> None:
        """Log, validate and save when due."""
        step = self.step = trainer.global_step
        self.unread[step] = stage.metrics
        finished = step == self.total_steps
        validates = step % self.train.val_every == 0 or finished
        saves = step % self.train.save_every == 0 or finished
        logs = step % self.log_every == 0
        if logs or validates or saves:
            metrics = self._read()
            self.bar.loss = metrics["loss"]
            if logs:
                _log(trainer, metrics, step)
        if validates or saves:
            self._check_weights(stage, step)
        if validates:
            started = time.monotonic()
            self._validate(trainer, stage, step)
            self.validation_seconds += time.monotonic() - started
        if saves:
            if trainer.is_global_zero:  # first: rows ahead of the checkpoint are made again, rows behind would be lost
                self.table.write()
            trainer.save_checkpoint(self.folder.last)
            self.saved_step = step

    def elapsed(self) -> float:
        """Seconds of training so far, over all its sessions."""
        return self.seconds + time.monotonic() - self.started

    def _read(self) -> dict[str, float]:
        """The metrics of the last step; stop if those of any step since the last reading are not finite.

        The loss is the mean over the ranks, so that all of them stop.
        """
        values = torch.stack([torch.stack([*metrics.values()]) for metrics in self.unread.values()]).tolist()
        for (step, metrics), row in zip(self.unread.items(), values, strict=True):
            read = dict(zip(metrics, row, strict=True))
            if not math.isfinite(read["loss"]):
                reasons = [f"{name} = {value}" for name, value in read.items() if not math.isfinite(value)]
                raise self._diverged(f"{', '.join(reasons)} at step {step}")
        self.unread.clear()
        return read

    def _check_weights(self, stage: Stage, step: int) -> None:
        """Stop if a weight is not finite: a gradient may overflow though the loss did not, and validation hide it."""
        if names := not_finite(stage.state_dict()):
            raise self._diverged(f"weights are NaN or infinite after step {step}, {some_of(names)} among them")

    def _diverged(self, reason: str) -> InputError:
        last, saved = self.folder.last, self.saved_step
        go_on = "Do so in another folder with runs=FOLDER, or after deleting this run."
        if saved:
            go_on = f"{last} holds step {saved}: go on from it with train.start_from={last} runs=FOLDER."
        return InputError(f"training has diverged: {reason}. Lower train.lr, or set train.grad_clip=1. {go_on}")

    def _validate(self, trainer: Trainer, stage: Stage, step: int) -> None:
        # rank 0 validates; all ranks know the metrics, as all take part in writing a checkpoint
        metrics = trainer.strategy.broadcast(stage.validate() if trainer.is_global_zero else None)
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise self._diverged(f"{name} = {value} in the validation of step {step}")
        logged = {f"val/{key}": value for key, value in metrics.items()}
        _log(trainer, logged, step)
        if trainer.is_global_zero:
            self.bar.show(step, metrics)
            self.folder.images.mkdir(exist_ok=True)
            images = stage.picture()
            with atomic_write(self.folder.images / f"step{step:07d}.png") as temporary:
                save_image(images, temporary, nrow=16, format="png")
        if metrics[stage.monitor] < self.best:
            self.best, self.best_step, self.validation = metrics[stage.monitor], step, logged
            trainer.save_checkpoint(self.folder.best)


def _log(trainer: Trainer, metrics: dict[str, float], step: int) -> None:
    for logger in trainer.loggers:
        logger.log_metrics(metrics, step)


class RunBar(Callback):
    """One progress bar for the whole run, with the loss and the last validation; without a terminal, a line for each.

    Args:
        title: of the run.
        total_steps: its length.

    Attributes:
        loss: the last one that was read from the device; NaN before.
    """

    def __init__(self, title: str, total_steps: int) -> None:
        self.title, self.total_steps, self.validated, self.loss = title, total_steps, {}, math.nan
        self.bar: tqdm | None = None

    def on_train_start(self, trainer: Trainer, stage: Stage) -> None:
        """Begin at the step that the run resumes from."""
        self.bar = progress(title=self.title, total=self.total_steps, unit="step")
        self.bar.n = self.bar.initial = self.bar.last_print_n = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, stage: Stage, *_: Any) -> None:
        """Count the step and show the last loss."""
        self.bar.set_postfix({"loss": self.loss} | self.validated, refresh=False)
        self.bar.update()

    def show(self, step: int, metrics: dict[str, float]) -> None:
        """Show the metrics of a validation: in the bar, or where it is hidden, as a line on stderr."""
        self.validated = {f"val_{name}": value for name, value in metrics.items()}
        if self.bar.disable:
            shown = ", ".join(f"{name} {value:.4g}" for name, value in ({"loss": self.loss} | self.validated).items())
            print(f"{self.title}: step {step} of {self.total_steps}, {shown}", file=sys.stderr)

    def on_train_end(self, *_: Any) -> None:
        """Leave the bar's line."""
        if self.bar is not None:
            self.bar.close()

    on_exception = on_train_end

"""The callback that keeps a run: validation, metrics, pictures and checkpoints to resume from."""

from __future__ import annotations

import csv
import math
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.loggers import Logger
from torch import Tensor
from torchvision.utils import save_image

from spiking_vq.checkpoint.file import not_finite, some_of
from spiking_vq.errors import InputError
from spiking_vq.files import atomic_write
from spiking_vq.runtime.distributed import rank
from stages.training.run_folder import RunFolder


class MetricsTable(Logger):
    """`metrics.csv`, one row a logged step. Rows are kept in memory and written together with `last.ckpt`.

    Lightning's own CSV logger deletes the rows of the run that is being resumed.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path, self.rows = path, {}

    @property
    def name(self) -> None:
        """None: the run folder has its name already."""
        return None

    @property
    def version(self) -> None:
        """None, likewise."""
        return None

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: `config.yaml` has them."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Add to the row of `step`, counted from 1: steps done."""
        self.rows.setdefault(step, {}).update(metrics)

    def read(self, up_to: int) -> None:
        """Take over the rows of the run so far, up to step `up_to`; later ones will be made again.

        A table that is missing or damaged is begun anew, and a line printed.
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
    """Logs, validates, and writes the checkpoints, the metrics and the pictures of a run; stops one that has diverged.

    It does so by itself, not through Lightning's loop, so that each `last.ckpt` is written after the logging and the
    validation that are due at its step, and a resumed run has the same rows and best step as an unbroken one.

    Args:
        folder: where.
        table: the metrics.
        total_steps: length of the run.
        log_every: steps between rows of training figures.
        val_every: steps between validations.
        save_every: steps between writes of `last.ckpt`.
    """

    def __init__(
        self, folder: RunFolder, table: MetricsTable, total_steps: int, log_every: int, val_every: int, save_every: int
    ) -> None:
        self.folder, self.table, self.total_steps = folder, table, total_steps
        self.log_every, self.val_every, self.save_every = log_every, val_every, save_every
        self.best, self.best_step, self.validation = math.inf, 0, {}
        self.step, self.saved_step, self.seconds, self.started = 0, 0, 0.0, time.monotonic()
        self.validation_seconds = 0.0

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must know: the step, the best validation so far, and the time spent."""
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
        if rank() == 0:  # which writes them
            self.table.read(up_to=state["step"])
        row = self.table.rows.get(self.best_step, {})
        older = {key: value for key, value in row.items() if key.startswith("val/")}
        self.validation = state.get("validation", older)

    def on_before_backward(self, trainer: Trainer, stage: LightningModule, loss: Tensor) -> None:
        """Stop at a loss that is not finite. It is the mean over the ranks, so that all of them stop."""
        if not stage.figures["loss"].isfinite():
            terms = {name: float(value) for name, value in stage.figures.items()}
            not_finite = [f"{name} = {value}" for name, value in terms.items() if not math.isfinite(value)]
            raise self._diverged(f"{', '.join(not_finite)} at step {trainer.global_step + 1}")

    def on_train_batch_end(
        self, trainer: Trainer, stage: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log, validate and save when due."""
        step = self.step = trainer.global_step
        finished = step == self.total_steps
        validates = step % self.val_every == 0 or finished
        saves = step % self.save_every == 0 or finished
        if step % self.log_every == 0:
            _log(trainer, stage.figures, step)
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

    def _check_weights(self, stage: LightningModule, step: int) -> None:
        """Stop if a weight is not finite: a gradient may overflow though the loss did not, and validation hide it."""
        if names := not_finite(stage.state_dict()):
            raise self._diverged(f"weights are NaN or infinite after step {step}, {some_of(names)} among them")

    def _diverged(self, reason: str) -> InputError:
        last, saved = self.folder.last, self.saved_step
        go_on = "Do so in another RUNS=, or after deleting this run."
        if saved:
            go_on = f"{last} holds step {saved}: go on from it with another RUNS= and train.start_from={last}."
        return InputError(f"training has diverged: {reason}. Lower train.lr, or set train.grad_clip=1. {go_on}")

    def _validate(self, trainer: Trainer, stage: LightningModule, step: int) -> None:
        # one rank validates and writes; all know the figures, as a checkpoint is written by all together
        metrics = trainer.strategy.broadcast(stage.validate() if trainer.is_global_zero else None)
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise self._diverged(f"{name} = {value} in the validation of step {step}")
        shown = {f"val/{key}": value for key, value in metrics.items()}
        _log(trainer, shown, step)
        trainer.progress_bar_callback.validated = metrics
        if trainer.is_global_zero:
            self.folder.images.mkdir(exist_ok=True)
            images = stage.picture()
            with atomic_write(self.folder.images / f"step{step:07d}.png") as temporary:
                save_image(images, temporary, nrow=16, format="png")
        if metrics[stage.monitor] < self.best:
            self.best, self.best_step, self.validation = metrics[stage.monitor], step, shown
            trainer.save_checkpoint(self.folder.best)


def _log(trainer: Trainer, figures: dict[str, Any], step: int) -> None:
    for logger in trainer.loggers:
        logger.log_metrics({name: float(value) for name, value in figures.items()}, step)


class RunBar(TQDMProgressBar):
    """One bar for the whole run: steps done and to do, and the numbers that matter, the last validation among them."""

    def __init__(self, title: str, refresh_rate: int) -> None:
        super().__init__(refresh_rate)
        self.title, self.validated = title, {}

    def on_train_epoch_start(self, trainer: Trainer, *_: Any) -> None:
        """Name the run instead of the epoch."""
        super().on_train_epoch_start(trainer)
        self.train_progress_bar.set_description(self.title)

    def on_exception(self, trainer: Trainer, stage: LightningModule, exception: BaseException) -> None:
        """Leave the bar's line, so that an error stands on a line of its own."""
        with suppress(TypeError):  # there is no bar yet
            self.train_progress_bar.close()

    def get_metrics(self, trainer: Trainer, stage: LightningModule) -> dict[str, Any]:
        """The running training numbers, then the last validation's."""
        shown = super().get_metrics(trainer, stage)
        shown.pop("v_num", None)
        return shown | {f"val_{key}": f"{value:.4g}" for key, value in self.validated.items()}

"""The folder of a run, and the callback that keeps it: validation, metrics, pictures and checkpoints to resume from.

`runs/<data>/<preset>/<stage>/`: `config.yaml`, `last.ckpt`, `best.ckpt`, `metrics.csv`, `tb/`, `images/`, and once the
run is finished `training.json` and `model.safetensors`.
"""

from __future__ import annotations

import csv
import math
import pickle
import time
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torchvision.utils import save_image

from spiking_vq.checkpoint import atomic_write
from spiking_vq.config import Config, differences, read_config, save_config
from spiking_vq.errors import InputError

LIGHTNING_KEYS = {"callbacks", "loops", "pytorch-lightning_version", "state_dict"}


class RunFolder:
    """Names the files of a run.

    Args:
        config: of the run.
    """

    def __init__(self, config: Config) -> None:
        self.path = Path(config.runs) / config.data / config.preset / config.stage
        self.config_file = self.path / "config.yaml"
        self.last = self.path / "last.ckpt"
        self.best = self.path / "best.ckpt"
        self.metrics = self.path / "metrics.csv"
        self.images = self.path / "images"
        self.summary = self.path / "training.json"
        self.model = self.path / "model.safetensors"

    def claim(self, config: Config) -> None:
        """Take the folder for this configuration, or see that it is already its own.

        Raises:
            InputError: it holds a run of another configuration, or cannot be written to.
        """
        if self.config_file.exists():
            changes = differences(read_config(self.config_file), config)
            if changes:
                raise InputError(
                    f"{self.path} holds a run of another configuration:\n  "
                    + "\n  ".join(changes)
                    + "\nUndo the change, delete the folder, or keep both with another RUNS=."
                )
            return
        with atomic_write(self.config_file) as temporary:
            save_config(config, temporary)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoints written beside their final place and renamed, and read with `weights_only=True`.

    Lightning writes to the system's temporary folder and moves: across file systems that is a copy, and a kill in the
    middle of it leaves half a file.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint whole or not at all."""
        with atomic_write(path) as temporary:
            torch.save(checkpoint, temporary)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Read a checkpoint.

        Raises:
            InputError: it is truncated, corrupt, or not a checkpoint.
        """
        try:
            checkpoint = torch.load(path, map_location=map_location, weights_only=True)
            if not isinstance(checkpoint, dict) or not checkpoint.keys() >= LIGHTNING_KEYS:
                raise RuntimeError(f"a checkpoint has {', '.join(sorted(LIGHTNING_KEYS))}")
            return checkpoint
        except (RuntimeError, EOFError, OSError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise InputError(
                f"cannot resume from {path}: it is truncated, corrupt or not a checkpoint ({reason})."
                " Delete it to start this run anew."
            ) from error


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
        """Take over the rows of the run so far, up to step `up_to`; later ones will be made again."""
        if not self.path.exists():
            return
        with self.path.open(newline="") as file:
            for row in csv.DictReader(file):
                step = int(row.pop("step"))
                if step <= up_to:
                    self.rows[step] = {key: float(value) for key, value in row.items() if value}

    def write(self) -> None:
        """Write all rows."""
        columns = sorted({key for row in self.rows.values() for key in row})
        with atomic_write(self.path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["step", *columns])
            writer.writeheader()
            writer.writerows({"step": step, **row} for step, row in sorted(self.rows.items()))


class KeepRun(Callback):
    """Logs, validates, and writes the checkpoints, the metrics and the pictures of a run.

    It does so by itself, not through Lightning's loop, so that each `last.ckpt` is written after the logging and the
    validation that are due at its step, and a resumed run has the same rows and best step as an unbroken one.

    Args:
        folder: where.
        table: the metrics.
        log_every: steps between rows of training figures.
        val_every: steps between validations.
        save_every: steps between writes of `last.ckpt`.
    """

    def __init__(self, folder: RunFolder, table: MetricsTable, log_every: int, val_every: int, save_every: int) -> None:
        self.folder, self.table = folder, table
        self.log_every, self.val_every, self.save_every = log_every, val_every, save_every
        self.best, self.best_step = math.inf, 0
        self.step, self.seconds, self.started = 0, 0.0, time.monotonic()
        self.validation_seconds = 0.0

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must know: the step, the best validation so far, and the time spent."""
        return {
            "step": self.step,
            "best": self.best,
            "best_step": self.best_step,
            "seconds": self.elapsed(),
            "validation_seconds": self.validation_seconds,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken, with the metrics of the steps done until then."""
        self.best, self.best_step, self.seconds = state["best"], state["best_step"], state["seconds"]
        self.validation_seconds = state["validation_seconds"]
        self.table.read(up_to=state["step"])

    def on_train_batch_end(
        self, trainer: Trainer, stage: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log, validate and save when due."""
        step = self.step = trainer.global_step
        finished = step == stage.total_steps
        if step % self.log_every == 0:
            _log(trainer, stage.figures, step)
        if step % self.val_every == 0 or finished:
            started = time.monotonic()
            self._validate(trainer, stage, step)
            self.validation_seconds += time.monotonic() - started
        if step % self.save_every == 0 or finished:
            if trainer.is_global_zero:  # first: rows ahead of the checkpoint are made again, rows behind would be lost
                self.table.write()
            trainer.save_checkpoint(self.folder.last)

    def elapsed(self) -> float:
        """Seconds of training so far, over all its sessions."""
        return self.seconds + time.monotonic() - self.started

    def _validate(self, trainer: Trainer, stage: LightningModule, step: int) -> None:
        # one rank validates and writes; all know the figures, as a checkpoint is written by all together
        metrics = trainer.strategy.broadcast(stage.validate() if trainer.is_global_zero else None)
        if not math.isfinite(metrics[stage.monitor]):
            raise InputError(
                f"training has diverged: {stage.monitor} is {metrics[stage.monitor]} in the validation of step {step}."
                " Lower train.lr, in another RUNS= or after deleting this run."
            )
        _log(trainer, {f"val/{key}": value for key, value in metrics.items()}, step)
        trainer.progress_bar_callback.validated = metrics
        if trainer.is_global_zero:
            self.folder.images.mkdir(exist_ok=True)
            images = stage.picture()
            with atomic_write(self.folder.images / f"step{step:07d}.png") as temporary:
                save_image(images, temporary, nrow=16, format="png")
        if metrics[stage.monitor] < self.best:
            self.best, self.best_step = metrics[stage.monitor], step
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

    def get_metrics(self, trainer: Trainer, stage: LightningModule) -> dict[str, Any]:
        """The running training numbers, then the last validation's."""
        shown = super().get_metrics(trainer, stage)
        shown.pop("v_num", None)
        return shown | {f"val_{key}": f"{value:.4g}" for key, value in self.validated.items()}

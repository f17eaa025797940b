"""The folder of a run and its checkpoints.

`runs/<data>/<preset>/<stage>/` holds `config.yaml`, `last.ckpt`, `best.ckpt`, `metrics.csv`, `tb/` and `images/`; a
finished run also `training.json` and `model.safetensors`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor

from spiking_vq.checkpoint.file import not_finite, read_checkpoint, some_of
from spiking_vq.config.compare import differences
from spiking_vq.config.load import read_config, save_config
from spiking_vq.config.schema import Config
from spiking_vq.errors import InputError
from spiking_vq.files import atomic_write, require_writable

START_ANEW = "Delete it to start this run anew."


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

    def check(self, config: Config, open_fields: Collection[str] = ()) -> None:
        """Find mistakes that would stop a run of this configuration later. Writes nothing.

        Args:
            config: of the run, as given; fields that follow from the data are compared by `claim`.
            open_fields: those among them that have a value already, which may change.

        Raises:
            InputError: the folder cannot be written to, holds a run of another configuration, or an unfinished run
                whose files are missing or damaged.
        """
        require_writable(self.path)
        if self.config_file.exists():
            self._require_same(config, incomplete=True, open_fields=open_fields)
        elif self.last.exists():
            raise InputError(
                f"{self.config_file} is missing, without which {self.last} cannot be resumed: put it back, or delete"
                f" {self.path} to start this run anew"
            )
        if self.last.exists() and not self.model.exists():
            self._check_checkpoints()

    def claim(self, config: Config) -> None:
        """Write the configuration, or check that it is the one of the run in the folder.

        Args:
            config: of the run, complete.

        Raises:
            InputError: the folder holds a run of another configuration, or cannot be written to.
        """
        if self.config_file.exists():
            self._require_same(config)
            return
        with atomic_write(self.config_file) as temporary:
            save_config(config, temporary)

    def _require_same(self, config: Config, incomplete: bool = False, open_fields: Collection[str] = ()) -> None:
        changes = differences(read_config(self.config_file), config, incomplete, open_fields)
        if changes:
            raise InputError(
                f"{self.path} holds a run of another configuration:\n  "
                + "\n  ".join(changes)
                + "\nUndo the change, delete the folder, or keep both in another folder with runs=FOLDER."
            )

    def _check_checkpoints(self) -> None:
        """Check that the run can be resumed and, at its end, exported."""
        checkpoint = read_resumable(self.last)
        best_step = checkpoint["callbacks"]["KeepRun"]["best_step"]
        if not best_step:
            return
        advice = (
            f"It must hold the weights of step {best_step}, the best so far, which the finished run exports: put it"
            f" back, go on with train.start_from={self.last} runs=FOLDER, or delete {self.last} to start anew."
        )
        if not self.best.is_file():
            raise InputError(f"cannot resume: {self.best} is missing. {advice}")
        best = read_resumable(self.best, advice)
        if shapes(best["state_dict"]) != shapes(checkpoint["state_dict"]):
            raise InputError(f"cannot resume: {self.best} is of another network than {self.last}. {advice}")


def shapes(weights: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    """Name -> shape of all weights."""
    return {name: value.shape for name, value in weights.items()}


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints next to their final path and renames them; reads them with `weights_only=True`.

    Lightning writes to the system's temporary folder and moves: across file systems that is a copy, and a kill in the
    middle of it leaves half a file.

    Args:
        weights: name -> shape of the network to resume.
    """

    def __init__(self, weights: dict[str, torch.Size]) -> None:
        super().__init__()
        self.weights = weights

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint whole or not at all."""
        with atomic_write(path) as temporary:
            torch.save(checkpoint, temporary)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Read a checkpoint.

        Raises:
            InputError: it is truncated, corrupt, not a checkpoint, or one of another network.
        """
        checkpoint = read_resumable(path)
        if shapes(checkpoint["state_dict"]) != self.weights:
            raise InputError(f"cannot resume: {path} is of another network. {START_ANEW}")
        return checkpoint


def read_resumable(path: Path, advice: str = START_ANEW) -> dict[str, Any]:
    """Read a checkpoint of a run, which holds the state of `KeepRun`.

    Args:
        path: file of the checkpoint.
        advice: end of the message if it cannot be read; by default to start the run anew.

    Raises:
        InputError: it is truncated, corrupt, or not such a checkpoint, or its weights are not finite.
    """
    try:
        checkpoint = read_checkpoint(path)
    except InputError as error:
        raise InputError(f"cannot resume: {error}. {advice}") from error
    if "KeepRun" not in checkpoint["callbacks"]:
        raise InputError(f"cannot resume: {path} is a checkpoint of another program. {advice}")
    if names := not_finite(checkpoint["state_dict"]):
        raise InputError(f"cannot resume: {path} holds weights that are NaN or infinite ({some_of(names)}). {advice}")
    return checkpoint

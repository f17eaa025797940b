"""Train a stage: `spiking-vq train vq_svae preset=base data=mnist [key=value ...]`.

The same command resumes an interrupted run from its last checkpoint; a finished run says so.
"""

from __future__ import annotations

import logging
import signal
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.environments import ClusterEnvironment, LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy, Strategy

from spiking_vq.checkpoint.build import build_vq_svae
from spiking_vq.checkpoint.file import save_model
from spiking_vq.config.load import load_config
from spiking_vq.config.schema import Config, VQSVAEConfig
from spiking_vq.data.datasets import load_dataset
from spiking_vq.errors import InputError
from spiking_vq.files import NO_SPACE, atomic_write, cannot_write, json_text
from spiking_vq.runtime.precision import usual_defaults
from spiking_vq.runtime.running import run_with
from stages.absorbing import AbsorbingStage
from stages.classifier import ClassifierStage
from stages.cli.machine import can_compile, check_device, describe_machine, peak_memory_mb
from stages.cli.options import CONFIGS, recorded_command
from stages.gaussian import GaussianStage
from stages.training.callbacks import KeepRun, MetricsTable, RunBar
from stages.training.run_folder import AtomicCheckpointIO, RunFolder, shapes
from stages.training.stage import Stage
from stages.vq_svae import VQSVAEStage, own_perceptual

LOG_EVERY = 10  # steps
LOGGED = 20  # losses of a run that its `training.json` tells; a short one logs so often that there are as many
STAGES = {"vq_svae": VQSVAEStage, "absorbing": AbsorbingStage, "gaussian": GaussianStage, "classifier": ClassifierStage}


def main(arguments: list[str]) -> None:
    """Read the configuration, train or resume, export."""
    stage_name, *overrides = arguments or [""]
    named = [text.removeprefix("preset=") for text in overrides if text.startswith("preset=") and text != "preset="]
    preset = named[-1] if named else "base"  # the last one wins, as with every other override
    config = load_config(stage_name, preset_file(stage_name, preset), overrides)
    check_device(config.device, config.trainer.devices)
    folder = RunFolder(config)
    folder.check(config)
    if isinstance(config, VQSVAEConfig):
        train_perceptual(config)
    seed_everything(config.seed, verbose=False)  # the initial weights
    with usual_defaults():
        stage = STAGES[stage_name](config)
    folder.claim(stage.config)
    if folder.model.exists():
        print(f"finished before: {folder.model}")
        return
    fit(stage, folder, arguments)


def train_perceptual(config: VQSVAEConfig) -> None:
    """Train, where there is none yet and none is named, the classifier by whose features stage 1 is to be trained.

    It is the same whatever the seed of stage 1: all of a folder's runs learn by one.
    """
    if not config.perceptual.weight or config.perceptual.classifier or own_perceptual(config).exists():
        return
    data = load_dataset(config.data, config.data_dir, config.image_size)
    build_vq_svae(replace(config, image_shape=list(data.image_shape)))  # what does not fit is found before the work
    print(f"stage 1 is trained by the features of a classifier (perceptual.weight={config.perceptual.weight:g})")
    same = [f"{name}={getattr(config, name)}" for name in ("data", "data_dir", "runs", "device")]
    size = [] if config.image_size is None else [f"image_size={config.image_size}"]
    main(["classifier", "preset=perceptual", *same, *size])


def preset_file(stage: str, preset: str) -> Path:
    """The YAML file of a (stage, preset) pair.

    Raises:
        InputError: there is none; the message lists those there are.
    """
    files = {(file.parent.name, file.stem): file for file in sorted(CONFIGS.glob("*/*.yaml"))}
    if (stage, preset) not in files:
        legal = ", ".join(f"({stage}, {preset})" for stage, preset in files)
        raise InputError(f"no preset {preset!r} for stage {stage!r}: the (stage, preset) pairs are {legal}")
    return files[stage, preset]


def fit(stage: Stage, folder: RunFolder, arguments: list[str]) -> None:
    """Train to the end, from the last checkpoint if there is one, and export the best weights.

    Of several processes, which Lightning starts, the first writes the files.

    Raises:
        InputError: training has diverged, a file cannot be written, or the last checkpoint is of another network.
    """
    config, train, device = stage.config, stage.config.train, torch.device(stage.config.device)
    table = MetricsTable(folder.metrics)
    log_every = max(1, min(LOG_EVERY, stage.total_steps // LOGGED))
    checkpoints = AtomicCheckpointIO(shapes(stage.state_dict()))
    keep = KeepRun(folder, table, stage.total_steps, log_every, train.val_every, train.save_every)
    bar = RunBar(f"{config.stage} {config.data} {config.preset}", refresh_rate=1 if sys.stderr.isatty() else 50)
    _quiet_lightning()
    trainer = Trainer(
        max_steps=stage.total_steps,
        gradient_clip_val=train.grad_clip or None,
        accelerator=device.type,
        devices=config.trainer.devices if device.index is None else [device.index],
        strategy=strategy(config),
        use_distributed_sampler=False,
        logger=[table, TensorBoardLogger(folder.path, name="tb", version="")],
        callbacks=[keep, bar],
        plugins=[checkpoints, *environment(config)],
        default_root_dir=folder.path,  # where Lightning looks for checkpoints of a cluster's scheduler
        enable_checkpointing=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    resume = folder.last if folder.last.exists() else None
    if trainer.is_global_zero:
        print(f"{folder.path}: {stage.total_steps} steps" + (f", resuming from {resume}" if resume else ""))
    try:
        with run_with(compile=train.compile and can_compile()):
            trainer.fit(stage, ckpt_path=resume, weights_only=True)
    except SystemExit:  # Lightning's answer to Ctrl-C
        print("the same command resumes", file=sys.stderr)
        raise KeyboardInterrupt from None
    except InputError:
        _end_together(trainer)
        raise
    except OSError as error:  # of TensorBoard's log, or of what is printed
        if error.errno not in NO_SPACE:
            raise
        _end_together(trainer)
        raise cannot_write(folder.path, error) from error
    if not trainer.is_global_zero:
        return
    best = checkpoints.load_checkpoint(folder.best)
    stage.load_state_dict(best["state_dict"])
    with atomic_write(folder.summary) as temporary:
        temporary.write_text(json_text(summary(stage, keep, table, arguments)))
    save_model(folder.model, stage.export(), stage.config)
    print(f"wrote {folder.model}")


def is_distributed(config: Config) -> bool:
    """Whether Lightning trains in several processes, or as if there were several."""
    return config.trainer.devices > 1 or config.trainer.strategy == "ddp"


def strategy(config: Config) -> Strategy | str:
    """Lightning's strategy for so many devices."""
    # codebooks, and norms where they are synchronised, are reduced by the layers; a broadcast would hide it if not
    return DDPStrategy(broadcast_buffers=False) if is_distributed(config) else "auto"


def environment(config: Config) -> list[ClusterEnvironment]:
    """The plugin with which one process is the first and only one, whatever a cluster's scheduler set for its tasks.

    Lightning reads variables such as `SLURM_PROCID` and `RANK` when it is imported, and again when it trains.
    """
    if is_distributed(config):
        return []
    alone = LightningEnvironment()
    alone.set_global_rank(0)
    return [alone]


def _end_together(trainer: Trainer) -> None:
    """End the other processes, which may wait for this one; only the first goes on, to say what happened."""
    if not trainer.is_global_zero:
        sys.exit(2)
    if trainer.strategy.launcher is not None:
        trainer.strategy.launcher.kill(signal.SIGKILL)


def summary(stage: Stage, keep: KeepRun, table: MetricsTable, arguments: list[str]) -> dict[str, Any]:
    """What a finished run amounts to, as its `training.json` says."""
    config = stage.config
    logged = [(step, row["loss"]) for step, row in sorted(table.rows.items()) if "loss" in row]
    images, seconds = stage.total_steps * config.train.batch_size, keep.elapsed()
    return {
        "command": recorded_command("train", arguments),
        "data": config.data,
        "preset": config.preset,
        "stage": config.stage,
        "parameters": sum(weight.numel() for weight in stage.model.parameters()),
        "steps": stage.total_steps,
        "images": images,
        "seconds": seconds,
        "validation_seconds": keep.validation_seconds,
        "images_per_second": images / (seconds - keep.validation_seconds),
        "peak_memory_mb": peak_memory_mb(config.device),
        "loss": {str(step): loss for step, loss in logged[:: max(1, len(logged) // LOGGED)]},
        "best": {"step": keep.best_step, stage.monitor: keep.best},
        "validation": keep.validation or {f"val/{stage.monitor}": keep.best},  # older checkpoints hold the latter only
        "machine": describe_machine(config.device) | {"processes": config.trainer.devices},
    }


def _quiet_lightning() -> None:
    """Silence what Lightning says about itself; its errors stay."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    for noise in (
        ".*does not have many workers.*",
        ".*log_every_n_steps.*",
        ".*`ModelCheckpoint`.*",
        ".*val_dataloader.*",
    ):
        warnings.filterwarnings("ignore", noise)

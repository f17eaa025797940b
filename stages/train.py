"""Train a stage.

The same command resumes an interrupted run from its last checkpoint; a finished run is not trained again.
"""

from __future__ import annotations

import signal
import sys
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.environments import ClusterEnvironment, LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy, Strategy

from spiking_vq.checkpoint.build import build_vq_svae
from spiking_vq.checkpoint.file import save_model
from spiking_vq.config.load import load_config
from spiking_vq.config.schema import STAGES as Options  # noqa: F401 (the help reads it)
from spiking_vq.config.schema import AbsorbingConfig, Config, VQSVAEConfig
from spiking_vq.data.own import OwnData
from spiking_vq.errors import InputError
from spiking_vq.files import NO_SPACE, atomic_write, cannot_write, json_text
from spiking_vq.pipelines.zoo import located
from spiking_vq.runtime.precision import usual_defaults
from spiking_vq.runtime.running import run_with
from stages.absorbing import AbsorbingStage, with_stage1
from stages.classifier import ClassifierStage
from stages.cli.data import data_of
from stages.cli.machine import can_compile, check_device, describe_machine, peak_memory_mb
from stages.cli.options import preset_file, recorded_command
from stages.gaussian import GaussianStage
from stages.training.adapting import ADAPTABLE, adapted
from stages.training.callbacks import LOGGED, KeepRun, MetricsTable, RunBar
from stages.training.forecast import Forecast
from stages.training.run_folder import AtomicCheckpointIO, RunFolder, shapes
from stages.training.stage import Stage
from stages.vq_svae import VQSVAEStage, own_perceptual

EXAMPLE = "spiking-vq train vq_svae preset=base data=mnist train.max_steps=2000"

STAGES = {"vq_svae": VQSVAEStage, "absorbing": AbsorbingStage, "gaussian": GaussianStage, "classifier": ClassifierStage}


def main(arguments: list[str]) -> None:
    """Train or resume the run that a stage and `key=value` overrides describe, and export its model."""
    stage_name, *overrides = arguments or [""]
    presets = [text.removeprefix("preset=") for text in overrides if text.startswith("preset=") and text != "preset="]
    preset = presets[-1] if presets else "base"  # the last one wins, as with every other override
    config = load_config(stage_name, preset_file(stage_name, preset), overrides)
    check_device(config.device, config.trainer.devices)
    config = with_files(config)
    given = {key for key, _, value in (text.partition("=") for text in overrides) if value}
    folder = RunFolder(config)
    folder.check(config, open_fields={*ADAPTABLE, *config.reading} - given)
    config = fitted(config, given)
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


def with_files(config: Config) -> Config:
    """The configuration with the files of the models that it names, such as `mnist-base`."""
    if start := config.train.start_from:
        start = located(start, config.stage, *STAGES[config.stage].held_by)
        config = replace(config, train=replace(config.train, start_from=str(start)))
    if isinstance(config, AbsorbingConfig) and config.stage1:
        config = replace(config, stage1=str(located(config.stage1, "vq_svae", *VQSVAEStage.held_by)))
    return config


def fitted(config: Config, given: set[str]) -> Config:
    """The configuration adapted to its data, with a line for each change; `given` are the fields that the user gave."""
    if isinstance(config, AbsorbingConfig):
        config, _, _ = with_stage1(config)
    data = data_of(config)
    if isinstance(data, OwnData):
        print(data.about)
    config, changes = adapted(config, data, given)
    for change in changes:
        print(f"adapted: {change}")
    return config


def train_perceptual(config: VQSVAEConfig) -> None:
    """Train the classifier of stage 1's perceptual loss, unless it exists, another is named, or the loss is not used.

    It does not depend on the seed of stage 1, so that all runs in a folder share it.
    """
    if not config.perceptual.weight or config.perceptual.classifier or own_perceptual(config).exists():
        return
    build_vq_svae(replace(config, image_shape=list(data_of(config).image_shape)))  # finds mistakes before the work
    print(f"training the classifier of the perceptual loss first (perceptual.weight={config.perceptual.weight:g})")
    same = [f"{name}={getattr(config, name)}" for name in ("data", "data_dir", "runs", "device")]
    same += [f"{name}={value}" for name, value in config.reading.items() if value != getattr(Config, name)]
    main(["classifier", "preset=perceptual", *same])


def fit(stage: Stage, folder: RunFolder, arguments: list[str]) -> None:
    """Train to the end, from the last checkpoint if there is one, and export the best weights.

    With several processes, which Lightning starts, the first one writes the files.

    Args:
        stage: to train.
        folder: of the run.
        arguments: of the command, for `training.json`.

    Raises:
        InputError: training has diverged, a file cannot be written, or the last checkpoint is of another network.
    """
    config = stage.config
    table, checkpoints = MetricsTable(folder.metrics), AtomicCheckpointIO(shapes(stage.state_dict()))
    title = f"{config.stage} {config.data} {config.preset}"
    bar, forecast = RunBar(title, stage.total_steps), Forecast(title, stage.total_steps, config.device)
    keep = KeepRun(folder, table, bar, stage.total_steps, config.train)
    trainer = trainer_of(stage, folder, [keep, bar, forecast], table, checkpoints)
    resume = folder.last if folder.last.exists() else None
    if trainer.is_global_zero:
        described = f"{stage.total_steps} steps; {stage.about}"
        print(f"{folder.path}: {described}" + (f"; resuming from {resume}" if resume else ""))
    try:
        with run_with(compile=config.train.compile and can_compile()):
            trainer.fit(stage, ckpt_path=resume, weights_only=True)
    except SystemExit:  # Lightning's answer to Ctrl-C
        print("the same command resumes", file=sys.stderr)
        raise KeyboardInterrupt from None
    except InputError:
        _end_together(trainer)
        raise
    except OSError as error:  # of TensorBoard's log, or of printed text
        if error.errno not in NO_SPACE:
            raise
        _end_together(trainer)
        raise cannot_write(folder.path, error) from error
    if not trainer.is_global_zero:
        return
    stage.load_state_dict(checkpoints.load_checkpoint(folder.best)["state_dict"])
    with atomic_write(folder.summary) as temporary:
        temporary.write_text(json_text(summary(stage, keep, arguments)))
    save_model(folder.model, stage.export(), stage.config)
    print(f"wrote {folder.model}")


def trainer_of(
    stage: Stage,
    folder: RunFolder,
    callbacks: list[Callback],
    table: MetricsTable,
    checkpoints: AtomicCheckpointIO,
) -> Trainer:
    """Lightning's trainer of a run; `KeepRun` does its logging, validation and checkpoints."""
    config, device = stage.config, torch.device(stage.config.device)
    return Trainer(
        max_steps=stage.total_steps,
        gradient_clip_val=config.train.grad_clip or None,
        accelerator=device.type,
        devices=config.trainer.devices if device.index is None else [device.index],
        strategy=strategy(config),
        use_distributed_sampler=False,
        logger=[table, TensorBoardLogger(folder.path, name="tb", version="")],
        callbacks=callbacks,
        plugins=[checkpoints, *environment(config)],
        default_root_dir=folder.path,  # where Lightning looks for checkpoints of a cluster's scheduler
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        num_sanity_val_steps=0,
    )


def is_distributed(config: Config) -> bool:
    """Whether Lightning trains by distributed data parallel."""
    return config.trainer.devices > 1 or config.trainer.strategy == "ddp"


def strategy(config: Config) -> Strategy | str:
    """Lightning's strategy for the configured devices."""
    # layers reduce codebooks and synchronised norms over the ranks; broadcasting buffers would hide it if not
    return DDPStrategy(broadcast_buffers=False) if is_distributed(config) else "auto"


def environment(config: Config) -> list[ClusterEnvironment]:
    """The plugin that makes a single process the first and only one, whatever a cluster's scheduler set for its tasks.

    Lightning reads variables such as `SLURM_PROCID` and `RANK` when it is imported, and again when it trains.
    """
    if is_distributed(config):
        return []
    alone = LightningEnvironment()
    alone.set_global_rank(0)
    return [alone]


def _end_together(trainer: Trainer) -> None:
    """End the other processes, which may wait for this one; the first goes on and reports the error."""
    if not trainer.is_global_zero:
        sys.exit(2)
    if trainer.strategy.launcher is not None:
        trainer.strategy.launcher.kill(signal.SIGKILL)


def summary(stage: Stage, keep: KeepRun, arguments: list[str]) -> dict[str, Any]:
    """The content of `training.json` of a finished run."""
    config = stage.config
    losses = [(step, row["loss"]) for step, row in sorted(keep.table.rows.items()) if "loss" in row]
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
        "loss": {str(step): loss for step, loss in losses[:: max(1, len(losses) // LOGGED)]},
        "best": {"step": keep.best_step, stage.monitor: keep.best},
        "validation": keep.validation or {f"val/{stage.monitor}": keep.best},  # older checkpoints hold the latter only
        "machine": describe_machine(config.device) | {"processes": config.trainer.devices},
    }

"""The base of the stages: optimiser, averaged weights, noise by (seed, step), firing-rate penalty, early spiking steps.

A stage's module has `prepare(config)`, which loads the data and completes the configuration, and a `Stage` with its
loss, validation, picture and export.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from spiking_vq.checkpoint.file import fingerprint, load_model
from spiking_vq.config.schema import Config, SpikingConfig
from spiking_vq.data.stream import BatchStream
from spiking_vq.errors import InputError
from spiking_vq.layers.synapses import synchronise
from spiking_vq.neurons.activity import mean_firing_rate
from spiking_vq.randomness import Stream, mix_seed
from spiking_vq.runtime.distributed import mean_over_ranks
from spiking_vq.runtime.precision import autocast, parameter_type
from spiking_vq.runtime.running import run_with
from stages.training.ema import MovingAverage
from stages.training.fine_tune import take_over


class Stage(LightningModule):
    """A network in training.

    Args:
        config: of the run, complete.
        model: network to train.
        rows: tensors with one row per example; a batch takes the same rows of each.

    Attributes:
        total_steps: length of the run.
        metrics: of the last training step, mean over the ranks: `loss`, and `train/...`.
        monitor: name of the validation metric that the best checkpoint minimises.
        held_by: other stages whose files hold the network too.

    Raises:
        InputError: neither `train.max_steps` nor `train.max_epochs` is set, or `train.start_from` does not fit.
    """

    monitor: str
    held_by: tuple[str, ...] = ()

    def __init__(self, config: Config, model: nn.Module, rows: Sequence[Tensor]) -> None:
        super().__init__()
        self.config, self.model = config, model.to(parameter_type(config.precision))
        if config.trainer.sync_batchnorm:
            synchronise(model)
        train = config.train
        if train.start_from:
            sha256 = self._start_from(train.start_from)
            self.config = config = replace(config, train=replace(train, start_from_sha256=sha256))
        seed, pinned = mix_seed(config.seed, Stream.BATCHES), torch.device(config.device).type == "cuda"
        self.stream = BatchStream(tuple(rows), train.batch_size, 0, seed, pinned)
        limits = [train.max_steps, train.max_epochs and train.max_epochs * self.stream.batches_per_epoch]
        if limits == [None, None]:
            raise InputError("the length of training is missing: set train.max_steps or train.max_epochs")
        self.total_steps = self.stream.num_batches = min(limit for limit in limits if limit)
        self.ema = MovingAverage(model, train.ema_decay) if train.ema_decay else None

    def batch_loss(self, batch: Sequence[Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """`loss` with its gradient, and metrics to log, of this rank's rows of a batch.

        The mean of the loss over the ranks is the loss of the batch. All ranks get the same generator.
        """
        raise NotImplementedError

    def validate(self) -> dict[str, float]:
        """Metrics on the validation split, `monitor` among them. Uses no random numbers of training."""
        raise NotImplementedError

    def picture(self) -> Tensor:
        """Images [n, C, H, W] in [0, 1] that show the state of training. Uses no random numbers of training."""
        raise NotImplementedError

    @property
    def about(self) -> str:
        """The size of the network, and what else tells how long training takes."""
        return f"{sum(weight.numel() for weight in self.model.parameters()):,} parameters"

    def export(self) -> nn.Module:
        """The model that the stage's file holds."""
        return self.trained

    def network_of(self, exported: nn.Module) -> nn.Module:
        """The trained network within the model that a file of this stage, or of one in `held_by`, holds."""
        return exported

    def check_start(self, exported: nn.Module) -> None:
        """Raise `InputError` if fine-tuning cannot start from this model of a stage's file."""

    def _start_from(self, path: str) -> str:
        """Take over the weights in a file of this stage, or of one in `held_by`; returns their fingerprint."""
        exported, config = load_model(path)
        if config.stage not in (self.config.stage, *self.held_by):
            wanted = " or ".join((self.config.stage, *self.held_by))
            raise InputError(f"train.start_from={path} is a {config.stage} model: name a {wanted} one")
        self.check_start(exported)
        network = self.network_of(exported)
        take_over(self.model, network.state_dict(), config.data == self.config.data, path)
        return fingerprint(network)

    @property
    def trained(self) -> nn.Module:
        """The network to validate and export: the moving average if there is one."""
        return self.ema.module if self.ema is not None else self.model

    def autocast(self) -> torch.autocast:
        """The autocast of the configured precision."""
        return autocast(self.config.precision, self.device)

    def generator(self, *key: int) -> torch.Generator:
        """A generator on the CPU that depends on the run's seed and `key` only."""
        return torch.Generator().manual_seed(mix_seed(self.config.seed, *key))

    def train_dataloader(self) -> BatchStream:
        """All batches of the run as one Lightning epoch, so that every step can be resumed from."""
        return self.stream

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        """One step; its noise is a function of (seed, step)."""
        self.model.train()
        with self.autocast(), self._scheduled_steps():
            metrics = self._loss_with_rate_penalty(batch, self.generator(Stream.TRAINING, self.global_step))
        means = mean_over_ranks(torch.stack([value.detach().float() for value in metrics.values()]))
        names = (name if name == "loss" else f"train/{name}" for name in metrics)
        self.metrics = dict(zip(names, means, strict=True))
        return metrics["loss"]

    def _loss_with_rate_penalty(self, batch: Sequence[Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """`batch_loss` plus the firing-rate penalty, `weight max(0, rate - target)`.

        Whether the rate exceeds its target is decided for the whole batch, so that several ranks train as one.
        """
        options = self.config.rate if isinstance(self.config, SpikingConfig) else None
        if options is None or not options.weight:
            return self.batch_loss(batch, generator)
        with mean_firing_rate(self.model) as measured:
            metrics = self.batch_loss(batch, generator)
        rate = measured()
        exceeds = mean_over_ranks(rate.detach()) > options.target
        penalty = options.weight * (rate - options.target) * exceeds
        return metrics | {"loss": metrics["loss"] + penalty, "firing_rate": rate}

    @contextmanager
    def _scheduled_steps(self) -> Iterator[None]:
        """Inside the block a spiking network takes `early_T` spiking steps in the early part of training."""
        config = self.config
        if not isinstance(config, SpikingConfig) or not config.early_T:
            yield
            return
        early = self.global_step < config.early_part * self.total_steps
        with run_with(num_steps=config.early_T if early else None):
            yield

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """A step of the optimiser, then of the moving average."""
        super().optimizer_step(*args, **kwargs)
        if self.ema is not None:
            self.ema.update(self.model)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The optimiser's parameter groups; those without `lr` take `train.lr`."""
        return [{"params": list(self.model.parameters())}]

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW; a linear warm-up, then a constant or cosine learning rate."""
        train = self.config.train
        optimizer = torch.optim.AdamW(self.parameter_groups(), train.lr, weight_decay=train.weight_decay, fused=True)

        def factor(step: int) -> float:
            warmup = min(1.0, (step + 1) / (train.warmup_steps + 1))
            decay = 0.5 * (1 + math.cos(math.pi * step / self.total_steps)) if train.schedule == "cosine" else 1.0
            return warmup * decay

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

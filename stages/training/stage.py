"""What the stages have in common: optimiser, averaged weights, noise by (seed, step), few spiking steps at first."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from spiking_vq.activity import mean_firing_rate
from spiking_vq.checkpoint.file import fingerprint, load_model
from spiking_vq.config.schema import Config, SpikingConfig
from spiking_vq.data.stream import BatchStream
from spiking_vq.errors import InputError
from spiking_vq.layers.synapses import synchronise
from spiking_vq.randomness import mix_seed
from spiking_vq.runtime.distributed import mean_over_ranks
from spiking_vq.runtime.precision import autocast, parameter_type
from spiking_vq.runtime.running import run_with
from stages.training.ema import averaged

ADDED = ("scales", "labels.weight")
"""What fine-tuning may add to a trained network: scales of the steps, or labels."""

OF_DATA = ("labels.weight", "data_variance")
"""What a network knows of its data alone: fine-tuning on other data begins with that of the new."""


class Stage(LightningModule):
    """A network being trained. A stage adds what a batch is, its loss, its validation and its picture.

    Args:
        config: of the run, complete.
        model: the network to train.
        rows: tensors with one row an example; a batch takes the same rows of each.

    Attributes:
        total_steps: length of the run.
        monitor: name of the validation metric that the best checkpoint minimises.
        held_by: other stages, whose files hold the network, too.
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
            found = self._start_from(train.start_from)
            self.config = config = replace(config, train=replace(train, start_from_sha256=found))
        self.stream = BatchStream(tuple(rows), train.batch_size, 0, mix_seed(config.seed, 1))
        limits = [train.max_steps, train.max_epochs and train.max_epochs * self.stream.batches_per_epoch]
        if limits == [None, None]:
            raise InputError("how long to train is not said: set train.max_steps or train.max_epochs")
        self.total_steps = self.stream.num_batches = min(limit for limit in limits if limit)
        self.ema = averaged(model, train.ema_decay) if train.ema_decay else None

    def batch_loss(self, batch: Sequence[Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """`loss` with gradient, and numbers to log, of this rank's share of a batch of rows.

        The mean of the loss over the ranks is that of the batch; of the numbers it is what is logged. All ranks are
        given the same generator.
        """
        raise NotImplementedError

    def validate(self) -> dict[str, float]:
        """Figures on the validation split, `monitor` among them. Draws no random number that training would use."""
        raise NotImplementedError

    def picture(self) -> Tensor:
        """Images [n, C, H, W] in [0, 1] that show where training is."""
        raise NotImplementedError

    def export(self) -> nn.Module:
        """The network as the stage's file holds it."""
        raise NotImplementedError

    def part(self, exported: nn.Module) -> nn.Module:
        """The network that is trained, of what a file of this stage, or of one of `held_by`, holds."""
        return exported

    def check_start(self, exported: nn.Module) -> None:
        """Raise `InputError` if a stage's file that fine-tuning is to start from is of no use here."""

    def _start_from(self, path: str) -> str:
        """Take over the weights of a trained model, but for `OF_DATA` of other data; `ADDED` it may lack.

        Returns:
            Fingerprint of the weights.

        Raises:
            InputError: it is another stage's, or its network another.
        """
        exported, config = load_model(path)
        if config.stage not in (self.config.stage, *self.held_by):
            wanted = " or ".join((self.config.stage, *self.held_by))
            raise InputError(f"train.start_from={path} is a {config.stage} model: name a {wanted} one")
        self.check_start(exported)
        weights = self.part(exported).state_dict()
        if config.data != self.config.data:
            weights = {name: value for name, value in weights.items() if not name.endswith(OF_DATA)}
        try:
            found = self.model.load_state_dict(weights, strict=False)
            missing = [name for name in found.missing_keys if not name.endswith((*ADDED, *OF_DATA))]
            if missing or found.unexpected_keys:
                raise RuntimeError(f"{len(missing)} weights are missing, {len(found.unexpected_keys)} unknown")
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:300]
            raise InputError(f"the weights in {path} do not fit this network: {reason}") from error
        return fingerprint(self.part(exported))

    @property
    def trained(self) -> nn.Module:
        """The network to validate and export: the moving average where there is one."""
        return self.ema.module if self.ema is not None else self.model

    def autocast(self) -> torch.autocast:
        """bf16 where the configuration says so."""
        return autocast(self.config.precision, self.device)

    def generator(self, *key: int) -> torch.Generator:
        """A source of random numbers, on the CPU, that depends on the seed and `key` only."""
        return torch.Generator().manual_seed(mix_seed(self.config.seed, *key))

    def train_dataloader(self) -> BatchStream:
        """All batches of the run, as one Lightning epoch: one bar, and one place to resume from."""
        return self.stream

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        """One step; its noise is a function of (seed, step)."""
        self.model.train()
        with self.autocast(), self._steps_of_now():
            figures = self._sparing(batch, self.generator(2, self.global_step))
        means = mean_over_ranks(torch.stack([value.detach().float() for value in figures.values()]))
        names = (name if name == "loss" else f"train/{name}" for name in figures)
        self.figures = dict(zip(names, means, strict=True))
        self.log("loss", self.figures["loss"], prog_bar=True, logger=False)
        return figures["loss"]

    def _sparing(self, batch: Sequence[Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """`batch_loss`, and in it what the mean firing rate exceeds its target by, where that has a weight.

        Whether it does is a matter of the whole batch, so that ranks together train as one.
        """
        rate = self.config.rate if isinstance(self.config, SpikingConfig) else None
        if rate is None or not rate.weight:
            return self.batch_loss(batch, generator)
        with mean_firing_rate(self.model) as measured:
            figures = self.batch_loss(batch, generator)
        found = measured()
        exceeds = mean_over_ranks(found.detach()) > rate.target
        penalty = rate.weight * (found - rate.target) * exceeds
        return figures | {"loss": figures["loss"] + penalty, "firing_rate": found}

    @contextmanager
    def _steps_of_now(self) -> Iterator[None]:
        """Inside the block a network that spikes takes `early_T` steps, if it is early."""
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
            self.ema.update_parameters(self.model)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What is trained, as an optimiser takes it; by default with the configuration's learning rate."""
        return [{"params": list(self.model.parameters())}]

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW, warm-up, then constant or cosine."""
        train = self.config.train
        optimizer = torch.optim.AdamW(self.parameter_groups(), train.lr, weight_decay=train.weight_decay, fused=True)

        def factor(step: int) -> float:
            warmup = min(1.0, (step + 1) / (train.warmup_steps + 1))
            decay = 0.5 * (1 + math.cos(math.pi * step / self.total_steps)) if train.schedule == "cosine" else 1.0
            return warmup * decay

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

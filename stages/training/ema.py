"""The exponential moving average of a network's weights."""

from __future__ import annotations

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def averaged(model: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of weights and batch-norm statistics.

    `avg = d avg + (1 - d) new` with `d = min(decay, (1 + n) / (10 + n))` after n updates, so that the start of training
    is forgotten soon; integers (counters) are copied.

    Args:
        model: network to average; the average starts as a copy of it.
        decay: d per step in the long run, in [0, 1).
    """

    def update(averages: list[Tensor], news: list[Tensor], num_averaged: Tensor) -> None:
        n = int(num_averaged)
        d = min(decay, (1 + n) / (10 + n))
        for average, new in zip(averages, news, strict=True):
            if average.is_floating_point():
                average.lerp_(new, 1 - d)
            else:
                average.copy_(new)

    return AveragedModel(model, multi_avg_fn=update, use_buffers=True).requires_grad_(False)

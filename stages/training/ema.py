"""The exponential moving average of a network's weights."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn


class MovingAverage(nn.Module):
    """An exponential moving average of weights and batch-norm statistics.

    `avg = d avg + (1 - d) new` with `d = min(decay, (1 + n) / (10 + n))` after n updates, so that the start of training
    is forgotten soon; the first update is a copy, and integers (counters) are always copied.

    The number of updates is known to the host, so that no update waits for a GPU. In the state dictionary it is
    `n_averaged`.

    Args:
        model: network to average; the average starts as a copy of it.
        decay: d per step in the long run, in [0, 1).

    Attributes:
        module: the averaged network.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__()
        self.module, self.decay, self.num_updates = deepcopy(model).requires_grad_(False), decay, 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the present weights of the network."""
        n = self.num_updates
        weight = 1 - min(self.decay, (1 + n) / (10 + n)) if n else 1.0
        for average, new in zip(_values(self.module), _values(model), strict=True):
            if average.is_floating_point() and n:
                average.lerp_(new, weight)
            else:
                average.copy_(new)
        self.num_updates += 1

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}n_averaged"] = torch.tensor(self.num_updates, device="cpu")

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *args: Any) -> None:
        self.num_updates = int(state.pop(f"{prefix}n_averaged"))
        super()._load_from_state_dict(state, prefix, *args)


def _values(model: nn.Module) -> list[Tensor]:
    """Parameters and buffers."""
    return [*model.parameters(), *model.buffers()]

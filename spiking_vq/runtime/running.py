"""How networks run inside a block: settings that reach every layer of a call, and no other call.

They belong to the thread (or task) that set them. No module is written to, so that threads may share a network, and
nothing is left behind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

SpikeObserver = Callable[[Tensor], None]
"""Called with the spikes `[T, B, ...]` of a neuron layer's call."""

SpikeCounter = Callable[[Tensor, int], None]
"""Called with the number of spikes of a neuron layer's call, a float32 scalar with its gradient, and the number of
slots for one."""


@dataclass(frozen=True)
class Run:
    """The settings in force.

    Attributes:
        compile: kernels go through `torch.compile` (see `spiking_vq.compiling`); the backward pass of a layer does as
            its forward did.
        num_steps: spiking steps T that networks take; None leaves each network its own.
        threshold_shift: added to the firing threshold of every `LIF` layer.
        unfolded: read-outs apply their synapse at every step, as a neuromorphic chip does; the results are the same.
        observers: neuron layer -> its observer, block by block.
        counters: neuron layer -> its counter, block by block.
    """

    compile: bool = False
    num_steps: int | None = None
    threshold_shift: float = 0.0
    unfolded: bool = False
    observers: tuple[Mapping[nn.Module, SpikeObserver], ...] = ()
    counters: tuple[Mapping[nn.Module, SpikeCounter], ...] = ()


_run: ContextVar[Run] = ContextVar("run", default=Run())  # noqa: B039 (frozen)


def running() -> Run:
    """The settings in force here."""
    return _run.get()


@contextmanager
def run_with(**settings: Any) -> Iterator[None]:
    """Inside the block these fields of `Run` are in force; those not given stay as they are.

    Observers and counters are added to those of the blocks around.
    """
    outer = _run.get()
    for name in ("observers", "counters"):
        if name in settings:
            settings[name] = (*getattr(outer, name), settings[name])
    token = _run.set(replace(outer, **settings))
    try:
        yield
    finally:
        _run.reset(token)


def steps_of(network: nn.Module) -> int:
    """Spiking steps that a network takes here: `num_steps` of the block, else the network's own T."""
    return running().num_steps or network.T

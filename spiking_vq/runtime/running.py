"""Settings of a block of code that reach every layer called inside, and no other call.

They belong to the thread (or task) that set them and end with the block. No module is changed, so threads may share a
network.
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
"""Called with the number of spikes of a neuron layer's call, a float32 scalar with gradient, and the largest possible
number."""


@dataclass(frozen=True)
class Run:
    """The settings in force.

    Attributes:
        compile: kernels go through `torch.compile` (see `runtime.compiling`), in the backward pass of a layer as in its
            forward pass; default False.
        num_steps: number of spiking steps T of all networks; None (default) leaves each network its own.
        threshold_shift: added to the firing threshold of every `LIF` layer; default 0.
        unfolded: read-outs apply their synapse at every step, as a neuromorphic chip does, with the same result;
            default False.
        observers: for each block around, neuron layer -> observer.
        counters: for each block around, neuron layer -> counter.
    """

    compile: bool = False
    num_steps: int | None = None
    threshold_shift: float = 0.0
    unfolded: bool = False
    observers: tuple[Mapping[nn.Module, SpikeObserver], ...] = ()
    counters: tuple[Mapping[nn.Module, SpikeCounter], ...] = ()


_run: ContextVar[Run] = ContextVar("run", default=Run())  # noqa: B039 (frozen)


def running() -> Run:
    """Return the settings in force."""
    return _run.get()


@contextmanager
def run_with(**settings: Any) -> Iterator[None]:
    """Set fields of `Run` inside the block; the others keep their values.

    Observers and counters, given as one mapping, are added to those of the blocks around.
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
    """Number of spiking steps that a network takes: `num_steps` of the block, else the network's own T."""
    return running().num_steps or network.T

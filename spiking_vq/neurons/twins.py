"""Activations of the non-spiking twins, which replace the neurons of a network at T = 1."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from spiking_vq.errors import InputError
from spiking_vq.neurons.fused import LazyCurrent, as_current
from spiking_vq.neurons.lif import LIF
from spiking_vq.neurons.readouts import weighted_sum


class ReLU(nn.Module):
    """Activation of the non-spiking twin: real values `[T, B, ...]`, each step by itself."""

    def forward(self, x: Tensor | LazyCurrent) -> Tensor:
        """`max(x, 0)`."""
        return as_current(x).value().relu()

    def integrate(self, x: Tensor | LazyCurrent, weights: Sequence[float]) -> Tensor:
        """`sum_t weights[t] max(x[t], 0)`, `[B, ...]`, fp32 at least."""
        return weighted_sum(self(x), weights)


class QuantisedReLU(ReLU):
    """Activation of the quantised twin: `round(L clamp(x, 0, 1)) / L`, `L = 2^bits - 1`; the gradient is the clamp's.

    Args:
        bits: number of bits of an activation, at least 1.
    """

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits

    def forward(self, x: Tensor | LazyCurrent) -> Tensor:
        """Activations in {0, 1/L, ..., 1}."""
        levels, clamped = 2**self.bits - 1, as_current(x).value().clamp(0, 1)
        return clamped + ((clamped * levels).round() / levels - clamped).detach()


def neuron_factory(neuron: str, activation_bits: int | None = None, **lif: Any) -> Callable[[], nn.Module]:
    """Return a function that builds the neuron layers of a network.

    Args:
        neuron: `lif` for `LIF(**lif)`, `relu` for the non-spiking twin, `quantised` for the quantised twin.
        activation_bits: of the quantised twin; default None.
        lif: arguments of `LIF`.

    Raises:
        InputError: any other name.
    """
    if neuron == "lif":
        return lambda: LIF(**lif)
    if neuron == "relu":
        return ReLU
    if neuron == "quantised":
        return partial(QuantisedReLU, activation_bits)
    raise InputError(f"neuron must be lif, relu or quantised; got {neuron!r}")

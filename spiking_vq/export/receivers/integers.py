"""Graphs of quantised networks in integers: what a chip stores, and its arithmetic."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from spiking_vq.errors import InputError, require
from spiking_vq.export.graphs.graph import INPUT, Convolution, Graph, Neurons
from spiking_vq.export.receivers.own import Receiver
from spiking_vq.quantisation.grid import integers_of

MOST_EXPONENT = 24
"""Exponents up to which numbers are searched for."""

ACCUMULATOR = 2**31 - 1
"""Largest value of a membrane, an int32."""


def tables(graph: Graph) -> dict[str, Tensor]:
    """The integers of a graph's synapses: weights int8, biases int32, and the exponents of both, int8 [C].

    They are named `NODE/weight`, `NODE/weight_exponent`, `NODE/bias` and `NODE/bias_exponent`. The weight of output
    channel c is `weight[c] 2^-weight_exponent[c]`. Weights of more than 8 bits, such as rows of labels that are added
    up, are int16.

    Raises:
        InputError: weights that are not integers times a power of two.
    """
    made = {}
    for name, node in graph.nodes.items():
        if isinstance(node, Convolution):
            k, exponents, _ = integers_of(node.weight)
            most = int(k.abs().max())
            made[f"{name}/weight"] = k.to(torch.int8 if most < 2**7 else torch.int16 if most < 2**15 else torch.int32)
            made[f"{name}/weight_exponent"] = exponents.to(torch.int8)
            made[f"{name}/bias"], exponents, _ = integers_of(node.bias.view(-1, 1))
            made[f"{name}/bias_exponent"] = exponents.to(torch.int8)
    return made


class IntegerReceiver(Receiver):
    """A graph of a quantised network, run in integers: synapses add integers, membranes are int32 and decay by shifts.

    All numbers are counted in units of `2^-exponent`, an exponent at which nothing is ever rounded. It is checked at
    every step that none would have been, and that no membrane overflows.

    Args:
        graph: to run.
        integers: its `tables`.

    Attributes:
        peak: largest absolute value of a membrane so far, in these units.
    """

    def __init__(self, graph: Graph, integers: dict[str, Tensor]) -> None:
        super().__init__(graph)
        self.integers, self.peak = integers, 0

    @property
    def accumulator_bits(self) -> int:
        """Bits of the membranes so far, with their sign."""
        return math.ceil(math.log2(self.peak + 1)) + 1

    def forward(self, x: Tensor, num_steps: int) -> Tensor:
        """See `Receiver.forward`.

        Raises:
            InputError: an input that is no integer times a power of two, or a membrane beyond int32.
        """
        exponent = self._exponent(x, num_steps)
        unit, nodes = 2.0**exponent, self.graph.nodes
        outputs = self._run(
            _whole(x.double() * unit),
            num_steps,
            lambda name, x: self._convolve(name, nodes[name], x, exponent),
            lambda name, x, mem: self._fire(nodes[name], x, mem, exponent),
        )
        return (outputs.double() / unit).to(x.dtype)

    def _convolve(self, name: str, node: Convolution, x: Tensor, exponent: int) -> Tensor:
        """Sums of products of integers; float64 holds them exactly."""
        weight, bias = (self.integers[f"{name}/{part}"].double() for part in ("weight", "bias"))
        scale, late = (2.0 ** self._exponents(name, part).view(-1, 1, 1) for part in ("weight", "bias"))
        sums = replace(node, weight=weight, bias=torch.zeros_like(bias.flatten()))(x.double())
        return _whole(sums / scale + bias.view(-1, 1, 1) * (2.0**exponent / late))

    def _exponents(self, name: str, part: str) -> Tensor:
        return self.integers[f"{name}/{part}_exponent"].long()

    def _fire(self, node: Neurons, x: Tensor, mem: Tensor | None, exponent: int) -> tuple[Tensor, Tensor]:
        """Spikes as multiples of 2^exponent, and the membranes, int32."""
        require(node.kind != "CubaLIF", "the form of an integer graph", "standard", "feedback")
        mem = torch.zeros_like(x) if mem is None else mem.long()
        shift = round(math.log2(node.tau_mem))
        mem = mem + x if node.kind == "IF" else (mem << shift) + x - mem
        if node.kind == "LIF":
            require(bool((mem % 2**shift == 0).all()), "a membrane", "a whole number after its decay", "a fraction")
            mem = mem >> shift
        self.peak = max(self.peak, int(mem.abs().max()))
        require(self.peak <= ACCUMULATOR, "membranes", "int32", self.peak)
        fired = (mem.double() > node.threshold * 2.0**exponent).long()
        mem = mem * (1 - fired) if node.reset == "zero" else mem - fired * round(node.amount * 2**exponent)
        return fired << exponent, mem.int()

    def _exponent(self, x: Tensor, num_steps: int) -> int:
        """Exponent at which the input, all products and all decays are integers."""
        needed, decays = {INPUT: _own_exponent(x.double())}, 0
        for name, node in self.graph.nodes.items():
            if isinstance(node, Neurons):
                needed[name] = 0  # spikes
                decays = max(decays, num_steps * round(math.log2(node.tau_mem)) if node.kind == "LIF" else 0)
            else:
                read = max(needed.get(source, 0) for source in self.graph.sources(name))
                weight, bias = (int(self._exponents(name, part).max()) for part in ("weight", "bias"))
                needed[name] = max(read + weight, bias, 0)
        return max(needed.values()) + decays


def _own_exponent(values: Tensor) -> int:
    """The smallest exponent at which numbers are integers."""
    for exponent in range(MOST_EXPONENT + 1):
        if (values * 2.0**exponent == (values * 2.0**exponent).round()).all():
            return exponent
    raise InputError("the input of an integer graph must be integers times a power of two; got real numbers")


def _whole(values: Tensor) -> Tensor:
    """Whole numbers in float64 as int64."""
    require(bool((values == values.round()).all()), "sums of integers", "whole numbers", "fractions")
    return values.long()

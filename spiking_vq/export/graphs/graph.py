"""Networks as graphs of synapses and neurons, the way a neuromorphic chip holds them.

A graph is a network at one spiking step: every node adds up what its edges bring, and only neurons remember. Its nodes
are those of the Neuromorphic Intermediate Representation (NIR, Pedersen et al., doi:10.1038/s41467-024-52259-9), with
time in units of the step dt.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from spiking_vq.errors import InputError

DT = 1e-4
"""Seconds of a spiking step. snnTorch takes this one for granted."""

INPUT, OUTPUT = "input", "output"
"""Names of the node that a graph reads, and of the one that it gives back."""

RESETS = ("zero", "subtract")


@dataclass(frozen=True, eq=False)
class Convolution:
    """Two-dimensional convolution with zeros around the map.

    Attributes:
        weight: `[C', C / groups, h, w]`.
        bias: [C'].
        size: (H, W) of the input map.
        stride, padding, groups: of the convolution.
    """

    weight: Tensor
    bias: Tensor
    size: tuple[int, int]
    stride: int = 1
    padding: int = 0
    groups: int = 1

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.weight.shape[1] * self.groups, *self.size

    @property
    def output_shape(self) -> tuple[int, int, int]:
        """(C', H', W')."""
        sides = zip(self.size, self.weight.shape[2:], strict=True)
        return len(self.weight), *((side + 2 * self.padding - taps) // self.stride + 1 for side, taps in sides)

    def __call__(self, x: Tensor) -> Tensor:
        """`[B, C, H, W]` to `[B, C', H', W']`."""
        weight, bias = self.weight, self.bias
        taps = tuple(weight.shape[2:])
        if self.groups > 1 and taps == tuple(self.size) and not self.padding:
            # a single output pixel: a matrix for each group; convolutions are slow here
            rows, matrices = x.flatten(1).unflatten(1, (self.groups, -1)), weight.flatten(1)
            made = torch.einsum("bgi,goi->bgo", rows, matrices.unflatten(0, (self.groups, -1)))
            return (made.flatten(1) + bias).unflatten(1, (-1, 1, 1))
        if self.groups > 1 and tuple(self.size) == (1, 1) and self.stride == 1 and self.padding < min(taps):
            # one pixel, padded: output pixel (r, q) sees it through tap (padding - r, padding - q)
            _, rows, columns = self.output_shape
            seen = weight.flip(2, 3).unflatten(0, (self.groups, -1))
            first = [side - 1 - self.padding for side in taps]
            seen = seen[..., first[0] : first[0] + rows, first[1] : first[1] + columns]
            made = torch.einsum("bgi,goirq->bgorq", x.flatten(1).unflatten(1, (self.groups, -1)), seen)
            return made.flatten(1, 2) + bias.view(-1, 1, 1)
        return F.conv2d(x, weight, bias, self.stride, self.padding, groups=self.groups)


@dataclass(frozen=True)
class Neurons:
    """A layer of neurons, all alike: NIR's `IF`, `LIF` or `CubaLIF`.

    `I += (w_in x - I) / tau_syn` (CubaLIF; else `I = x`), `v += (r I - v) / tau_mem` (IF: `v += r I`), a spike where
    `v > threshold`; then v is set to 0, or with reset `subtract` reduced by `amount`.

    Attributes:
        kind: `IF`, `LIF` or `CubaLIF`.
        shape: (C, H, W).
        threshold: firing threshold; a neuron that fires *at* its threshold has the next smaller float32.
        r: resistance, in units of 1 / dt for IF.
        tau_mem, tau_syn: time constants in units of dt.
        w_in: weight of the input current.
        reset: `zero`, or `subtract`, which NIR has no word for: the file says it in the node's metadata.
        amount: that a reset subtracts.
    """

    kind: str
    shape: tuple[int, int, int]
    threshold: float
    r: float = 1.0
    tau_mem: float = 1.0
    tau_syn: float = 1.0
    w_in: float = 1.0
    reset: str = "zero"
    amount: float = 0.0

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.shape

    @property
    def output_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.shape

    def step(self, x: Tensor, state: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Spikes `[B, C, H, W]` of one step, and the state after it; `state` None is rest."""
        current, v = (torch.zeros_like(x), torch.zeros_like(x)) if state is None else state
        current = current + (self.w_in * x - current) / self.tau_syn if self.kind == "CubaLIF" else x
        v = v + self.r * current if self.kind == "IF" else v + (self.r * current - v) / self.tau_mem
        spk = (v > self.threshold).to(v.dtype)
        v = v * (1 - spk) if self.reset == "zero" else v - self.amount * spk
        return spk, (current, v)


Node = Convolution | Neurons


@dataclass
class Graph:
    """A network at one spiking step.

    Attributes:
        input_shape: (C, H, W) of what it reads.
        nodes: name -> node, each after the nodes that it reads at the same step.
        edges: (from, to) names; `input` and `output` are the ends. An edge to a node that stands earlier, or to itself,
            arrives one step late.
    """

    input_shape: tuple[int, int, int]
    nodes: dict[str, Node] = field(default_factory=dict)
    edges: list[tuple[str, str]] = field(default_factory=list)

    def sources(self, name: str) -> list[str]:
        """Names of the nodes that a node, or the output, reads."""
        return [source for source, target in self.edges if target == name]

    def neurons(self) -> list[str]:
        """Names of the neuron layers."""
        return [name for name, node in self.nodes.items() if isinstance(node, Neurons)]

    def output_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of what it gives back."""
        source = self.sources(OUTPUT)[0]
        return self.input_shape if source == INPUT else self.nodes[source].output_shape

    def check(self) -> None:
        """Check that the edges fit.

        Raises:
            InputError: an edge to or from nowhere, or between maps of different shapes.
        """
        gives = {INPUT: self.input_shape} | {name: node.output_shape for name, node in self.nodes.items()}
        for source, target in self.edges:
            if source not in gives or target not in (*self.nodes, OUTPUT):
                raise InputError(f"the graph has an edge from {source} to {target}, and no such node")
        takes = {OUTPUT: self.output_shape()} | {name: node.input_shape for name, node in self.nodes.items()}
        for source, target in self.edges:
            if tuple(gives[source]) != tuple(takes[target]):
                raise InputError(
                    f"the graph leads maps {gives[source]} from {source} to {target}, which takes {takes[target]}"
                )

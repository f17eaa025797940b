"""Energy: operations, memory traffic and picojoules of a network as neuromorphic hardware would run it.

Hooks count while the network computes on real inputs. Batch norms are folded into the synapses, and a current that is
the same at every step is computed once. A spike costs one accumulation for every connection it reaches, borders counted
exactly. A synapse with any other input than 0 and 1 costs a multiplication for every connection, zero or not, which is
cheaper for numbers of few bits; an input that is spikes in part counts as real numbers.

Not counted, as small: activation functions, sums over time in read-outs, batch norms without a synapse (FSDDIM's bare
shortcuts, SDDPM's head), and the sampler's own arithmetic, a few operations a pixel and call.

Memory traffic is counted without reuse: every operation fetches its weight. An accumulation reads and writes its sum; a
multiplication reads its input and adds to a register, which is written once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spiking_vq.layers.mixing import AttentionProduct
from spiking_vq.neurons.fused import LazyCurrent
from spiking_vq.neurons.lif import LIF
from spiking_vq.neurons.twins import QuantisedReLU, ReLU
from spiking_vq.runtime.running import SpikeObserver, run_with, running

WORD = 32
"""Bits of a weight, a membrane, or a real number."""

PICOJOULES = {"accumulate": 0.9, "multiply_accumulate": 4.6, "bit": 5 / 32}
"""45 nm CMOS, 32-bit floating point: an addition 0.9 pJ, a multiplication 3.7 pJ more, 32 bits from an 8 KB SRAM 5 pJ.

Reference: Horowitz, ISSCC 2014, figure 1.1.9; Han et al., arXiv:1506.02626, table 1.
"""


@dataclass
class LayerCost:
    """Operations, traffic and energy of one layer over all calls.

    Attributes:
        kind: `synapse`, `neuron`, `attention`, `sum` (of currents) or `embedding`.
        input_bits: bits of the layer's input: 1 for spikes, more for the quantised twin's activations, 32 for real
            numbers.
        spikes: number of input spikes (synapse, attention) or output spikes (neuron).
        slots: largest possible number of spikes: inputs, or neurons, x steps x images.
        connections: number of connections x steps x images.
        accumulates, multiplies: additions, and multiplications with addition.
        weight_bits, state_bits: bits read and written; weights, and everything else.
        arithmetic_pj, memory_pj: picojoules of the operations, and of the memory traffic.
        published_pj: picojoules by the papers' formula: `0.9 pJ rate T MACs` of a synapse fed by spikes, `4.6 pJ MACs`
            of any other. MACs include taps outside the image; only synapses and attention count.
    """

    kind: str
    input_bits: int = 1
    spikes: float = 0.0
    slots: float = 0.0
    connections: float = 0.0
    accumulates: float = 0.0
    multiplies: float = 0.0
    weight_bits: float = 0.0
    state_bits: float = 0.0
    arithmetic_pj: float = 0.0
    memory_pj: float = 0.0
    published_pj: float = 0.0

    @property
    def is_connection(self) -> bool:
        """Whether the layer connects neurons."""
        return self.kind in ("synapse", "attention")

    @property
    def is_fed_by_spikes(self) -> bool:
        """Whether the layer connects neurons and all its input was spikes."""
        return self.is_connection and self.input_bits == 1

    @property
    def firing_rate(self) -> float | None:
        """Spikes per slot, in [0, 1]; None before the first call, and of a layer whose input is real-valued."""
        is_real_valued = self.is_connection and not self.is_fed_by_spikes
        return None if is_real_valued or not self.slots else self.spikes / self.slots

    def add(
        self, *, accumulates: float = 0.0, multiplies: float = 0.0, weight_bits: float = 0.0, state_bits: float = 0.0
    ) -> None:
        """Count operations and traffic, and their energy."""
        self.accumulates += accumulates
        self.multiplies += multiplies
        self.weight_bits += weight_bits
        self.state_bits += state_bits
        self.arithmetic_pj += accumulates * PICOJOULES["accumulate"] + multiplies * multiply_pj(self.input_bits)
        self.memory_pj += (weight_bits + state_bits) * PICOJOULES["bit"]


def multiply_pj(bits: int) -> float:
    """Picojoules of a multiply-accumulate with a number of `bits` bits: at most one addition a bit."""
    return min(PICOJOULES["multiply_accumulate"], bits * PICOJOULES["accumulate"])


@contextmanager
def count_operations(model: nn.Module) -> Iterator[dict[str, LayerCost]]:
    """Count the operations of every layer of `model` inside the block; read-outs apply at every step (`Run.unfolded`).

    Calls of other threads are not counted. The model has to be in evaluation mode and not compiled.

    Yields:
        Layer name -> costs, in the order of the modules, filled as the model computes.
    """
    costs: dict[str, LayerCost] = {}
    twins = [module for module in model.modules() if isinstance(module, ReLU)]
    bits = max((module.bits if isinstance(module, QuantisedReLU) else WORD for module in twins), default=1)
    neurons: dict[nn.Module, SpikeObserver] = {}
    with ExitStack() as stack:
        for name, module in model.named_modules():
            if isinstance(module, LIF):
                costs[name] = LayerCost("neuron", WORD)
                decays, scaled = bool((module.beta != 1).any()), module.scales is not None
                neurons[module] = partial(_count_neuron, costs[name], decays, scaled)
            for is_counted, kind, count in COUNTERS:
                if is_counted(module):
                    costs[name] = LayerCost(kind)
                    hook = _where_observed(neurons, partial(count, costs[name], bits))
                    stack.callback(module.register_forward_hook(hook).remove)
        stack.enter_context(run_with(observers=neurons, unfolded=True))
        yield costs


def _where_observed(neurons: Mapping[nn.Module, SpikeObserver], hook: Callable[..., None]) -> Callable[..., None]:
    """Limit a hook to calls inside the block that observes these neurons; other threads' calls are outside."""

    def inside(*call: Any) -> None:
        if any(block is neurons for block in running().observers):
            hook(*call)

    return inside


def total(costs: Iterable[LayerCost]) -> LayerCost:
    """Sums over layers; spikes and slots are those of the neurons."""
    whole = LayerCost("all")
    for cost in costs:
        for field in fields(LayerCost)[2:]:
            if cost.kind == "neuron" or field.name not in ("spikes", "slots"):
                setattr(whole, field.name, getattr(whole, field.name) + getattr(cost, field.name))
    return whole


def _count_neuron(cost: LayerCost, decays: bool, scaled: bool, spk: Tensor) -> None:
    """At each step a neuron's membrane is read, decays if it leaks, adds the current, and is written.

    A scale of the step's current is one multiplication more.
    """
    slots = spk.numel()
    cost.add(multiplies=slots if scaled else 0)
    cost.spikes += spk.sum(dtype=torch.float64).item()
    cost.slots += slots
    cost.add(**{"multiplies" if decays else "accumulates": slots}, state_bits=2 * WORD * slots)


def _count_synapse(cost: LayerCost, bits: int, module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
    """Spikes or real numbers through every connection; `bits` are those of the network's activations, 1 for spikes."""
    (x,) = inputs
    cost.input_bits = max(cost.input_bits, _bits_of(x, bits))
    dense, nominal = _reached(module, torch.ones_like(x)), _nominal(module, x, output)
    cost.connections += dense
    cost.slots += x.numel()
    if cost.input_bits == 1:  # each spike is added to a sum in memory
        spikes, reached = x.count_nonzero().item(), _reached(module, x)
        cost.spikes += spikes
        cost.add(accumulates=reached, weight_bits=WORD * reached, state_bits=2 * WORD * reached)
        cost.published_pj += spikes / x.numel() * nominal * PICOJOULES["accumulate"]
    else:  # summed up in a register, which is written once
        state_bits = cost.input_bits * dense + (WORD if bits == 1 else bits) * output.numel()
        cost.add(multiplies=dense, weight_bits=WORD * dense, state_bits=state_bits)
        cost.published_pj += nominal * PICOJOULES["multiply_accumulate"]


def _bits_of(x: Tensor, bits: int) -> int:
    """Bits of an input's numbers: `bits` if all are activations of so many bits in [0, 1], else a word."""
    if bits == WORD:
        return WORD
    levels = x * (2**bits - 1)
    activations = ((x >= 0) & (x <= 1)).all() and ((levels - levels.round()).abs() < 1e-3).all()
    return bits if activations else WORD


def _reached(module: nn.Module, x: Tensor) -> float:
    """Number of connections that `x`, of 0 and 1, acts through."""
    x = x.detach().double()
    if isinstance(module, nn.Linear):
        return x.sum().item() * module.out_features
    convolve = F.conv_transpose2d if isinstance(module, nn.ConvTranspose2d) else F.conv2d
    options = {"stride": module.stride, "padding": module.padding}
    if isinstance(module, nn.ConvTranspose2d):
        options["output_padding"] = module.output_padding
    taps = torch.ones(1, 1, *module.kernel_size, dtype=torch.float64, device=x.device)
    return convolve(x.sum(1, keepdim=True), taps, **options).sum().item() * module.out_channels


def _nominal(module: nn.Module, x: Tensor, output: Tensor) -> float:
    """Number of connections, with taps outside the image."""
    if isinstance(module, nn.Linear):
        return x.numel() * module.out_features
    height, width = module.kernel_size
    if isinstance(module, nn.ConvTranspose2d):
        return x.numel() * module.out_channels * height * width
    return output.numel() * module.in_channels * height * width


def _count_sums(cost: LayerCost, bits: int, module: nn.Module, inputs: tuple, output: Tensor | LazyCurrent) -> None:
    """`module.num_sums` additions for every element of the output."""
    elements = module.num_sums * math.prod(output.shape)
    cost.input_bits = WORD
    cost.add(accumulates=elements, state_bits=3 * WORD * elements)


def _count_average(cost: LayerCost, bits: int, module: nn.AvgPool2d, inputs: tuple[Tensor], output: Tensor) -> None:
    """Every input is read and added, every mean written."""
    (x,) = inputs
    cost.input_bits = WORD
    cost.add(accumulates=x.numel(), multiplies=output.numel(), state_bits=WORD * (x.numel() + output.numel()))


def _count_embedding(cost: LayerCost, bits: int, module: nn.Embedding, inputs: tuple[Tensor], output: Tensor) -> None:
    """A row is read for every index and added to the current."""
    elements = output.numel()
    cost.input_bits = WORD
    cost.add(accumulates=elements, weight_bits=WORD * elements, state_bits=2 * WORD * elements)


def _count_attention(
    cost: LayerCost, bits: int, module: AttentionProduct, inputs: tuple[Tensor, ...], output: Tensor
) -> None:
    """Each pair of a query's and a key's spike adds one to a count; a value's spike adds all positions' counts."""
    q, k, v = (x.double() for x in inputs)
    positions = q.shape[-1]
    products = 2 * q.numel() * positions
    cost.input_bits = max(cost.input_bits, *(_bits_of(x, bits) for x in inputs))
    cost.connections += products
    cost.slots += 3 * q.numel()
    if cost.input_bits == 1:
        spikes = sum(x.count_nonzero().item() for x in (q, k, v))
        cost.spikes += spikes
        pairs, added = (q.sum(-1) * k.sum(-1)).sum().item(), v.sum().item() * positions
        cost.add(accumulates=pairs + added, state_bits=2 * WORD * pairs + 3 * WORD * added)
        cost.published_pj += spikes / (3 * q.numel()) * products * PICOJOULES["accumulate"]
    else:
        cost.add(multiplies=products, state_bits=(cost.input_bits + WORD) * products)
        cost.published_pj += products * PICOJOULES["multiply_accumulate"]


def _is(*kinds: type[nn.Module]) -> Callable[[nn.Module], bool]:
    return lambda module: isinstance(module, kinds)


COUNTERS = [
    (_is(nn.Conv2d, nn.ConvTranspose2d, nn.Linear), "synapse", _count_synapse),
    (_is(AttentionProduct), "attention", _count_attention),
    (lambda module: hasattr(module, "num_sums"), "sum", _count_sums),
    (_is(nn.AvgPool2d), "sum", _count_average),
    (_is(nn.Embedding), "embedding", _count_embedding),
]
"""Whether a module is counted, the kind of its cost, and the hook that counts it."""

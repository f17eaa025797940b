"""What computing costs: operations, memory traffic and picojoules of a network as neuromorphic hardware would run it.

Counted by hooks while the network computes on real inputs. Batch norms are folded into the synapses, and a current that
is the same at every step is computed once and held. Where a synapse's input is 0 and 1 only, a spike costs one
accumulation for every connection it reaches, borders counted exactly; any other input costs a multiplication for every
connection, zero or not, which is cheaper for numbers of few bits.

Left out, as small beside these: activation functions, sums over time in read-outs, batch norms that stand by themselves
(FSDDIM's bare shortcuts, SDDPM's head), and the sampler's own arithmetic, a few operations a pixel and call. An input
that is spikes in part only counts as real numbers whole.

Memory traffic is counted without reuse: every operation fetches its weight; what a spike adds to is read and written,
while a multiplication reads its input and adds to a register, which is written once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spiking_vq.layers.mixing import AttentionProduct
from spiking_vq.layers.synapses import SpikingResidual
from spiking_vq.models.fsddim import PostSumBlock
from spiking_vq.models.sddpm import PreSpikeBlock
from spiking_vq.neurons.fused import Current
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
    """What one layer did, over all calls.

    Attributes:
        kind: `synapse`, `neuron`, `attention`, `sum` (of a residual current) or `embedding`.
        input_bits: of what came in: 1 for spikes, more for the quantised twin's activations, 32 for real numbers.
        spikes: that came in (synapse, attention) or went out (neuron).
        slots: places for one: inputs, or neurons, x steps x images.
        connections: how often a connection could have carried a spike: connections x steps x images.
        accumulates, multiplies: additions, and multiplications with addition.
        weight_bits, state_bits: read and written; weights, and all else.
        arithmetic_pj, memory_pj: picojoules of the operations, and of the memory traffic.
        published_pj: picojoules by the papers' formula, `0.9 pJ rate T MACs` of a synapse fed by spikes and
            `4.6 pJ MACs` of any other; MACs include the taps that lie outside the image, nothing but synapses and
            attention counts.
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
        """Whether it brings what neurons give to other neurons."""
        return self.kind in ("synapse", "attention")

    @property
    def is_fed_by_spikes(self) -> bool:
        """Whether it does, and neurons give nothing but spikes."""
        return self.is_connection and self.input_bits == 1

    @property
    def firing_rate(self) -> float:
        """Spikes for each place for one; nan before the first call."""
        return self.spikes / self.slots if self.slots else float("nan")

    def add(
        self, *, accumulates: float = 0.0, multiplies: float = 0.0, weight_bits: float = 0.0, state_bits: float = 0.0
    ) -> None:
        """Count operations and traffic, and what they cost."""
        self.accumulates += accumulates
        self.multiplies += multiplies
        self.weight_bits += weight_bits
        self.state_bits += state_bits
        self.arithmetic_pj += accumulates * PICOJOULES["accumulate"] + multiplies * multiply_pj(self.input_bits)
        self.memory_pj += (weight_bits + state_bits) * PICOJOULES["bit"]


def multiply_pj(bits: int) -> float:
    """Picojoules of a multiplication with a number of so many bits, and an addition: at most an addition for each."""
    return min(PICOJOULES["multiply_accumulate"], bits * PICOJOULES["accumulate"])


@contextmanager
def count_operations(model: nn.Module) -> Iterator[dict[str, LayerCost]]:
    """Count what every layer of `model` does inside the block, read-outs applied at every step (`Run.unfolded`).

    Calls of other threads are not counted. The model has to be in evaluation mode and not compiled.

    Yields:
        Layer name -> its costs, in the order of the modules, filled as the model computes.
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
            for kinds, kind, count in COUNTERS:
                if isinstance(module, kinds):
                    costs[name] = LayerCost(kind)
                    hook = _where_observed(neurons, partial(count, costs[name], bits))
                    stack.callback(module.register_forward_hook(hook).remove)
        stack.enter_context(run_with(observers=neurons, unfolded=True))
        yield costs


def _where_observed(neurons: Mapping[nn.Module, SpikeObserver], hook: Callable[..., None]) -> Callable[..., None]:
    """The hook, deaf to calls from outside the block that observes these neurons, such as other threads'."""

    def inside(*call: Any) -> None:
        if any(block is neurons for block in running().observers):
            hook(*call)

    return inside


def total(costs: Iterable[LayerCost]) -> LayerCost:
    """The sums over layers; spikes and slots are those of the neurons."""
    whole = LayerCost("all")
    for cost in costs:
        for name in SUMMED:
            setattr(whole, name, getattr(whole, name) + getattr(cost, name))
        if cost.kind == "neuron":
            whole.spikes += cost.spikes
            whole.slots += cost.slots
    return whole


SUMMED = (
    "connections",
    "accumulates",
    "multiplies",
    "weight_bits",
    "state_bits",
    "arithmetic_pj",
    "memory_pj",
    "published_pj",
)


def _count_neuron(cost: LayerCost, decays: bool, scaled: bool, spk: Tensor) -> None:
    """A step of a neuron: its membrane is read, decays if it leaks, takes up the current, and is written back.

    A scale of the step's current is a multiplication more.
    """
    slots = spk.numel()
    cost.add(multiplies=slots if scaled else 0)
    cost.spikes += spk.sum(dtype=torch.float64).item()
    cost.slots += slots
    cost.add(**{"multiplies" if decays else "accumulates": slots}, state_bits=2 * WORD * slots)


def _count_synapse(cost: LayerCost, bits: int, module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
    """Every input reaches some outputs: by a spike, or by a number. `bits` are those of the network's activations, 1 if
    they are spikes.
    """
    (x,) = inputs
    cost.input_bits = max(cost.input_bits, _bits_of(x, bits))
    dense, nominal, spikes = _reached(module, torch.ones_like(x)), _nominal(module, x, output), x.count_nonzero().item()
    cost.connections += dense
    cost.slots += x.numel()
    cost.spikes += spikes
    if cost.input_bits == 1:  # each spike is added to what is in memory
        reached = _reached(module, x)
        cost.add(accumulates=reached, weight_bits=WORD * reached, state_bits=2 * WORD * reached)
        cost.published_pj += spikes / x.numel() * nominal * PICOJOULES["accumulate"]
    else:  # summed up in a register, and written once
        state_bits = cost.input_bits * dense + (WORD if bits == 1 else bits) * output.numel()
        cost.add(multiplies=dense, weight_bits=WORD * dense, state_bits=state_bits)
        cost.published_pj += nominal * PICOJOULES["multiply_accumulate"]


def _bits_of(x: Tensor, bits: int) -> int:
    """How many bits the numbers of an input take: those of the network's activations, if they are such, or a word."""
    if bits == WORD:
        return WORD
    levels = x * (2**bits - 1)
    activations = ((x >= 0) & (x <= 1)).all() and ((levels - levels.round()).abs() < 1e-3).all()
    return bits if activations else WORD


def _reached(module: nn.Module, x: Tensor) -> float:
    """Over how many connections `x`, 0 and 1, acts."""
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
    """Multiplications without regard to borders."""
    if isinstance(module, nn.Linear):
        return x.numel() * module.out_features
    height, width = module.kernel_size
    if isinstance(module, nn.ConvTranspose2d):
        return x.numel() * module.out_channels * height * width
    return output.numel() * module.in_channels * height * width


def _count_sums(
    sums: int, cost: LayerCost, bits: int, module: nn.Module, inputs: tuple, output: Tensor | Current
) -> None:
    """So many additions for every place and step."""
    elements = sums * math.prod(output.shape)
    cost.input_bits = WORD
    cost.add(accumulates=elements, state_bits=3 * WORD * elements)


def _count_average(cost: LayerCost, bits: int, module: nn.AvgPool2d, inputs: tuple[Tensor], output: Tensor) -> None:
    """Every input is added up, read and, of the mean, written."""
    (x,) = inputs
    cost.input_bits = WORD
    cost.add(accumulates=x.numel(), multiplies=output.numel(), state_bits=WORD * (x.numel() + output.numel()))


def _count_embedding(cost: LayerCost, bits: int, module: nn.Embedding, inputs: tuple[Tensor], output: Tensor) -> None:
    """A row is read for every index, and added to the current."""
    elements = output.numel()
    cost.input_bits = WORD
    cost.add(accumulates=elements, weight_bits=WORD * elements, state_bits=2 * WORD * elements)


def _count_attention(
    cost: LayerCost, bits: int, module: AttentionProduct, inputs: tuple[Tensor, ...], output: Tensor
) -> None:
    """Spikes of a query and a key that coincide count one up; a value's spike adds the counts of all places."""
    q, k, v = (x.double() for x in inputs)
    places = q.shape[-1]
    pairs, products = (q.sum(-1) * k.sum(-1)).sum().item(), 2 * q.numel() * places
    spikes = sum(x.count_nonzero().item() for x in (q, k, v))
    cost.input_bits = max(cost.input_bits, *(_bits_of(x, bits) for x in inputs))
    cost.connections += products
    cost.slots += 3 * q.numel()
    cost.spikes += spikes
    if cost.input_bits == 1:
        added = v.sum().item() * places
        cost.add(accumulates=pairs + added, state_bits=2 * WORD * pairs + 3 * WORD * added)
        cost.published_pj += spikes / (3 * q.numel()) * products * PICOJOULES["accumulate"]
    else:
        cost.add(multiplies=products, state_bits=(cost.input_bits + WORD) * products)
        cost.published_pj += products * PICOJOULES["multiply_accumulate"]


COUNTERS = [
    ((nn.Conv2d, nn.ConvTranspose2d, nn.Linear), "synapse", _count_synapse),
    (AttentionProduct, "attention", _count_attention),
    (SpikingResidual, "sum", partial(_count_sums, 1)),
    ((PreSpikeBlock, PostSumBlock), "sum", partial(_count_sums, 2)),  # the time's current and the shortcut
    (nn.AvgPool2d, "sum", _count_average),
    (nn.Embedding, "embedding", _count_embedding),
]
"""Kinds of modules, what they are called, and the hook that counts them."""

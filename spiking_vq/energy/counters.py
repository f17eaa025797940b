"""Counters: hooks that count operations, events and accesses while a network computes on real inputs.

Batch norms are folded into the synapses, and a current that is the same at every step is computed once. A spike costs
one accumulation for every connection it reaches, borders counted exactly. A synapse with any other input than 0 and 1
costs a multiplication for every connection, zero or not, which is cheaper for numbers of few bits; an input that is
spikes in part counts as real numbers.

Not counted, as small: activation functions, sums over time in read-outs, batch norms without a synapse (FSDDIM's bare
shortcuts, SDDPM's head), and the sampler's own arithmetic, a few operations a pixel and call.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spiking_vq.energy.counts import WORD, LayerCost
from spiking_vq.energy.hardware import PICOJOULES
from spiking_vq.layers.mixing import AttentionProduct
from spiking_vq.neurons.fused import LazyCurrent
from spiking_vq.neurons.lif import LIF
from spiking_vq.neurons.twins import QuantisedReLU, ReLU
from spiking_vq.runtime.running import SpikeObserver, run_with, running


@contextmanager
def count_operations(model: nn.Module) -> Iterator[dict[str, LayerCost]]:
    """Count the operations of every layer of `model` inside the block; read-outs apply at every step (`Run.unfolded`).

    Calls of other threads are not counted. The model has to be in evaluation mode and not compiled.

    Yields:
        Layer name -> costs, in the order of the modules, filled as the model computes.
    """
    costs: dict[str, LayerCost] = {}
    bits_around = _activation_bits(model)
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
                    hook = _where_observed(neurons, partial(count, costs[name], bits_around(name)))
                    stack.callback(module.register_forward_hook(hook).remove)
        stack.enter_context(run_with(observers=neurons, unfolded=True))
        yield costs


def _activation_bits(model: nn.Module) -> Callable[[str], int]:
    """Function of a layer's name: bits of a twin's activations in the smallest part of the model that has any, else 1.

    The networks of one model may have twins of different bits.
    """
    bits: dict[str, int] = {}
    for name, module in model.named_modules():
        if isinstance(module, ReLU):
            width = module.bits if isinstance(module, QuantisedReLU) else WORD
            for part in _parts(name):
                bits[part] = max(width, bits.get(part, 1))
    return lambda name: next((bits[part] for part in _parts(name) if part in bits), 1)


def _parts(name: str) -> list[str]:
    """Names of a module and of all modules around it, from inside."""
    words = name.split(".")
    return [".".join(words[:length]) for length in range(len(words), 0, -1)] + [""]


def _where_observed(neurons: Mapping[nn.Module, SpikeObserver], hook: Callable[..., None]) -> Callable[..., None]:
    """Limit a hook to calls inside the block that observes these neurons; other threads' calls are outside."""

    def inside(*call: Any) -> None:
        if any(block is neurons for block in running().observers):
            hook(*call)

    return inside


def _count_neuron(cost: LayerCost, decays: bool, scaled: bool, spk: Tensor) -> None:
    """At each step a neuron's membrane is read, decays if it leaks, adds the current, and is written.

    A scale of the step's current is one multiplication more.
    """
    slots = spk.numel()
    updates = {"multiplies": slots} if decays else {"accumulates": slots}
    cost.add(spikes=spk.sum(dtype=torch.float64).item(), slots=slots, state_accesses=2 * slots, **updates)
    cost.add(multiplies=slots if scaled else 0)


def _count_synapse(cost: LayerCost, bits: int, module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
    """Spikes or real numbers through every connection; `bits` are those of the network's activations, 1 for spikes."""
    (x,) = inputs
    cost.input_bits = max(cost.input_bits, _bits_of(x, bits))
    dense, nominal = _reached(module, torch.ones_like(x)), _nominal(module, x, output)
    cost.add(slots=x.numel(), connections=dense)
    if cost.input_bits == 1:  # each spike is added to a sum
        spikes, reached = x.count_nonzero().item(), _reached(module, x)
        cost.add(spikes=spikes, accumulates=reached, weight_reads=reached, sum_accesses=2 * reached)
        cost.add(published_pj=spikes / x.numel() * nominal * PICOJOULES["accumulate"])
    else:  # summed up in a register, which is written once: as a twin's activation, or as a current
        cost.add(multiplies=dense, weight_reads=dense, input_reads=dense, numbers=x.numel())
        cost.output_bits = WORD if bits == 1 else bits
        cost.add(**{"state_accesses" if bits == 1 else "activations": output.numel()})
        cost.add(published_pj=nominal * PICOJOULES["multiply_accumulate"])


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
    """`module.num_sums` additions for every element: one current is read, and another, which the sum replaces."""
    elements = module.num_sums * math.prod(output.shape)
    cost.input_bits = WORD
    cost.add(accumulates=elements, sum_accesses=elements, state_accesses=2 * elements)


def _count_average(cost: LayerCost, bits: int, module: nn.AvgPool2d, inputs: tuple[Tensor], output: Tensor) -> None:
    """Every input is read and added, every mean written."""
    (x,) = inputs
    cost.input_bits = WORD
    cost.add(accumulates=x.numel(), multiplies=output.numel(), state_accesses=x.numel() + output.numel())


def _count_embedding(cost: LayerCost, bits: int, module: nn.Embedding, inputs: tuple[Tensor], output: Tensor) -> None:
    """A row is read for every index and added to the current, which is read and written."""
    elements = output.numel()
    cost.input_bits = WORD
    cost.add(accumulates=elements, weight_reads=elements, sum_accesses=elements, state_accesses=elements)


def _count_attention(
    cost: LayerCost, bits: int, module: AttentionProduct, inputs: tuple[Tensor, ...], output: Tensor
) -> None:
    """Each pair of a query's and a key's spike adds one to a count; a value's spike adds all positions' counts.

    A count may stay in a register until it has been added.
    """
    q, k, v = (x.double() for x in inputs)
    positions = q.shape[-1]
    products = 2 * q.numel() * positions
    cost.input_bits = max(cost.input_bits, *(_bits_of(x, bits) for x in inputs))
    cost.add(slots=3 * q.numel(), connections=products)
    if cost.input_bits == 1:
        spikes = sum(x.count_nonzero().item() for x in (q, k, v))
        pairs, added = (q.sum(-1) * k.sum(-1)).sum().item(), v.sum().item() * positions
        cost.add(spikes=spikes, accumulates=pairs + added, sum_accesses=2 * pairs + 3 * added)
        cost.add(published_pj=spikes / (3 * q.numel()) * products * PICOJOULES["accumulate"])
    else:
        cost.add(multiplies=products, input_reads=products, numbers=3 * q.numel(), sum_accesses=products)
        cost.add(published_pj=products * PICOJOULES["multiply_accumulate"])


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


def is_connection(module: nn.Module) -> bool:
    """Whether a module connects neurons: a synapse, or attention."""
    return any(is_counted(module) for is_counted, kind, _ in COUNTERS if LayerCost(kind).is_connection)

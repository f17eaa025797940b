"""Counts of a layer at work: operations, and what they read and write; no bits and no picojoules yet."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

WORD = 32
"""Bits of a real number, a membrane or a sum."""


@dataclass
class LayerCost:
    """Counts of one layer over all calls.

    Attributes:
        kind: `synapse`, `neuron`, `attention`, `sum` (of currents) or `embedding`.
        input_bits: bits of the layer's input: 1 for spikes, more for the quantised twin's activations, 32 for real
            numbers.
        output_bits: bits of an activation that a twin's synapse leads to.
        spikes: number of input spikes (synapse, attention) or output spikes (neuron).
        slots: largest possible number of spikes: inputs, or neurons, x steps x images. Of a neuron layer it is the
            number of neuron updates.
        connections: number of connections x steps x images.
        accumulates, multiplies: additions, and multiplications with addition.
        weight_reads: weights read, one for each operation that has one.
        input_reads: inputs read, one for each multiplication.
        numbers: inputs that are numbers, each counted once, however many connections it reaches.
        activations: activations that a twin's synapse leads to.
        sum_accesses: reads and writes of unfinished sums and other operands, of single operations.
        state_accesses: reads and writes of what lasts: membranes at each step, currents between layers.
        published_pj: picojoules by the papers' formula: `0.9 pJ rate T MACs` of a synapse fed by spikes, `4.6 pJ MACs`
            of any other. MACs include taps outside the image; only synapses and attention count.
    """

    kind: str
    input_bits: int = 1
    output_bits: int = WORD
    spikes: float = 0.0
    slots: float = 0.0
    connections: float = 0.0
    accumulates: float = 0.0
    multiplies: float = 0.0
    weight_reads: float = 0.0
    input_reads: float = 0.0
    numbers: float = 0.0
    activations: float = 0.0
    sum_accesses: float = 0.0
    state_accesses: float = 0.0
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
    def has_run(self) -> bool:
        """Whether the layer has computed."""
        return bool(self.slots or self.accumulates or self.multiplies)

    @property
    def firing_rate(self) -> float | None:
        """Spikes per slot, in [0, 1]; None before the first call, and of a layer whose input is real-valued."""
        is_real_valued = self.is_connection and not self.is_fed_by_spikes
        return None if is_real_valued or not self.slots else self.spikes / self.slots

    def add(self, **counts: float) -> None:
        """Add to counts, by the names of the attributes."""
        for name, count in counts.items():
            setattr(self, name, getattr(self, name) + count)


COUNTS = tuple(field.name for field in fields(LayerCost) if field.default == 0.0)
"""Names of the counts of a layer."""


def total(costs: Iterable[LayerCost]) -> LayerCost:
    """Sums over layers; spikes and slots are those of the neurons."""
    whole = LayerCost("all")
    for cost in costs:
        names = COUNTS if cost.kind == "neuron" else [name for name in COUNTS if name not in ("spikes", "slots")]
        whole.add(**{name: getattr(cost, name) for name in names})
    return whole

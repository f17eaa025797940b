"""Hardware that a network is priced on: arithmetic of 32 or 8 bits, and two models of memory traffic.

All constants are those of 45 nm CMOS at 0.9 V: Horowitz, ISSCC 2014, figure 1.1.9. Not priced are routing of events
between cores, static power, clocks and control, and memory outside the chip.

Every network is priced on the same hardware. A multiplication is counted for every connection, whether its input is
zero or not: hardware that skips zeros is cheaper for a ReLU network, by the share of its zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

from spiking_vq.energy.counts import WORD, LayerCost

SOURCE = "Horowitz, Computing's energy problem, ISSCC 2014, figure 1.1.9: 45 nm CMOS, 0.9 V"

CMOS_45NM = {
    "int8 add": 0.03,
    "int32 add": 0.1,
    "fp32 add": 0.9,
    "int8 multiply": 0.2,
    "int32 multiply": 3.1,
    "fp32 multiply": 3.7,
    "64 bits of an 8 KB SRAM": 10.0,
}
"""Operation -> picojoules, of `SOURCE`; an SRAM of 32 KB takes twice as much as one of 8 KB, of 1 MB ten times."""

BIT_PJ = CMOS_45NM["64 bits of an 8 KB SRAM"] / 64
"""Picojoules to read or write a bit. Memories of cores are banks of 8 KB."""

PICOJOULES = {
    "accumulate": CMOS_45NM["fp32 add"],
    "multiply_accumulate": CMOS_45NM["fp32 multiply"] + CMOS_45NM["fp32 add"],
    "bit": BIT_PJ,
}
"""What 32-bit floating point takes: an addition, a multiplication with addition, and a bit of memory."""

ADDRESS = 32
"""Bits of a spike that is sent: it is the address of its neuron."""


@dataclass(frozen=True)
class Arithmetic:
    """Adders and multipliers of a chip.

    Attributes:
        bits: of weights, and of activations at most. Sums, membranes and currents have 32 bits.
        add_pj: an addition to a sum of 32 bits.
        multiply_pj: a multiplication of an activation and a weight.
        row_pj: an addition of two numbers as long as a weight: a multiplication takes one for each bit of the
            activation, the last of them into the sum.
        state_pj: a multiplication with addition of a membrane or current and a constant of `bits`.
    """

    bits: int
    add_pj: float
    multiply_pj: float
    row_pj: float
    state_pj: float

    def multiply_accumulate_pj(self, activation_bits: int) -> float:
        """Picojoules to multiply an activation of so many bits by a weight and add it: by the cheaper circuit."""
        rows = self.row_pj * (min(activation_bits, self.bits) - 1)
        return min(self.multiply_pj, rows) + self.add_pj

    def pj(self, cost: LayerCost) -> float:
        """Picojoules of a layer's operations."""
        multiply = self.multiply_accumulate_pj(cost.input_bits) if cost.is_connection else self.state_pj
        return cost.accumulates * self.add_pj + cost.multiplies * multiply


ARITHMETICS = {
    "fp32": Arithmetic(
        bits=32,
        add_pj=CMOS_45NM["fp32 add"],
        multiply_pj=CMOS_45NM["fp32 multiply"],
        row_pj=CMOS_45NM["fp32 add"],
        state_pj=CMOS_45NM["fp32 multiply"] + CMOS_45NM["fp32 add"],
    ),
    "int8": Arithmetic(
        bits=8,
        add_pj=CMOS_45NM["int32 add"],  # an 8-bit weight into a 32-bit sum: 8 bits would overflow
        multiply_pj=CMOS_45NM["int8 multiply"],
        row_pj=CMOS_45NM["int8 add"],
        state_pj=8 * CMOS_45NM["int32 add"],  # cheaper than the 3.2 pJ of 32 by 32 bits
    ),
}
"""Name -> arithmetic: `fp32` of 32-bit floats throughout, `int8` of 8-bit weights and activations and 32-bit sums."""


@dataclass(frozen=True)
class Traffic:
    """Bits that are read and written: weights, and everything else."""

    weight_bits: float = 0.0
    state_bits: float = 0.0

    @property
    def pj(self) -> float:
        """Picojoules of the traffic."""
        return (self.weight_bits + self.state_bits) * BIT_PJ


def none_reused(cost: LayerCost, arithmetic: Arithmetic) -> Traffic:
    """Every operation fetches its weight.

    A spike's addition reads and writes its sum. A multiplication reads its input and adds to a register, which is
    written once. A neuron's membrane is read and written at every step.
    """
    words = cost.sum_accesses + cost.state_accesses
    inputs = min(cost.input_bits, arithmetic.bits) * cost.input_reads
    return Traffic(arithmetic.bits * cost.weight_reads, inputs + _activation_bits(cost, arithmetic) + WORD * words)


def weight_stationary(cost: LayerCost, arithmetic: Arithmetic) -> Traffic:
    """Weights and membranes stay in the core that uses them, as in Loihi: events come to them.

    Every operation reads its weight from the core's memory. A spike or a number is read once, when it arrives: a spike
    as an address of 32 bits, a number with its bits. Sums are held in registers beside the adders until the neuron
    takes them. A neuron's membrane is read and written at every step; a twin's activation is written once.

    Cores that hold unfinished sums in memory pay for these as in `none_reused`.

    Reference: Davies et al., Loihi, IEEE Micro 38 (1), 2018.
    """
    events = min(cost.input_bits, arithmetic.bits) * cost.numbers + ADDRESS * (cost.spikes if cost.is_connection else 0)
    state = events + _activation_bits(cost, arithmetic) + WORD * cost.state_accesses
    return Traffic(arithmetic.bits * cost.weight_reads, state)


def _activation_bits(cost: LayerCost, arithmetic: Arithmetic) -> float:
    return min(cost.output_bits, arithmetic.bits) * cost.activations


Memory = Callable[[LayerCost, Arithmetic], Traffic]

MEMORIES: dict[str, Memory] = {"none_reused": none_reused, "weight_stationary": weight_stationary}
"""Name -> model of memory traffic: function of a layer's counts and the arithmetic."""


@dataclass(frozen=True)
class Energy:
    """Energy of layers: of their operations, in picojoules, and of their traffic."""

    arithmetic_pj: float
    traffic: Traffic

    @property
    def pj(self) -> float:
        """Picojoules of both."""
        return self.arithmetic_pj + self.traffic.pj


def energy(costs: Iterable[LayerCost], arithmetic: Arithmetic, memory: Memory) -> Energy:
    """Energy of layers on a chip of this arithmetic and memory."""
    costs = list(costs)
    traffic = [memory(cost, arithmetic) for cost in costs]
    bits = Traffic(sum(part.weight_bits for part in traffic), sum(part.state_bits for part in traffic))
    return Energy(sum(arithmetic.pj(cost) for cost in costs), bits)


def constants() -> dict[str, Any]:
    """All that energies are computed with: `source`, `picojoules`, `bits` and `arithmetic`."""
    return {
        "source": SOURCE,
        "picojoules": CMOS_45NM,
        "bits": {"spike": ADDRESS, "sum, membrane or current": WORD},
        "arithmetic": {name: asdict(arithmetic) for name, arithmetic in ARITHMETICS.items()},
        "memory": {name: " ".join(model.__doc__.split()) for name, model in MEMORIES.items()},
    }

"""Energy: operations, memory traffic and picojoules of a network as neuromorphic hardware would run it.

`counters` counts while a network computes, `counts` holds what it counts, `hardware` prices it, and `latency` finds the
longest path that a step of the network waits for.
"""

from spiking_vq.energy.counters import count_operations
from spiking_vq.energy.counts import COUNTS, WORD, LayerCost, total
from spiking_vq.energy.hardware import ARITHMETICS, MEMORIES, PICOJOULES, Energy, constants, energy
from spiking_vq.energy.latency import longest_path

__all__ = [
    "ARITHMETICS",
    "COUNTS",
    "MEMORIES",
    "PICOJOULES",
    "WORD",
    "Energy",
    "LayerCost",
    "constants",
    "count_operations",
    "energy",
    "longest_path",
    "total",
]

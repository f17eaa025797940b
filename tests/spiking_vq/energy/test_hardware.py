"""Prices of counts, by hand."""

import pytest

from spiking_vq.energy import ARITHMETICS, MEMORIES, LayerCost, energy
from spiking_vq.energy.hardware import BIT_PJ

FP32, INT8 = ARITHMETICS["fp32"], ARITHMETICS["int8"]

# 10 spikes through 100 connections of an 8-bit or 32-bit weight each
SYNAPSE = LayerCost("synapse", 1, spikes=10, slots=50, accumulates=100, weight_reads=100, sum_accesses=200)
# 20 activations of 3 bits through 300 connections to 30 others
TWIN = LayerCost("synapse", 3, 3, multiplies=300, weight_reads=300, input_reads=300, numbers=20, activations=30)
# 40 neurons that leak for one step, 7 of which fire
NEURON = LayerCost("neuron", 32, spikes=7, slots=40, multiplies=40, state_accesses=80)


def test_a_bit_of_an_8_kb_memory():
    assert pytest.approx(10 / 64) == BIT_PJ


@pytest.mark.parametrize(
    ("arithmetic", "cost", "pj"),
    [
        (FP32, SYNAPSE, 100 * 0.9),
        (INT8, SYNAPSE, 100 * 0.1),  # into a sum of 32 bits
        (FP32, TWIN, 300 * 3 * 0.9),  # three additions, for three bits
        (INT8, TWIN, 300 * (2 * 0.03 + 0.1)),  # two of 8 bits, and one into the sum
        (FP32, NEURON, 40 * 4.6),
        (INT8, NEURON, 40 * 8 * 0.1),  # a membrane of 32 bits by a decay of 8
    ],
)
def test_arithmetic(arithmetic, cost, pj):
    assert arithmetic.pj(cost) == pytest.approx(pj)


def test_a_multiplier_is_used_where_it_is_cheaper():
    assert FP32.multiply_accumulate_pj(32) == pytest.approx(4.6)
    assert FP32.multiply_accumulate_pj(5) == pytest.approx(4.5)
    assert INT8.multiply_accumulate_pj(8) == INT8.multiply_accumulate_pj(32) == pytest.approx(0.3)
    assert INT8.multiply_accumulate_pj(7) == pytest.approx(0.28)


@pytest.mark.parametrize(
    ("memory", "cost", "weights", "others"),
    [
        ("none_reused", SYNAPSE, 100, 200 * 32),  # each sum is read and written
        ("weight_stationary", SYNAPSE, 100, 10 * 32),  # addresses of the spikes; sums stay in registers
        ("none_reused", TWIN, 300, 300 * 3 + 30 * 3),
        ("weight_stationary", TWIN, 300, 20 * 3 + 30 * 3),  # an activation arrives once
        ("none_reused", NEURON, 0, 80 * 32),
        ("weight_stationary", NEURON, 0, 80 * 32),  # what it fires is paid for where it arrives
    ],
)
@pytest.mark.parametrize("arithmetic", [FP32, INT8], ids=["fp32", "int8"])
def test_traffic(arithmetic, memory, cost, weights, others):
    traffic = MEMORIES[memory](cost, arithmetic)
    assert (traffic.weight_bits, traffic.state_bits) == (weights * arithmetic.bits, others)
    assert traffic.pj == pytest.approx((weights * arithmetic.bits + others) * 10 / 64)


def test_real_numbers_have_8_bits_where_arithmetic_has():
    real = LayerCost("synapse", 32, 32, multiplies=9, weight_reads=9, input_reads=9, numbers=3, activations=3)
    assert MEMORIES["none_reused"](real, INT8).state_bits == 8 * (9 + 3)
    assert MEMORIES["weight_stationary"](real, INT8).state_bits == 8 * (3 + 3)
    assert MEMORIES["none_reused"](real, FP32).state_bits == 32 * (9 + 3)


def test_energy_sums_over_layers():
    spent = energy([SYNAPSE, NEURON], INT8, MEMORIES["weight_stationary"])
    assert spent.arithmetic_pj == pytest.approx(10 + 32)
    assert spent.pj == pytest.approx(42 + (800 + 320 + 2560) * 10 / 64)

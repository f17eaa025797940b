"""Our counts of one image on a shipped network next to those of NeuroBench and SpikingJelly, layer by layer."""

import json

import pytest
import torch
from neurobench_counts import COUNTS, calls
from torch import nn

from spiking_vq.energy import count_operations
from spiking_vq.runtime.running import run_with

NETWORKS = ("denoiser", "decoder", "encoder")
ROUNDING = 1e-3
"""Share of the counts that may differ where another processor rounds a membrane to the other side of a threshold."""


@pytest.fixture(scope="module")
def ours():
    """Network -> layer -> costs, of the synapses that computed."""
    found = {}
    for name, (call, x) in calls().items():
        with count_operations(call.network) as costs, torch.no_grad():
            call(x)
        found[name] = {layer: cost for layer, cost in costs.items() if cost.is_connection and cost.has_run}
    return found


@pytest.fixture(scope="module")
def modules():
    return {name: dict(call.network.named_modules()) for name, (call, _) in calls().items()}


@pytest.mark.parametrize("network", NETWORKS)
def test_neurobench(ours, modules, network):
    """Equal, but for two things that NeuroBench does not count: transposed convolutions, and a MAC with a 0."""
    theirs = json.loads(COUNTS.read_text())["networks"][network]
    transposed = {name for name in ours[network] if isinstance(modules[network][name], nn.ConvTranspose2d)}
    assert theirs["layers"].keys() == ours[network].keys() - transposed
    assert bool(transposed) == (network == "decoder")
    for name, layer in theirs["layers"].items():
        cost = ours[network][name]
        assert cost.accumulates == pytest.approx(layer["acs"], rel=ROUNDING)
        assert cost.connections == pytest.approx(layer["dense"], rel=1e-6)
        if cost.is_fed_by_spikes:
            assert cost.multiplies == layer["macs"] == 0
        else:
            assert layer["acs"] == cost.accumulates == 0
            assert layer["macs"] <= cost.multiplies == cost.connections
    rest = [cost for name, cost in ours[network].items() if name not in transposed]
    assert sum(cost.accumulates for cost in rest) == pytest.approx(theirs["total"]["acs"], rel=ROUNDING)
    assert sum(cost.connections for cost in rest) == pytest.approx(theirs["total"]["dense"], rel=1e-6)


def test_neurobench_counts_macs_of_numbers_that_are_not_0(ours):
    """The decoder's first synapse sees codes, of which some entries are 0; ours counts a MAC for these too."""
    layers = json.loads(COUNTS.read_text())["networks"]
    (name,) = (name for name, cost in ours["decoder"].items() if not cost.is_fed_by_spikes)
    call, tokens = calls()["decoder"]
    codes = call.network.quantizer.lookup(tokens)
    reached = codes.count_nonzero().item() * call.network.get_submodule(name).out_channels
    assert layers["decoder"]["layers"][name]["macs"] == reached
    assert ours["decoder"][name].multiplies == codes.numel() * call.network.get_submodule(name).out_channels


@pytest.mark.parametrize("network", NETWORKS)
def test_spikingjelly(ours, network):
    """Equal layer by layer; in total, it also counts matrix products that are not synapses."""
    op_counter = pytest.importorskip("spikingjelly.activation_based.op_counter")
    call, x = calls()[network]
    acs, macs = op_counter.SynOpCounter(), op_counter.MACCounter()
    with torch.no_grad(), run_with(unfolded=True), op_counter.DispatchCounterMode([acs, macs]):
        made = call(x)
    for name, cost in ours[network].items():
        scope = f"Call.network.{name}"
        assert sum(acs.get_counts()[scope].values()) == cost.accumulates
        taps = sum(macs.get_counts()[scope].values())
        if cost.is_fed_by_spikes:
            assert taps == cost.multiplies == 0
        elif network == "encoder":  # the stem: all nine taps, of which those outside the image are no connections
            assert taps == made.numel() * 2**2 * call.network.stem[0].out_channels * 9 > cost.multiplies
        else:
            assert taps == cost.multiplies
    more_acs, more_macs = (
        counter.get_total() - sum(sum(counter.get_counts()[f"Call.network.{name}"].values()) for name in ours[network])
        for counter in (acs, macs)
    )
    if network == "encoder":  # the sum of spikes over time, and the search for the nearest code
        spikes, codes = call.network.encode(x), call.network.quantizer.codebook
        assert (more_acs, more_macs) == (spikes.count_nonzero(), made.numel() * codes.numel())
    else:  # the sum over time that reads the membranes of the last synapse
        assert (more_acs, more_macs) == (0, call.network.T * made.numel())

"""Operations counted by hand."""

from functools import partial
from itertools import product

import pytest
import torch
from torch import nn

from spiking_vq.checkpoint.build import build_denoiser
from spiking_vq.config.options import DenoiserOptions
from spiking_vq.energy import ARITHMETICS, MEMORIES, WORD, count_operations, energy, total
from spiking_vq.layers.mixing import AttentionProduct, PositionLinear
from spiking_vq.layers.synapses import SpikingResidual, conv_norm
from spiking_vq.models.fsddim import PostSumBlock
from spiking_vq.models.sddpm import PreSpikeBlock
from spiking_vq.neurons.lif import LIF
from spiking_vq.neurons.twins import QuantisedReLU, ReLU


def images(*spikes, size=3, channels=2):
    """One image [1, C, size, size], 0 but for spikes at (channel, row, column)."""
    x = torch.zeros(1, channels, size, size)
    for position in spikes:
        x[0][position] = 1
    return x


def counted(module, x):
    with count_operations(nn.Sequential(module)) as costs:
        module(x)
    return costs["0"]


def priced(*costs):
    """Energy in 32 bits and without reuse."""
    return energy(costs, ARITHMETICS["fp32"], MEMORIES["none_reused"])


def test_convolution_with_borders():
    conv = nn.Conv2d(2, 5, 3, padding=1)
    # a corner reaches 4 positions, an edge 6, the centre 9, each in 5 channels
    cost = counted(conv, images((0, 0, 0), (1, 0, 1), (0, 1, 1)))
    assert cost.accumulates == (4 + 6 + 9) * 5
    assert cost.multiplies == 0
    assert cost.input_bits == 1
    assert (cost.spikes, cost.slots) == (3, 18)
    assert cost.connections == 2 * (4 * 4 + 4 * 6 + 9) * 5
    assert (cost.weight_reads, cost.sum_accesses, cost.state_accesses) == (95, 2 * 95, 0)
    assert priced(cost).traffic.weight_bits == WORD * cost.accumulates
    assert priced(cost).traffic.state_bits == 2 * WORD * cost.accumulates
    assert priced(cost).arithmetic_pj == pytest.approx(0.9 * 95)
    assert priced(cost).traffic.pj == pytest.approx(95 * 3 * 5)  # three words of 5 pJ each
    assert cost.published_pj == pytest.approx(0.9 * 3 / 18 * 9 * 9 * 2 * 5)  # borders and all


def test_strided_and_transposed_convolutions():
    strided = nn.Conv2d(1, 1, 3, stride=2, padding=1)  # 4x4 -> 2x2, windows centred on rows and columns 0 and 2
    assert counted(strided, images((0, 0, 0), size=4, channels=1)).accumulates == 1
    assert counted(strided, images((0, 1, 1), size=4, channels=1)).accumulates == 4
    up = nn.ConvTranspose2d(1, 3, 3, stride=2, padding=1, output_padding=1)  # 2x2 -> 4x4
    # the pixel at (0, 0) reaches the output's rows and columns -1, 0, 1; that at (1, 1) reaches 1, 2, 3
    assert counted(up, images((0, 0, 0), size=2, channels=1)).accumulates == 4 * 3
    assert counted(up, images((0, 1, 1), size=2, channels=1)).accumulates == 9 * 3


@pytest.mark.parametrize(
    "conv",
    [
        nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1, output_padding=1),
        nn.ConvTranspose2d(2, 3, (3, 2), padding=1),
        nn.Conv2d(2, 3, (3, 2), stride=2, padding=1),
    ],
    ids=["doubling", "transposed", "strided"],
)
def test_nominal_operations_by_brute_force(conv):
    """Each tap of each kernel at each position, and of these the taps inside the image."""
    height, width = 4, 5
    transposed = isinstance(conv, nn.ConvTranspose2d)
    x = torch.zeros(1, 2, height, width)
    x[0, 1, 2, 3] = 1
    out_height, out_width = conv(x).shape[2:]
    (stride, _), (pad, _), (rows, columns) = conv.stride, conv.padding, conv.kernel_size
    near, far = ((height, width), (out_height, out_width)) if transposed else ((out_height, out_width), (height, width))
    taps = [
        (i * stride - pad + k, j * stride - pad + m)
        for i, j, k, m in product(range(near[0]), range(near[1]), range(rows), range(columns))
    ]
    inside = [(i, j) for i, j in taps if 0 <= i < far[0] and 0 <= j < far[1]]
    spiking, real = counted(conv, x), counted(conv, 0.5 * x)
    assert spiking.connections == real.connections == len(inside) * 2 * 3 < len(taps) * 2 * 3
    assert real.published_pj == pytest.approx(4.6 * len(taps) * 2 * 3)
    assert spiking.published_pj == pytest.approx(0.9 * len(taps) * 2 * 3 / x.numel())


def test_linear_maps():
    assert counted(nn.Linear(4, 7), torch.tensor([[1.0, 0, 1, 0]])).accumulates == 2 * 7
    spk = torch.zeros(1, 1, 3, 2, 2)
    spk[0, 0, 1, 0, 1] = 1
    assert counted(PositionLinear(4, 4, bias=False), spk).accumulates == 4


def test_real_inputs_multiply_everywhere():
    conv = nn.Conv2d(2, 5, 3, padding=1)
    cost = counted(conv, 0.5 * images((0, 0, 0)))
    assert cost.input_bits == WORD
    assert cost.accumulates == 0
    assert cost.multiplies == cost.connections == 2 * 49 * 5
    assert (cost.input_reads, cost.numbers, cost.state_accesses) == (490, 18, 45)
    assert priced(cost).traffic.state_bits == WORD * (490 + 45)


def test_real_inputs_have_no_firing_rate():
    conv, spk = nn.Conv2d(2, 5, 3, padding=1), images((0, 0, 0), (1, 1, 1), (0, 2, 2))
    with count_operations(nn.Sequential(conv)) as costs:
        assert costs["0"].firing_rate is None  # before the first call
        conv(spk)
        assert costs["0"].firing_rate == 3 / 18
        conv(0.5 + 0.4 * spk)  # no zero, which would not be a rate of 1 either
    assert (costs["0"].spikes, costs["0"].slots, costs["0"].firing_rate) == (3, 36, None)
    attention = AttentionProduct()
    with count_operations(nn.ModuleDict({"a": attention})) as costs:
        attention(*torch.rand(3, 1, 1, 1, 2, 3))
    assert (costs["a"].spikes, costs["a"].firing_rate) == (0, None)
    net = nn.Sequential(ReLU(), nn.Linear(4, 4), LIF())
    with count_operations(net) as costs:
        net(torch.rand(3, 2, 4))
    assert costs["1"].firing_rate is None
    rate = costs["2"].spikes / costs["2"].slots  # neurons have a rate, though their currents are real
    assert costs["2"].firing_rate == total(costs.values()).firing_rate == rate


def test_sums_of_currents():
    neuron = partial(LIF, scale_input=False)
    layers, x, time = [conv_norm(4, 6), conv_norm(6, 4)], torch.rand(3, 2, 4, 5, 5), torch.rand(2, 8)
    for block, inputs, sums in (
        (SpikingResidual(neuron, *layers), (x,), 1),
        (PreSpikeBlock(neuron, 4, 4, 8), (x, time), 2),
        (PostSumBlock(neuron, 1.0, 4, 4, 8), (x, time.expand(3, 2, 8)), 2),
    ):
        with count_operations(nn.ModuleDict({"block": block.eval()})) as costs:
            block(*inputs)
        assert (costs["block"].kind, costs["block"].firing_rate) == ("sum", None)
        assert costs["block"].accumulates == sums * x.numel()
        assert priced(costs["block"]).traffic.state_bits == 3 * WORD * sums * x.numel()


def test_averages_and_scales_are_counted():
    pool, lif = nn.AvgPool2d(2), LIF(beta=1.0, num_scales=3)
    with count_operations(nn.ModuleDict({"pool": pool, "lif": lif})) as costs, torch.no_grad():
        pool(torch.ones(1, 2, 4, 4))
        lif(torch.ones(3, 1, 5))
    assert (costs["pool"].accumulates, costs["pool"].multiplies) == (32, 8)
    assert (costs["lif"].accumulates, costs["lif"].multiplies) == (15, 15)


def test_few_bits_are_cheaper_to_multiply_with():
    net = nn.Sequential(QuantisedReLU(2), nn.Conv2d(2, 5, 3, padding=1))
    with count_operations(net) as costs:
        net(torch.rand(1, 2, 3, 3))
    cost = costs["1"]
    assert cost.input_bits == 2
    assert priced(cost).arithmetic_pj == pytest.approx(490 * 2 * 0.9)
    assert priced(cost).traffic.state_bits == 2 * 490 + 2 * 45
    assert cost.published_pj == pytest.approx(81 * 2 * 5 * 4.6)


def test_networks_of_one_model_have_bits_of_their_own():
    """As stage 1 and a denoiser of another T."""
    few, many = (nn.Sequential(QuantisedReLU(bits), nn.Linear(4, 4)) for bits in (2, 3))
    with count_operations(nn.ModuleDict({"few": few, "many": many})) as costs:
        few(torch.rand(5, 4))
        many(torch.rand(5, 4))
    assert [(costs[name].input_bits, costs[name].output_bits) for name in ("few.1", "many.1")] == [(2, 2), (3, 3)]


def test_attention_counts_coincidences_and_then_adds_them():
    q, k, v = (torch.zeros(2, 1, 1, 2, 3) for _ in range(3))  # two steps, one image, one head, 2 features, 3 positions
    q[0, 0, 0, 0, :2] = 1  # feature 0 of the query at two positions
    k[0, 0, 0, 0, 1] = k[0, 0, 0, 1, 1] = 1  # each meets one spike of the key's feature 0
    v[0, 0, 0, 1, 2] = v[1, 0, 0, 0, 0] = 1  # each adds three counts
    net = AttentionProduct()
    with count_operations(nn.ModuleDict({"a": net})) as costs:
        net(q, k, v)
    cost = costs["a"]
    assert (cost.kind, cost.is_fed_by_spikes) == ("attention", True)
    assert (cost.accumulates, cost.multiplies, cost.weight_reads) == (2 + 6, 0, 0)
    assert priced(cost).traffic.state_bits == 2 * 2 * WORD + 6 * 3 * WORD
    assert cost.published_pj == pytest.approx(0.9 * 6 / 36 * 72)
    assert (cost.spikes, cost.slots, cost.connections) == (6, 3 * 12, 2 * 12 * 3)
    with count_operations(nn.ModuleDict({"a": net})) as costs:
        net(0.3 * q, k, v)
    assert (costs["a"].multiplies, costs["a"].is_fed_by_spikes) == (2 * 12 * 3, False)


def test_neurons_that_never_spike_cost_their_updates_alone():
    net = nn.Sequential(LIF(beta=1.0, scale_input=False), nn.Linear(4, 4, bias=False), LIF(beta=0.5))
    with count_operations(net) as costs:
        net(torch.zeros(3, 2, 4))
    assert costs["1"].accumulates == costs["1"].weight_reads == 0
    assert (costs["0"].accumulates, costs["0"].multiplies) == (24, 0)  # integrates
    assert (costs["2"].accumulates, costs["2"].multiplies) == (0, 24)  # decays
    assert total(costs.values()).state_accesses == 2 * 48
    assert priced(*costs.values()).traffic.state_bits == 2 * WORD * 48
    net(torch.zeros(3, 2, 4))
    assert costs["0"].slots == 24  # no longer counted


@torch.no_grad()
@pytest.mark.parametrize("denoiser", ["sdid", "token"])
def test_unfolded_read_outs_give_the_same_and_see_spikes(absorbing_config, vq_svae, denoiser):
    absorbing_config.model = DenoiserOptions(denoiser, width=8)
    model = build_denoiser(absorbing_config).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.bias.data += 1  # so that neurons fire
    tokens, t = torch.randint(9, (2, 1, 3, 3)), torch.tensor([3, 7])
    folded = model(tokens, t)
    with count_operations(model) as costs:
        torch.testing.assert_close(model(tokens, t), folded)
    assert costs["readout"].input_bits == 1
    assert costs["readout"].accumulates > 0
    ids = torch.randint(8, (2, 1, 3, 3))
    with count_operations(vq_svae) as costs:
        image = vq_svae.decode(ids)
    torch.testing.assert_close(image, vq_svae.decode(ids))
    assert costs["readout.synapse"].input_bits == 1

"""Operations counted by hand."""

import json

import pytest
import torch
from torch import nn

from spiking_vq.checkpoint.build import build_denoiser
from spiking_vq.checkpoint.file import save_model
from spiking_vq.config.schema import DenoiserOptions
from spiking_vq.energy import WORD, count_operations, total
from spiking_vq.layers.mixing import AttentionProduct, PlaceLinear
from spiking_vq.layers.readout import read_out
from spiking_vq.neurons.lif import LIF
from spiking_vq.neurons.twins import QuantisedReLU
from spiking_vq.runtime.running import run_with
from stages.inspect import energy, portrait
from stages.inspect import purity as spiking_report
from stages.inspect import rates as firing_rates
from stages.inspect.energy import turning_point


def images(*spikes, size=3, channels=2):
    """One image [1, C, size, size], 0 but for spikes at (channel, row, column)."""
    x = torch.zeros(1, channels, size, size)
    for place in spikes:
        x[0][place] = 1
    return x


def counted(module, x):
    with count_operations(nn.Sequential(module)) as costs:
        module(x)
    return costs["0"]


def test_convolution_with_borders():
    conv = nn.Conv2d(2, 5, 3, padding=1)
    # a corner reaches 4 places, an edge 6, the centre 9, each in 5 channels
    cost = counted(conv, images((0, 0, 0), (1, 0, 1), (0, 1, 1)))
    assert cost.accumulates == (4 + 6 + 9) * 5
    assert cost.multiplies == 0
    assert cost.input_bits == 1
    assert (cost.spikes, cost.slots) == (3, 18)
    assert cost.connections == 2 * (4 * 4 + 4 * 6 + 9) * 5
    assert cost.weight_bits == WORD * cost.accumulates
    assert cost.state_bits == 2 * WORD * cost.accumulates
    assert cost.arithmetic_pj == pytest.approx(0.9 * 95)
    assert cost.memory_pj == pytest.approx(95 * 3 * 5)  # three words of 5 pJ each
    assert cost.published_pj == pytest.approx(0.9 * 3 / 18 * 9 * 9 * 2 * 5)  # borders and all


def test_strided_and_transposed_convolutions():
    strided = nn.Conv2d(1, 1, 3, stride=2, padding=1)  # 4x4 -> 2x2, windows centred on rows and columns 0 and 2
    assert counted(strided, images((0, 0, 0), size=4, channels=1)).accumulates == 1
    assert counted(strided, images((0, 1, 1), size=4, channels=1)).accumulates == 4
    up = nn.ConvTranspose2d(1, 3, 3, stride=2, padding=1, output_padding=1)  # 2x2 -> 4x4
    # the place at (0, 0) reaches the output's rows and columns -1, 0, 1; that at (1, 1) reaches 1, 2, 3
    assert counted(up, images((0, 0, 0), size=2, channels=1)).accumulates == 4 * 3
    assert counted(up, images((0, 1, 1), size=2, channels=1)).accumulates == 9 * 3


def test_linear_maps():
    assert counted(nn.Linear(4, 7), torch.tensor([[1.0, 0, 1, 0]])).accumulates == 2 * 7
    spk = torch.zeros(1, 1, 3, 2, 2)
    spk[0, 0, 1, 0, 1] = 1
    assert counted(PlaceLinear(4, 4, bias=False), spk).accumulates == 4


def test_real_inputs_multiply_everywhere():
    conv = nn.Conv2d(2, 5, 3, padding=1)
    cost = counted(conv, 0.5 * images((0, 0, 0)))
    assert cost.input_bits == WORD
    assert cost.accumulates == 0
    assert cost.multiplies == cost.connections == 2 * 49 * 5
    assert cost.state_bits == WORD * (490 + 45)


def test_few_bits_are_cheaper_to_multiply_with():
    net = nn.Sequential(QuantisedReLU(2), nn.Conv2d(2, 5, 3, padding=1))
    with count_operations(net) as costs:
        net(torch.rand(1, 2, 3, 3))
    cost = costs["1"]
    assert cost.input_bits == 2
    assert cost.arithmetic_pj == pytest.approx(490 * 2 * 0.9)
    assert cost.state_bits == 2 * 490 + 2 * 45
    assert cost.published_pj == pytest.approx(81 * 2 * 5 * 4.6)


def test_attention_counts_coincidences_and_then_adds_them():
    q, k, v = (torch.zeros(2, 1, 1, 2, 3) for _ in range(3))  # two steps, one image, one head, 2 features, 3 places
    q[0, 0, 0, 0, :2] = 1  # feature 0 of the query at two places
    k[0, 0, 0, 0, 1] = k[0, 0, 0, 1, 1] = 1  # each meets one spike of the key's feature 0
    v[0, 0, 0, 1, 2] = v[1, 0, 0, 0, 0] = 1  # each adds three counts
    net = AttentionProduct()
    with count_operations(nn.ModuleDict({"a": net})) as costs:
        net(q, k, v)
    cost = costs["a"]
    assert (cost.kind, cost.is_fed_by_spikes) == ("attention", True)
    assert (cost.accumulates, cost.multiplies, cost.weight_bits) == (2 + 6, 0, 0)
    assert cost.state_bits == 2 * 2 * WORD + 6 * 3 * WORD
    assert cost.published_pj == pytest.approx(0.9 * 6 / 36 * 72)
    assert (cost.spikes, cost.slots, cost.connections) == (6, 3 * 12, 2 * 12 * 3)
    with count_operations(nn.ModuleDict({"a": net})) as costs:
        net(0.3 * q, k, v)
    assert (costs["a"].multiplies, costs["a"].is_fed_by_spikes) == (2 * 12 * 3, False)


def test_neurons_that_never_spike_cost_their_updates_alone():
    net = nn.Sequential(LIF(beta=1.0, scale_input=False), nn.Linear(4, 4, bias=False), LIF(beta=0.5))
    with count_operations(net) as costs:
        net(torch.zeros(3, 2, 4))
    assert costs["1"].accumulates == costs["1"].weight_bits == 0
    assert (costs["0"].accumulates, costs["0"].multiplies) == (24, 0)  # integrates
    assert (costs["2"].accumulates, costs["2"].multiplies) == (0, 24)  # decays
    assert total(costs.values()).state_bits == 2 * WORD * 48
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
    tokens, t = torch.randint(9, (2, 3, 3)), torch.tensor([3, 7])
    folded = model(tokens, t)
    with count_operations(model) as costs:
        torch.testing.assert_close(model(tokens, t), folded)
    assert costs["readout"].input_bits == 1
    assert costs["readout"].accumulates > 0
    ids = torch.randint(8, (2, 3, 3))
    with count_operations(vq_svae) as costs:
        image = vq_svae.decode(ids)
    torch.testing.assert_close(image, vq_svae.decode(ids))
    assert costs["readout.synapse"].input_bits == 1


def test_read_out_of_several_sources():
    synapse, lif, weights = nn.Conv2d(5, 2, 3, padding=1), LIF(), [0.5, 1.0, 2.0]
    current, spk = 3 * torch.rand(3, 2, 3, 4, 4), (torch.rand(3, 2, 2, 4, 4) < 0.5).float()
    folded = read_out(synapse, weights, (lif, current), spk)
    with run_with(unfolded=True):
        torch.testing.assert_close(read_out(synapse, weights, (lif, current), spk), folded)
    both = torch.cat([lif(current), spk], dim=2)
    expected = sum(weight * synapse(step) for weight, step in zip(weights, both, strict=True))
    torch.testing.assert_close(folded, expected)


@pytest.fixture
def report(tmp_path, latent_model, absorbing_config):
    """What the command says of a small model for a number of calls."""
    path = tmp_path / "model.safetensors"
    absorbing_config.data = absorbing_config.vq_svae.data = "digits"
    absorbing_config.preset = absorbing_config.vq_svae.preset = "base"

    def run(*arguments):
        save_model(path, latent_model, absorbing_config)
        energy.main([f"ckpt={path}", f"results={tmp_path}", "n=2", *arguments])
        return json.loads((tmp_path / "digits/base/energy.json").read_text())

    return run


def test_an_image_is_its_calls_and_the_decoder(report, capsys):
    found = report("sample_steps=3")
    spiking, twin, few_bits = (found[name] for name in ("spiking", "relu", "quantised"))
    for part in (spiking, twin, few_bits):
        for name in ("accumulates", "multiplies", "memory_pj", "published_pj"):
            calls = part["calls"] * part["call"][name]
            assert part["image"][name] == pytest.approx(calls + part["decoder"][name])
            assert part["image"][name] == pytest.approx(sum(layer[name] for layer in part["layers"].values()))
    assert 0 < spiking["image"]["firing_rate"] < 1
    assert twin["image"]["multiplies"] > spiking["image"]["multiplies"]
    assert twin["image"]["multiplies"] == few_bits["image"]["multiplies"]
    assert few_bits["image"]["arithmetic_pj"] < twin["image"]["arithmetic_pj"]
    said = capsys.readouterr().out
    for sentence in found["verdict"].values():
        assert "it would" in sentence
        assert sentence in said
    assert not [name for name in spiking["layers"] if "encoder" in name]


def test_the_firing_rate_at_which_the_twin_would_win_by_hand():
    """Of 10 uJ at a rate of 0.2, 4 grow with the rate: 20 a unit of it, on 6 that do not."""
    assert turning_point(0.2, ours=10.0, by_spikes=4.0, theirs=12.0) == "it would turn at 0.30"  # 6 + 20 * 0.3 = 12
    assert turning_point(0.2, ours=10.0, by_spikes=4.0, theirs=8.0) == "it would turn at 0.10"
    for theirs in (5.0, 27.0):  # below what it costs without a spike; above what it costs if all neurons always fire
        assert turning_point(0.2, ours=10.0, by_spikes=4.0, theirs=theirs) == "it would do so at any firing rate"
    assert turning_point(0.0, ours=6.0, by_spikes=0.0, theirs=5.0) == "no turning point, as no synapse saw a spike"


def test_a_network_that_never_spikes_has_a_report(report, latent_model, absorbing_config, tmp_path):
    absorbing_config.image_size = absorbing_config.vq_svae.image_size = 12
    for module in latent_model.modules():
        if isinstance(module, LIF):
            module.threshold.fill_(1e6)
    found = report("sample_steps=2")
    assert found["spiking"]["image"]["firing_rate"] == 0
    assert all(sentence.count("no turning point") == 2 for sentence in found["verdict"].values())
    arguments = [f"ckpt={tmp_path / 'model.safetensors'}", f"results={tmp_path}"]
    firing_rates.main([*arguments, "n=64"])
    spiking_report.main([*arguments, "n=1"])
    portrait.main([*arguments, "n=1"])
    rates = json.loads((tmp_path / "digits/base/firing_rates.json").read_text())["firing_rate"]
    assert [part["all"] for part in rates.values()] == [0.0, 0.0]


def test_fewer_spiking_steps_without_a_label_cost_less(report, latent_model, absorbing_config):
    """Of the spiking network; its twins, which take one step, have no fewer."""
    absorbing_config.conditional, absorbing_config.num_classes, absorbing_config.sample.guidance = True, 10, 2.0
    latent_model.denoiser = build_denoiser(absorbing_config).eval()
    full = report("sample_steps=2", "temperature=0")
    absorbing_config.sample.guidance_T = 1  # the file's own
    fewer = report("sample_steps=2", "temperature=0")
    assert fewer["sampler"]["guidance_T"] == 1
    assert fewer["spiking"]["calls"] == full["spiking"]["calls"] == 4
    slots = [part["spiking"]["layers"]["denoiser.last_neuron"]["slots"] for part in (full, fewer)]
    T = absorbing_config.T
    assert slots[1] / slots[0] == pytest.approx((T + 1) / (2 * T))
    assert fewer["relu"]["image"]["arithmetic_pj"] == full["relu"]["image"]["arithmetic_pj"]


def test_twice_the_calls_cost_twice_as_much(report):
    few, many = (report(f"sample_steps={steps}", "temperature=0")["relu"] for steps in (1, 2))
    assert (few["calls"], many["calls"]) == (1, 2)
    denoising = [part["image"]["arithmetic_pj"] - part["decoder"]["arithmetic_pj"] for part in (few, many)]
    assert denoising[1] == pytest.approx(2 * denoising[0])

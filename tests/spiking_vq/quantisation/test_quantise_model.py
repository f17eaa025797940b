"""Models that are quantised: their structure, files, and those that cannot be."""

import json
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from torch import nn

from spiking_vq.checkpoint.build import build_model
from spiking_vq.checkpoint.file import fingerprint, load_model, save_model
from spiking_vq.config.schema import ClassifierConfig
from spiking_vq.energy import count_operations
from spiking_vq.errors import InputError
from spiking_vq.layers.mixing import ChannelwisePositionLinear
from spiking_vq.neurons.lif import LIF
from spiking_vq.pipelines.latent import LatentPipeline
from spiking_vq.quantisation.bounds import EXACT_BITS, accumulator_bits
from spiking_vq.quantisation.compare import roundings, spike_differences
from spiking_vq.quantisation.grid import best_exponents, integers_of
from spiking_vq.quantisation.model import folded, quantise_model
from spiking_vq.quantisation.parts import parts_of

EDGES = {
    "vq_svae.stem.0.weight",
    "vq_svae.quantizer.codebook",
    "vq_svae.spike_generator.current.0.weight",
    "vq_svae.readout.synapse.weight",
    "denoiser.token_embedding.weight",
    "denoiser.position_embedding",
    "denoiser.readout.weight",
}
"""Weights that keep 8 bits."""


def test_folding_changes_nothing_but_rounding(latent_model):
    noisy = torch.randint(9, (4, 1, 3, 3)), torch.ones(4).long()
    model = latent_model.double()
    model.denoiser.blocks[0].branch[1].norm.weight.data.uniform_(-1, 1)
    real = folded(model)
    assert isinstance(real.denoiser.blocks[0].branch[1].linear, ChannelwisePositionLinear)
    torch.testing.assert_close(real.double().denoiser(*noisy), model.denoiser(*noisy), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bits", [8, 4])
def test_every_weight_is_an_integer_of_so_many_bits(latent_model, absorbing_config, bits):
    model, config = quantise_model(latent_model, absorbing_config, bits)
    state, covered, edges = model.state_dict(), set(), set()
    for part in parts_of(model):
        bias = state[part.bias] if part.bias else None
        integers = integers_of(state[part.weight], bias, part.dim)
        weight = integers_of(state[part.weight], None, part.dim).weight
        assert weight.abs().max() < 2 ** (part.bits(bits) - 1), part.weight
        edges |= {part.weight} if part.is_edge else set()
        assert integers.exponents.min() >= -8
        covered |= {part.weight, part.bias}
    assert edges == EDGES
    others = {name for name in state if name not in covered}
    kept = ("beta", "threshold", "running_mean", "running_var", "num_batches_tracked", "1.weight", "norm.weight", "mix")
    assert all(name.endswith((*kept, "data_variance")) for name in others), others
    assert all((state[name] == 1).all() for name in others if name.endswith((".1.weight", "norm.weight")))
    assert (config.weight_bits, config.vq_svae.weight_bits) == (bits, bits)
    assert config.stage1_sha256 == fingerprint(model.vq_svae)
    assert max(*accumulator_bits(model.vq_svae).values(), *accumulator_bits(model.denoiser).values()) <= EXACT_BITS


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_quantised_model_is_a_model_file(latent_model, absorbing_config, tmp_path, dtype):
    absorbing_config = replace(absorbing_config, data="digits", conditional=False)
    with torch.no_grad():  # a bias of more bits than bf16 holds
        latent_model.denoiser.blocks[1].branch[1][1].bias += 100 / 3
    model, config = quantise_model(latent_model, absorbing_config)
    save_model(tmp_path / "model.safetensors", model, config, dtype)
    loaded, read = load_model(tmp_path / "model.safetensors")
    assert (read, read.weight_bits) == (config, 8)
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    pipelines = [LatentPipeline(one, config) for one in (model, loaded)]
    first, second = (pipeline.sample(3, sample_steps=3).images for pipeline in pipelines)
    assert torch.equal(first, second)
    if dtype:
        with safe_open(tmp_path / "model.safetensors", "pt") as file:
            types = {name: file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118 (not a dict)
            assert json.loads(file.metadata()["config"])["weight_bits"] == 8
        assert types["denoiser.readout.weight"] == torch.bfloat16
        assert types["denoiser.blocks.1.branch.1.1.bias"] == torch.float32


def test_bf16_does_not_round_integers(latent_model, absorbing_config):
    model, config = quantise_model(latent_model, replace(absorbing_config, data="digits", conditional=False))
    single, half = (LatentPipeline(model, config, precision=precision) for precision in ("fp32", "bf16"))
    assert half.precision == "fp32"
    assert torch.equal(single.sample(3, sample_steps=3).images, half.sample(3, sample_steps=3).images)
    assert LatentPipeline(latent_model, absorbing_config, precision="bf16").precision == "bf16"


def test_the_model_itself_stays(latent_model, absorbing_config):
    before = deepcopy(latent_model.state_dict())
    quantise_model(latent_model, absorbing_config)
    assert all(torch.equal(value, before[name]) for name, value in latent_model.state_dict().items())


def test_norms_of_a_quantised_network_take_no_statistics(latent_model, absorbing_config):
    model, _ = quantise_model(latent_model, absorbing_config)
    noisy = torch.randint(9, (4, 1, 3, 3)), torch.ones(4).long()
    with torch.no_grad():
        assert torch.equal(model.denoiser.train()(*noisy), model.denoiser.eval()(*noisy))


def test_large_currents_take_smaller_exponents_or_are_refused(latent_model, absorbing_config):
    norm = latent_model.denoiser.blocks[0].branch[1].norm
    with torch.no_grad():
        norm.bias += 2.0**16
    model, _ = quantise_model(latent_model, absorbing_config)
    second = model.denoiser.blocks[1].branch[1][0].weight
    assert integers_of(second).exponents.max() < best_exponents(second, 8).max()
    assert max(accumulator_bits(model.denoiser).values()) <= EXACT_BITS
    with torch.no_grad():
        norm.bias += 2.0**26
    with pytest.raises(InputError, match=r"blocks\.1.* too large to be quantised.*24 are exact"):
        quantise_model(latent_model, absorbing_config)


def test_membranes_keep_to_their_bounds(latent_model, absorbing_config):
    """The bound of a layer whose current is known: weights 1/2 from four channels, bias 1, two steps that halve."""
    model, _ = quantise_model(latent_model, absorbing_config)
    last = model.denoiser.blocks[-1]
    with torch.no_grad():
        last[0].weight.fill_(0.5)
        last[1].bias.fill_(1.0)
    # 8 channels / 2 + 1 = 5, times 1 + 1/2, on a grid of 1/2 and half a step finer: 30
    assert accumulator_bits(model.denoiser)["last_neuron"] == 5


def changed(config, **lif):
    return replace(config, lif=replace(config.lif, **lif))


REFUSED = {
    "decay": (lambda config: changed(config, beta=0.8), r"lif\.beta=0\.8.*power of two"),
    "learnt decay": (lambda config: changed(config, learn_beta=True), r"lif\.learn_beta=true"),
    "scaled input": (lambda config: changed(config, scale_input=True), r"lif\.scale_input=true"),
    "scales": (lambda config: replace(config, tsm=True), r"tsm=true"),
    "twin": (lambda config: replace(config, neuron="relu", T=1), r"neuron=relu.*real numbers"),
    "SDID": (lambda config: replace(config, model=replace(config.model, denoiser="sdid")), r"denoiser=sdid.*real"),
    "attention": (lambda config: replace(config, model=replace(config.model, mixer="attention")), r"mixer=attention"),
    "quantised": (lambda config: replace(config, weight_bits=4), r"weight_bits=4.*take the fp32 model"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_integer_arithmetic_is_refused(name, latent_model, absorbing_config):
    change, message = REFUSED[name]
    with pytest.raises(InputError, match=message):
        quantise_model(latent_model, change(absorbing_config))


def test_stage_1_is_checked_too(vq_svae, vq_svae_config):
    config = replace(vq_svae_config, model=replace(vq_svae_config.model, spike_generator="repeat"))
    with pytest.raises(InputError, match=r"repeat.*real numbers"):
        quantise_model(vq_svae, config)


def test_networks_without_spikes_are_refused(pixel_model, gaussian_config):
    with pytest.raises(InputError, match=r"unet=sddpm.*stem.*shortcut.*head"):
        quantise_model(pixel_model, gaussian_config)
    judge = ClassifierConfig(image_shape=[1, 8, 8], num_classes=10)
    with pytest.raises(InputError, match="classifier has no spikes"):
        quantise_model(build_model(judge), judge)


@pytest.mark.parametrize("bits", [1, 9])
def test_bits_have_a_range(bits, vq_svae, vq_svae_config):
    with pytest.raises(InputError, match=r"bits must be in 2\.\.8"):
        quantise_model(vq_svae, vq_svae_config, bits)


def test_counts_are_quantised_too(counted_latents):
    model, _ = quantise_model(counted_latents.model, counted_latents.config)
    spk = model.vq_svae.spike_generator(model.vq_svae.quantizer.lookup(torch.randint(9, (2, 2, 3, 3))), 2)
    assert set(spk.unique().tolist()) <= {0, 1}
    assert "spike_generator.neuron" not in accumulator_bits(model.vq_svae)


def test_learnt_thresholds_are_rounded(vq_svae, vq_svae_config):
    for module in vq_svae.modules():
        if isinstance(module, LIF):
            module.threshold.fill_(0.7)
    model, _ = quantise_model(vq_svae, vq_svae_config)
    assert {float(module.threshold) for module in model.modules() if isinstance(module, LIF)} == {179 / 256}


def test_energy_counts_the_connections_of_a_channelwise_mixer():
    mixer, spk = nn.Sequential(ChannelwisePositionLinear(3, 4)), torch.zeros(2, 1, 3, 2, 2)
    spk[0, 0, 1, 0, 1] = spk[1, 0, 2, 1, 1] = 1  # each reaches the four positions of its channel
    with count_operations(mixer) as costs:
        mixer(spk)
    assert (costs["0"].accumulates, costs["0"].spikes) == (2 * 4, 2)
    assert costs["0"].connections == 2 * 3 * 4 * 4


def test_what_rounding_changes_is_measured(latent_model, absorbing_config):
    model, _ = quantise_model(latent_model, absorbing_config, 4)
    real = folded(latent_model)
    found = roundings(real, model, 4)
    name = "denoiser.blocks.0.branch.1.linear.weight"
    weight, rounded = real.state_dict()[name], model.state_dict()[name]
    assert found[name].zero == pytest.approx((rounded == 0).float().mean().item())
    assert found[name].error == pytest.approx(((rounded - weight).norm() / weight.norm()).item())
    beyond = weight.abs() > rounded.abs() * 15 / 14  # by more than half a step of the largest integer, 7
    assert 0 < found[name].clipped <= (beyond & (rounded != 0)).float().mean().item()
    noisy = torch.randint(9, (4, 1, 3, 3)), torch.ones(4).long()
    same = spike_differences(latent_model.denoiser, latent_model.denoiser, lambda network: network(*noisy))
    different = spike_differences(latent_model.denoiser, model.denoiser, lambda network: network(*noisy))
    assert all(share == 0 and 0 < rate < 1 for share, rate in same.values())
    assert any(share > 0 for share, _ in different.values())

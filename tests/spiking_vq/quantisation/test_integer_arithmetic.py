"""A quantised network in float32 computes the integers of a chip, bit by bit."""

from dataclasses import replace

import pytest
import torch
from awake import wake
from integer_chip import Chip

from spiking_vq.checkpoint.build import LatentModel, build_model
from spiking_vq.checkpoint.file import load_model
from spiking_vq.config.options import LIFOptions
from spiking_vq.neurons.activity import observed
from spiking_vq.neurons.readouts import decay_weights
from spiking_vq.pipelines.latent import LatentPipeline
from spiking_vq.pipelines.zoo import ZOO
from spiking_vq.quantisation.bounds import accumulator_bits
from spiking_vq.quantisation.grid import integers_of
from spiking_vq.quantisation.model import quantise_model

NEURONS = {
    "leaky": LIFOptions(beta=0.5, scale_input=False),
    "integrating": LIFOptions(beta=1.0, reset="subtract", fire_at_threshold=True, threshold=0.75),
}


@pytest.fixture(params=NEURONS)
def trained(request, absorbing_config, images):
    """A model of both stages with labels, awake, T = 3; and its configuration."""
    same = {"T": 3, "lif": NEURONS[request.param]}
    config = replace(absorbing_config, **same, vq_svae=replace(absorbing_config.vq_svae, **same))
    config = replace(config, conditional=True, num_classes=10, styles=2)
    model = build_model(config)
    wake(model.vq_svae, images)
    wake(model.denoiser, torch.randint(9, (16, 1, 3, 3)), torch.ones(16).long(), torch.arange(16))
    return model, config


def compared(model, tokens, noisy, labels):
    """Spikes of the network and of the chip by layer; its results, and the chip's."""
    spikes, chips = {}, [Chip(model.vq_svae), Chip(model.denoiser)]
    names = ("vq_svae.", "denoiser.")
    with torch.no_grad(), observed(model, lambda name, spk: spikes.__setitem__(name, spk.long())):
        potential = model.vq_svae.decode_spikes(
            model.vq_svae.spike_generator(model.vq_svae.quantizer.lookup(tokens), model.vq_svae.T)
        )
        logits = model.denoiser(noisy, torch.ones(len(noisy)).long(), labels)[:, :, 0]
    currents, exact = chips[0].decode(tokens).number(), chips[1].logits(noisy, labels)
    weights = torch.tensor(decay_weights(len(currents)), dtype=torch.float64)
    chip = {prefix + name: spk for prefix, one in zip(names, chips, strict=True) for name, spk in one.spikes.items()}
    return spikes, chip, (potential, logits), (torch.tensordot(weights, currents, 1), exact)


def require_equal(model, tokens, noisy, labels):
    spikes, chip, (potential, logits), (chip_potential, chip_logits) = compared(model, tokens, noisy, labels)
    assert spikes.keys() == chip.keys()
    for name, spk in chip.items():
        assert torch.equal(spikes[name], spk), name
        assert 0 < spk.float().mean() < 1, name
    is_dyadic = model.denoiser.T & (model.denoiser.T - 1) == 0
    torch.testing.assert_close(logits.double(), chip_logits, **({"rtol": 0, "atol": 0} if is_dyadic else {}))
    torch.testing.assert_close(potential.double(), chip_potential, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_spikes_are_those_of_integers(trained, bits):
    model, config = quantise_model(*trained, bits)
    noisy, labels = torch.randint(9, (5, 1, 3, 3)), torch.arange(5) * 3
    require_equal(model, torch.randint(8, (5, 1, 3, 3)), noisy, labels)


def test_one_unit_of_one_weight_makes_a_difference(trained):
    """Otherwise the comparison would see nothing."""
    model, _ = quantise_model(*trained, 8)
    inputs = torch.randint(8, (5, 1, 3, 3)), torch.randint(9, (5, 1, 3, 3)), torch.arange(5)
    _, chip, _, (potential, logits) = compared(model, *inputs)
    for name, layer, dim in (
        ("denoiser.last_neuron", model.denoiser.readout, 0),
        ("vq_svae.readout.neuron", model.vq_svae.readout.synapse, 1),
    ):
        busiest = chip[name].sum((0, 1, 3, 4)).argmax()
        layer.weight.data.movedim(dim, 0)[0, busiest] += unit(layer.weight, dim)[0]
    _, _, (off_potential, off_logits), _ = compared(model, *inputs)
    assert (off_logits[:, 0] - logits[:, 0]).abs().max() > 1e-4
    torch.testing.assert_close(off_logits[:, 1:].double(), logits[:, 1:])
    assert (off_potential - potential).abs().max() > 1e-4

    positions, different = model.denoiser.position_embedding.data, 0
    for channel, one in enumerate(unit(positions, 0).tolist()):
        for position in range(positions[0].numel()):
            positions[channel].view(-1)[position] += one
            spikes, *_ = compared(model, *inputs)
            positions[channel].view(-1)[position] -= one
            different += any(not torch.equal(spikes[name], spk) for name, spk in chip.items())
    assert 0 < different < positions.numel()


def unit(weight, dim):
    """The smallest difference of two weights of each output channel."""
    return 2.0 ** -integers_of(weight, dim=dim).exponents


@pytest.mark.slow
@pytest.mark.parametrize("bits", [8, 4])
def test_the_model_that_ships_is_integer_arithmetic(bits):
    trained, config = load_model(ZOO / "mnist-large-absorbing.safetensors")
    pipeline, seeds = LatentPipeline(trained, config), range(4)
    states = [state.x for state in pipeline.states(seeds)]
    model, _ = quantise_model(trained, config, bits, lambda network: network.vq_svae.decode(states[-1]))
    assert isinstance(model, LatentModel)
    require_equal(model, states[-1], states[len(states) // 2], pipeline.labels(seeds))
    assert max(*accumulator_bits(model.vq_svae).values(), *accumulator_bits(model.denoiser).values()) <= 24

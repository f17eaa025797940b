"""Membranes that persist from call to call: trained on trajectories, sampled call by call, the same function."""

import json
from dataclasses import replace

import pytest
import torch
from conftest import wake

from spiking_vq import generators
from spiking_vq.checkpoint import build_denoiser
from spiking_vq.config import config_from_dict
from spiking_vq.diffusion.absorbing import AbsorbingDiffusion
from spiking_vq.diffusion.trajectory import TrajectoryDiffusion
from spiking_vq.errors import InputError
from spiking_vq.generators import LatentGenerator
from spiking_vq.neurons import LIF
from spiking_vq.persistent import Persistent
from stages import energy, sample, train

GRID, CODES, CALLS = (3, 3), 8, 4


@pytest.fixture
def diffusion():
    return TrajectoryDiffusion(AbsorbingDiffusion(GRID, CODES), CALLS)


@pytest.fixture
def network(absorbing_config):
    """A denoiser of one spiking step, in float64 and awake."""
    torch.manual_seed(0)
    config = replace(absorbing_config, T=1, persistent=True)
    denoiser = build_denoiser(config).double()
    wake(denoiser, torch.randint(CODES + 1, (CALLS, 16, *GRID)), torch.ones(CALLS, 16).long())
    denoiser.position_embedding.data *= 0.5
    return denoiser


def drawn(diffusion, n=5):
    generator = torch.Generator().manual_seed(1)
    return diffusion.draw(torch.randint(CODES, (n, *GRID), generator=generator), generator)


def test_a_trajectory_unmasks_step_by_step(diffusion):
    tokens, t, noisy, weight = drawn(diffusion)
    masked = noisy == CODES
    assert masked.flatten(2).sum(-1).tolist() == [[9, 6, 4, 2]] * 5  # nine places over four calls, as evenly as it goes
    assert (masked[:, 1:] <= masked[:, :-1]).all()  # what is seen stays
    assert torch.equal(noisy.masked_fill(masked, 0), tokens.unsqueeze(1).expand_as(noisy).masked_fill(masked, 0))
    assert t.tolist() == [[9, 7, 5, 3]] * 5
    torch.testing.assert_close(weight, torch.full((5, 4), 20 / 105))  # masked_ce: a mean over all that is masked


def test_loss_by_hand(diffusion):
    draw = drawn(diffusion)
    logits = torch.randn(5, CALLS, CODES, *GRID)
    found = diffusion.loss_of(lambda tokens, t: logits.transpose(0, 1), draw)
    nll, correct, count = 0.0, 0, 0
    for image in range(5):
        for call in range(CALLS):
            for place in range(9):
                y, x = divmod(place, 3)
                if draw.noisy[image, call, y, x] == CODES:
                    column, truth = logits[image, call, :, y, x], draw.tokens[image, y, x]
                    nll -= column.log_softmax(0)[truth].item()
                    correct += (column.argmax() == truth).item()
                    count += 1
    assert count == 105
    assert found["loss"].item() == pytest.approx(nll / count, rel=1e-5)
    assert found["cross_entropy"].item() == pytest.approx(nll / count, rel=1e-5)
    assert found["accuracy"].item() == pytest.approx(correct / count)


@pytest.mark.parametrize("T", [1, 2])
def test_calls_one_by_one_are_the_trajectory(diffusion, network, T):
    network.T = T
    noisy, t = (x.transpose(0, 1) for x in (drawn(diffusion).noisy, drawn(diffusion).t))
    whole = network(noisy, t)
    persistent = Persistent(network)
    calls = torch.stack([persistent(tokens, time) for tokens, time in zip(noisy, t, strict=True)])
    torch.testing.assert_close(calls, whole, rtol=0, atol=1e-12)
    forgetful = torch.stack([network(tokens, time) for tokens, time in zip(noisy, t, strict=True)])
    torch.testing.assert_close(forgetful[0], whole[0], rtol=0, atol=1e-12)
    assert not torch.allclose(forgetful[1:], whole[1:], atol=1e-3)  # the membranes matter
    assert all(module.carried is None for module in network.modules() if isinstance(module, LIF))


def test_a_call_knows_nothing_of_later_ones(diffusion, network):
    noisy, t = (x.transpose(0, 1) for x in (drawn(diffusion).noisy, drawn(diffusion).t))
    changed = noisy.clone()
    changed[2] = (changed[2] + 1) % CODES
    one, other = network(noisy, t), network(changed, t)
    torch.testing.assert_close(other[:2], one[:2], rtol=0, atol=0)
    assert not torch.allclose(other[2:], one[2:], atol=1e-3)


def test_new_images_start_from_rest(diffusion, network):
    noisy, t = drawn(diffusion, 2).noisy, drawn(diffusion, 2).t
    persistent = Persistent(network)
    persistent.start(torch.ones(2, dtype=torch.bool))  # nothing is there yet
    persistent(noisy[:, 1], t[:, 1])
    persistent.start(torch.tensor([True, False]))
    second = persistent(noisy[:, 0], t[:, 0])
    fresh = network(noisy[:, 0], t[:, 0])
    torch.testing.assert_close(second[0], fresh[0], rtol=0, atol=1e-12)
    assert not torch.allclose(second[1], fresh[1], atol=1e-3)


def test_images_do_not_depend_on_how_many_are_made(latent_model, absorbing_config, network, monkeypatch):
    monkeypatch.setattr(generators, "CHUNK", 4)
    monkeypatch.setattr(generators, "GROUP", 8)
    network.readout.weight.data *= 10
    latent_model.denoiser = network
    config = replace(absorbing_config, T=1, persistent=True, precision="fp64")
    config.sample.sample_steps = CALLS
    generator = LatentGenerator(latent_model, config, precision="fp64")
    calls = []
    hook = network.register_forward_pre_hook(lambda module, inputs: calls.append(len(inputs[0])))
    many = generator.sample(11, seed=2).tokens
    hook.remove()
    assert calls == [4] * 4 * 2 + [4] * 4  # of eight images and then of three: four calls for each four places
    for n in (1, 6):
        assert torch.equal(generator.sample(n, seed=2).tokens, many[:n])
    for order in ("bernoulli", "halton"):  # images leave their places at different times
        few, more = (generator.sample(n, seed=2, order=order).tokens for n in (3, 11))
        assert torch.equal(few, more[:3])
    monkeypatch.setattr(config, "persistent", False)
    assert not torch.equal(generator.sample(6, seed=2).tokens, many[:6])


def test_guidance_mixes_two_answers_and_there_are_membranes_of_one(latent_model, absorbing_config):
    config = replace(absorbing_config, T=1, persistent=True, conditional=True, num_classes=10)
    latent_model.denoiser = build_denoiser(config)
    generator = LatentGenerator(latent_model, config)
    assert generator.sampling(label=1, guidance=1.0)["label"] == 1
    with pytest.raises(InputError, match="guidance must be 0 or 1 where membranes persist"):
        generator.sampling(label=1, guidance=1.5)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"sample": {"sample_steps": None}}, "sample.sample_steps must be a number with persistent=true"),
        ({"model": {"denoiser": "sdid"}}, "model.denoiser must be token with persistent=true; got sdid"),
        ({"early_T": 2}, "early_T must be None with persistent=true; got 2"),
        ({"neuron": "relu", "T": 1}, "neuron must be lif with persistent=true; got relu"),
    ],
    ids=str,
)
def test_what_persistence_needs(change, told):
    fitting = {"stage": "absorbing", "persistent": True, "model": {"denoiser": "token"}, "sample": {"sample_steps": 4}}
    config_from_dict(fitting)
    with pytest.raises(InputError, match=told):
        config_from_dict({**fitting, **change})


def test_a_persistent_network_trains_samples_and_is_counted(tmp_path):
    common = ["data=digits", "preset=base", "train.compile=false", "precision=fp32", f"runs={tmp_path}"]
    common += ["train.warmup_steps=0", "train.val_every=1000"]
    train.main(["vq_svae", *common, "model.channels=[4,8]", "T=2", "perceptual.weight=0", "train.max_steps=20"])
    told = ["persistent=true", "T=1", "early_T=null", "sample.guidance=1", "sample.guidance_T=null"]
    told += ["model.width=16", "model.num_blocks=1", "train.max_steps=40"]
    train.main(["absorbing", *common, *told])
    losses = list(json.loads((tmp_path / "digits/base/absorbing/training.json").read_text())["loss"].values())
    assert losses[-1] < losses[0]
    sample.main(["data=digits", "n=4", f"runs={tmp_path}"])
    assert (tmp_path / "digits/base/samples/grid.png").is_file()
    energy.main(["data=digits", f"runs={tmp_path}", "n=1", f"results={tmp_path / 'results'}"])
    report = json.loads((tmp_path / "results/digits/base/energy.json").read_text())
    assert report["T"]["denoiser"] == 1

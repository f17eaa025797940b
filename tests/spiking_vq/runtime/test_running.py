"""Settings of a call reach every layer of it, and no other thread's call."""

from threading import Barrier, Thread

import pytest
import torch
from torch import nn

from spiking_vq.checkpoint.file import fingerprint
from spiking_vq.energy import count_operations
from spiking_vq.neurons.activity import mean_firing_rate, record_activity
from spiking_vq.neurons.lif import LIF
from spiking_vq.pipelines.latent import LatentPipeline
from spiking_vq.pipelines.pixel import PixelPipeline
from spiking_vq.runtime.running import Run, run_with, running, steps_of


def at_once(network, *calls):
    """Results of functions, each in a thread of its own; no call of `network` begins before all are inside one."""
    barrier, results = Barrier(len(calls)), [None] * len(calls)

    def run(index):
        results[index] = calls[index]()

    def wait(module, inputs):
        barrier.wait(timeout=30)

    hook = network.register_forward_pre_hook(wait)
    threads = [Thread(target=run, args=(index,)) for index in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    hook.remove()
    return results


def test_settings_end_with_their_block():
    with run_with(num_steps=3, compile=True):
        with pytest.raises(RuntimeError, match="stop"), run_with(num_steps=1, threshold_shift=0.5):
            assert running() == Run(compile=True, num_steps=1, threshold_shift=0.5)
            raise RuntimeError("stop")
        assert running() == Run(compile=True, num_steps=3)
    assert running() == Run()


def test_a_network_takes_the_steps_of_the_block(latent_model):
    network = latent_model.denoiser
    assert steps_of(network) == network.T == 2
    with run_with(num_steps=5):
        assert steps_of(network) == 5
    with run_with(num_steps=None):
        assert steps_of(network) == 2


def test_threads_sample_from_one_generator_as_if_one_after_the_other(latent_model, absorbing_config):
    generator = LatentPipeline(latent_model, absorbing_config)
    alone = [generator.sample(8, seed, sample_steps=4) for seed in (0, 1)]
    both = at_once(generator.network, *(lambda seed=seed: generator.sample(8, seed, sample_steps=4) for seed in (0, 1)))
    for ours, theirs in zip(both, alone, strict=True):
        assert torch.equal(ours.images, theirs.images)
        assert torch.equal(ours.tokens, theirs.tokens)


def test_threads_guide_by_different_numbers_of_steps(labelled_latents):
    latents = labelled_latents
    settings = [{"guidance": 3.0, "label": 1, "sample_steps": 3, "guidance_T": T} for T in (1, 2)]
    alone = [latents.sample(4, **chosen).tokens for chosen in settings]
    assert not torch.equal(*alone)
    both = at_once(latents.network, *(lambda chosen=chosen: latents.sample(4, **chosen).tokens for chosen in settings))
    assert all(map(torch.equal, both, alone))
    assert latents.network.T == 2


def test_threads_shift_thresholds_differently(pixel_model, gaussian_config):
    generator, shifts = PixelPipeline(pixel_model, gaussian_config), (0.2, -0.2)
    before = fingerprint(pixel_model)
    alone = [generator.sample(4, threshold_shift=shift, sample_steps=3).images for shift in shifts]
    assert not torch.equal(*alone)
    both = at_once(
        generator.network,
        *(lambda shift=shift: generator.sample(4, threshold_shift=shift, sample_steps=3).images for shift in shifts),
    )
    assert all(map(torch.equal, both, alone))
    assert fingerprint(pixel_model) == before


def test_what_is_counted_is_this_threads_own():
    net = nn.Sequential(LIF(beta=1.0, scale_input=False), nn.Linear(4, 4, bias=False), LIF(beta=0.5))
    x = torch.rand(3, 2, 4)

    def counted():
        with record_activity(net) as activity, count_operations(net) as costs, mean_firing_rate(net) as rate:
            net(x)
        return activity["0"].slots, costs["0"].slots, costs["1"].connections, rate().item()

    alone = counted()
    both = at_once(net, counted, lambda: net(x + 1), counted)
    assert alone[:3] == (24, 24, 96)
    assert both[0] == both[2] == alone


def test_observers_of_nested_blocks_see_the_same():
    net = nn.Sequential(LIF())
    with record_activity(net) as outer:
        with record_activity(net) as inner:
            net(torch.rand(2, 3, 4))
        net(torch.rand(2, 3, 4))
    assert (outer["0"].slots, inner["0"].slots) == (48, 24)

"""The continuous pipeline, and labels, guidance and shifted thresholds in both pipelines."""

from dataclasses import replace

import pytest
import torch
from awake import wake

from spiking_vq.checkpoint.build import build_denoiser, build_model
from spiking_vq.checkpoint.file import save_model
from spiking_vq.data.levels import to_uint8
from spiking_vq.errors import InputError
from spiking_vq.neurons.lif import LIF
from spiking_vq.pipelines import base
from spiking_vq.pipelines.latent import LatentPipeline
from spiking_vq.pipelines.load import load
from spiking_vq.pipelines.pixel import PixelPipeline
from spiking_vq.randomness import ImageStream, mix_seed
from spiking_vq.runtime.running import steps_of

CHUNK = 4


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(base, "CHUNK", CHUNK)
    monkeypatch.setattr(base, "GROUP", 2 * CHUNK)


@pytest.fixture
def pipeline(pixel_model, gaussian_config):
    return PixelPipeline(pixel_model, gaussian_config)


def test_samples_do_not_depend_on_how_many(pipeline):
    told = []
    whole = pipeline.sample(3 * CHUNK, seed=5, progress=lambda *done: told.append(done))
    assert whole.tokens is None
    assert (whole.images.shape, whole.images.dtype) == ((3 * CHUNK, 1, 12, 12), torch.uint8)
    assert len(whole.images.unique(dim=0)) == 3 * CHUNK
    assert torch.equal(pipeline.sample(2, seed=5).images, whole.images[:2])
    assert torch.equal(pipeline.sample(CHUNK, seed=5, first=2 * CHUNK).images, whole.images[2 * CHUNK :])
    assert not torch.equal(pipeline.sample(2, seed=6).images, whole.images[:2])
    assert told == sorted(told)
    assert told[-1] == (3 * CHUNK, 3 * CHUNK)


@pytest.mark.parametrize("unet", ["sddpm", "fsddim"])
def test_an_image_made_alone_is_the_same(gaussian_config, unet):
    gaussian_config.model.unet = unet
    if unet == "fsddim":
        gaussian_config.diffusion.loss = "synaptic_current"
    pipeline = PixelPipeline(build_model(gaussian_config), gaussian_config, precision="fp64")
    together = pipeline.sample(2, seed=3)
    alone = pipeline.make_alone(mix_seed(3, 1), **pipeline.sampling())
    assert (to_uint8(alone).int() - together.images[1:].int()).abs().max() <= 1


def test_settings(pipeline, tmp_path, gaussian_config, pixel_model):
    neutral = {"eta": 0.0, "contrast": 1.0, "threshold_shift": 0.0, "label": None, "guidance": 0.0}
    assert pipeline.sampling() == {"sample_steps": 10, "sampler": "ddim"} | neutral
    assert pipeline.sampling(sampler="ddpm_large", sample_steps=3, eta=None)["sample_steps"] == 3
    gaussian_config.sample = replace(gaussian_config.sample, sample_steps=4)
    save_model(tmp_path / "model.safetensors", pixel_model, gaussian_config)
    loaded = load(tmp_path / "model.safetensors")
    assert isinstance(loaded, PixelPipeline)
    assert loaded.sampling()["sample_steps"] == 4


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"temperature": 0.8}, "has no temperature: its settings are sample_steps, sampler, eta"),
        ({"sampler": "euler"}, "sampler must be one of"),
        ({"sampler": "analytic"}, "spiking-vq study analytic"),
        ({"sample_steps": 11}, r"in 1\.\.10"),
        ({"label": 10}, "label must be one of 0, 1, .*, 9; got 10"),
        ({"label": 1.0}, "label must be an integer; got 1.0"),
        ({"guidance": -1.0}, "guidance must be at least 0"),
        ({"sample_steps": 0}, "sample_steps must be at least 1; got 0"),
        ({"eta": 0.5, "sampler": "ddpm_large"}, "eta is ddim's"),
        ({"contrast": 0.0}, "contrast must be greater than 0; got 0.0"),
        ({"threshold_shift": -1.0}, "greater than -1, so that thresholds stay above 0"),
    ],
    ids=str,
)
def test_settings_out_of_range(pipeline, settings, told):
    with pytest.raises(InputError, match=told):
        pipeline.sample(1, **settings)


def test_a_model_without_labels_says_so(latent_model, absorbing_config):
    for settings in ({"label": 3}, {"guidance": 1.0}):
        with pytest.raises(InputError, match="conditional=true"):
            LatentPipeline(latent_model, absorbing_config).sample(1, **settings)
    absorbing_config.conditional, absorbing_config.num_classes = True, 10
    absorbing_config.model.denoiser, absorbing_config.model.num_blocks = "sdid", None
    with pytest.raises(InputError, match="conditional must be false: sdid takes no labels"):
        build_denoiser(absorbing_config)


@pytest.mark.parametrize("kind", ["pixel", "latent"])
def test_labels_and_guidance_change_what_is_made(kind, request, pipeline):
    if kind == "latent":
        pipeline = request.getfixturevalue("labelled_latents")
    plain, one, same, two, strong, none = (
        pipeline.sample(CHUNK, **settings).images
        for settings in (
            {},
            {"label": 1},
            {"label": 1, "guidance": 1.0},
            {"label": 2},
            {"label": 1, "guidance": 4.0},
            {"label": 1, "guidance": 0.0},
        )
    )
    assert torch.equal(one, same)
    assert torch.equal(none, plain)  # guidance 0 is the answer without a label
    for other in (plain, two, strong):
        assert not torch.equal(one, other)


def test_completions_are_told_no_label_unless_one_is_given(labelled_latents, images):
    keep = torch.zeros(3, 3, dtype=torch.bool)
    keep[0] = True
    real = to_uint8(images[:4])
    plain = labelled_latents.inpaint(real, keep).tokens
    labelled_latents.config.sample = replace(labelled_latents.config.sample, guidance=1.0)
    assert torch.equal(labelled_latents.inpaint(real, keep).tokens, plain)
    assert not torch.equal(labelled_latents.inpaint(real, keep, label=3).tokens, plain)


def test_settings_of_currents_and_twins(gaussian_config):
    gaussian_config.neuron, gaussian_config.T = "relu", 1
    twin = PixelPipeline(build_model(gaussian_config), gaussian_config)
    with pytest.raises(InputError, match="threshold_shift must be 0 without spikes"):
        twin.sampling(threshold_shift=0.1)
    gaussian_config.model.unet, gaussian_config.diffusion.loss = "fsddim", "synaptic_current"
    on_currents = PixelPipeline(build_model(gaussian_config), gaussian_config)
    with pytest.raises(InputError, match="sampled by ddim"):
        on_currents.sampling(sampler="ddpm_large")
    gaussian_config.sample = replace(gaussian_config.sample, eta=0.5)
    with pytest.raises(InputError, match="sampled by ddim"):
        on_currents.sampling()


def test_a_default_eta_is_of_the_default_sampler(pipeline, gaussian_config):
    gaussian_config.sample = replace(gaussian_config.sample, eta=0.5)
    assert pipeline.sampling()["eta"] == 0.5
    assert pipeline.sampling(sampler="ddpm_small")["eta"] == 0.0


def test_labels_on_currents(gaussian_config):
    gaussian_config.model.unet, gaussian_config.diffusion.loss = "fsddim", "synaptic_current"
    model = build_model(gaussian_config)
    wake(model.unet, torch.randn(1, 16, 1, 12, 12), torch.arange(16) % 10 + 1)
    model.unet.labels.weight.data *= 50
    pipeline = PixelPipeline(model.eval(), gaussian_config)
    one, two = (pipeline.sample(2, label=label, guidance=2.0).images for label in (1, 2))
    assert not torch.equal(one, two)


def test_the_answer_without_a_label_may_take_fewer_spiking_steps(labelled_latents):
    pipeline, seen = labelled_latents, []
    network, T = pipeline.network, pipeline.config.T

    def sampled(**settings):
        seen.clear()
        return pipeline.sample(2, label=1, sample_steps=2, **settings).tokens

    hook = network.register_forward_pre_hook(lambda module, inputs: seen.append((len(inputs), steps_of(module))))
    full = sampled(guidance=3.0)
    assert set(seen) == {(3, T), (2, T)}
    assert torch.equal(sampled(guidance=3.0, guidance_T=T), full)
    fewer = sampled(guidance=3.0, guidance_T=1)
    assert set(seen) == {(3, T), (2, 1)}
    assert network.T == T
    assert not torch.equal(fewer, full)
    alone = sampled(guidance=0.0, guidance_T=1)
    assert set(seen) == {(2, T)}  # what is not held against anything is the answer itself
    hook.remove()
    assert torch.equal(alone, sampled(guidance=0.0))
    pipeline.config.sample = replace(pipeline.config.sample, guidance_T=1)  # as a file may say
    assert torch.equal(sampled(guidance=3.0), fewer)
    for steps, expected in ((0, "at least 1; got 0"), (T + 1, f"in 1..{T}, the network's T; got {T + 1}")):
        with pytest.raises(InputError, match=f"guidance_T must be {expected}"):
            pipeline.sampling(guidance_T=steps)


@pytest.mark.parametrize("kind", ["pixel", "latent"])
def test_labels_are_drawn_where_none_is_asked_for(kind, request, pipeline):
    """With guidance, and each image by itself: the same in a set of another size."""
    if kind == "latent":
        pipeline = request.getfixturevalue("labelled_latents")
    assert pipeline.sampling()["guidance"] == 0
    seen, network = [], pipeline.network

    def note(module, inputs):
        seen.append(inputs[2].tolist() if len(inputs) > 2 else None)

    hook = network.register_forward_pre_hook(note)
    pipeline.sample(1)
    assert set(map(str, seen)) == {"None"}
    seen.clear()
    few, many = (pipeline.sample(n, guidance=1.0).images for n in (2, CHUNK + 1))
    hook.remove()
    assert len(set(sum(seen, []))) > 3
    assert torch.equal(many[:2], few)
    labels = [mix_seed(mix_seed(0, row), ImageStream.LABEL) % 10 for row in range(2)]
    for row, label in enumerate(labels):
        assert torch.equal(pipeline.sample(2, label=label).images[row], few[row])
    pipeline.config.sample = replace(pipeline.config.sample, guidance=1.0)  # as a file may say
    assert torch.equal(pipeline.sample(2).images, few)
    assert torch.equal(pipeline.sample(2, guidance=0.0).images, pipeline.sample(2, guidance=0.0, label=3).images)


def test_labels_are_drawn_as_often_as_there_were_images(labelled_latents):
    """And never one of a label without any, which nobody may ask for either."""
    config = labelled_latents.config
    config.label_counts = [0, 300, 100] + [0] * 7
    drawn = labelled_latents.labels(range(4000))
    counts = drawn.bincount(minlength=10)
    assert counts[[0, *range(3, 10)]].sum() == 0
    assert counts[1].item() == pytest.approx(3000, abs=110)  # four deviations of the binomial
    assert (drawn == labelled_latents.labels([0], [2])).sum() == counts[2]
    with pytest.raises(InputError, match="one of 1, 2; got 0"):
        labelled_latents.sample(1, label=0)


def test_contrast_is_about_mid_grey(pipeline):
    plain, strong = (pipeline.sample(CHUNK, contrast=contrast).images.float() for contrast in (1.0, 1.5))
    expected = (127.5 + 1.5 * (plain - 127.5)).clamp(0, 255)
    assert (strong - expected).abs().max() <= 1.5  # both are rounded
    assert not torch.equal(strong, plain)


def test_a_threshold_shift_is_that_of_raised_thresholds(pipeline):
    plain, shifted = (pipeline.sample(CHUNK, threshold_shift=shift).images for shift in (0.0, -0.2))
    assert not torch.equal(plain, shifted)
    assert torch.equal(pipeline.sample(CHUNK).images, plain)
    layers = [module for module in pipeline.model.modules() if isinstance(module, LIF)]
    for layer in layers:
        layer.threshold -= 0.2
    assert torch.equal(pipeline.sample(CHUNK).images, shifted)
    with pytest.raises(InputError, match="threshold_shift must be greater than -0.8, so that"):
        pipeline.sampling(threshold_shift=-2.0)


def test_thresholds_are_shifted_inside_calls_alone(pipeline):
    """However sampling is interrupted or interleaved."""
    layer = next(module for module in pipeline.model.modules() if isinstance(module, LIF))
    before = layer.threshold.clone()
    one, two = (pipeline.states([1], threshold_shift=shift) for shift in (0.3, -0.3))
    for states in (one, two, one, two, one):
        next(states)
        assert torch.equal(layer.threshold, before)

    def stop(done, of):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline.sample(1, threshold_shift=0.3, progress=stop)
    assert torch.equal(layer.threshold, before)

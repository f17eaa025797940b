import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from awake import wake
from PIL import Image

from spiking_vq.checkpoint.build import build_vq_svae
from spiking_vq.checkpoint.file import save_model
from spiking_vq.data.levels import to_uint8
from spiking_vq.diffusion.absorbing_sampler import AbsorbingSamplerOptions
from spiking_vq.diffusion.unmasking import ORDERS
from spiking_vq.errors import InputError
from spiking_vq.pipelines import base
from spiking_vq.pipelines.latent import LatentPipeline
from spiking_vq.pipelines.load import load
from spiking_vq.randomness import mix_seed

CHUNK = 4


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(base, "CHUNK", CHUNK)


@pytest.fixture
def pipeline(latent_model, absorbing_config):
    return LatentPipeline(latent_model, absorbing_config)


@pytest.fixture
def poisson_pipeline(latent_model, absorbing_config, vq_svae_config, images):
    vq_svae_config.model.spike_generator = "poisson"
    latent_model.vq_svae = wake(build_vq_svae(vq_svae_config), images)
    latent_model.vq_svae.quantizer.codebook.data.uniform_(0, 1)
    return LatentPipeline(latent_model, absorbing_config)


def batch_sizes(module):
    """Batch size of each call, filled as they happen."""
    sizes = []
    module.register_forward_hook(lambda module, inputs, output: sizes.append(len(inputs[0])))
    return sizes


# ---------------------------------------------------------------- sampling


def test_samples(pipeline):
    images, tokens = pipeline.sample(CHUNK)
    assert (images.shape, images.dtype) == ((CHUNK, 1, 12, 12), torch.uint8)
    assert (tokens.shape, tokens.dtype) == ((CHUNK, 1, 3, 3), torch.int64)
    assert 0 <= tokens.min() < tokens.max() < 8
    assert not images.requires_grad
    assert len(tokens.unique(dim=0)) == CHUNK
    assert torch.equal(images, to_uint8(pipeline.model.vq_svae.decode(tokens)))


@pytest.mark.parametrize("kind", ["pipeline", "poisson_pipeline"])
@pytest.mark.parametrize("order", ORDERS)
def test_image_i_does_not_depend_on_n(request, kind, order):
    pipeline = request.getfixturevalue(kind)
    whole = pipeline.sample(CHUNK + 2, seed=5, order=order)
    assert len(whole.images) == CHUNK + 2
    assert len(whole.tokens.unique(dim=0)) > CHUNK  # the second chunk does not repeat the first
    for n in (1, 3, CHUNK):
        part = pipeline.sample(n, seed=5, order=order)
        assert torch.equal(part.tokens, whole.tokens[:n])
        assert torch.equal(part.images, whole.images[:n])


def test_networks_always_see_whole_chunks(pipeline):
    """The images above are equal on this machine; this is why they are on any."""
    denoised, decoded = batch_sizes(pipeline.model.denoiser), batch_sizes(pipeline.model.vq_svae.spike_generator)
    pipeline.sample(1)
    pipeline.sample(CHUNK + 1)
    assert set(denoised) == {CHUNK}
    assert decoded == [CHUNK] * 3


@pytest.mark.parametrize("kind", ["pipeline", "poisson_pipeline"])
def test_seeds(request, kind):
    pipeline = request.getfixturevalue(kind)
    first, again, other = pipeline.sample(3, seed=1), pipeline.sample(3, seed=1), pipeline.sample(3, seed=2)
    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.tokens, other.tokens)
    assert not torch.equal(first.images, other.images)


@pytest.mark.parametrize("kind", ["pipeline", "poisson_pipeline"])
def test_a_set_may_be_made_in_parts(request, monkeypatch, kind):
    pipeline = request.getfixturevalue(kind)
    monkeypatch.setattr(base, "GROUP", 2 * CHUNK)
    whole = pipeline.sample(3 * CHUNK, seed=5)
    part = pipeline.sample(CHUNK, seed=5, first=2 * CHUNK)
    assert torch.equal(part.tokens, whole.tokens[2 * CHUNK :])
    assert torch.equal(part.images, whole.images[2 * CHUNK :])
    with pytest.raises(InputError, match=f"first must be a multiple of {2 * CHUNK}; got 1"):
        pipeline.sample(CHUNK, first=1)


def test_fp64_computes_in_fp64(latent_model, absorbing_config):
    pipeline = LatentPipeline(latent_model, absorbing_config, precision="fp64")
    assert {weight.dtype for weight in pipeline.model.parameters()} == {torch.float64}
    assert pipeline.sample(2).images.dtype == torch.uint8


def test_poisson_noise_differs_between_images_and_chunks(poisson_pipeline):
    """Temperature 0 and one call make all tokens equal; what differs is the spike generator's noise."""
    images, tokens = poisson_pipeline.sample(CHUNK + 2, sample_steps=1, temperature=0.0)
    assert len(tokens.unique(dim=0)) == 1
    assert len(images.unique(dim=0)) == CHUNK + 2


def test_sampling_leaves_the_global_generator_alone(pipeline):
    before = torch.get_rng_state()
    pipeline.sample(2)
    assert torch.equal(torch.get_rng_state(), before)


def test_defaults_come_from_the_checkpoint(pipeline, tmp_path):
    config = replace(pipeline.config, sample=AbsorbingSamplerOptions(sample_steps=2, order="halton", temperature=0.5))
    save_model(tmp_path / "model.safetensors", pipeline.model, config)
    loaded = load(tmp_path / "model.safetensors")
    calls = batch_sizes(loaded.model.denoiser)
    by_default = loaded.sample(3)
    assert len(calls) == 2
    options = {"sample_steps": 2, "order": "halton", "temperature": 0.5}
    assert torch.equal(by_default.tokens, pipeline.sample(3, **options).tokens)
    for change in ({"sample_steps": 9}, {"order": "random"}, {"temperature": 2.0}):
        assert not torch.equal(loaded.sample(3, **change).tokens, by_default.tokens)
        assert torch.equal(loaded.sample(3, **change).tokens, pipeline.sample(3, **options | change).tokens)


def test_temperature_given_alone_is_that_of_all_calls(pipeline):
    pipeline.config.sample = replace(pipeline.config.sample, last_temperature=0.3)
    assert pipeline.sampling()["last_temperature"] == 0.3
    assert pipeline.sampling(temperature=0.9)["last_temperature"] is None
    assert pipeline.sampling(temperature=0.9, last_temperature=0.2)["last_temperature"] == 0.2
    assert pipeline.sampling(last_temperature=0.2)["temperature"] == pipeline.config.sample.temperature


def test_default_calls_fit_a_small_grid(pipeline):
    pipeline.config.sample = replace(pipeline.config.sample, sample_steps=16)  # of the base preset; here are 9 tokens
    assert torch.equal(pipeline.sample(2).tokens, pipeline.sample(2, sample_steps=9).tokens)


def test_progress(pipeline):
    seen = []
    pipeline.sample(CHUNK + 2, progress=lambda done, n: seen.append((done, n)))
    done = [images for images, _ in seen]
    assert done == sorted(done)
    assert len(set(done)) > 3
    assert seen[-1] == (CHUNK + 2, CHUNK + 2)


# ---------------------------------------------------------------- inpainting


@pytest.mark.parametrize("each", [False, True])
def test_inpainting_keeps_the_tokens(pipeline, images, each):
    images = to_uint8(images[:CHUNK])
    known = pipeline.model.vq_svae.tokenize(images / 255)
    keep = torch.rand(CHUNK, 3, 3) < 0.5 if each else torch.tensor([[True] * 3, [False] * 3, [True, False, True]])
    out = pipeline.inpaint(images, keep, seed=3)
    kept = keep.unsqueeze(-3).expand_as(known)
    assert torch.equal(out.tokens[kept], known[kept])
    assert (out.tokens[~kept] != known[~kept]).any()
    assert out.images.shape == images.shape
    assert torch.equal(pipeline.inpaint(images, keep, seed=3).images, out.images)
    assert not torch.equal(pipeline.inpaint(images, keep, seed=4).tokens, out.tokens)


def test_inpainting_all_or_nothing(pipeline, images):
    images = to_uint8(images[:CHUNK])
    everything = pipeline.inpaint(images, torch.ones(3, 3, dtype=torch.bool))
    assert torch.equal(everything.tokens, pipeline.model.vq_svae.tokenize(images / 255))
    nothing = pipeline.inpaint(images, torch.zeros(3, 3, dtype=torch.bool), seed=3)
    assert torch.equal(nothing.tokens, pipeline.sample(CHUNK, seed=3).tokens)


def test_inpainting_sees_whole_chunks(pipeline, images):
    encoded = batch_sizes(pipeline.model.vq_svae.stem[0])
    pipeline.inpaint(to_uint8(images), torch.ones(3, 3, dtype=torch.bool))
    assert encoded == [CHUNK, CHUNK]


# ---------------------------------------------------------------- what cannot be


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"n": 0}, "n, the number of images.*at least 1.*0"),
        ({"n": -3}, "at least 1.*-3"),
        ({"temperature": -0.5}, "temperature must be at least 0; got -0.5"),
        ({"temperature": float("nan")}, "temperature.*nan"),
        ({"sample_steps": 0}, "sample_steps must be at least 1; got 0"),
        ({"sample_steps": 10}, r"sample_steps.*1\.\.9.*10"),
        ({"order": "spiral"}, "order.*bernoulli, random, halton.*'spiral'"),
        ({"n": 2.0}, "n, the number of images, must be an integer; got 2.0"),
        ({"n": 10**30}, "n, the number of images, must be at most 2147483647; got 10"),
        ({"n": True}, "n, the number of images, must be an integer; got True"),
        ({"seed": -1}, r"seed must be in 0\.\.2\^32 - 1; got -1"),
        ({"seed": 2**32}, r"seed must be in 0\.\.2\^32 - 1; got 4294967296"),
        ({"seed": 0.5}, "seed must be an integer; got 0.5"),
        ({"first": 0.0}, "first must be an integer; got 0.0"),
        ({"sample_steps": 2.5}, "sample_steps must be an integer; got 2.5"),
        ({"sample_steps": "4"}, "sample_steps must be an integer; got '4'"),
        ({"temperature": float("inf")}, "temperature must be a finite number; got inf"),
        ({"top_p": float("nan")}, "top_p must be a finite number; got nan"),
        ({"order": 3}, "order must be text"),
    ],
)
def test_sampling_out_of_range(pipeline, options, told):
    with pytest.raises(InputError, match=told):
        pipeline.sample(**({"n": 1} | options))


@pytest.mark.parametrize(
    ("keep", "got"),
    [
        (torch.ones(3, 3), r"torch.float32 \[3, 3\]"),
        (torch.ones(3, 4).bool(), r"torch.bool \[3, 4\]"),
        (torch.ones(9).bool(), r"torch.bool \[9\]"),
        (torch.ones(2, 3, 3).bool(), r"torch.bool \[2, 3, 3\]"),
        (np.ones((3, 3)), r"numpy.float64 \[3, 3\]"),
        ([[True] * 3] * 2, r"torch.bool \[2, 3\]"),
        ([[True], [True, False]], "lists of different lengths"),
        (None, r"numpy.object \[\]"),
    ],
)
def test_inpainting_with_a_wrong_keep(pipeline, images, keep, got):
    with pytest.raises(InputError, match=f"keep must be .*; got {got}"):
        pipeline.inpaint(to_uint8(images), keep)


@pytest.mark.parametrize("shape", [(2, 3, 12, 12), (2, 1, 12, 16), (12, 1, 12), (0, 1, 12, 12)])
def test_inpainting_images_of_a_wrong_shape(pipeline, shape):
    with pytest.raises(InputError, match=rf"images must be of shape .*; got torch.uint8 {re.escape(str(list(shape)))}"):
        pipeline.inpaint(torch.zeros(shape, dtype=torch.uint8), torch.ones(3, 3, dtype=torch.bool))


def test_inpainting_takes_images_of_any_usual_kind(pipeline, images):
    images, keep = to_uint8(images[:2]), torch.tensor([[True] * 3, [False] * 3, [True, False, True]])
    expected = pipeline.inpaint(images, keep).tokens
    kinds = [
        images.numpy(),
        images.permute(0, 2, 3, 1).numpy(),
        images[:, 0],
        images / 255,
        (images / 255).double().numpy(),
        list(images),
        [Image.fromarray(image[0].numpy()) for image in images],
    ]
    for given in kinds:
        assert torch.equal(pipeline.inpaint(given, keep).tokens, expected)
    for mask in (keep.numpy(), keep.tolist(), keep.expand(2, 3, 3).numpy()):
        assert torch.equal(pipeline.inpaint(images, mask).tokens, expected)
    assert torch.equal(pipeline.inpaint(images[0], keep).tokens, expected[:1])


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (torch.full((2, 1, 12, 12), 1.5), "images must be finite and in .0, 1.; got torch.float32 .2, 1, 12, 12. with"),
        (torch.full((2, 1, 12, 12), float("nan")), "images must be finite"),
        (np.zeros((2, 1, 12, 12), np.int64), r"images must be uint8, or floating point in .*; got numpy.int64"),
        (
            "digits.png",
            "images must be a torch tensor, a NumPy array, a PIL image, or a list of these; got an object of type str",
        ),
        ([], "images must be at least one image; got an empty list"),
    ],
    ids=["range", "nan", "int64", "text", "none"],
)
def test_inpainting_says_what_came(pipeline, given, told):
    with pytest.raises(InputError, match=told):
        pipeline.inpaint(given, np.ones((3, 3), bool))


def test_a_stage_1_file_cannot_generate(tmp_path, vq_svae, vq_svae_config):
    save_model(tmp_path / "model.safetensors", vq_svae, vq_svae_config)
    with pytest.raises(InputError, match=r"model\.safetensors is a vq_svae model, which cannot generate"):
        load(tmp_path / "model.safetensors")


def test_watching_the_states(pipeline):
    seeds = [mix_seed(5, number) for number in range(2)]
    states = list(pipeline.states(seeds, sample_steps=4))
    assert [state[1:] for state in states] == [(calls, 4) for calls in range(5)]
    assert (states[0].x == 8).all()  # masked
    assert [(state.x == 8).sum().item() for state in states] == [18, 12, 8, 4, 0]
    assert torch.equal(states[-1].x, pipeline.sample(2, seed=5, sample_steps=4).tokens)
    image = pipeline.make_alone(seeds[1], sample_steps=4)
    assert torch.equal(image, pipeline.model.vq_svae.decode(states[-1].x[1:]))

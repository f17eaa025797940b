"""The discrete pipeline with several codes a position."""

import numpy as np
import pytest
import torch

from spiking_vq.checkpoint.build import build_model
from spiking_vq.checkpoint.file import load_model, save_model
from spiking_vq.data.levels import to_uint8
from spiking_vq.diffusion.unmasking import ORDERS
from spiking_vq.errors import InputError
from spiking_vq.pipelines import base
from spiking_vq.pipelines.load import load

CHUNK = 4


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(base, "CHUNK", CHUNK)


@pytest.mark.parametrize("order", ORDERS)
def test_samples(counted_latents, order):
    whole = counted_latents.sample(CHUNK + 2, seed=5, order=order)
    assert whole.images.shape == (CHUNK + 2, 1, 12, 12)
    assert (whole.tokens.shape, whole.tokens.dtype) == ((CHUNK + 2, 2, 3, 3), torch.int64)
    assert 0 <= whole.tokens.min() < whole.tokens.max() < 9
    assert len(whole.tokens.flatten(1).unique(dim=0)) == CHUNK + 2
    assert not torch.equal(whole.tokens[:, 0], whole.tokens[:, 1])
    decoded = counted_latents.model.vq_svae.decode(whole.tokens[:CHUNK])
    assert torch.equal(whole.images[:CHUNK], to_uint8(decoded))
    part = counted_latents.sample(3, seed=5, order=order)
    assert torch.equal(part.images, whole.images[:3])


def test_each_code_is_drawn_once(counted_latents):
    """All 18 codes of an image, half of a position at a time."""
    states = [state.x for state in counted_latents.states([1, 2], sample_steps=18)]
    masked = torch.stack([x == 9 for x in states])
    assert masked[0].all()
    assert not masked[-1].any()
    assert (masked.flatten(2).sum(2).diff(dim=0) == -1).all()
    for before, after in zip(states, states[1:], strict=False):
        assert torch.equal(after[before != 9], before[before != 9])
    with pytest.raises(InputError, match=r"sample_steps must be in 1\.\.18; got 19"):
        counted_latents.sample(1, sample_steps=19)


@pytest.mark.parametrize("each", [False, True])
def test_inpainting_keeps_all_codes_of_a_kept_position(counted_latents, images, each):
    images = to_uint8(images[:CHUNK])
    known = counted_latents.model.vq_svae.tokenize(images / 255)
    keep = torch.rand(CHUNK, 3, 3) < 0.5 if each else torch.tensor([[True] * 3, [False] * 3, [True, False, True]])
    out = counted_latents.inpaint(images, keep.numpy(), seed=3)
    for code in range(2):
        kept = keep.expand(CHUNK, 3, 3)
        assert torch.equal(out.tokens[:, code][kept], known[:, code][kept])
        assert (out.tokens[:, code][~kept] != known[:, code][~kept]).any()
    assert out.images.shape == images.shape
    with pytest.raises(InputError, match=r"keep must be bool \[3, 3\].*; got torch.bool \[2, 3, 3\]"):
        counted_latents.inpaint(images, np.ones((2, 3, 3), bool))


def test_files_hold_codes_that_need_no_weights(counted_latents, tmp_path):
    path = tmp_path / "model.safetensors"
    save_model(path, counted_latents.model, counted_latents.config)
    again = load(path)
    assert torch.equal(again.sample(2, seed=4).images, counted_latents.sample(2, seed=4).images)
    model, config = load_model(path)
    assert config == counted_latents.config
    assert not [name for name in model.state_dict() if "quantizer" in name]


def test_product_codes_come_back_from_a_file(counted_latents, tmp_path):
    config = counted_latents.config
    vars(config.vq_svae.model).update(quantizer="product", encoding="both", spike_generator="adaptive", ema_decay=0.9)
    path, model = tmp_path / "model.safetensors", build_model(config).eval()
    save_model(path, model, config)
    loaded = load_model(path)[0]
    for mine, theirs in zip(model.vq_svae.quantizer.codebooks, loaded.vq_svae.quantizer.codebooks, strict=True):
        assert torch.equal(mine, theirs)
    assert load(path).sample(1).tokens.shape == (1, 2, 3, 3)

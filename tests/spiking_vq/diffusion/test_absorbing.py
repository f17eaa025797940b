"""The forward process, its objectives and its bound; the bound is enumerated on K = 3 codes and two tokens."""

import math
import re

import pytest
import torch
from token_denoisers import (
    GRIDS,
    IMAGES,
    PAPER_MODEL,
    K,
    N,
    Recorder,
    all_images,
    exact_bound_bits,
    seeded,
    table_denoiser,
)

from spiking_vq.diffusion.absorbing import LOSSES, AbsorbingDiffusion
from spiking_vq.errors import InputError


@pytest.mark.parametrize("grid", GRIDS)
def test_elbo_bits_is_the_enumerated_bound(grid):
    exact = torch.tensor([exact_bound_bits(image) for image in IMAGES])
    bits = AbsorbingDiffusion(grid, K).elbo_bits(table_denoiser, all_images(4000, grid), seeded())
    bits = bits.view(-1, len(IMAGES))
    error = (bits.mean(0) - exact).abs()
    assert (error < 4 * bits.std(0) / len(bits) ** 0.5).all()
    assert not bits.requires_grad


def test_elbo_bounds_the_likelihood_of_the_sampled_process():
    exact = torch.tensor([exact_bound_bits(image) for image in IMAGES])
    assert PAPER_MODEL.sum().item() == pytest.approx(1, abs=1e-5)
    assert (-PAPER_MODEL.log2() <= exact + 1e-5).all()


@pytest.mark.parametrize("grid", GRIDS)
def test_elbo_loss_is_the_bound_in_nats_per_token(grid):
    exact = sum(map(exact_bound_bits, IMAGES)) / len(IMAGES) * math.log(2) / N
    loss = AbsorbingDiffusion(grid, K, "elbo").loss(table_denoiser, all_images(4000, grid), seeded())["loss"]
    assert loss.item() == pytest.approx(exact, rel=0.02)


@pytest.mark.parametrize("grid", [(1, 3, 4), (3, 2, 2)])
def test_q_sample_masks_at_rate_t_over_n(grid):
    """Each code of a position by itself."""
    diffusion = AbsorbingDiffusion(grid, 5)
    tokens = torch.randint(5, (13 * 3000, *grid), generator=seeded())
    t = torch.arange(13).repeat_interleave(3000)
    noisy = diffusion.q_sample(tokens, t, seeded(1))
    masked = noisy == diffusion.mask_id
    rate = masked.view(13, 3000, 12).float().mean(1)
    torch.testing.assert_close(rate, (torch.arange(13) / 12)[:, None].expand(13, 12), atol=0.04, rtol=0)
    assert (rate[0] == 0).all()
    assert (rate[12] == 1).all()
    assert torch.equal(noisy[~masked], tokens[~masked])
    assert torch.equal(diffusion.prior(2), torch.full((2, *grid), 5))


def test_times_are_stratified():
    recorder = Recorder(lambda tokens, t: torch.zeros(len(t), 5, 2, 2, 3))
    diffusion = AbsorbingDiffusion((2, 2, 3), 5)
    for seed in range(3000):
        diffusion.loss(recorder, torch.zeros(4, 2, 2, 3, dtype=torch.int64), seeded(seed))
    times = torch.stack([t for _, t in recorder.calls])
    assert (times.diff(dim=1) % 12 == 3).all()  # evenly spaced over the cycle 1..12
    torch.testing.assert_close(
        times[:, 0].bincount(minlength=13)[1:] / 3000, torch.full((12,), 1 / 12), atol=0.02, rtol=0
    )


@pytest.mark.parametrize("name", LOSSES)
def test_loss_weights_by_hand(name):
    """With all logits equal each masked token costs ln K, so that the loss is a weighted count of the masks."""
    recorder = Recorder(lambda tokens, t: torch.zeros(len(t), 5, 2, 1, 2))
    out = AbsorbingDiffusion((2, 1, 2), 5, name).loss(recorder, torch.zeros(3, 2, 1, 2, dtype=torch.int64), seeded(3))
    t, num_masked = recorder.calls[0][1], recorder.num_masked(5)[0]
    pairs = list(zip(t.tolist(), num_masked, strict=True))
    expected = {
        "elbo": sum(m / t for t, m in pairs) / 3,
        "reweighted": sum((1 - t / 4) / (4 * math.log(2)) * m for t, m in pairs) / 3,
        "masked_ce": 1,
    }[name]
    assert sum(num_masked) > 0
    assert out["loss"].item() == pytest.approx(math.log(5) * expected)
    assert out["cross_entropy"].item() == pytest.approx(math.log(5))
    assert out["accuracy"].item() == 1  # argmax of equal logits is the first code, here the right one


@pytest.mark.parametrize("name", LOSSES)
def test_loss_without_a_mask_is_zero(name, monkeypatch):
    diffusion = AbsorbingDiffusion((1, 1, 2), 3, name)
    monkeypatch.setattr(diffusion, "q_sample", lambda tokens, t, generator: tokens)
    out = diffusion.loss(table_denoiser, torch.zeros(1, 1, 1, 2, dtype=torch.int64))
    assert [out[key].item() for key in ("loss", "cross_entropy", "accuracy")] == [0, 0, 0]


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_reaches_only_masked_positions(name):
    logits = torch.randn(8, 5, 2, 2, 1, generator=seeded()).requires_grad_()
    recorder = Recorder(lambda tokens, t: logits)
    out = AbsorbingDiffusion((2, 2, 1), 5, name).loss(recorder, torch.ones(8, 2, 2, 1, dtype=torch.int64), seeded())
    out["loss"].backward()
    tokens, t = recorder.calls[0]
    has_gradient = logits.grad.abs().sum(1) > 0
    expected = tokens == 5
    if name == "reweighted":
        expected &= (t < 4).view(-1, 1, 1, 1)
    assert torch.equal(has_gradient, expected)
    assert not out["accuracy"].requires_grad
    assert not out["cross_entropy"].requires_grad


def test_bf16_logits_are_scored_in_float32():
    logits = torch.randn(4, 5, 1, 2, 2, generator=seeded()).bfloat16()
    tokens = torch.randint(5, (4, 1, 2, 2), generator=seeded())
    diffusion = AbsorbingDiffusion((1, 2, 2), 5)
    half = diffusion.loss(lambda tokens, t: logits, tokens, seeded())
    full = diffusion.loss(lambda tokens, t: logits.float(), tokens, seeded())
    assert half["loss"].dtype == torch.float32
    assert all(torch.equal(half[key], full[key]) for key in half)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"grid": (1, 2, 2), "codebook_size": 3, "loss": "mse"}, "elbo, reweighted, masked_ce"),
        ({"grid": (1, 0, 2), "codebook_size": 3}, "at least 1"),
        ({"grid": (0, 2, 2), "codebook_size": 3}, "at least 1"),
        ({"grid": (1, 2, 2), "codebook_size": 0}, "at least 1"),
    ],
)
def test_constructor_errors(arguments, message):
    with pytest.raises(InputError, match=message):
        AbsorbingDiffusion(**arguments)


def test_q_sample_of_another_grid():
    for shape in ([1, 1, 4, 3], [1, 3, 4]):
        with pytest.raises(InputError, match=rf"\[B, 1, 3, 4\].*got {re.escape(str(shape))}"):
            AbsorbingDiffusion((1, 3, 4), 5).q_sample(torch.zeros(shape, dtype=torch.int64), torch.tensor([4]))

"""Gaussian diffusion: moments, posterior, transitions and objectives, with denoisers that are known in closed form."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from pixel_denoisers import SHAPE, gaussian_denoiser, random_images, sampler_of

from spiking_vq.diffusion.gaussian import PREDICTIONS, SCHEDULES, GaussianDiffusion
from spiking_vq.errors import InputError


def test_schedules():
    linear, cosine = (GaussianDiffusion(1000, name) for name in SCHEDULES)
    assert linear.betas.dtype == linear.alpha_bars.dtype == torch.float64
    assert (linear.betas[0].item(), linear.betas[-1].item()) == pytest.approx((1e-4, 0.02))
    assert linear.alpha_bars[1000].item() == pytest.approx(
        math.prod(1 - (1e-4 + 0.0199 * i / 999) for i in range(1000))
    )
    f = [math.cos((t / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(1001)]
    assert cosine.alpha_bars[500].item() == pytest.approx(f[500] / f[0])
    assert cosine.betas.max() <= 0.999
    for diffusion in (linear, cosine, GaussianDiffusion(20, "linear"), GaussianDiffusion(1, "cosine")):
        assert diffusion.alpha_bars[0] == 1
        assert (diffusion.alpha_bars.diff() < 0).all()
        assert diffusion.alpha_bars[-1] < 0.01


def test_moments_of_q_sample():
    diffusion = GaussianDiffusion()
    images = torch.full((40_000, 1, 1, 1), 0.7, dtype=torch.float64)
    for time in (1, 300, 1000):
        t = torch.full((len(images),), time)
        noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(time), dtype=torch.float64)
        noisy = diffusion.q_sample(images, t, noise)
        a = diffusion.alpha_bars[time].item()
        assert noisy.mean().item() == pytest.approx(0.7 * a**0.5, abs=0.02)
        assert noisy.var().item() == pytest.approx(1 - a, rel=0.03)
    # step by step from t - 1, which is how the process is defined, the moments come out the same
    mean, var = 0.7, 0.0
    for beta in diffusion.betas[:300].tolist():
        mean, var = (1 - beta) ** 0.5 * mean, (1 - beta) * var + beta
    a = diffusion.alpha_bars[300].item()
    assert (mean, var) == pytest.approx((0.7 * a**0.5, 1 - a))


@pytest.mark.parametrize(("t", "s"), [(1000, 999), (500, 300), (2, 1), (1, 0), (1000, 0)])
def test_posterior_is_that_of_the_joint_normal_distribution(t, s):
    """x_s and x_t given x_0 are jointly normal: condition one on the other."""
    diffusion = GaussianDiffusion()
    at, as_ = diffusion.alpha_bars[t].item(), diffusion.alpha_bars[s].item()
    ratio = (at / as_) ** 0.5  # x_t = ratio x_s + noise
    covariance, variance = ratio * (1 - as_), 1 - at
    found = diffusion.posterior(t, s)
    assert found.noisy == pytest.approx(covariance / variance)
    assert found.image == pytest.approx(as_**0.5 - covariance / variance * at**0.5)
    assert found.std**2 == pytest.approx((1 - as_) - covariance**2 / variance, abs=1e-12)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_predictions_give_back_images_and_noise(prediction):
    diffusion = GaussianDiffusion(prediction=prediction)
    images, noise = random_images(5), torch.randn(5, *SHAPE, dtype=torch.float64)
    t = torch.tensor([1, 2, 500, 900, 1000])
    noisy = diffusion.q_sample(images, t, noise)
    torch.testing.assert_close(diffusion.to_images(diffusion.target(images, t, noise), noisy, t), images)
    torch.testing.assert_close(diffusion.to_noise(images, noisy, t), noise)


def test_ddim_with_eta_1_is_ddpm_small():
    diffusion = GaussianDiffusion()
    for t, s in ((1000, 980), (20, 10), (10, 0)):
        assert diffusion.transition(t, s, "ddim", eta=1.0) == pytest.approx(diffusion.transition(t, s, "ddpm_small"))
    large = diffusion.transition(1000, 999, "ddpm_large")
    assert large.std**2 == pytest.approx(0.02)
    assert diffusion.transition(1, 0, "ddpm_large").std == diffusion.transition(1, 0, "ddpm_small").std == 0


def test_analytic_variance_is_that_of_the_reverse_process():
    """Of normal data the reverse process is normal, with a variance in closed form."""
    diffusion, std = GaussianDiffusion(), 0.5
    a = diffusion.alpha_bars
    error = std**2 * (1 - a) / (a * std**2 + 1 - a)
    for t, s in ((1000, 900), (300, 200), (20, 10)):
        var_s, var_t = (a[time].item() * std**2 + 1 - a[time].item() for time in (s, t))
        covariance = (a[t] / a[s]).sqrt().item() * var_s
        found = diffusion.transition(t, s, "analytic", image_error=error)
        assert found.std**2 == pytest.approx(var_s - covariance**2 / var_t)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_error_of_the_estimates_is_measured_and_bounds_the_noise(schedule):
    diffusion = GaussianDiffusion(1000, schedule, "v")
    images = (0.2 + 0.3 * torch.randn(400, *SHAPE, generator=torch.Generator().manual_seed(0))).clamp(-1, 1)
    denoiser, times = gaussian_denoiser(diffusion, 0.2, 0.3), [1, 100, 700, 1000]
    found = diffusion.image_error(denoiser, images, times, torch.Generator().manual_seed(1))
    a = diffusion.alpha_bars[times]
    torch.testing.assert_close(found, 0.09 * (1 - a) / (a * 0.09 + 1 - a), rtol=0.1, atol=1e-6)
    table = torch.from_numpy(np.interp(np.arange(1001), [0, *times], [0, *found.tolist()]))
    steps = sampler_of(diffusion, sample_steps=50).times
    stds = [diffusion.transition(t, s, "analytic", image_error=table).std for t, s in pairwise(steps)]
    assert max(stds) < 1.1  # also where hardly anything of the image is left in the noise


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_mse_by_hand(prediction):
    diffusion = GaussianDiffusion(50, "linear", prediction)
    drawn = diffusion.draw(random_images(6), torch.Generator().manual_seed(0))
    assert len(set(drawn.t.tolist())) == 6  # spread over all
    assert ((drawn.t >= 1) & (drawn.t <= 50)).all()
    scale = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    seen = []

    def denoiser(noisy, t):
        seen.append((noisy, t))
        return scale * noisy

    figures = diffusion.loss_of(denoiser, drawn)
    a = diffusion.alpha_bars[drawn.t].view(-1, 1, 1, 1)
    noisy = a.sqrt() * drawn.images + (1 - a).sqrt() * drawn.noise
    expected = (0.5 * noisy - diffusion.target(*drawn)).square().mean()
    assert figures["loss"].item() == pytest.approx(expected.item())
    torch.testing.assert_close(seen[0][0], noisy)
    figures["loss"].backward()
    assert scale.grad.abs() > 0


def test_synaptic_current_loss_by_hand():
    diffusion = GaussianDiffusion(50, "cosine", "v", "synaptic_current")
    drawn = diffusion.draw(random_images(4), torch.Generator().manual_seed(0))
    steps = torch.tensor([0.5, 1.5, 2.5], dtype=torch.float64).view(3, 1, 1, 1, 1)  # their mean is 1.5

    def denoiser(noisy, t):
        assert noisy.shape == (1, 4, *SHAPE)  # the same current at every step
        return steps * noisy

    figures = diffusion.loss_of(denoiser, drawn)
    a = diffusion.alpha_bars[drawn.t]
    noisy = diffusion.q_sample(*drawn)
    error = (1.5 * noisy - diffusion.target(*drawn)).square().mean((1, 2, 3))
    spread = 2 / 3 * noisy.square().mean((1, 2, 3))
    weight = diffusion.current_weights[drawn.t]
    assert figures["loss"].item() == pytest.approx((a * error + weight * spread).mean().item())
    assert figures["mse"].item() == pytest.approx(error.mean().item())
    assert figures["spread"].item() == pytest.approx(spread.mean().item())
    constant = diffusion.loss_of(lambda noisy, t: 1.5 * noisy.expand(3, *noisy.shape[1:]), drawn)
    assert constant["spread"].item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_current_weights_are_what_a_prediction_does_to_the_next_state(prediction):
    diffusion = GaussianDiffusion(20, "cosine", prediction)
    effects = [0.0]
    for time in range(1, 21):
        noisy, t = torch.full((1, 1, 1, 1), 0.3, dtype=torch.float64), torch.tensor([time])
        step = diffusion.transition(time, time - 1, "ddim")
        low, high = (
            step.image * diffusion.to_images(torch.full_like(noisy, value), noisy, t) + step.noisy * noisy
            for value in (0.0, 1.0)
        )
        effects.append((high - low).abs().item())
    expected = torch.tensor(effects, dtype=torch.float64)
    torch.testing.assert_close(diffusion.current_weights, expected / expected.max())


def test_shapes_that_do_not_fit():
    diffusion, images = GaussianDiffusion(20), random_images(3)
    for t in (torch.tensor([1, 2]), torch.tensor(1)):
        with pytest.raises(InputError, match="expected images"):
            diffusion.q_sample(images, t.reshape(-1), images)


@pytest.mark.parametrize(
    "options", [{"schedule": "square"}, {"prediction": "x"}, {"loss": "l1"}, {"diffusion_steps": 0}], ids=str
)
def test_unknown_names(options):
    with pytest.raises(InputError, match=next(iter(options))):
        GaussianDiffusion(**options)


@pytest.mark.parametrize(("prediction", "theirs"), [("noise", "epsilon"), ("v", "v_prediction"), ("images", "sample")])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_ddim_equals_diffusers(prediction, theirs, eta):
    diffusers = pytest.importorskip("diffusers")
    diffusion = GaussianDiffusion(1000, "linear", prediction)
    scheduler = diffusers.DDIMScheduler(
        trained_betas=diffusion.betas.numpy(),
        prediction_type=theirs,
        timestep_spacing="trailing",
        clip_sample=True,
        set_alpha_to_one=True,
    )
    scheduler.alphas_cumprod = diffusion.alpha_bars[1:]  # theirs are rounded to float32
    scheduler.final_alpha_cumprod = diffusion.alpha_bars[0]
    scheduler.set_timesteps(50)
    times = sampler_of(diffusion, sample_steps=50).times
    assert [time - 1 for time in times[:-1]] == scheduler.timesteps.tolist()
    generator = torch.Generator().manual_seed(0)
    for time, next_time in ((times[0], times[1]), (times[20], times[21]), (times[-2], times[-1])):
        noisy = torch.randn(2, *SHAPE, generator=generator, dtype=torch.float64)
        output = torch.randn(2, *SHAPE, generator=generator, dtype=torch.float64)
        z = torch.randn(2, *SHAPE, generator=generator, dtype=torch.float64)
        expected = scheduler.step(output, time - 1, noisy, eta=eta, use_clipped_model_output=True, variance_noise=z)
        t = torch.full((2,), time)
        images = diffusion.to_images(output, noisy, t).clamp(-1, 1)
        step = diffusion.transition(time, next_time, "ddim", eta)
        ours = step.image * images + step.noisy * noisy + step.std * z
        torch.testing.assert_close(ours, expected.prev_sample)

"""Gaussian diffusion: moments, posterior, objectives and samplers, with denoisers that are known in closed form."""

import math
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch

from spiking_vq.diffusion.gaussian import PREDICTIONS, SAMPLERS, SCHEDULES, GaussianDiffusion
from spiking_vq.errors import InputError

SHAPE = (1, 4, 4)


def oracle(diffusion, images):
    """A denoiser that knows the images, [B, C, H, W]."""

    def denoiser(noisy, t):
        return diffusion.target(images, t, diffusion.to_noise(images, noisy, t)).expand_as(noisy)

    return denoiser


def gaussian_denoiser(diffusion, mean, std):
    """The best denoiser of images whose pixels are independent and normal."""

    def denoiser(noisy, t):
        a = diffusion.alpha_bars[t].view(-1, 1, 1, 1).to(noisy.dtype)
        images = mean + a.sqrt() * std**2 / (a * std**2 + 1 - a) * (noisy - a.sqrt() * mean)
        return diffusion.target(images, t, diffusion.to_noise(images, noisy, t))

    return denoiser


def random_images(n, seed=0):
    return torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1


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


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("sample_steps", [1, 7, None])
def test_a_perfect_denoiser_recovers_the_images(prediction, sampler, sample_steps):
    if sampler == "dpm_solver":
        pytest.importorskip("diffusers")
    diffusion = GaussianDiffusion(100, "linear", prediction)
    images = random_images(3)
    found = diffusion.sample(
        oracle(diffusion, images),
        [5, 6, 7],
        SHAPE,
        sampler=sampler,
        sample_steps=sample_steps,
        image_error=torch.zeros(101),
    )
    torch.testing.assert_close(found.double(), images, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("sampler", "eta"), [("ddpm_small", 0.0), ("ddim", 0.0), ("ddim", 0.5), ("analytic", 0.0)])
def test_samples_of_a_known_distribution(sampler, eta):
    diffusion = GaussianDiffusion(500)
    denoiser = gaussian_denoiser(diffusion, 0.1, 0.25)
    a = diffusion.alpha_bars
    error = 0.25**2 * (1 - a) / (a * 0.25**2 + 1 - a)  # of the best estimate of an image
    options = {"sampler": sampler, "eta": eta, "image_error": error}
    samples = diffusion.sample(denoiser, list(range(20)), (1, 20, 20), **options)
    assert samples.mean().item() == pytest.approx(0.1, abs=0.02)
    assert samples.std().item() == pytest.approx(0.25, rel=0.05)


def test_dpm_solver_follows_the_ode_closer_than_ddim():
    """Of normal data the path from noise to image is known: twenty calls of second order against as many of first."""
    pytest.importorskip("diffusers")
    diffusion, seeds, shape = GaussianDiffusion(500), [1, 2, 3], (1, 20, 20)
    denoiser = gaussian_denoiser(diffusion, 0.1, 0.25)
    start = diffusion.prior([torch.Generator().manual_seed(seed) for seed in seeds], shape)
    a = diffusion.alpha_bars
    spread = (a * 0.25**2 + 1 - a).sqrt()
    errors = {}
    for sampler in ("ddim", "dpm_solver"):
        before_last = list(diffusion.trajectory(denoiser, seeds, shape, sampler=sampler, sample_steps=20))[-2]
        t = before_last.t
        exact = a[t].sqrt() * 0.1 + spread[t] / spread[-1] * (start - a[-1].sqrt() * 0.1)
        errors[sampler] = (before_last.noisy - exact).abs().mean().item()
        assert t == 25
    assert errors["dpm_solver"] < 0.3 * errors["ddim"]


def test_dpm_solver_is_called_at_our_times():
    pytest.importorskip("diffusers")
    diffusion, images = GaussianDiffusion(1000, "cosine", "v"), random_images(1)
    for sample_steps in (1, 2, 7, 61, 333):
        seen = []

        def watched(noisy, t, seen=seen):
            seen.append(t.item())
            return oracle(diffusion, images)(noisy, t)

        found = diffusion.sample(watched, [0], SHAPE, sampler="dpm_solver", sample_steps=sample_steps)
        assert [*seen, 0] == diffusion.times(sample_steps)
        torch.testing.assert_close(found.double(), images, atol=1e-3, rtol=0)
    with pytest.raises(InputError, match="predict v"):
        GaussianDiffusion(1000, "cosine", "noise").sample(watched, [0], SHAPE, sampler="dpm_solver")


def test_dpm_solver_without_diffusers_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    diffusion = GaussianDiffusion(1000)
    with pytest.raises(InputError, match="pip install diffusers"):
        diffusion.sample(oracle(diffusion, random_images(1)), [0], SHAPE, sampler="dpm_solver")


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
    steps = diffusion.times(50)
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


def test_currents_that_do_not_differ_are_ordinary_ddim():
    diffusion, on_currents = (GaussianDiffusion(100, "cosine", "v", loss) for loss in ("mse", "synaptic_current"))
    denoiser = gaussian_denoiser(diffusion, 0.1, 0.05)  # its estimates lie in [-1, 1], where nothing is clipped
    seeds, seen = [3, 4], []

    def currents(noisy, t):
        seen.append(noisy)
        return denoiser(noisy, t)

    plain = diffusion.sample(denoiser, seeds, SHAPE, sample_steps=100)
    ours = on_currents.sample(currents, seeds, SHAPE, sample_steps=100, num_currents=3)
    torch.testing.assert_close(ours, plain.expand(3, -1, -1, -1, -1), atol=1e-5, rtol=0)
    assert {tuple(noisy.shape) for noisy in seen} == {(3, 2, *SHAPE)}


def test_currents_are_decoded_at_the_end_only():
    """Steps that differ stay apart to the end: the mean of their separate recursions is what comes out."""
    diffusion = GaussianDiffusion(10, "cosine", "images", "synaptic_current")
    steps = torch.tensor([-2.0, 1.0, 1.5]).view(3, 1, 1, 1, 1)  # beyond [-1, 1]: nothing is clipped on the way
    states = list(
        diffusion.trajectory(lambda noisy, t: steps.expand_as(noisy), [1], SHAPE, num_currents=3, sample_steps=10)
    )
    torch.testing.assert_close(states[-1].noisy, steps.expand(3, 1, *SHAPE))
    assert [state.t for state in states] == list(range(9, -1, -1))


def test_an_image_is_the_same_in_any_batch():
    diffusion = GaussianDiffusion(30)
    denoiser = gaussian_denoiser(diffusion, 0.0, 0.5)
    options = {"sampler": "ddpm_large", "sample_steps": 10}
    together = diffusion.sample(denoiser, [1, 2, 3], SHAPE, **options)
    alone = diffusion.sample(denoiser, [3], SHAPE, **options)
    torch.testing.assert_close(together[2:], alone)
    assert not torch.allclose(together[0], together[1])
    one, two = ([torch.Generator().manual_seed(seed) for seed in seeds] for seeds in ([3], [1, 3]))
    torch.testing.assert_close(diffusion.prior(one, SHAPE), diffusion.prior(two, SHAPE)[1:])


def test_times_are_spread_evenly():
    diffusion = GaussianDiffusion(1000)
    assert diffusion.times(4) == [1000, 750, 500, 250, 0]
    assert diffusion.times(1000) == list(range(1000, -1, -1))
    assert len(set(diffusion.times(333))) == 334


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampler": "euler"}, "sampler must be one of ddpm_large"),
        ({"sample_steps": 0}, r"sample_steps must be in 1\.\.20; got 0"),
        ({"sample_steps": 21}, r"in 1\.\.20; got 21"),
        ({"eta": 1.5}, r"eta must be in \[0, 1\]"),
        ({"sampler": "ddpm_large", "eta": 0.5}, "eta is ddim's"),
        ({"sampler": "analytic"}, "make analytic"),
        ({"sampler": "analytic", "image_error": torch.full((21,), torch.nan)}, "make analytic"),
        ({"num_currents": 2}, "num_currents must be T where"),
    ],
)
def test_settings_out_of_range(options, message):
    diffusion = GaussianDiffusion(20)
    with pytest.raises(InputError, match=message):
        diffusion.sample(oracle(diffusion, random_images(1)), [0], SHAPE, **options)


def test_currents_are_sampled_by_ddim_alone():
    diffusion = GaussianDiffusion(20, "linear", "v", "synaptic_current")
    for options in ({"sampler": "ddpm_small"}, {"eta": 0.5}):
        with pytest.raises(InputError, match="synaptic currents are sampled by ddim with eta 0"):
            diffusion.sample(oracle(diffusion, random_images(1)), [0], SHAPE, num_currents=2, **options)


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
    times = diffusion.times(50)
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

"""The samplers of Gaussian diffusion, with denoisers that are known in closed form."""

import sys

import pytest
import torch
from pixel_denoisers import SHAPE, gaussian_denoiser, oracle, random_images, sampler_of

from spiking_vq.diffusion.gaussian import PREDICTIONS, GaussianDiffusion, image_noise
from spiking_vq.diffusion.gaussian_sampler import SAMPLERS, GaussianSamplerOptions
from spiking_vq.errors import InputError


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("sample_steps", [1, 7, None])
def test_a_perfect_denoiser_recovers_the_images(prediction, sampler, sample_steps):
    if sampler == "dpm_solver":
        pytest.importorskip("diffusers")
    diffusion = GaussianDiffusion(100, "linear", prediction)
    images = random_images(3)
    options = {"sampler": sampler, "sample_steps": sample_steps, "image_error": torch.zeros(101)}
    found = sampler_of(diffusion, **options).sample(oracle(diffusion, images), [5, 6, 7])
    torch.testing.assert_close(found.double(), images, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("sampler", "eta"), [("ddpm_small", 0.0), ("ddim", 0.0), ("ddim", 0.5), ("analytic", 0.0)])
def test_samples_of_a_known_distribution(sampler, eta):
    diffusion = GaussianDiffusion(500)
    denoiser = gaussian_denoiser(diffusion, 0.1, 0.25)
    a = diffusion.alpha_bars
    error = 0.25**2 * (1 - a) / (a * 0.25**2 + 1 - a)  # of the best estimate of an image
    options = {"sampler": sampler, "eta": eta, "image_error": error}
    samples = sampler_of(diffusion, (1, 20, 20), **options).sample(denoiser, range(20))
    assert samples.mean().item() == pytest.approx(0.1, abs=0.02)
    assert samples.std().item() == pytest.approx(0.25, rel=0.05)


def test_dpm_solver_follows_the_ode_closer_than_ddim():
    """Of normal data the path from noise to image is known: twenty calls of second order against as many of first."""
    pytest.importorskip("diffusers")
    diffusion, seeds, shape = GaussianDiffusion(500), [1, 2, 3], (1, 20, 20)
    denoiser = gaussian_denoiser(diffusion, 0.1, 0.25)
    start = image_noise(shape, [torch.Generator().manual_seed(seed) for seed in seeds])
    a = diffusion.alpha_bars
    spread = (a * 0.25**2 + 1 - a).sqrt()
    errors = {}
    for sampler in ("ddim", "dpm_solver"):
        twenty = sampler_of(diffusion, shape, sampler=sampler, sample_steps=20)
        states, t = list(twenty.states(denoiser, seeds)), twenty.times[-2]
        assert torch.equal(states[0].x, start)
        exact = a[t].sqrt() * 0.1 + spread[t] / spread[-1] * (start - a[-1].sqrt() * 0.1)
        errors[sampler] = (states[-2].x - exact).abs().mean().item()
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

        sampler = sampler_of(diffusion, sampler="dpm_solver", sample_steps=sample_steps)
        found = sampler.sample(watched, [0])
        assert [*seen, 0] == sampler.times
        torch.testing.assert_close(found.double(), images, atol=1e-3, rtol=0)
    with pytest.raises(InputError, match="predict v"):
        sampler_of(GaussianDiffusion(1000, "cosine", "noise"), sampler="dpm_solver")


def test_dpm_solver_without_diffusers_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    diffusion = GaussianDiffusion(1000)
    with pytest.raises(InputError, match="pip install diffusers"):
        sampler_of(diffusion, sampler="dpm_solver").sample(oracle(diffusion, random_images(1)), [0])


def test_currents_that_do_not_differ_are_ordinary_ddim():
    diffusion, on_currents = (GaussianDiffusion(100, "cosine", "v", loss) for loss in ("mse", "synaptic_current"))
    denoiser = gaussian_denoiser(diffusion, 0.1, 0.05)  # its estimates lie in [-1, 1], where nothing is clipped
    seeds, seen = [3, 4], []

    def currents(noisy, t):
        seen.append(noisy)
        return denoiser(noisy, t)

    plain = sampler_of(diffusion).sample(denoiser, seeds)
    ours = sampler_of(on_currents, num_currents=3).sample(currents, seeds)
    torch.testing.assert_close(ours, plain.expand(3, -1, -1, -1, -1), atol=1e-5, rtol=0)
    assert {tuple(noisy.shape) for noisy in seen} == {(3, 2, *SHAPE)}


def test_currents_are_decoded_at_the_end_only():
    """Steps that differ stay apart to the end: the mean of their separate recursions is what comes out."""
    diffusion = GaussianDiffusion(10, "cosine", "images", "synaptic_current")
    steps = torch.tensor([-2.0, 1.0, 1.5]).view(3, 1, 1, 1, 1)  # beyond [-1, 1]: nothing is clipped on the way
    states = list(sampler_of(diffusion, num_currents=3).states(lambda noisy, t: steps.expand_as(noisy), [1]))
    torch.testing.assert_close(states[-1].x, steps.expand(3, 1, *SHAPE))
    assert [state[1:] for state in states] == [(calls, 10) for calls in range(11)]


@pytest.mark.parametrize("sampler", ["ddpm_large", "dpm_solver"])
def test_an_image_is_the_same_in_any_batch(sampler):
    if sampler == "dpm_solver":
        pytest.importorskip("diffusers")
    diffusion = GaussianDiffusion(30)
    denoiser, sizes = gaussian_denoiser(diffusion, 0.0, 0.5), []

    def watched(noisy, t):
        sizes.append(len(noisy))
        return denoiser(noisy, t)

    sampler = sampler_of(diffusion, sampler=sampler, sample_steps=10)
    together = sampler.sample(watched, [1, 2, 3])
    torch.testing.assert_close(sampler.sample(denoiser, [3]), together[2:])
    assert not torch.allclose(together[0], together[1])
    sizes.clear()
    *states, last = sampler.states(watched, [1, 2, 3], batch_size=2)
    torch.testing.assert_close(last.x, together)
    assert sizes == [2] * 20  # the second batch is padded
    assert [state.calls for state in states] == list(range(20))
    assert torch.equal(states[10].x[2], states[0].x[2])  # one batch after the other
    assert torch.equal(states[10].x[:2], last.x[:2])


def test_labels_go_with_their_images():
    diffusion, labels = GaussianDiffusion(20, "linear", "images"), torch.tensor([-1, 0, 1])

    def denoiser(noisy, t, labels):
        return labels.view(-1, 1, 1, 1).expand_as(noisy).float()

    made = sampler_of(diffusion, sample_steps=2).sample(denoiser, [0, 1, 2], labels, batch_size=2)
    torch.testing.assert_close(made, labels.view(3, 1, 1, 1).expand(3, *SHAPE).float())


def test_times_are_spread_evenly():
    few, all_of_them, many = (sampler_of(GaussianDiffusion(), sample_steps=steps).times for steps in (4, None, 333))
    assert few == [1000, 750, 500, 250, 0]
    assert all_of_them == list(range(1000, -1, -1))
    assert len(set(many)) == 334


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampler": "euler"}, "sampler must be one of ddpm_large"),
        ({"sample_steps": 0}, "sample_steps must be at least 1; got 0"),
        ({"sample_steps": 21}, r"in 1\.\.20; got 21"),
        ({"eta": 1.5}, r"eta must be in \[0, 1\]"),
        ({"sampler": "ddpm_large", "eta": 0.5}, "eta is ddim's"),
        ({"sampler": "analytic"}, "spiking-vq study analytic"),
        ({"sampler": "analytic", "image_error": torch.full((21,), torch.nan)}, "spiking-vq study analytic"),
        ({"num_currents": 2}, "num_currents must be T where"),
    ],
)
def test_settings_out_of_range(options, message):
    with pytest.raises(InputError, match=message):
        sampler_of(GaussianDiffusion(20), **options)


def test_replaced_options():
    own = GaussianSamplerOptions(eta=0.5, contrast=1.2)
    assert own.replaced(contrast=1.0) == GaussianSamplerOptions(eta=0.5)
    assert own.replaced(sampler="ddpm_small") == GaussianSamplerOptions(sampler="ddpm_small", contrast=1.2)
    assert own.replaced(sampler="ddim").eta == 0.5


def test_currents_are_sampled_by_ddim_alone():
    diffusion = GaussianDiffusion(20, "linear", "v", "synaptic_current")
    for options in ({"sampler": "ddpm_small"}, {"eta": 0.5}):
        with pytest.raises(InputError, match="synaptic currents are sampled by ddim with eta 0"):
            sampler_of(diffusion, num_currents=2, **options)

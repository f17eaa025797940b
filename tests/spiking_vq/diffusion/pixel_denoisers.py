"""Denoisers of images that are known in closed form."""

import torch

from spiking_vq.diffusion.gaussian_sampler import GaussianSampler, GaussianSamplerOptions

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


def sampler_of(diffusion, shape=SHAPE, image_error=None, num_currents=None, **options):
    """The sampler with these options."""
    return GaussianSampler(diffusion, GaussianSamplerOptions(**options), shape, image_error, num_currents)

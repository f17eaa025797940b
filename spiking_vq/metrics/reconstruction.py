"""Difference between images and their reconstructions."""

from __future__ import annotations

from torch import Tensor
from torchmetrics.image import PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure

from spiking_vq.errors import described, require, require_unit_range

BATCH = 1000


def reconstruction_error(reconstructions: Tensor, images: Tensor) -> dict[str, float]:
    """Mean squared error, peak signal-to-noise ratio and structural similarity.

    Args:
        reconstructions: [N, C, H, W] in [0, 1].
        images: [N, C, H, W] in [0, 1].

    Returns:
        `mse` in units of [0, 1] images, over all pixels; `psnr` in dB, of that error; `ssim` in [-1, 1], the mean over
        the images, windows as in Wang et al. (2004).

    Raises:
        InputError: other shapes, or values that are not finite and in [0, 1].
    """
    for name, given in (("reconstructions", reconstructions), ("images", images)):
        require_unit_range(name, given)
    require(reconstructions.shape == images.shape, "reconstructions", described(images), described(reconstructions))
    psnr, ssim = PeakSignalNoiseRatio(data_range=1.0), StructuralSimilarityIndexMeasure(data_range=1.0)
    squared = 0.0
    for ours, theirs in zip(reconstructions.split(BATCH), images.split(BATCH), strict=True):
        psnr.update(ours, theirs)
        ssim.update(ours, theirs)
        squared += (ours - theirs).double().square().sum().item()
    return {"mse": squared / images.numel(), "psnr": psnr.compute().item(), "ssim": ssim.compute().item()}

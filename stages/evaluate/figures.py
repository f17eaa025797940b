"""Figures that do not compare two sets of images: reconstruction, likelihood, memorisation."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from tqdm import tqdm

from spiking_vq.data import resize_images, to_unit
from spiking_vq.generators import LatentGenerator
from spiking_vq.metrics.codebook import perplexity
from spiking_vq.metrics.manifold import authenticity
from spiking_vq.metrics.reconstruction import reconstruction_error
from spiking_vq.models.vq_svae import VQSVAE

BATCH = 256
LIKELIHOOD_IMAGES = 1000
MEMORISATION_IMAGES = 1000


@torch.no_grad()
def reconstruct(vq_svae: VQSVAE, images: Tensor, seed: int, title: str) -> tuple[Tensor, Tensor]:
    """Through the bottleneck and back.

    Args:
        vq_svae: in evaluation mode.
        images: uint8 [N, C, H, W].
        seed: of what is random in the decoder, if anything is.
        title: of the progress bar.

    Returns:
        Reconstructions [N, C, H, W] in [0, 1], and tokens [N, h, w], both on the CPU.
    """
    device = next(vq_svae.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    reconstructions, tokens = [], []
    for batch in _batches(images, title):
        ids = vq_svae.tokenize(to_unit(batch.to(device)))
        reconstructions.append(vq_svae.decode(ids, generator).cpu())
        tokens.append(ids.cpu())
    return torch.cat(reconstructions), torch.cat(tokens)


def stage1_figures(reconstructions: Tensor, tokens: Tensor, images: Tensor, codebook_size: int) -> dict[str, float]:
    """How far reconstructions [N, C, H, W] in [0, 1] are from uint8 images, and how the codebook is used."""
    return reconstruction_error(reconstructions, to_unit(images)) | {
        "images": len(images),
        "codebook_size": codebook_size,
        "codes_used": len(tokens.unique()),
        "perplexity": perplexity(tokens, codebook_size).item(),
    }


@torch.no_grad()
def likelihood(generator: LatentGenerator, images: Tensor, seed: int) -> dict[str, float]:
    """Bound on the tokens' negative log-likelihood under the paper's process; see `AbsorbingDiffusion.elbo_bits`."""
    model, diffusion = generator.model, generator.diffusion
    randomness = torch.Generator(generator.device).manual_seed(seed)
    bits = []
    for batch in _batches(images, "likelihood of held-out tokens"):
        tokens = model.vq_svae.tokenize(to_unit(batch.to(generator.device)))
        bits.append(diffusion.elbo_bits(model.denoiser, tokens, randomness).cpu())
    bits = torch.cat(bits).double()
    return {
        "images": len(bits),
        "bits_per_image": bits.mean().item(),
        "standard_error": (bits.std() / len(bits) ** 0.5).item(),
        "bits_per_token": bits.mean().item() / diffusion.diffusion_steps,
    }


def memorisation(images: Tensor, held_out: Tensor, training: Tensor) -> dict[str, float]:
    """Authenticity, by pixels, of generated and of held-out real images; see `metrics.manifold.authenticity`.

    Args:
        images, held_out, training: uint8 [N, C, H, W]; of the first two, `MEMORISATION_IMAGES`.
    """
    images = resize_images(images, training.shape[2:])
    rows = [part[:MEMORISATION_IMAGES].flatten(1).float() for part in (images, held_out)]
    authentic = [authenticity(training.flatten(1).float(), part) for part in rows]
    return {"images": len(rows[0]), "authenticity": authentic[0], "authenticity_held_out": authentic[1]}


def _batches(images: Tensor, title: str) -> Iterator[Tensor]:
    """Cut images into batches, under a progress bar."""
    with tqdm(total=len(images), desc=title, unit="image") as bar:
        for batch in images.split(BATCH):
            yield batch
            bar.update(len(batch))

"""Stage 2: training a denoiser on the tokens of a frozen stage 1."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from spiking_vq.checkpoint.build import LatentModel, build_denoiser
from spiking_vq.checkpoint.file import fingerprint, load_model, stage1_file
from spiking_vq.config.schema import AbsorbingConfig, AugmentOptions
from spiking_vq.data.augment import random_affine, warp
from spiking_vq.data.datasets import load_dataset
from spiking_vq.data.levels import to_uint8, to_unit
from spiking_vq.data.styles import with_styles
from spiking_vq.diffusion.absorbing import AbsorbingDiffusion
from spiking_vq.diffusion.unmasking import ORDERS, UNMASK_SCHEDULES
from spiking_vq.errors import InputError, require
from spiking_vq.files import atomic_write
from spiking_vq.models.vq_svae import VQSVAE
from spiking_vq.randomness import mix_seed
from stages.training.denoiser import DenoiserStage, knowing_labels

TOKENIZE_BATCH = 256
PICTURED = 64


class AbsorbingStage(DenoiserStage):
    """The denoiser being trained; validated by the masked cross-entropy of the validation split's tokens.

    Args:
        config: of the run; what it says of stage 1 is filled in from stage 1's file.
    """

    monitor = "cross_entropy"

    def __init__(self, config: AbsorbingConfig) -> None:
        path = stage1_file(config)
        if not path.is_file():
            raise InputError(
                f"stage 2 needs a finished stage 1, and there is no {path}: run `make stage1 DATA={config.data}"
                f" PRESET={config.preset}` first, or name another file with stage1=PATH"
            )
        vq_svae, stage1 = load_model(path)
        if isinstance(vq_svae, LatentModel):
            vq_svae, stage1 = vq_svae.vq_svae, stage1.vq_svae
        if not isinstance(vq_svae, VQSVAE):
            raise InputError(f"{path} is a {stage1.stage} model: stage1= must name a vq_svae one, or one that holds it")
        if stage1.data != config.data:
            raise InputError(f"{path} was trained on {stage1.data}, not on {config.data}: use DATA={stage1.data}")
        sizes = f"left out, or stage 1's {stage1.image_size or 'own'}"
        require(config.image_size in (None, stage1.image_size), "image_size", sizes, config.image_size)
        for name, known in {"order": ORDERS, "schedule": UNMASK_SCHEDULES}.items():
            chosen = getattr(config.sample, name)
            require(chosen in known, f"sample.{name}", f"one of {', '.join(known)}", repr(chosen))
        config = replace(
            config,
            image_size=stage1.image_size,
            image_shape=stage1.image_shape,
            vq_svae=stage1,
            stage1_sha256=fingerprint(vq_svae),
        )
        data = load_dataset(config.data, config.data_dir, config.image_size)
        config = knowing_labels(config, data)
        cache = Path(config.tokens_dir or Path(config.runs) / config.data / "tokens")
        copies = [
            moved(data.train.images, config.augment, mix_seed(config.seed, 6, copy))
            for copy in range(config.moved_copies)
        ]
        vq_svae.to(config.device)
        val, *train = (
            cached_tokens(vq_svae, config.stage1_sha256, images, cache)
            for images in (data.val.images, data.train.images, *copies)
        )
        vq_svae.cpu()  # it is needed for pictures only, of one rank
        diffusion = AbsorbingDiffusion(vq_svae.grid, vq_svae.codebook_size, config.loss)
        train_labels, val_labels = with_styles(data.train, data.val, config.styles)
        rows = [torch.cat(train), train_labels.repeat(len(train))], [val, val_labels]
        super().__init__(config, build_denoiser(config), diffusion, *rows)
        self.frozen = [vq_svae]  # in a list, so that it is not a part of what is trained and checkpointed

    @torch.no_grad()
    def picture(self) -> Tensor:
        """Samples, of the same seeds each time."""
        options = self.config.sample
        tokens = self.diffusion.sample(
            self.trained.eval(),
            [mix_seed(self.config.seed, 4, index) for index in range(PICTURED)],
            sample_steps=min(16, self.diffusion.diffusion_steps),  # a picture, not a measurement
            order=options.order,
            schedule=options.schedule,
            temperature=options.temperature,
            last_temperature=options.last_temperature,
            device=self.device,
        )
        return self.frozen[0].to(self.device).decode(tokens, self.generator(5)).cpu()

    def export(self) -> nn.Module:
        """The denoiser with the frozen stage 1."""
        return LatentModel(self.frozen[0], self.trained)

    def part(self, exported: LatentModel) -> nn.Module:
        """The denoiser."""
        return exported.denoiser

    def check_start(self, exported: LatentModel) -> None:
        """A denoiser knows the tokens of its own stage 1, and roughly those of one that was fine-tuned from it."""
        known = fingerprint(exported.vq_svae)
        if known not in (self.config.stage1_sha256, self.config.vq_svae.train.start_from_sha256):
            raise InputError(
                f"train.start_from={self.config.train.start_from} knows other tokens than those of"
                f" stage1={stage1_file(self.config)}: on the same data leave stage1= out, as the file holds its own; on"
                " other data train stage 1 with this train.start_from, too"
            )


def moved(images: Tensor, augment: AugmentOptions, seed: int) -> Tensor:
    """uint8 images [N, C, H, W], each moved in its own way."""
    maps = random_affine(len(images), torch.Generator().manual_seed(seed), **asdict(augment))
    batches = zip(images.split(TOKENIZE_BATCH), maps.split(TOKENIZE_BATCH), strict=True)
    return torch.cat([to_uint8(warp(to_unit(batch), own)) for batch, own in batches])


def cached_tokens(vq_svae: VQSVAE, sha256: str, images: Tensor, folder: Path) -> Tensor:
    """The tokens [N, h, w] of uint8 images [N, C, H, W], encoded once and kept under the hash of weights and images."""
    key = hashlib.sha256(sha256.encode() + images.numpy().tobytes()).hexdigest()[:16]
    path = folder / f"{key}.npy"
    if path.exists():
        try:
            return torch.from_numpy(np.load(path)).long()
        except (OSError, ValueError, EOFError) as error:
            print(f"{path} is damaged ({error}) and made again")
    print(f"encoding {len(images)} images")
    device = next(vq_svae.parameters()).device
    with torch.inference_mode():
        batches = [vq_svae.tokenize(to_unit(batch.to(device))).cpu() for batch in images.split(TOKENIZE_BATCH)]
    tokens = torch.cat(batches)
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.save(file, tokens.numpy().astype(np.int16 if vq_svae.codebook_size < 2**15 else np.int32))
    return tokens.clone()

"""Stage 2: training a denoiser on the tokens of a frozen stage 1."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from spiking_vq.checkpoint.build import LatentModel, build_denoiser
from spiking_vq.checkpoint.file import fingerprint, load_model, stage1_file
from spiking_vq.config.schema import AbsorbingConfig, Config, VQSVAEConfig
from spiking_vq.data.levels import to_unit
from spiking_vq.data.mapped import MappedImages
from spiking_vq.data.styles import with_styles
from spiking_vq.diffusion.absorbing import AbsorbingDiffusion
from spiking_vq.diffusion.guidance import guided, with_labels
from spiking_vq.errors import InputError, require
from spiking_vq.files import atomic_write
from spiking_vq.models.vq_svae import VQSVAE
from spiking_vq.pipelines.base import within
from spiking_vq.runtime.memory import images_at_once
from spiking_vq.runtime.precision import parameter_type
from stages.cli.data import data_of
from stages.training.denoiser import DenoiserStage, with_label_counts
from stages.training.forecast import tokens_of

TOKENIZE_BATCH = 256


class TokenData(NamedTuple):
    """The encoded data of stage 2.

    Attributes:
        vq_svae: the frozen stage 1, on the CPU.
        train, val: tokens int64 [N, G, h, w] and labels int64 [N] of each split.
    """

    vq_svae: VQSVAE
    train: list[Tensor]
    val: list[Tensor]


def prepare(config: AbsorbingConfig) -> tuple[AbsorbingConfig, TokenData]:
    """Load stage 1 and the data, encode the images, and complete the configuration with stage 1 and the labels.

    Raises:
        InputError: there is no stage 1, or it was trained on other data or another image size; or guidance is to be
            distilled, and there is no model to distil it from.
    """
    if config.distilled_guidance and not config.train.start_from:
        raise InputError("distilled_guidance needs train.start_from=MODEL, the model whose guided answer is distilled")
    config, vq_svae, stage1 = with_stage1(config)
    config = replace(config, image_shape=stage1.image_shape, vq_svae=stage1, stage1_sha256=fingerprint(vq_svae))
    data = data_of(config)
    config = with_label_counts(config, data)
    cache = Path(config.tokens_dir or Path(config.runs) / config.data / "tokens")
    vq_svae.to(config.device)
    val, train = (cached_tokens(vq_svae, config.stage1_sha256, split.images, cache) for split in (data.val, data.train))
    train_labels, val_labels = with_styles(data.train, data.val, config.styles)
    return config, TokenData(vq_svae.cpu(), [train, train_labels], [val, val_labels])


def with_stage1(config: AbsorbingConfig) -> tuple[AbsorbingConfig, VQSVAE, VQSVAEConfig]:
    """The configuration, which reads images as the frozen stage 1 does; stage 1; and the configuration of stage 1.

    Raises:
        InputError: there is none, or it was trained on other data, or on images that are read in another way.
    """
    path = stage1_file(config)
    if not path.is_file():
        raise InputError(
            f"stage 2 needs a finished stage 1, and there is no {path}: run `spiking-vq train vq_svae"
            f" data={config.data} preset={config.preset}` first, or name another file with stage1=FILE"
        )
    model, stage1 = load_model(path)
    if isinstance(model, LatentModel):
        model, stage1 = model.vq_svae, stage1.vq_svae
    if not isinstance(model, VQSVAE):
        raise InputError(f"{path} is a {stage1.stage} model: stage1= must name a vq_svae one, or one that holds it")
    if stage1.data != config.data:
        raise InputError(f"{path} was trained on {stage1.data}, not on {config.data}: use data={stage1.data}")
    for name, value in stage1.reading.items():
        own = getattr(config, name)
        require(own in (getattr(Config, name), value), name, f"left out, or as in stage 1: {value}", own)
    return replace(config, **stage1.reading), model, stage1


def load_teacher(config: AbsorbingConfig) -> nn.Module:
    """The frozen network of `train.start_from`, whose guided answer is distilled.

    Raises:
        InputError: it is not class-conditional, knows other labels, or has fewer spiking steps than `distilled_T`.
    """
    start, steps = config.train.start_from, config.distilled_T
    model, trained = load_model(start)
    if not trained.conditional:
        raise InputError(f"{start} is not class-conditional, so it has no guidance to distil: name another model")
    if trained.data != config.data:
        raise InputError(f"{start} knows the labels of {trained.data}, not of {config.data}: distil on the same data")
    require(steps is None or steps <= trained.T, "distilled_T", f"in 1..{trained.T}, the T of {start}", steps)
    return model.denoiser.requires_grad_(False).to(parameter_type(config.precision))


class AbsorbingStage(DenoiserStage):
    """The denoiser in training; validated by the masked cross-entropy of the validation split's tokens.

    With `distilled_guidance`, both cross-entropies are between the guided answer of a frozen teacher, the network of
    `train.start_from` in its own T spiking steps, and the denoiser's with the same label. Where the label is dropped,
    the target is the teacher's own answer without label.

    Args:
        config: of the run.
    """

    monitor = "cross_entropy"

    def __init__(self, config: AbsorbingConfig) -> None:
        config, (vq_svae, train, val) = prepare(config)
        self.frozen = [vq_svae]  # a list, so that it is neither trained nor part of the checkpoints
        diffusion = AbsorbingDiffusion(vq_svae.code_grid, vq_svae.codebook_size, config.loss)
        super().__init__(config, build_denoiser(config), diffusion, train, val)
        self.teachers = [load_teacher(config)] if config.distilled_guidance else []  # a list, as above

    def on_fit_start(self) -> None:
        """Move what no module holds to the device."""
        for teacher in self.teachers:
            teacher.to(self.device)

    def objective(self, labels: Tensor) -> dict[str, Any]:
        """The teacher with these labels [B], if guidance is distilled."""
        if not self.teachers:
            return {}
        network, config = self.teachers[0], self.config
        strong, weak = (within(network, num_steps=steps) for steps in (None, config.distilled_T))
        teacher = guided(strong, config.distilled_guidance, weak, applies=labels != self.no_label)
        return {"teacher": with_labels(teacher, labels)}

    @property
    def about(self) -> str:
        """See `Stage.about`."""
        return f"{super().about}, {tokens_of(self.frozen[0])}"

    def export(self) -> nn.Module:
        """The denoiser with the frozen stage 1."""
        return LatentModel(self.frozen[0], self.trained)

    def network_of(self, exported: LatentModel) -> nn.Module:
        """The denoiser."""
        return exported.denoiser

    def check_start(self, exported: LatentModel) -> None:
        """Require the same tokens: those of the same stage 1, or of the one from which it was fine-tuned."""
        known = fingerprint(exported.vq_svae)
        if known not in (self.config.stage1_sha256, self.config.vq_svae.train.start_from_sha256):
            raise InputError(
                f"train.start_from={self.config.train.start_from} was trained on other tokens than those of"
                f" stage1={stage1_file(self.config)}: on the same data leave stage1= out, as the file holds its own; on"
                " other data fine-tune stage 1 from this train.start_from, too"
            )


def cached_tokens(vq_svae: VQSVAE, sha256: str, images: Tensor | MappedImages, folder: Path) -> Tensor:
    """The tokens int64 [N, G, h, w] of uint8 images [N, C, H, W], encoded once.

    Args:
        vq_svae: stage 1.
        sha256: its fingerprint; the hash of it and the images names the file.
        images: to encode.
        folder: of the files; a damaged one is replaced.
    """
    digest = hashlib.sha256(sha256.encode())
    for batch in images.split(TOKENIZE_BATCH):
        digest.update(batch.contiguous().numpy())
    path = folder / f"{digest.hexdigest()[:16]}.npy"
    if path.exists():
        try:
            return torch.from_numpy(np.load(path)).long().view(len(images), *vq_svae.code_grid)
        except (OSError, ValueError, EOFError, RuntimeError) as error:  # the last one is torch's of another shape
            print(f"{path} is damaged ({error}): encoding again")
    print(f"encoding {len(images)} images")
    device = next(vq_svae.parameters()).device
    with torch.inference_mode():
        parts = images.split(images_at_once(TOKENIZE_BATCH, images.shape))
        batches = [vq_svae.tokenize(to_unit(batch.to(device))).cpu() for batch in parts]
    tokens = torch.cat(batches)
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.save(file, tokens.numpy().astype(np.int16 if vq_svae.codebook_size < 2**15 else np.int32))
    return tokens.clone()

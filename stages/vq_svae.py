"""Stage 1: training the VQ-SVAE on images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spiking_vq.checkpoint.build import LatentModel, build_adversary, build_vq_svae
from spiking_vq.checkpoint.file import fingerprint, load_model
from spiking_vq.config.schema import ClassifierConfig, VQSVAEConfig
from spiking_vq.data.datasets import ImageData, load_dataset
from spiking_vq.data.levels import to_unit
from spiking_vq.errors import InputError
from spiking_vq.metrics.codebook import perplexity
from spiking_vq.models.classifier import Classifier
from spiking_vq.models.critics import PerceptualDistance
from spiking_vq.models.vq_svae import VQSVAE
from spiking_vq.runtime.distributed import own_rows
from spiking_vq.runtime.precision import parameter_type
from stages.training.run_folder import RunFolder
from stages.training.stage import Stage

VALIDATION_BATCH = 256
PICTURED = 64


class VQSVAEStage(Stage):
    """The autoencoder being trained; validated by the reconstruction error of the validation split.

    Args:
        config: of the run; its `image_shape` is filled in from the data.
    """

    monitor = "mse"
    held_by = ("absorbing",)

    def __init__(self, config: VQSVAEConfig) -> None:
        self.data: ImageData = load_dataset(config.data, config.data_dir, config.image_size)
        config = replace(config, image_shape=list(self.data.image_shape))
        model = build_vq_svae(config)
        model.data_variance.fill_(self.data.variance)
        super().__init__(config, model, [self.data.train.images])
        self.adversary = build_adversary(self.config)
        self.frozen = []  # a list, so that it is not a part of what is trained and checkpointed
        if config.perceptual.weight:
            classifier, found = load_perceptual(config)
            self.config = replace(self.config, perceptual=replace(config.perceptual, classifier_sha256=found))
            distance = PerceptualDistance(classifier, config.perceptual.weight)
            self.frozen.append(distance.to(parameter_type(config.precision)))

    def batch_loss(self, batch: Sequence[Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """The paper's loss of uint8 images, and what the configuration adds to it."""
        (images,) = batch
        perceptual = self.frozen[0].to(self.device) if self.frozen else None
        images = to_unit(own_rows(images))
        return self.model.loss(images, generator, perceptual, self.adversary, self.config.judge_every)

    def part(self, exported: VQSVAE | LatentModel) -> VQSVAE:
        """The autoencoder, where need be out of a stage 2 that holds it."""
        return exported.vq_svae if isinstance(exported, LatentModel) else exported

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The adversary learns at a rate of its own, and looks back less far."""
        groups = super().parameter_groups()
        if self.adversary is not None:
            own = {"lr": self.config.adversary.lr, "betas": (0.5, 0.9)}
            groups.append({"params": list(self.adversary.parameters())} | own)
        return groups

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Reconstruction error in units of [0, 1] images, and how the codebook is used, over the validation split."""
        model = self.trained.eval()
        squared, tokens = 0.0, []
        for images in self.data.val.images.split(VALIDATION_BATCH):
            images = to_unit(images.to(self.device))
            ids = model.tokenize(images)
            squared += (model.decode(ids, self.generator(3)) - images).square().sum().item()
            tokens.append(ids)
        return {
            "mse": squared / self.data.val.images.numel(),
            "perplexity": perplexity(torch.cat(tokens), model.codebook_size).item(),
        }

    @torch.no_grad()
    def picture(self) -> Tensor:
        """Rows of validation images, each above its reconstructions."""
        model = self.trained.eval()
        images = to_unit(self.data.val.images[:PICTURED].to(self.device))
        decoded = model.decode(model.tokenize(images), self.generator(3))
        rows = chain.from_iterable(zip(images.split(16), decoded.split(16), strict=True))
        return torch.cat(list(rows)).cpu()

    def export(self) -> nn.Module:
        """The autoencoder."""
        return self.trained


def own_perceptual(config: VQSVAEConfig) -> Path:
    """The file of the run's own classifier whose features stage 1 learns by."""
    return RunFolder(ClassifierConfig(data=config.data, preset="perceptual", runs=config.runs)).model


def load_perceptual(config: VQSVAEConfig) -> tuple[Classifier, str]:
    """The classifier whose features stage 1 learns by, and the fingerprint of its weights.

    Raises:
        InputError: there is none, or it is not a classifier of such images.
    """
    path = Path(config.perceptual.classifier or own_perceptual(config))
    if not path.is_file():
        raise InputError(
            f"perceptual.weight={config.perceptual.weight:g} needs a trained classifier, and there is no {path}: leave"
            " perceptual.classifier= out to have one trained, or do without by perceptual.weight=0"
        )
    classifier, found = load_model(path)
    if not isinstance(classifier, Classifier) or classifier.image_shape != tuple(config.image_shape):
        raise InputError(
            f"perceptual.classifier={path} is a {found.stage} model of {found.data}, of images"
            f" {found.image_shape}: name a classifier of images {list(config.image_shape)}, or train in another folder"
            " with runs=FOLDER"
        )
    return classifier, fingerprint(classifier)

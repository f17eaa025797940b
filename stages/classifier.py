"""The classifier of real images, for measuring generated ones and for the perceptual loss of stage 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from spiking_vq.checkpoint.build import build_classifier
from spiking_vq.config.options import AugmentOptions
from spiking_vq.config.schema import ClassifierConfig
from spiking_vq.data.augment import random_affine, warp
from spiking_vq.data.levels import to_unit
from spiking_vq.data.official import Split
from spiking_vq.data.styles import with_styles
from spiking_vq.runtime.distributed import own_rows
from spiking_vq.runtime.memory import images_at_once
from spiking_vq.runtime.precision import parameter_type
from stages.cli.data import data_of
from stages.training.stage import Stage

VALIDATION_BATCH = 256
PICTURED = 64

CLUSTERS = 16
"""Classes of images without labels."""


def prepare(config: ClassifierConfig) -> tuple[ClassifierConfig, list[Split]]:
    """Load the data, and complete the configuration with their shape and number of labels.

    Images without labels are told apart by their style: `CLUSTERS` clusters by appearance stand for labels.
    """
    data = data_of(config)
    splits, num_classes = [data.train, data.val], data.num_classes
    if not data.labelled:
        num_classes = min(CLUSTERS, 2 ** (len(data.train.labels).bit_length() - 1))
        labels = with_styles(data.train, data.val, num_classes)
        splits = [Split(split.images, own) for split, own in zip(splits, labels, strict=True)]
    return replace(config, image_shape=list(data.image_shape), num_classes=num_classes), splits


class ClassifierStage(Stage):
    """The classifier in training; validated by the cross-entropy of the validation split.

    Args:
        config: of the run.
    """

    monitor = "cross_entropy"

    def __init__(self, config: ClassifierConfig) -> None:
        config, (train, self.val) = prepare(config)
        super().__init__(config, build_classifier(config), train)

    def batch_loss(self, batch: Sequence[Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Cross-entropy of uint8 images, augmented as configured, and their labels."""
        images, labels = map(own_rows, batch)
        images = self._as_input(images)
        if self.config.augment != AugmentOptions():
            maps = random_affine(len(batch[0]), generator, **asdict(self.config.augment))
            images = warp(images, own_rows(maps))
        return self.model.loss(images, labels)

    def validate(self) -> dict[str, float]:
        """Cross-entropy in nats and accuracy over the validation split."""
        logits, labels = self._logits(), self.val.labels
        return {
            "cross_entropy": F.cross_entropy(logits, labels).item(),
            "accuracy": (logits.argmax(1) == labels).double().mean().item(),
        }

    def picture(self) -> Tensor:
        """The validation images whose label the classifier finds least probable."""
        likelihood = self._logits().log_softmax(1).gather(1, self.val.labels.unsqueeze(1)).squeeze(1)
        return to_unit(self.val.images[likelihood.argsort()[:PICTURED]])

    @torch.no_grad()
    def _logits(self) -> Tensor:
        """Logits [N, num_classes] of the validation images, on the CPU."""
        model = self.trained.eval()
        batches = self.val.images.split(images_at_once(VALIDATION_BATCH, model.image_shape))
        return torch.cat([model(self._as_input(images.to(self.device))).float().cpu() for images in batches])

    def _as_input(self, images: Tensor) -> Tensor:
        """uint8 images [B, C, H, W] in [0, 1], of the parameters' type."""
        return to_unit(images).to(parameter_type(self.config.precision))

"""A classifier of the real images, for the evaluation of generated ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spiking_vq.checkpoint.build import build_classifier
from spiking_vq.config.schema import AugmentOptions, ClassifierConfig
from spiking_vq.data.augment import random_affine, warp
from spiking_vq.data.datasets import load_dataset
from spiking_vq.data.levels import to_unit
from spiking_vq.runtime.distributed import own_rows
from stages.training.stage import Stage

VALIDATION_BATCH = 256
PICTURED = 64


class ClassifierStage(Stage):
    """The classifier being trained; validated by the cross-entropy of the validation split.

    Args:
        config: of the run; what follows from the data is filled in.
    """

    monitor = "cross_entropy"

    def __init__(self, config: ClassifierConfig) -> None:
        self.data = load_dataset(config.data, config.data_dir, config.image_size)
        config = replace(config, image_shape=list(self.data.image_shape), num_classes=self.data.num_classes)
        super().__init__(config, build_classifier(config), self.data.train)

    def batch_loss(self, batch: Sequence[Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Cross-entropy of uint8 images, moved as `augment` says, and their labels."""
        images, labels = map(own_rows, batch)
        images = to_unit(images)
        if self.config.augment != AugmentOptions():
            maps = random_affine(len(batch[0]), generator, **asdict(self.config.augment))
            images = warp(images, own_rows(maps))
        return self.model.loss(images, labels)

    def validate(self) -> dict[str, float]:
        """Cross-entropy in nats and accuracy over the validation split."""
        logits, labels = self._logits(), self.data.val.labels
        return {
            "cross_entropy": F.cross_entropy(logits, labels).item(),
            "accuracy": (logits.argmax(1) == labels).double().mean().item(),
        }

    def picture(self) -> Tensor:
        """The validation images whose label it finds least probable."""
        likelihood = self._logits().log_softmax(1).gather(1, self.data.val.labels.unsqueeze(1)).squeeze(1)
        return to_unit(self.data.val.images[likelihood.argsort()[:PICTURED]])

    def export(self) -> nn.Module:
        """The classifier."""
        return self.trained

    @torch.no_grad()
    def _logits(self) -> Tensor:
        """Logits of the validation images, on the CPU."""
        model = self.trained.eval()
        batches = self.data.val.images.split(VALIDATION_BATCH)
        return torch.cat([model(to_unit(images.to(self.device))).float().cpu() for images in batches])

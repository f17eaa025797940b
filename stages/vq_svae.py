"""Stage 1: training the VQ-SVAE on images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from spiking_vq.checkpoint import build_adversary, build_vq_svae
from spiking_vq.config import VQSVAEConfig
from spiking_vq.data import ImageData, load_dataset, to_unit
from spiking_vq.distributed import own_rows
from spiking_vq.metrics.codebook import perplexity
from stages.stage import Stage

VALIDATION_BATCH = 256
PICTURED = 64


class VQSVAEStage(Stage):
    """The autoencoder being trained; validated by the reconstruction error of the validation split.

    Args:
        config: of the run; its `image_shape` is filled in from the data.
    """

    monitor = "mse"

    def __init__(self, config: VQSVAEConfig) -> None:
        self.data: ImageData = load_dataset(config.data, config.data_dir, config.image_size)
        config = replace(config, image_shape=list(self.data.image_shape))
        model = build_vq_svae(config)
        model.data_variance.fill_(self.data.variance)
        super().__init__(config, model, [self.data.train.images])
        self.adversary = build_adversary(self.config)

    def batch_loss(self, batch: Sequence[Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """The paper's loss of uint8 images."""
        (images,) = batch
        return self.model.loss(to_unit(own_rows(images)), generator, self.adversary)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The adversary learns at a rate of its own."""
        groups = super().parameter_groups()
        if self.adversary is not None:
            groups.append({"params": list(self.adversary.parameters()), "lr": self.config.adversary.lr})
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

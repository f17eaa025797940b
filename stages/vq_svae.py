"""Stage 1: training the VQ-SVAE on images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spiking_vq.checkpoint.build import LatentModel, build_vq_svae, sizes_that_fit
from spiking_vq.checkpoint.file import fingerprint, load_model
from spiking_vq.config.schema import ClassifierConfig, VQSVAEConfig
from spiking_vq.data.image_data import ImageData
from spiking_vq.data.levels import to_unit
from spiking_vq.errors import InputError
from spiking_vq.metrics.codebook import perplexity
from spiking_vq.models.classifier import Classifier
from spiking_vq.models.critics import PatchAdversary, PerceptualDistance
from spiking_vq.models.vq_svae import VQSVAE
from spiking_vq.randomness import Stream
from spiking_vq.runtime.distributed import own_rows
from spiking_vq.runtime.memory import images_at_once
from spiking_vq.runtime.precision import parameter_type
from stages.cli.data import data_of
from stages.training.forecast import tokens_of
from stages.training.run_folder import RunFolder
from stages.training.stage import Stage

VALIDATION_BATCH = 256
PICTURED = 64


def prepare(config: VQSVAEConfig) -> tuple[VQSVAEConfig, ImageData]:
    """Load the data, and complete the configuration with their shape."""
    data = data_of(config)
    return replace(config, image_shape=list(data.image_shape)), data


class VQSVAEStage(Stage):
    """The autoencoder in training; validated by the reconstruction error of the validation split.

    Args:
        config: of the run.
    """

    monitor = "mse"
    held_by = ("absorbing",)

    def __init__(self, config: VQSVAEConfig) -> None:
        config, self.data = prepare(config)
        model = build_vq_svae(config)
        model.data_variance.fill_(self.data.variance)
        super().__init__(config, model, [self.data.train.images])
        self.adversary = None
        if config.adversary.weight:
            with sizes_that_fit():
                adversary = PatchAdversary(config.image_shape[0], config.adversary.channels)
            self.adversary = adversary.to(parameter_type(config.precision))
        self.perceptual = []  # a list, so that the distance is neither trained nor part of the checkpoints
        if config.perceptual.weight:
            classifier = load_perceptual(config)
            options = replace(config.perceptual, classifier_sha256=fingerprint(classifier))
            self.config = replace(self.config, perceptual=options)
            self.perceptual.append(PerceptualDistance(classifier).to(parameter_type(config.precision)))

    def on_fit_start(self) -> None:
        """Move what no module holds to the device."""
        for distance in self.perceptual:
            distance.to(self.device)

    def batch_loss(self, batch: Sequence[Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """The paper's loss of uint8 images plus the critics' losses; a step of an EMA codebook."""
        images = to_unit(own_rows(batch[0])).to(parameter_type(self.config.precision))
        terms, critics = self.model.loss_terms(images, generator), {}
        loss = terms.reconstruction + terms.cross_entropy
        for distance in self.perceptual:
            critics["perceptual"] = distance(terms.made + 0.5, images)
            loss = loss + self.config.perceptual.weight * critics["perceptual"]
        if self.adversary is not None:
            critics["adversary"] = self.adversary(terms.made, images - 0.5)
            loss = loss + self.config.adversary.weight * self.adversary.pull(terms.made) + critics["adversary"]
        restarts = self.model.quantizer.update(terms.vectors, terms.tokens, generator)
        return {
            "loss": loss + terms.quantizer + terms.psp,
            "mse": terms.mse,
            "quantizer": terms.quantizer,
            "psp": terms.psp,
            "perplexity": perplexity(terms.tokens),
            "restarts": restarts,
            **critics,
        }

    @property
    def about(self) -> str:
        """See `Stage.about`."""
        return f"{super().about}, {tokens_of(self.model)}"

    def network_of(self, exported: VQSVAE | LatentModel) -> VQSVAE:
        """The autoencoder, which a file of stage 2 holds too."""
        return exported.vq_svae if isinstance(exported, LatentModel) else exported

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The adversary has its own learning rate and a shorter memory of its gradients."""
        groups = super().parameter_groups()
        if self.adversary is not None:
            own = {"lr": self.config.adversary.lr, "betas": (0.5, 0.9)}
            groups.append({"params": list(self.adversary.parameters())} | own)
        return groups

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Mean squared error of images in [0, 1] and perplexity of the codes, over the validation split."""
        model = self.trained.eval()
        val, size = self.data.val.images, images_at_once(VALIDATION_BATCH, model.image_shape)
        # one block, since small ones between the large ones of each batch would let the heap grow without end
        squared, tokens = 0.0, torch.empty(len(val), *model.code_grid, dtype=torch.int32)
        for images, own in zip(val.split(size), tokens.split(size), strict=True):
            images = to_unit(images.to(self.device))
            ids = model.tokenize(images)
            own.copy_(ids)
            squared += (model.decode(ids, self.generator(Stream.VALIDATION)) - images).square().sum().item()
        return {"mse": squared / val.numel(), "perplexity": perplexity(tokens).item()}

    @torch.no_grad()
    def picture(self) -> Tensor:
        """Rows of validation images, each above its reconstructions."""
        model = self.trained.eval()
        images = to_unit(self.data.val.images[:PICTURED].to(self.device))
        decoded = model.decode(model.tokenize(images), self.generator(Stream.VALIDATION))
        rows = chain.from_iterable(zip(images.split(16), decoded.split(16), strict=True))
        return torch.cat(list(rows)).cpu()


def own_perceptual(config: VQSVAEConfig) -> Path:
    """The file of the classifier that a run trains itself for its perceptual loss."""
    return RunFolder(ClassifierConfig(data=config.data, preset="perceptual", runs=config.runs)).model


def load_perceptual(config: VQSVAEConfig) -> Classifier:
    """The classifier of the perceptual loss.

    Raises:
        InputError: there is none, or the file is not a classifier of such images.
    """
    path = Path(config.perceptual.classifier or own_perceptual(config))
    if not path.is_file():
        raise InputError(
            f"perceptual.weight={config.perceptual.weight:g} needs a trained classifier, and there is no {path}: leave"
            " perceptual.classifier= out to have one trained, or do without by perceptual.weight=0"
        )
    model, trained = load_model(path)
    if not isinstance(model, Classifier) or model.image_shape != tuple(config.image_shape):
        raise InputError(
            f"perceptual.classifier={path} is a {trained.stage} model of {trained.data}, of images"
            f" {trained.image_shape}: name a classifier of images {list(config.image_shape)}, or train in another"
            " folder with runs=FOLDER"
        )
    return model

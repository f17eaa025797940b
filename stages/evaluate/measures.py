"""Metrics of generated and reconstructed images."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spiking_vq.checkpoint.file import load_model
from spiking_vq.data.datasets import DATASETS
from spiking_vq.data.image_data import ImageData
from spiking_vq.data.levels import resize_images, to_unit
from spiking_vq.errors import InputError
from spiking_vq.metrics.codebook import perplexity
from spiking_vq.metrics.fid import fid
from spiking_vq.metrics.inception import BATCH, Inception, fetch_weights
from spiking_vq.metrics.inception_score import inception_score
from spiking_vq.metrics.kid import kid
from spiking_vq.metrics.manifold import density_coverage, precision_recall
from spiking_vq.metrics.reconstruction import reconstruction_error
from spiking_vq.models.classifier import Classifier
from spiking_vq.models.vq_svae import VQSVAE
from spiking_vq.neurons.activity import LayerActivity, record_activity
from spiking_vq.pipelines.latent import LatentPipeline
from spiking_vq.pipelines.zoo import find_model
from spiking_vq.runtime.memory import images_at_once
from stages.cli.progress import progress
from stages.evaluate.features import CachedFeatures
from stages.evaluate.options import Options
from stages.evaluate.protocols import Protocol
from stages.reporting.report import identity

CLASSIFIER_BATCH = 256

LIKELIHOOD_IMAGES = 1000


class InceptionMeasures:
    """Distances and neighbourhoods in the features of FID's Inception.

    Args:
        weights: its file.
        cache: folder of the features, which are kept.
        resize: resize of its input, one of `RESIZES`.
        precision: of its computation, `fp32` or `bf16`.
        device: to compute on.

    Attributes:
        described: the network as a report tells it.
    """

    def __init__(self, weights: Path, cache: Path, resize: str, precision: str, device: str) -> None:
        network = Inception(weights, resize, precision).to(device)
        self.classifier = network.classifier
        self.described = {"sha256": identity(weights)["sha256"], "precision": precision}
        self.features = CachedFeatures(
            network, f"{self.described['sha256']} {resize} {precision}", BATCH, cache, device
        )

    def __call__(self, images: Tensor, reference: Tensor, title: str) -> dict[str, float | None]:
        """FID, KID, precision, recall, density, coverage and Inception score of uint8 images [N, C, H, W]."""
        real = self.features(reference, "features: reference")
        generated = self.features(images, f"features: {title}")
        precision, recall = precision_recall(real, generated)
        density, coverage = density_coverage(real, generated)
        return {
            "fid": fid(generated, real),
            "kid": kid(generated, real),
            "precision": precision,
            "recall": recall,
            "density": density,
            "coverage": coverage,
            "inception_score": inception_score(generated, self.classifier),
        }


class ClassifierMeasures:
    """Metrics in the features of a classifier of the real images: offline, and in a minute.

    Args:
        path: its `model.safetensors`.
        data: the data it has to be trained on.
        device: to compute on.

    Attributes:
        described: the network as a report tells it.

    Raises:
        InputError: another model, or one of other data.
    """

    def __init__(self, path: Path, data: ImageData, device: str) -> None:
        model, config = load_model(path)
        if not isinstance(model, Classifier):
            raise InputError(f"{path} is a {config.stage} model: name what `spiking-vq train classifier` wrote")
        if config.data != data.name:
            ways = f"train one with `spiking-vq train classifier data={data.name}`"
            raise InputError(f"{path} was trained on {config.data}: {ways}")
        self.model, self.device = model.to(device), device
        self.described = {"sha256": identity(path)["sha256"]}

    @classmethod
    def of(cls, data: ImageData, options: Any) -> ClassifierMeasures:
        """The classifier that `options.classifier` names, else that of `options.runs`, else the one that ships."""
        path = find_model("classifier", data.name, "base", options.runs, options.classifier)
        return cls(path, data, options.device)

    def __call__(self, images: Tensor, reference: Tensor, title: str) -> dict[str, float]:
        """Metrics of uint8 images [N, C, H, W].

        Returns:
            `classifier_distance`, the Frechet distance of the features; `classifier_precision` and `classifier_recall`
            in these features; `confidence`, the mean probability of the most probable class; `class_imbalance`, the
            total variation distance between the shares of the classes among the images and the reference, 0 for equal
            shares.
        """
        (ours, ours_p), (real, real_p) = self.read(images), self.read(reference)
        shares = [F.one_hot(p.argmax(1), p.shape[1]).double().mean(0) for p in (ours_p, real_p)]
        precision, recall = precision_recall(real, ours)
        return {
            "classifier_distance": fid(ours, real),
            "classifier_precision": precision,
            "classifier_recall": recall,
            "confidence": ours_p.max(1).values.mean().item(),
            "class_imbalance": (shares[0] - shares[1]).abs().sum().item() / 2,
        }

    @torch.no_grad()
    def read(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features [N, D] and probabilities [N, num_classes] of uint8 images [N, C, H, W], on the CPU."""
        rows = []
        for batch in images.split(images_at_once(CLASSIFIER_BATCH, self.model.image_shape)):
            features = self.model.features(to_unit(resize_images(batch, self.model.image_shape[1:])).to(self.device))
            rows.append((features.cpu(), self.model.readout(features).softmax(1).cpu()))
        features, probabilities = map(torch.cat, zip(*rows, strict=True))
        return features, probabilities


def inception_file(named: Path | None, data_dir: str | Path) -> Path:
    """The file of Inception's weights: the named one, else see `fetch_weights`.

    Raises:
        InputError: there is none.
    """
    try:
        return named or fetch_weights(Path(data_dir))
    except InputError as error:
        ways = "Or name a file with inception=; features=classifier does without, and measures by a small classifier."
        raise InputError(f"{error}. {ways}") from error


def check_inception(data_dir: str | Path) -> None:
    """Load the Inception, in seconds, before hours of work that it is to measure.

    Raises:
        InputError: it cannot be had.
    """
    Inception(inception_file(None, data_dir))


class Examiner:
    """Metrics of sets of images against the reference of a protocol.

    Args:
        protocol: names the reference.
        data: holds it.
        options: of the command.

    Attributes:
        reference: uint8 images [N, C, H, W].
        networks: name -> network whose features are compared.
    """

    def __init__(self, protocol: Protocol, data: ImageData, options: Options) -> None:
        self.protocol = protocol
        self.reference = self.prepared(getattr(data, protocol.reference).images[: protocol.first])
        self.networks: dict[str, InceptionMeasures | ClassifierMeasures] = {}
        classifier = self._classifier(data, options)  # first, as the Inception may be a download
        if options.features == "all":
            weights, cache = inception_file(options.inception, data.root), options.runs / "features"
            settings = protocol.resize, options.precision, options.device
            self.networks["inception"] = InceptionMeasures(weights, cache, *settings)
        if classifier:
            self.networks["classifier"] = classifier

    def _classifier(self, data: ImageData, options: Options) -> ClassifierMeasures | None:
        """The classifier; None if an own data set has none, which the Inception alone measures then."""
        try:
            return ClassifierMeasures.of(data, options)
        except InputError as error:
            if data.name in DATASETS or options.features != "all" or options.classifier:
                raise
            print(f"measuring with the Inception alone: {error}", file=sys.stderr)
            return None

    def __call__(self, images: Tensor, title: str) -> dict[str, float | None]:
        """All metrics of uint8 images [N, C, H, W]; `title` is the progress bars'."""
        images = self.prepared(images)
        return {
            name: value
            for measure in self.networks.values()
            for name, value in measure(images, self.reference, title).items()
        }

    def prepared(self, images: Tensor) -> Tensor:
        """Images at the size of the protocol."""
        size = self.protocol.image_size
        return images if size is None else resize_images(images, (size, size))


@torch.no_grad()
def reconstruct(vq_svae: VQSVAE, images: Tensor, seed: int, title: str) -> tuple[Tensor, Tensor]:
    """Encode, quantise and decode.

    Args:
        vq_svae: in evaluation mode.
        images: uint8 [N, C, H, W].
        seed: of the noise in the decoder, where it draws any.
        title: of the progress bar.

    Returns:
        Reconstructions [N, C, H, W] in [0, 1], and tokens [N, G, h, w], both on the CPU.
    """
    device = next(vq_svae.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    reconstructions, tokens = [], []
    for batch in _batches(images, title):
        ids = vq_svae.tokenize(to_unit(batch.to(device)))
        reconstructions.append(vq_svae.decode(ids, generator).cpu())
        tokens.append(ids.cpu())
    return torch.cat(reconstructions), torch.cat(tokens)


def stage1_metrics(reconstructions: Tensor, tokens: Tensor, images: Tensor, codebook_size: int) -> dict[str, float]:
    """Errors of reconstructions [N, C, H, W] in [0, 1] of uint8 images, and use of the codes by tokens [N, G, h, w]."""
    return reconstruction_error(reconstructions, to_unit(images)) | {
        "num_images": len(images),
        "codebook_size": codebook_size,
        "codes_a_position": tokens.shape[1],
        "bits_per_image": tokens[0].numel() * math.log2(codebook_size),
        "codes_used": sum(len(code.unique()) for code in tokens.unbind(1)),
        "perplexity": perplexity(tokens).item(),
    }


@torch.no_grad()
def likelihood(pipeline: LatentPipeline, images: Tensor, seed: int) -> dict[str, float]:
    """Bound on the tokens' negative log-likelihood under the paper's process; see `AbsorbingDiffusion.elbo_bits`."""
    model, diffusion = pipeline.model, pipeline.diffusion
    randomness = torch.Generator(pipeline.device).manual_seed(seed)
    bits = []
    for batch in _batches(images, "likelihood of held-out tokens"):
        tokens = model.vq_svae.tokenize(to_unit(batch.to(pipeline.device)))
        bits.append(diffusion.elbo_bits(model.denoiser, tokens, randomness).cpu())
    bits = torch.cat(bits).double()
    return {
        "num_images": len(bits),
        "bits_per_image": bits.mean().item(),
        "standard_error": (bits.std() / len(bits) ** 0.5).item(),
        "bits_per_token": bits.mean().item() / diffusion.diffusion_steps,
    }


def firing_rates(network: nn.Module, work: Callable[[], Any]) -> dict[str, float]:
    """Layer -> firing rate while `work` calls the network; `all` is the mean weighted by the number of neurons."""
    with torch.no_grad(), record_activity(network) as activity:
        work()
    total = LayerActivity(sum(a.spikes for a in activity.values()), sum(a.slots for a in activity.values()))
    return {name: layer.firing_rate for name, layer in activity.items()} | {"all": total.firing_rate}


def _batches(images: Tensor, title: str) -> Iterator[Tensor]:
    """Cut images into batches, under a progress bar."""
    with progress(total=len(images), title=title) as bar:
        for batch in images.split(images_at_once(CLASSIFIER_BATCH, images.shape)):
            yield batch
            bar.update(len(batch))

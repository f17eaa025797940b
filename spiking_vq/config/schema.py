"""The configuration of each stage, filled from YAML files and `key=value` overrides.

A field's name is the constructor's keyword and the YAML key; its annotation gives its type and range. Every dataclass
checks itself when it is made, and raises `InputError` naming the field.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated

from spiking_vq.config.options import (
    AdversaryOptions,
    AugmentOptions,
    ClassifierOptions,
    DenoiserOptions,
    GaussianOptions,
    LIFOptions,
    PerceptualOptions,
    RateOptions,
    TrainerOptions,
    TrainOptions,
    UNetOptions,
    VQSVAEOptions,
)
from spiking_vq.config.reading import ReadingConfig
from spiking_vq.diffusion.absorbing import LOSSES
from spiking_vq.diffusion.absorbing_sampler import AbsorbingSamplerOptions
from spiking_vq.diffusion.gaussian_sampler import GaussianSamplerOptions
from spiking_vq.errors import require
from spiking_vq.fields import (
    Bits,
    Count,
    FilePath,
    Natural,
    NonNegative,
    OneOf,
    ProperShare,
    Seed,
    Share,
    WeightBits,
    check_fields,
)
from spiking_vq.runtime.precision import PRECISIONS

TWINS = ("relu", "quantised")
"""Neurons that do not spike, for networks of one step."""


@dataclass
class Config(ReadingConfig):
    """Fields that all stages share.

    Attributes:
        stage: key of `STAGES`, fixed by the class.
        preset: name of the YAML file, in `configs/<stage>`.
        data: name of the data set, or on the command line the path of a folder of images or of an `.npz` file.
        image_shape: (C, H, W) of the images; filled in when training starts.
        seed: random seed of weights, batches and noise.
        train: optimiser, length, validation.
        trainer: devices.
        precision: `fp32` (default), `bf16` (autocast; membranes and parameters stay fp32) or `fp64`.
        device: torch's name of the device, such as `cpu` or `cuda`.
        data_dir: folder of the data sets.
        runs: folder of the run folders.
    """

    stage: str = ""
    preset: str = ""
    data: str = "mnist"
    image_shape: list[Count] | None = None
    seed: Seed = 0
    train: TrainOptions = field(default_factory=TrainOptions)
    trainer: TrainerOptions = field(default_factory=TrainerOptions)
    precision: Annotated[str, OneOf(PRECISIONS)] = "fp32"
    device: str = "cpu"
    data_dir: FilePath = "data"
    runs: FilePath = "runs"

    def __post_init__(self) -> None:
        """Check the fields by themselves and against each other."""
        check_fields(self)
        batch_size, devices = self.train.batch_size, self.trainer.devices
        require(self.stage == type(self).stage, "stage", type(self).stage, self.stage)
        require(self.image_shape is None or len(self.image_shape) == 3, "image_shape", "[C, H, W]", self.image_shape)
        require(batch_size % devices == 0, "train.batch_size", f"a multiple of trainer.devices, {devices}", batch_size)


@dataclass
class SpikingConfig(Config):
    """Fields that all spiking networks share.

    Attributes:
        T: spiking steps.
        early_T: spiking steps in the first part of training, to make it cheaper; None (default) is T.
        early_part: length of that first part, as a share of training.
        neuron: `lif` (default); or, at T = 1, one of the non-spiking twins: `relu`, or `quantised` to activations of
            few bits.
        activation_bits: of `quantised`; by default as many as the number of spikes in the preset's T steps takes.
        lif: options of the neuron.
        tsm: every neuron layer learns a scale of its input current for each of the T steps.
        rate: firing-rate penalty.
        weight_bits: the network is one by `spiking_vq.quantisation`: its batch norms are folded, and its weights are
            integers of so many bits times a power of two. Filled in when a model is quantised. None (default): its
            weights are real numbers.
    """

    T: Count = 16
    early_T: Count | None = None
    early_part: Share = 0.0
    neuron: Annotated[str, OneOf(("lif", *TWINS))] = "lif"
    activation_bits: Bits | None = None
    lif: LIFOptions = field(default_factory=LIFOptions)
    tsm: bool = False
    rate: RateOptions = field(default_factory=RateOptions)
    weight_bits: WeightBits | None = None

    def __post_init__(self) -> None:
        """Check the fields by themselves and against each other."""
        super().__post_init__()
        spiking, chosen, bits = self.neuron == "lif", f"with neuron={self.neuron}", self.activation_bits
        require(spiking or self.T == 1, "T", f"1 {chosen}", self.T)
        require(spiking or self.early_T in (None, 1), "early_T", f"1 {chosen}", self.early_T)
        require(spiking or not self.tsm, "tsm", f"false {chosen}", self.tsm)
        require(spiking or not self.rate.weight, "rate.weight", f"0 {chosen}", self.rate.weight)
        require(not (self.tsm and self.early_T), "early_T", "null with tsm, which has T scales", self.early_T)
        needed = (self.neuron == "quantised") == (bits is not None)
        require(needed, "activation_bits", "in 1..16 with neuron=quantised, and left out otherwise", bits)


@dataclass
class DenoiserConfig(SpikingConfig):
    """Fields that both diffusions share.

    Attributes:
        conditional: train a class-conditional network.
        label_dropout: share of the training images that are shown without their label; sampling without a label and
            classifier-free guidance need it.
        styles: number of styles of each label, a power of two: the network is also conditioned on the style of an
            image, which the sampler draws (see `spiking_vq.data.styles`); 1 (default) conditions on labels alone.
        num_classes: number of labels of the data, of a class-conditional network; filled in when training starts.
        label_counts: number of training images of each label, in proportion to which the sampler draws labels; filled
            in when training starts. None (older files): assume balanced classes.
    """

    conditional: bool = False
    label_dropout: ProperShare = 0.1
    styles: Count = 1
    num_classes: Count | None = None
    label_counts: list[Natural] | None = None

    def __post_init__(self) -> None:
        """Check the fields by themselves and against each other."""
        super().__post_init__()
        guidance = self.sample.guidance
        require(self.styles.bit_count() == 1, "styles", "a power of two", self.styles)
        require(self.conditional or self.styles == 1, "styles", "1 without conditional=true", self.styles)
        require(self.conditional or not guidance, "sample.guidance", "0 without conditional=true", guidance)

    @property
    def labels(self) -> list[int]:
        """Labels that occur in the training data."""
        return [label for label, count in enumerate(self.counts) if count > 0]

    @property
    def counts(self) -> list[int]:
        """`label_counts`, or one for each label."""
        return self.label_counts or [1] * self.num_classes


@dataclass
class VQSVAEConfig(SpikingConfig):
    """Stage 1, the autoencoder.

    Attributes:
        model: its network.
        perceptual: perceptual loss.
        adversary: discriminator.
    """

    stage: str = "vq_svae"
    model: VQSVAEOptions = field(default_factory=VQSVAEOptions)
    perceptual: PerceptualOptions = field(default_factory=PerceptualOptions)
    adversary: AdversaryOptions = field(default_factory=AdversaryOptions)

    def __post_init__(self) -> None:
        """Check the fields by themselves and against each other."""
        super().__post_init__()
        model, lif = self.model, self.lif
        if model.quantizer == "count":
            require(model.encoding == "rate", "model.encoding", "rate with quantizer=count", repr(model.encoding))
            averages = [model.ema_decay, model.restart_below]
            expected = "0 with quantizer=count, which has no codebook"
            require(averages == [0, 0], "model.ema_decay and model.restart_below", expected, averages)
        if model.spike_generator == "direct" and self.neuron == "lif":
            exact = {"beta": 1.0, "threshold": 1.0, "reset": "subtract", "scale_input": False}
            exact |= {"learn_beta": False, "learn_threshold": False}
            for name, value in exact.items():
                expected = f"{value} with spike_generator=direct, whose neurons turn a rate of k / T into k spikes"
                require(getattr(lif, name) == value, f"lif.{name}", expected, getattr(lif, name))
        if model.quantizer == "count" and self.neuron == "lif":
            digits = model.embedding_dim // model.num_codes
            fits = digits * math.log2(self.T + 1) < 31
            needed = (self.T + 1) ** digits if fits else "which is too many: take more num_codes"
            expected = f"(T + 1)^(embedding_dim / num_codes), {needed}, with quantizer=count"
            require(model.codebook_size == needed, "model.codebook_size", expected, model.codebook_size)


@dataclass
class AbsorbingConfig(DenoiserConfig):
    """Stage 2, absorbing diffusion on the tokens of stage 1.

    Attributes:
        model: its network.
        loss: objective of the diffusion.
        distilled_guidance: train the network to give, in one evaluation, the answer of the network in
            `train.start_from` under guidance of this strength; then `sample.guidance` 1 samples guided images. 0
            (default) trains on data.
        distilled_T: spiking steps of that network's prediction without label; None (default): its T.
        sample: defaults of the sampler; its `schedule` is the unmasking schedule.
        stage1: the frozen stage 1, or a stage 2 that holds it: a file, a run folder, or the name of a model that ships,
            such as `mnist-base`; None (default) takes that of `train.start_from`, if it was trained on the same data,
            or else that of the same data, preset and `runs`.
        stage1_sha256: fingerprint of the weights of stage 1; filled in when training starts.
        vq_svae: configuration of stage 1; filled in when training starts.
        tokens_dir: folder in which encoded images are kept; None (default) is `<runs>/<data>/tokens`.
    """

    stage: str = "absorbing"
    model: DenoiserOptions = field(default_factory=DenoiserOptions)
    loss: Annotated[str, OneOf(tuple(LOSSES))] = "masked_ce"
    distilled_guidance: NonNegative = 0.0
    distilled_T: Count | None = None
    sample: AbsorbingSamplerOptions = field(default_factory=AbsorbingSamplerOptions)
    stage1: FilePath | None = None
    stage1_sha256: str | None = None
    vq_svae: VQSVAEConfig | None = None
    tokens_dir: FilePath | None = None

    def __post_init__(self) -> None:
        """Check the fields by themselves and against each other."""
        super().__post_init__()
        steps, expected = self.sample.guidance_T, f"in 1..T, {self.T}, or null, which takes T"
        require(steps is None or steps <= self.T, "sample.guidance_T", expected, steps)
        distilled, teacher_steps = self.distilled_guidance, self.distilled_T
        require(self.conditional or not distilled, "distilled_guidance", "0 without conditional=true", distilled)
        require(distilled or not teacher_steps, "distilled_T", "null without distilled_guidance", teacher_steps)


@dataclass
class GaussianConfig(DenoiserConfig):
    """The Gaussian stage, diffusion on images.

    Attributes:
        model: its network.
        diffusion: noise schedule, prediction and objective.
        sample: defaults of the sampler.
        flips: half of the training images, drawn anew in each epoch, are mirrored left to right; default false.
        val_images: number of images of the validation split that the loss is measured on; a picture made while training
            shows as many, but at most 64.
    """

    stage: str = "gaussian"
    model: UNetOptions = field(default_factory=UNetOptions)
    diffusion: GaussianOptions = field(default_factory=GaussianOptions)
    sample: GaussianSamplerOptions = field(default_factory=GaussianSamplerOptions)
    flips: bool = False
    val_images: Count = 1024


@dataclass
class ClassifierConfig(Config):
    """The classifier that evaluation uses.

    Attributes:
        model: its network.
        augment: augmentation of its training images.
        num_classes: number of labels of the data; filled in when training starts.
    """

    stage: str = "classifier"
    model: ClassifierOptions = field(default_factory=ClassifierOptions)
    augment: AugmentOptions = field(default_factory=AugmentOptions)
    num_classes: Count | None = None


STAGES: dict[str, type[Config]] = {
    "vq_svae": VQSVAEConfig,
    "absorbing": AbsorbingConfig,
    "gaussian": GaussianConfig,
    "classifier": ClassifierConfig,
}
"""Stage -> its configuration."""

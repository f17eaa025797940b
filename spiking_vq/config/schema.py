"""What can be configured: one dataclass a stage, filled from YAML and `key=value` overrides.

A field's name is the constructor's keyword and the YAML key; its annotation says its type and range.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from spiking_vq.diffusion.absorbing_sampler import AbsorbingSamplerOptions
from spiking_vq.diffusion.gaussian_sampler import GaussianSamplerOptions
from spiking_vq.errors import require
from spiking_vq.fields import (
    Bits,
    Count,
    Decay,
    FilePath,
    Natural,
    NonNegative,
    Positive,
    PositiveShare,
    ProperShare,
    Seed,
    Share,
)
from spiking_vq.runtime.precision import PRECISIONS

SCHEDULES = ("constant", "cosine")

STRATEGIES = ("auto", "ddp")

TWINS = ("relu", "quantised")


@dataclass
class LIFOptions:
    """The neuron; see `spiking_vq.neurons.LIF`. The defaults are the published model's (arXiv:2308.10187)."""

    beta: Share = 0.5
    threshold: Positive = 1.0
    learn_beta: bool = False
    learn_threshold: bool = False
    reset: str = "zero"
    detach_reset: bool = False
    scale_input: bool = True
    fire_at_threshold: bool = True
    surrogate: str = "atan"
    surrogate_scale: Positive | None = None


@dataclass
class VQSVAEOptions:
    """Stage 1's network; see `spiking_vq.models.vq_svae.VQSVAE`."""

    channels: list[Count] = field(default_factory=lambda: [32, 64])
    num_residual_blocks: Natural = 0
    embedding_dim: Count = 16
    codebook_size: Count = 128
    encoding: str = "both"
    psp: str = "decay"
    spike_generator: str = "adaptive"
    output: str = "tanh"
    cross_entropy: NonNegative = 0.0
    commitment_cost: NonNegative = 0.25
    ema_decay: Decay = 0.0
    restart_below: NonNegative = 0.0
    normalise_codes: bool = False


@dataclass
class AdversaryOptions:
    """What stage 1 is trained against; see `spiking_vq.models.adversary.PatchAdversary`.

    Attributes:
        weight: of its pull in the autoencoder's loss; 0 for no adversary.
        channels: of its convolutions.
        lr: its peak learning rate; schedule and warm-up are the autoencoder's.
    """

    weight: NonNegative = 0.0
    channels: list[Count] = field(default_factory=lambda: [32, 64, 128])
    lr: Positive = 1e-3


@dataclass
class PerceptualOptions:
    """By whose eyes stage 1 is trained; see `spiking_vq.models.perceptual.PerceptualDistance`.

    Attributes:
        weight: of the distance in the loss; 0 for none.
        classifier: file of the classifier whose features they are; None takes that of the preset `perceptual`, which
            is not the one that judges what is generated.
        classifier_sha256: fingerprint of its weights; filled in when training starts.
    """

    weight: NonNegative = 0.0
    classifier: FilePath | None = None
    classifier_sha256: str | None = None


@dataclass
class DenoiserOptions:
    """Stage 2's network; see `spiking_vq.models.token_denoiser`."""

    denoiser: str = "sdid"
    width: Count | None = None
    num_blocks: Count | None = None
    mixer: str | None = None


@dataclass
class UNetOptions:
    """The continuous stage's network; see `spiking_vq.models.spiking_unet`."""

    unet: str = "sddpm"
    width: Count = 128
    multipliers: list[Count] = field(default_factory=lambda: [1, 2, 2, 4])
    num_blocks: Count = 2
    patch_size: Count = 1


@dataclass
class GaussianOptions:
    """The continuous diffusion; see `spiking_vq.diffusion.gaussian.GaussianDiffusion`."""

    diffusion_steps: Count = 1000
    schedule: str = "linear"
    prediction: str = "noise"
    loss: str = "mse"


@dataclass
class ClassifierOptions:
    """The classifier; see `spiking_vq.models.classifier.Classifier`."""

    channels: list[Count] = field(default_factory=lambda: [32, 64, 128])


@dataclass
class AugmentOptions:
    """How training moves its images; see `spiking_vq.augment.random_affine`. By default not at all."""

    degrees: NonNegative = 0.0
    stretch: NonNegative = 0.0
    shear: NonNegative = 0.0
    shift: NonNegative = 0.0


@dataclass
class TrainOptions:
    """How to train.

    Attributes:
        batch_size: images a step, on all devices together.
        lr: peak learning rate of AdamW.
        weight_decay: of AdamW, on all parameters.
        schedule: `constant`, or `cosine` from `lr` to 0 at the end of the run.
        warmup_steps: steps over which the learning rate rises linearly to `lr`.
        max_epochs, max_steps: length of the run; the shorter of the two where both are given.
        ema_decay: decay a step of the weights' moving average, in [0, 1); 0 keeps none. Where there is one it is
            validated and exported.
        val_every: steps between validations.
        save_every: steps between writes of `last.ckpt`.
        grad_clip: largest norm of the gradient of all parameters together; 0 leaves it as it is.
        start_from: file of a trained model, or a checkpoint in its run folder, whose weights to start from, to
            fine-tune it; None starts anew. After other data its labels begin anew, and a stage 2 needs a stage 1 that
            was fine-tuned from its own.
        start_from_sha256: fingerprint of these weights; filled in when training starts.
        compile: compile the kernels with `torch.compile` where there is a compiler (see `spiking_vq.compiling`), and
            use `spiking_vq.winograd`; else run them as they are.
    """

    batch_size: Count = 32
    lr: Positive = 1e-3
    weight_decay: NonNegative = 1e-3
    schedule: str = "constant"
    warmup_steps: Natural = 0
    max_epochs: Count | None = None
    max_steps: Count | None = None
    ema_decay: Decay = 0.0
    val_every: Count = 500
    save_every: Count = 100
    grad_clip: NonNegative = 0.0
    start_from: FilePath | None = None
    start_from_sha256: str | None = None
    compile: bool = False


@dataclass
class TrainerOptions:
    """On how many devices to train.

    Attributes:
        devices: number of processes, each with its share of every batch; on `cpu` they share the cores.
        strategy: `ddp`, Lightning's distributed data parallel; or `auto`, which takes it for several devices.
        sync_batchnorm: batch norm sees the whole batch, not each device its share: the result is that of one device,
            for one exchange more a layer each way.
    """

    devices: Count = 1
    strategy: str = "auto"
    sync_batchnorm: bool = False


@dataclass
class Config:
    """What all stages have in common.

    Attributes:
        stage: which stage this configures.
        preset: name of the YAML file it came from.
        data: name of the data set.
        image_size: resize the images to this square; None keeps the data's own size.
        image_shape: (C, H, W) that follows from the data; filled in when training starts.
        seed: of weights, batches and noise.
        train: how to train.
        trainer: on how many devices.
        precision: `fp32`, `bf16` (autocast; membranes and parameters stay fp32) or `fp64`.
        device: torch's name of the device, such as `cpu` or `cuda`.
        data_dir: folder of the data sets.
        runs: folder of the run folders.
    """

    stage: str = ""
    preset: str = ""
    data: str = "mnist"
    image_size: Count | None = None
    image_shape: list[Count] | None = None
    seed: Seed = 0
    train: TrainOptions = field(default_factory=TrainOptions)
    trainer: TrainerOptions = field(default_factory=TrainerOptions)
    precision: str = "fp32"
    device: str = "cpu"
    data_dir: FilePath = "data"
    runs: FilePath = "runs"


@dataclass
class RateOptions:
    """Training to fire less.

    Attributes:
        target: mean firing rate of all neurons, in (0, 1].
        weight: of what the rate of a batch exceeds the target by, in the loss; 0 leaves the rate as it comes.
    """

    target: PositiveShare = 0.15
    weight: NonNegative = 0.0


@dataclass
class SpikingConfig(Config):
    """What all networks that spike have in common.

    Attributes:
        T: spiking steps.
        early_T: spiking steps in the first part of training, which cost so much less; None takes T from the start.
        early_part: how much of training that is, in [0, 1].
        neuron: `lif`; or one of `TWINS`, which do not spike, at T = 1: `relu`, `quantised` to activations of few bits.
        activation_bits: of `quantised`; by default as many as the number of spikes in the preset's T steps takes.
        lif: the neuron's options.
        tsm: every neuron layer learns a scale of its input current for each of the T steps.
        rate: how much it may fire.
    """

    T: Count = 16
    early_T: Count | None = None
    early_part: Share = 0.0
    neuron: str = "lif"
    activation_bits: Bits | None = None
    lif: LIFOptions = field(default_factory=LIFOptions)
    tsm: bool = False
    rate: RateOptions = field(default_factory=RateOptions)


@dataclass
class DenoiserConfig(SpikingConfig):
    """What both diffusions have in common.

    Attributes:
        conditional: the network is told the label of an image, so that it can be asked for one.
        label_dropout: how often in training it is told none, in (0, 1): sampling without a label, and guidance, need it
            to know both.
        styles: of each label, a power of two: the network is also told roughly what an image looks like, which the
            sampler draws (see `spiking_vq.styles`); 1 for labels alone.
        num_classes: number of labels of the data, where the network is told; filled in when training starts.
        label_counts: training images of each label, likewise; None, in files of before, is as many of each. The sampler
            draws labels as often as the training images have them.
    """

    conditional: bool = False
    label_dropout: ProperShare = 0.1
    styles: Count = 1
    num_classes: Count | None = None
    label_counts: list[Natural] | None = None

    @property
    def labels(self) -> list[int]:
        """Those that a network which is told labels saw images of."""
        return [label for label, count in enumerate(self.counts) if count > 0]

    @property
    def counts(self) -> list[int]:
        """`label_counts`, or ones."""
        return self.label_counts or [1] * self.num_classes


@dataclass
class VQSVAEConfig(SpikingConfig):
    """Stage 1.

    Attributes:
        judge_every: the classifier and the adversary see one of so many images of each batch: they cost more than the
            autoencoder does in few spiking steps.
    """

    stage: str = "vq_svae"
    model: VQSVAEOptions = field(default_factory=VQSVAEOptions)
    judge_every: Count = 1
    perceptual: PerceptualOptions = field(default_factory=PerceptualOptions)
    adversary: AdversaryOptions = field(default_factory=AdversaryOptions)


@dataclass
class AbsorbingConfig(DenoiserConfig):
    """Stage 2.

    Attributes:
        loss: objective of the diffusion, `elbo`, `reweighted` or `masked_ce`.
        sample: defaults of the sampler.
        stage1: file of the frozen stage 1, or one of a stage 2 that holds it; None takes that of `train.start_from`, if
            it was trained on the same data, or else the one in the run folder of the same data and preset.
        stage1_sha256: fingerprint of its weights; filled in when training starts.
        vq_svae: its configuration; likewise.
        tokens_dir: folder in which encoded images are kept; None is `<runs>/<data>/tokens`.
        moved_copies: beside every training image so many copies of it are learnt, each moved in its own way: few images
            are learnt by heart otherwise.
        augment: how they are moved.
    """

    stage: str = "absorbing"
    model: DenoiserOptions = field(default_factory=DenoiserOptions)
    loss: str = "masked_ce"
    sample: AbsorbingSamplerOptions = field(default_factory=AbsorbingSamplerOptions)
    stage1: FilePath | None = None
    stage1_sha256: str | None = None
    vq_svae: VQSVAEConfig | None = None
    tokens_dir: FilePath | None = None
    moved_copies: Natural = 0
    augment: AugmentOptions = field(default_factory=AugmentOptions)


@dataclass
class GaussianConfig(DenoiserConfig):
    """The continuous stage.

    Attributes:
        diffusion: schedule, prediction and objective.
        sample: defaults of the sampler.
        val_images: of the validation split, on so many is the loss measured; a picture while training shows up to 64.
    """

    stage: str = "gaussian"
    model: UNetOptions = field(default_factory=UNetOptions)
    diffusion: GaussianOptions = field(default_factory=GaussianOptions)
    sample: GaussianSamplerOptions = field(default_factory=GaussianSamplerOptions)
    val_images: Count = 1024


@dataclass
class ClassifierConfig(Config):
    """The classifier that evaluation uses.

    Attributes:
        augment: how its training images are moved.
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


def check_values(config: Config) -> None:
    train, trainer = config.train, config.trainer
    share = f"a multiple of trainer.devices, {trainer.devices}"
    checks = [
        (config.precision in PRECISIONS, "precision", f"one of {', '.join(PRECISIONS)}", config.precision),
        (train.schedule in SCHEDULES, "train.schedule", f"one of {', '.join(SCHEDULES)}", train.schedule),
        (trainer.strategy in STRATEGIES, "trainer.strategy", f"one of {', '.join(STRATEGIES)}", trainer.strategy),
        (train.batch_size % trainer.devices == 0, "train.batch_size", share, train.batch_size),
        (config.image_shape is None or len(config.image_shape) == 3, "image_shape", "[C, H, W]", config.image_shape),
    ]
    if isinstance(config, SpikingConfig):
        checks += [
            (not config.tsm or config.neuron == "lif", "tsm", f"false with neuron={config.neuron}", config.tsm),
            (
                config.neuron not in TWINS or config.early_T in (None, 1),
                "early_T",
                f"1 with neuron={config.neuron}",
                config.early_T,
            ),
            (not (config.tsm and config.early_T), "early_T", "null with tsm, whose scales are T", config.early_T),
            (
                not config.rate.weight or config.neuron == "lif",
                "rate.weight",
                f"0 with neuron={config.neuron}",
                config.rate.weight,
            ),
            (config.neuron not in TWINS or config.T == 1, "T", f"1 with neuron={config.neuron}", config.T),
            (
                (config.neuron == "quantised") == (config.activation_bits is not None),
                "activation_bits",
                "in 1..16 with neuron=quantised, and left out otherwise",
                config.activation_bits,
            ),
        ]
    if isinstance(config, DenoiserConfig):
        checks += [
            (config.styles.bit_count() == 1, "styles", "a power of two", config.styles),
            (config.conditional or config.styles == 1, "styles", "1 without conditional=true", config.styles),
            (
                config.conditional or not config.sample.guidance,
                "sample.guidance",
                "0 without conditional=true",
                config.sample.guidance,
            ),
        ]
    if isinstance(config, AbsorbingConfig):
        sample = config.sample
        steps = sample.sample_steps
        checks += [
            (
                steps is None or sample.remask_calls < steps,
                "sample.remask_calls",
                "less than sample.sample_steps",
                sample.remask_calls,
            ),
            (
                sample.guidance_T is None or sample.guidance_T <= config.T,
                "sample.guidance_T",
                f"in 1..T, {config.T}, or null, which takes T",
                sample.guidance_T,
            ),
            (
                bool(config.moved_copies) == (config.augment != AugmentOptions()),
                "moved_copies",
                "at least 1 with augment.degrees, stretch, shear or shift above 0, and 0 without",
                config.moved_copies,
            ),
        ]
    for holds, name, expected, got in checks:
        require(holds, f"configuration field {name}", expected, got)
    if isinstance(config, AbsorbingConfig) and config.vq_svae is not None:
        require(config.vq_svae.stage == "vq_svae", "configuration field vq_svae.stage", "vq_svae", config.vq_svae.stage)
        check_values(config.vq_svae)

"""Groups of options within a configuration; see `spiking_vq.config.schema`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from spiking_vq.diffusion.gaussian import LOSSES, PREDICTIONS, SCHEDULES
from spiking_vq.fields import (
    Count,
    Decay,
    FilePath,
    Natural,
    NonNegative,
    OneOf,
    Positive,
    PositiveShare,
    Share,
    check_fields,
)
from spiking_vq.models.quantizers import QUANTIZERS
from spiking_vq.models.spike_encoding import ENCODINGS, PSPS
from spiking_vq.models.spike_generators import SPIKE_GENERATORS
from spiking_vq.models.token_denoiser import MIXERS
from spiking_vq.models.vq_svae import OUTPUTS
from spiking_vq.neurons.dynamics import RESETS
from spiking_vq.neurons.surrogates import SURROGATES


class OptionGroup:
    """A group of options that checks the types and ranges of its fields."""

    __post_init__ = check_fields


@dataclass
class LIFOptions(OptionGroup):
    """Options of the neuron; see `spiking_vq.neurons.lif.LIF`.

    Attributes:
        beta: membrane decay per step; 1 is integrate-and-fire.
        threshold: firing threshold.
        learn_beta: train beta, one value for each layer.
        learn_threshold: train the threshold, one value for each layer.
        reset: `zero`, `subtract` the threshold, or `delayed_subtract`, one step later, as snnTorch does.
        detach_reset: stop the gradient through the spike in the reset.
        scale_input: multiply the input by 1 - beta.
        fire_at_threshold: a membrane exactly at the threshold fires.
        surrogate: name of the surrogate gradient.
        surrogate_scale: alpha, slope or width of the surrogate; None (default) takes the surrogate's own default.
    """

    beta: Share = 0.5
    threshold: Positive = 1.0
    learn_beta: bool = False
    learn_threshold: bool = False
    reset: Annotated[str, OneOf(RESETS)] = "zero"
    detach_reset: bool = False
    scale_input: bool = False
    fire_at_threshold: bool = False
    surrogate: Annotated[str, OneOf(tuple(SURROGATES))] = "atan"
    surrogate_scale: Positive | None = None


@dataclass
class VQSVAEOptions(OptionGroup):
    """Network of stage 1; see `spiking_vq.models.vq_svae.VQSVAE`.

    Attributes:
        channels: widths after the stride-2 convolutions, each of which halves the image.
        num_residual_blocks: residual blocks at the resolution of the tokens, in encoder and decoder each.
        decoder_channels: widths of the decoder, as `channels`; null (default) mirrors them.
        decoder_blocks: residual blocks of the decoder at each resolution, from the tokens' to the image's; null
            (default) is num_residual_blocks at the tokens'.
        quantizer: `vq`, one code a position; `product`, codes of slices of the vector; `residual`, coarse to fine; or
            `count`, the spike counts themselves.
        num_codes: G, number of codes a position.
        embedding_dim: D, length of the vector of a position.
        codebook_size: K, number of classes of each code; of `count` (T + 1)^(D / G).
        encoding: of spike trains: firing rate, postsynaptic potential (PSP) or both.
        psp: PSP with decay 0.8 per step, as in the authors' program, or the paper's `trace`.
        spike_generator: spikes of a code vector.
        output: last function of the decoder.
        cross_entropy: weight of the binary cross-entropy of the pixels; needs output=sigmoid.
        commitment_cost: weight of the term that ties the encoder to its codes.
        ema_decay: decay per batch of the codes' moving averages; 0 (default) trains the codes by gradient.
        restart_below: codes used by fewer vectors per batch start anew; 0 (default) never. Needs model.ema_decay.
    """

    channels: list[Count] = field(default_factory=lambda: [32, 64])
    num_residual_blocks: Natural = 0
    decoder_channels: list[Count] | None = None
    decoder_blocks: list[Natural] | None = None
    quantizer: Annotated[str, OneOf(tuple(QUANTIZERS))] = "vq"
    num_codes: Count = 1
    embedding_dim: Count = 16
    codebook_size: Count = 128
    encoding: Annotated[str, OneOf(ENCODINGS)] = "both"
    psp: Annotated[str, OneOf(PSPS)] = "decay"
    spike_generator: Annotated[str, OneOf(tuple(SPIKE_GENERATORS))] = "adaptive"
    output: Annotated[str, OneOf(tuple(OUTPUTS))] = "tanh"
    cross_entropy: NonNegative = 0.0
    commitment_cost: NonNegative = 0.25
    ema_decay: Decay = 0.0
    restart_below: NonNegative = 0.0


@dataclass
class PerceptualOptions(OptionGroup):
    """Perceptual loss of stage 1; see `spiking_vq.models.critics.PerceptualDistance`.

    Attributes:
        weight: of the perceptual distance in the loss; 0 (default) trains without it.
        classifier: file of the classifier whose features are compared; None (default) takes the one of preset
            `perceptual`, which is not the classifier that evaluates samples.
        classifier_sha256: fingerprint of its weights; filled in when training starts.
    """

    weight: NonNegative = 0.0
    classifier: FilePath | None = None
    classifier_sha256: str | None = None


@dataclass
class AdversaryOptions(OptionGroup):
    """Discriminator of stage 1; see `spiking_vq.models.critics.PatchAdversary`.

    Attributes:
        weight: of the adversarial term in the autoencoder's loss; 0 (default) trains without a discriminator.
        channels: of its convolutions.
        lr: its peak learning rate; learning-rate schedule and warm-up are the autoencoder's.
    """

    weight: NonNegative = 0.0
    channels: list[Count] = field(default_factory=lambda: [32, 64, 128])
    lr: Positive = 1e-3


@dataclass
class DenoiserOptions(OptionGroup):
    """Network of stage 2; see `spiking_vq.models.sdid.SDID` and `spiking_vq.models.token_denoiser.TokenDenoiser`.

    Attributes:
        denoiser: `sdid`, the paper's, or `token`, ours.
        width: number of channels; None (default) takes the network's own default.
        num_blocks: number of residual blocks of `token`; None (default) takes the network's own default.
        mixer: mixing over the positions in `token`; None (default) takes the network's own default.
    """

    denoiser: Annotated[str, OneOf(("sdid", "token"))] = "sdid"
    width: Count | None = None
    num_blocks: Count | None = None
    mixer: Annotated[str, OneOf(tuple(MIXERS))] | None = None


@dataclass
class UNetOptions(OptionGroup):
    """Network of the Gaussian stage; see `spiking_vq.models.sddpm.SDDPMUNet` and `spiking_vq.models.fsddim.FSDDIMUNet`.

    Attributes:
        unet: `sddpm` or `fsddim`.
        width: channels of the first level.
        multipliers: width of each level, in units of the first.
        num_blocks: residual blocks of each level.
        patch_size: side of the squares of pixels that become channels; 1 (default) works on pixels.
    """

    unet: Annotated[str, OneOf(("sddpm", "fsddim"))] = "sddpm"
    width: Count = 128
    multipliers: list[Count] = field(default_factory=lambda: [1, 2, 2, 4])
    num_blocks: Count = 2
    patch_size: Count = 1


@dataclass
class GaussianOptions(OptionGroup):
    """Gaussian diffusion; see `spiking_vq.diffusion.gaussian.GaussianDiffusion`.

    Attributes:
        diffusion_steps: N, number of diffusion times.
        schedule: of the noise.
        prediction: of the network.
        loss: objective; `synaptic_current` is that of unet=fsddim.
    """

    diffusion_steps: Count = 1000
    schedule: Annotated[str, OneOf(tuple(SCHEDULES))] = "linear"
    prediction: Annotated[str, OneOf(PREDICTIONS)] = "noise"
    loss: Annotated[str, OneOf(LOSSES)] = "mse"


@dataclass
class ClassifierOptions(OptionGroup):
    """Network of the classifier; see `spiking_vq.models.classifier.Classifier`.

    Attributes:
        channels: of its convolutions; each but the first halves the image.
    """

    channels: list[Count] = field(default_factory=lambda: [32, 64, 128])


@dataclass
class AugmentOptions(OptionGroup):
    """Augmentation of training images by random affine maps; see `spiking_vq.data.augment`. The default is none.

    Attributes:
        degrees: largest angle of rotation.
        stretch: largest logarithm of the factors that scale height and width.
        shear: largest shift of rows against each other.
        shift: largest shift of the image, as a share of its size.
    """

    degrees: NonNegative = 0.0
    stretch: NonNegative = 0.0
    shear: NonNegative = 0.0
    shift: NonNegative = 0.0


@dataclass
class RateOptions(OptionGroup):
    """Firing-rate penalty.

    Attributes:
        target: mean firing rate of all neurons.
        weight: of the excess of a batch's firing rate over the target, in the loss; 0 (default) is no penalty.
    """

    target: PositiveShare = 0.15
    weight: NonNegative = 0.0


@dataclass
class TrainOptions(OptionGroup):
    """Training: optimiser, length, validation.

    Attributes:
        batch_size: images per step, on all devices together.
        lr: peak learning rate of AdamW.
        weight_decay: of AdamW, on all parameters.
        schedule: of the learning rate: `constant`, or `cosine` from `lr` to 0 at the end of the run.
        warmup_steps: steps over which the learning rate rises linearly to `lr`.
        max_epochs: length of the run in passes over the training images.
        max_steps: length of the run in steps; of the two, the shorter ends it.
        ema_decay: decay per step of the moving average of the weights, which is validated and exported; 0 (default)
            keeps none.
        val_every: steps between validations.
        save_every: steps between writes of `last.ckpt`.
        grad_clip: largest norm of the gradient of all parameters together; 0 (default) does not clip.
        start_from: trained model whose weights to fine-tune: a file, a checkpoint in its run folder, that folder, or
            the name of a model that ships, such as `mnist`; None (default) starts from random weights. On other data
            the label embeddings start anew, and stage 2 needs a stage 1 that was fine-tuned from the same file's.
        start_from_sha256: fingerprint of these weights; filled in when training starts.
        compile: use `torch.compile`, where there is a compiler, and Winograd convolutions.
    """

    batch_size: Count = 32
    lr: Positive = 1e-3
    weight_decay: NonNegative = 1e-3
    schedule: Annotated[str, OneOf(("constant", "cosine"))] = "constant"
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
class TrainerOptions(OptionGroup):
    """Devices to train on.

    Attributes:
        devices: number of processes, each with its share of every batch; on `cpu` they share the cores.
        strategy: `ddp`, Lightning's distributed data parallel; or `auto` (default): `ddp` for several devices.
        sync_batchnorm: batch norm uses the statistics of the whole batch, not of each device's share: the result is
            that of one device, for one more exchange per layer forward and backward.
    """

    devices: Count = 1
    strategy: Annotated[str, OneOf(("auto", "ddp"))] = "auto"
    sync_batchnorm: bool = False

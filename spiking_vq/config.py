"""What can be configured: one dataclass a stage, filled from YAML and `key=value` overrides.

A field's name is the constructor's keyword and the YAML key; its annotation says its type and range.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

from spiking_vq.errors import InputError, require
from spiking_vq.precision import PRECISIONS
from spiking_vq.values import FROM_FILE, FROM_TEXT, Range, checked_seed, expanded, read_path, value_of
from spiking_vq.yaml_files import read_yaml, to_yaml

SCHEDULES = ("constant", "cosine")
STRATEGIES = ("auto", "ddp")
TWINS = ("relu", "quantised")

Count = Annotated[int, Range("at least 1", lambda value: value >= 1)]
Natural = Annotated[int, Range("at least 0", lambda value: value >= 0)]
Bits = Annotated[int, Range("in 1..16", lambda value: 1 <= value <= 16)]
Seed = Annotated[int, checked_seed]
Positive = Annotated[float, Range("greater than 0", lambda value: value > 0)]
NonNegative = Annotated[float, Range("at least 0", lambda value: value >= 0)]
Share = Annotated[float, Range("in [0, 1]", lambda value: 0 <= value <= 1)]
PositiveShare = Annotated[float, Range("in (0, 1]", lambda value: 0 < value <= 1)]
ProperShare = Annotated[float, Range("between 0 and 1", lambda value: 0 < value < 1)]
Decay = Annotated[float, Range("in [0, 1)", lambda value: 0 <= value < 1)]
FilePath = Annotated[str, expanded]


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
class SampleOptions:
    """Defaults of `sample`, which travel with the weights; see `AbsorbingDiffusion.sample`.

    `guidance` is for networks that know labels: 0 asks for none, above 0 labels are drawn where none is asked for.
    `guidance_T` is the number of spiking steps of the answer without a label, which guidance departs from: it need not
    be as good as the other, and costs so much less; None takes T.
    """

    sample_steps: Count | None = None
    order: str = "random"
    temperature: NonNegative = 1.0
    last_temperature: NonNegative | None = None
    top_p: PositiveShare = 1.0
    remask_calls: Natural = 0
    schedule: str = "linear"
    guidance: NonNegative = 0.0
    guidance_T: Count | None = None


@dataclass
class GaussianSampleOptions:
    """Defaults of `sample`, which travel with the weights; see `GaussianDiffusion.trajectory`.

    The images are multiplied about mid-grey by `contrast`; `threshold_shift` is added to every neuron's threshold while
    sampling (threshold guidance); `guidance` is that of `SampleOptions`.
    """

    sample_steps: Count | None = None
    sampler: str = "ddim"
    eta: Share = 0.0
    contrast: Positive = 1.0
    threshold_shift: float = 0.0
    guidance: NonNegative = 0.0


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
    sample: SampleOptions = field(default_factory=SampleOptions)
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
    sample: GaussianSampleOptions = field(default_factory=GaussianSampleOptions)
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

RETIRED = {"persistent": False}
"""Fields of older files that no longer exist -> the one value with which such a file can still be used."""

# Where things are and what computes them does not change what is computed: a run may move.
_PLACES = ("data_dir", "runs", "tokens_dir", "device", "stage1", "strategy", "start_from", "classifier")

# Filled in when training starts.
_DERIVED = (
    "vq_svae.",
    "stage1_sha256",
    "train.start_from_sha256",
    "perceptual.classifier_sha256",
    "image_shape",
    "num_classes",
    "label_counts",
)


def load_config(stage: str, path: str | Path, overrides: Iterable[str] = ()) -> Config:
    """The configuration of a stage: its defaults, then a YAML file, then overrides.

    Args:
        stage: a key of `STAGES`.
        path: YAML file that holds only what differs from the defaults, or from the preset beside it that `extends`
            names; its own name is the preset's.
        overrides: `key=value` strings; nested fields are dotted, as in `train.lr=1e-3`.

    Raises:
        InputError: unreadable YAML, an unknown key (the nearest one is suggested), a value of the wrong type or range.
    """
    given: dict[str, str] = {}
    for text in overrides:
        key, separator, value = text.partition("=")
        if not separator:
            raise InputError(f"an override is key=value, such as train.lr=1e-3; got {text!r}")
        if value or key not in given:
            given[key] = value
    _check_keys(stage, given, derived=False)
    path = Path(path)
    preset = _merged(*_read_preset(stage, path))
    chosen = _typed(STAGES[stage], _nested({key: value for key, value in given.items() if value}), FROM_TEXT)
    twin = _as_twin(chosen.get("neuron", preset.get("neuron")), preset)
    return _built(stage, {"preset": path.stem}, preset, twin, chosen)


def twin_bits(num_steps: int) -> int:
    """`ceil(log2(T + 1))`: bits that the number of spikes in T steps takes."""
    return num_steps.bit_length()


def _read_preset(stage: str, path: Path, extended_by: Sequence[Path] = ()) -> list[dict[str, Any]]:
    """The layers of a preset: what it extends first."""
    values = read_yaml(path)
    base = values.pop("extends", None)
    if path in extended_by:
        raise InputError(f"{path} extends itself: {' -> '.join(file.stem for file in [*extended_by, path])}")
    try:
        _check_keys(stage, values, derived=False)
        layer = _typed(STAGES[stage], values, FROM_FILE)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return [*(_read_preset(stage, path.parent / f"{base}.yaml", [*extended_by, path]) if base else []), layer]


def _as_twin(neuron: str | None, preset: Mapping[str, Any]) -> dict[str, Any]:
    """What follows from a neuron that does not spike: no time, no rate, and bits for the spikes in so many steps."""
    if neuron not in TWINS:
        return {}
    bits = {"activation_bits": twin_bits(preset.get("T", SpikingConfig.T))} if neuron == "quantised" else {}
    early = {"early_T": None} if "early_T" in preset else {}
    guided = {"sample": {"guidance_T": None}} if "guidance_T" in preset.get("sample", {}) else {}
    return {"T": 1, "rate": {"weight": 0.0}} | early | guided | bits


def config_from_dict(values: Mapping[str, Any]) -> Config:
    """The configuration that `asdict` turned into `values`; `values["stage"]` says of which stage.

    Raises:
        InputError: unknown stage or key, or a value of the wrong type or range.
    """
    stage, values = values.get("stage", ""), _without_retired(values)
    _check_keys(stage, values, derived=True)
    return _built(stage, _typed(STAGES[stage], values, FROM_FILE))


def _without_retired(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a file, which may be older, without the fields in `RETIRED`.

    Raises:
        InputError: one of them was in use.
    """
    kept = {}
    for key, value in values.items():
        if key in RETIRED:
            require(value == RETIRED[key], f"configuration field {key}, which no longer exists,", RETIRED[key], value)
        else:
            kept[key] = _without_retired(value) if isinstance(value, Mapping) else value
    return kept


def save_config(config: Config, path: str | Path) -> None:
    """Write the whole configuration as YAML."""
    read_path("path", path).write_text(to_yaml(asdict(config)), encoding="utf-8")


def read_config(path: str | Path) -> Config:
    """Read what `save_config` wrote."""
    values = read_yaml(path)
    try:
        return config_from_dict(values)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def differences(old: Config, new: Config, incomplete: bool = False) -> list[str]:
    """Lines `key: old -> new` for all that differs, apart from places (folders, device).

    The number of devices is a place only if batch norm sees the whole batch on any number.

    Args:
        old: the first configuration.
        new: the second.
        incomplete: `new` is not filled in yet: fields that are None in it are not compared.
    """
    old_values, new_values = _flatten(asdict(old)), _flatten(asdict(new))
    places = (*_PLACES, "devices") if new.trainer.sync_batchnorm else _PLACES
    keys = [key for key in old_values | new_values if key.split(".")[-1] not in places]
    return [
        f"{key}: {old_values.get(key)} -> {new_values.get(key)}"
        for key in keys
        if old_values.get(key) != new_values.get(key) and not (incomplete and new_values.get(key) is None)
    ]


def without_places(config: Config) -> Config:
    """The configuration with folders and device as by default, for a file that leaves this machine."""
    defaults = asdict(STAGES[config.stage]())
    places = {key: defaults[key] for key in _PLACES if key in defaults}
    places["trainer"] = replace(config.trainer, devices=1, strategy="auto")
    places["train"] = replace(config.train, start_from=None)
    if isinstance(config, VQSVAEConfig):
        places["perceptual"] = replace(config.perceptual, classifier=None)
    if isinstance(config, AbsorbingConfig) and config.vq_svae is not None:
        places["vq_svae"] = without_places(config.vq_svae)
    return replace(config, **places)


def config_hash(config: Config) -> str:
    """SHA-256 of all that a configuration says, but for places."""
    return hashlib.sha256(json.dumps(asdict(without_places(config)), sort_keys=True).encode()).hexdigest()


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """`{"train.lr": 1}` as `{"train": {"lr": 1}}`."""
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *groups, leaf = key.split(".")
        inner = nested
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[leaf] = value
    return nested


def _typed(
    cls: type, values: Mapping[str, Any], readers: Mapping[type, Callable[..., Any]], prefix: str = ""
) -> dict[str, Any]:
    """Values of known fields of a configuration class, each of its field's type and in its range."""
    hints, typed = get_type_hints(cls, include_extras=True), {}
    for key, value in values.items():
        group = _group(hints[key])
        if group is None:
            typed[key] = value_of(f"configuration field {prefix}{key}", value, hints[key], readers)
        elif value:
            typed[key] = _typed(group, value, readers, f"{prefix}{key}.")
    return typed


def _merged(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """The layers as one; what comes later counts."""
    merged: dict[str, Any] = {}
    for key, value in (item for layer in layers for item in layer.items()):
        merged[key] = _merged(merged.get(key, {}), value) if isinstance(value, Mapping) else value
    return merged


def _built(stage: str, *layers: Mapping[str, Any]) -> Config:
    """The defaults of a stage with layers of typed values on top."""
    config = _as_dataclass(STAGES[stage], _merged(*layers))
    require(config.stage == stage, "configuration field stage", stage, config.stage)
    _check_values(config)
    return config


def _as_dataclass(cls: type, values: Mapping[str, Any]) -> Any:
    groups = {key: _group(hint) for key, hint in get_type_hints(cls).items()}
    return cls(**{key: _as_dataclass(groups[key], value) if groups[key] else value for key, value in values.items()})


def _group(hint: Any) -> type | None:
    """The configuration class that a field of this type holds, or may hold."""
    return next((part for part in (hint, *get_args(hint)) if is_dataclass(part)), None)


def _check_keys(stage: str, values: Mapping[str, Any], derived: bool) -> None:
    """See that the stage exists and has all these fields; those filled in when training starts only where `derived`."""
    if not isinstance(stage, str) or stage not in STAGES:
        raise InputError(f"unknown stage {stage!r}: choose one of {', '.join(STAGES)}")
    known = [name for name in _field_names(STAGES[stage]) if derived or not name.startswith(_DERIVED)]
    for key, value in _flatten(values).items():
        group = [name for name in known if name.startswith(f"{key}.")]
        if key in known or (group and value in (None, "", {})):
            continue
        if group:
            raise InputError(f"configuration field {key} is a group: set one of {', '.join(group)}; got {value}")
        leaf = key.split(".")[-1]
        near = [name for name in known if name.split(".")[-1] == leaf]
        near = near or difflib.get_close_matches(key, known, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"the fields are {', '.join(known)}"
        raise InputError(f"unknown configuration field {key!r}: {hint}")


def _check_values(config: Config) -> None:
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
        _check_values(config.vq_svae)


def _field_names(cls: type, prefix: str = "") -> list[str]:
    """Dotted names of all leaves of a configuration class."""
    names = []
    for name, hint in get_type_hints(cls).items():
        group = _group(hint)
        names += _field_names(group, f"{prefix}{name}.") if group else [prefix + name]
    return names


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat

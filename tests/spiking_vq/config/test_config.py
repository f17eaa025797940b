import json
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path
from types import NoneType
from typing import get_args, get_type_hints

import pytest

from spiking_vq.checkpoint.build import build_model
from spiking_vq.config.compare import differences, portable
from spiking_vq.config.load import DERIVED, config_from_dict, load_config, read_config, save_config, twin_bits
from spiking_vq.config.options import LIFOptions, TrainOptions
from spiking_vq.config.schema import STAGES, AbsorbingConfig, VQSVAEConfig
from spiking_vq.config.yaml_files import read_yaml, to_yaml
from spiking_vq.errors import LARGEST_SEED, InputError

CONFIGS = Path(__file__).parents[3] / "configs"
PRESETS = sorted(path for stage in STAGES for path in (CONFIGS / stage).glob("*.yaml"))
PAPER = CONFIGS / "vq_svae" / "paper.yaml"


def load(*overrides):
    return load_config("vq_svae", PAPER, overrides)


def write(folder, text):
    path = folder / "mine.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


# ---------------------------------------------------------------- every preset


def test_there_are_presets():
    assert {"vq_svae/paper.yaml", "vq_svae/base.yaml"} <= {str(path.relative_to(CONFIGS)) for path in PRESETS}


@pytest.mark.parametrize("image_shape", [[1, 28, 28], [3, 32, 32]])
@pytest.mark.parametrize("path", PRESETS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_preset_builds(path, image_shape):
    config = load_config(path.parent.name, path)
    if config.image_size:
        image_shape = [image_shape[0], config.image_size, config.image_size]
    assert (config.stage, config.preset) == (path.parent.name, path.stem)
    config.image_shape = image_shape
    if config.stage == "classifier" or getattr(config, "conditional", False):
        config.num_classes = 26
    if config.stage == "absorbing":
        own = CONFIGS / "vq_svae" / path.name
        config.vq_svae = load_config("vq_svae", own if own.exists() else CONFIGS / "vq_svae/base.yaml")
        config.vq_svae.image_shape = image_shape
        assert build_model(config).vq_svae.grid == (image_shape[1] // 4, image_shape[2] // 4)
    else:
        assert build_model(config).image_shape == tuple(image_shape)


# ---------------------------------------------------------------- overrides


def test_defaults_then_file_then_overrides(tmp_path):
    path = write(tmp_path, "T: 8\ntrain:\n  lr: 0.5\n  max_steps: 10\n")
    config = load_config("vq_svae", path, ["train.lr=0.25", "model.channels=[8,16]", "lif.surrogate_scale=3"])
    assert config.seed == 0  # default
    assert (config.T, config.train.max_steps, config.preset) == (8, 10, "mine")  # file
    assert (config.train.lr, config.model.channels, config.lif.surrogate_scale) == (0.25, [8, 16], 3)  # overrides
    assert load_config("vq_svae", path, ["T=3", "image_size=null"]).T == 3


def test_config_holds_plain_values():
    config = load("model.channels=[8,16]")
    assert type(config.model.channels) is list
    assert type(asdict(config)["train"]) is dict


@pytest.mark.parametrize(
    ("stage", "override", "suggestion"),
    [
        ("vq_svae", "max_steps=3", "train.max_steps"),
        ("vq_svae", "trian.lr=3", "train.lr"),
        ("vq_svae", "train.batchsize=3", "train.batch_size"),
        ("vq_svae", "ema_decay=0.9", "train.ema_decay or model.ema_decay"),
        ("vq_svae", "sed=3", "seed"),
        ("absorbing", "sample_step=3", "sample.sample_steps"),
        ("absorbing", "vq_svae.T=3", "T"),
    ],
)
def test_unknown_key_suggests_the_nearest(stage, override, suggestion):
    with pytest.raises(InputError) as caught:
        load_config(stage, CONFIGS / stage / "paper.yaml", [override])
    message = str(caught.value)
    assert repr(override.split("=")[0]) in message
    assert f"did you mean {suggestion}" in message


def test_unknown_key_with_nothing_near_lists_the_fields():
    with pytest.raises(InputError, match=r"the fields are .*train\.lr"):
        load("zzzzzzzz=1")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("T=four", ["T", "four"]),
        ("T=4.5", ["T", "4.5"]),
        ("T=0", ["T", "at least 1", "0"]),
        ("precision=fp16", ["precision", "fp32, bf16", "fp16"]),
        ("train.schedule=step", ["train.schedule", "constant, cosine", "step"]),
        ("train.lr=0", ["train.lr", "greater than 0"]),
        ("train.lr=nan", ["train.lr", "nan"]),
        ("train.lr=fast", ["train.lr", "fast"]),
        ("train.ema_decay=1", ["train.ema_decay", "[0, 1)"]),
        ("train.val_every=0", ["train.val_every", "at least 1"]),
        ("train.save_every=0", ["train.save_every", "at least 1"]),
        ("train.max_steps=0", ["at least 1"]),
        ("train.weight_decay=-1", ["train.weight_decay", "at least 0"]),
        ("train.warmup_steps=-1", ["train.warmup_steps", "at least 0"]),
        ("judge_every=1", ["unknown configuration field", "judge_every"]),
        ("train.batch_size=2147483648", ["configuration field train.batch_size", "at most 2^31 - 1", "2147483648"]),
        ("train.warmup_steps=2147483648", ["configuration field train.warmup_steps", "at most 2^31 - 1"]),
        ("train.batch_size=3 trainer.devices=2", ["configuration field train.batch_size", "multiple", "2; got 3"]),
        ("trainer.strategy=fsdp", ["configuration field trainer.strategy", "auto, ddp", "fsdp"]),
        ("rate.weight=1 neuron=relu", ["configuration field rate.weight", "0 with neuron=relu"]),
        ("tsm=true early_T=2", ["configuration field early_T", "null with tsm"]),
        ("perceptual.weight=-1", ["perceptual.weight", "at least 0"]),
        ("perceptual.classifier_sha256=0", ["unknown configuration field", "classifier_sha256"]),
        ("adversary.lr=0", ["adversary.lr", "greater than 0"]),
        ("seed=-1", ["seed", "2^32"]),
        ("seed=4294967296", ["seed", "2^32"]),
        ("image_shape=[1,8,8]", ["unknown configuration field", "image_shape"]),
        ("model.channels=3", ["model.channels"]),
        ("model.channels=[3,x]", ["model.channels"]),
        ("train=3", ["train"]),
        ("neuron=relu T=4", ["T", "1", "relu"]),
        ("activation_bits=3", ["activation_bits", "quantised", "3"]),
        ("neuron=quantised activation_bits=0", ["activation_bits", "1..16"]),
        ("stage=absorbing", ["stage"]),
        ("max_steps", ["key=value", "max_steps"]),
        ("train.lr=[1", ["configuration field train.lr must be a finite number; got '[1'"]),
        ("learn_beta=yes", ["unknown configuration field", "lif.learn_beta"]),
        ("lif.learn_beta=yes", ["lif.learn_beta", "true or false", "yes"]),
        ("train.batch_size=0", ["train.batch_size", "at least 1"]),
        ("model.commitment_cost=-1", ["model.commitment_cost", "at least 0"]),
    ],
)
def test_bad_value_is_named(override, words):
    with pytest.raises(InputError) as caught:
        load(*override.split())
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "field None" not in message


@pytest.mark.parametrize(
    "override",
    [
        "sample.temperature=-1",
        "sample.last_temperature=-1",
        "sample.top_p=0",
        "sample.sample_steps=0",
        "sample.order=spiral",
        "sample.schedule=sine",
        "model.mixer=conv",
        "loss=mse",
        "stage1_sha256=0",
    ],
)
def test_bad_stage_2_value_is_named(override):
    with pytest.raises(InputError, match=override.split("=")[0]):
        load_config("absorbing", CONFIGS / "absorbing/base.yaml", [override])


@pytest.mark.parametrize(
    "override",
    [
        "model.codebook_size=0",
        "model.embedding_dim=0",
        "model.channels=[0,4]",
        "model.channels=[4,0]",
        "model.num_residual_blocks=-1",
        "model.encoding=bits",
        "model.psp=sum",
        "model.spike_generator=none",
        "model.output=linear",
        "model.ema_decay=1",
        "model.restart_below=1",
        "neuron=tanh",
        "lif.reset=hard",
        "lif.beta=2",
        "lif.threshold=0",
        "lif.surrogate=sigmoid",
    ],
)
def test_bad_stage_1_network_is_an_input_error(override):
    field = override.split("=")[0].split(".")[-1]
    with pytest.raises(InputError, match=field):
        build_model(replace(load(override), image_shape=[1, 8, 8]))


def test_the_message_tells_what_may_be_chosen():
    with pytest.raises(InputError, match="rate, psp, both"):
        build_model(replace(load("model.encoding=bits"), image_shape=[1, 8, 8]))


@pytest.mark.parametrize(
    "override", ["model.width=0", "model.num_blocks=-1", "model.denoiser=mlp", "model.denoiser=sdid"]
)
def test_bad_stage_2_network_is_an_input_error(override, vq_svae_config):
    with pytest.raises(InputError, match=override.split("=")[0].split(".")[-1]):
        config = load_config(
            "absorbing", CONFIGS / "absorbing" / "base.yaml", [override]
        )  # unlike SDID, has num_blocks
        build_model(replace(config, vq_svae=vq_svae_config, num_classes=10))


def test_bad_augmentation_is_named():
    with pytest.raises(InputError, match=r"augment\.shift.*at least 0.*-1"):
        load_config("classifier", CONFIGS / "classifier" / "base.yaml", ["augment.shift=-1"])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: TrainOptions(lr=0), "lr must be greater than 0; got 0.0"),
        (lambda: LIFOptions(surrogate="sigmoid"), "surrogate must be one of atan, .*; got 'sigmoid'"),
        (lambda: VQSVAEConfig(precision="fp16"), "precision must be one of fp32, bf16, fp64; got 'fp16'"),
        (lambda: VQSVAEConfig(stage="absorbing"), "stage must be vq_svae; got absorbing"),
        (lambda: VQSVAEConfig(neuron="relu"), "T must be 1 with neuron=relu; got 16"),
        (lambda: replace(VQSVAEConfig(), T=0), "T must be at least 1; got 0"),
        (lambda: AbsorbingConfig(styles=4), "styles must be 1 without conditional=true; got 4"),
    ],
)
def test_a_configuration_made_in_python_is_checked_too(wrong, message):
    with pytest.raises(InputError, match=f"^{message}$"):
        wrong()
    made = VQSVAEConfig(image_shape=(1, 28, 28), train=TrainOptions(lr=1))
    assert (made.image_shape, type(made.train.lr)) == ([1, 28, 28], float)


def test_relu_sets_T():
    assert load().T == 16
    assert load("neuron=relu").T == 1
    assert load("neuron=relu", "T=1").T == 1
    twin = load_config("absorbing", CONFIGS / "absorbing/base.yaml", ["neuron=relu"])
    assert (twin.T, twin.early_T) == (1, None)


def test_a_twin_has_no_fewer_steps_to_guide_by(tmp_path):
    preset = tmp_path / "fewer.yaml"
    preset.write_text("T: 4\nconditional: true\nsample: {guidance: 2.0, guidance_T: 2}\n")
    assert load_config("absorbing", preset).sample.guidance_T == 2
    twin = load_config("absorbing", preset, ["neuron=relu"]).sample
    assert (twin.guidance, twin.guidance_T) == (2.0, None)
    for override, T, got in (("sample.guidance_T=5", 4, 5), ("T=1", 1, 2)):
        with pytest.raises(InputError, match=rf"sample\.guidance_T must be in 1\.\.T, {T}, or null.*; got {got}"):
            load_config("absorbing", preset, [override])


def test_quantised_takes_as_many_bits_as_the_spikes():
    assert (load("neuron=quantised").T, load("neuron=quantised").activation_bits) == (1, 5)  # 0..16 spikes
    assert load("neuron=quantised", "T=1", "activation_bits=2").activation_bits == 2
    assert [twin_bits(T) for T in (1, 2, 3, 4, 7, 8)] == [1, 2, 2, 3, 3, 4]
    assert load().activation_bits is None


def test_a_preset_may_extend_another(tmp_path):
    presets = (CONFIGS / f"absorbing/{name}.yaml" for name in ("base", "base-quantised"))
    base, twin = (load_config("absorbing", preset, ["data=fmnist"]) for preset in presets)  # which has no file of these
    assert (twin.preset, twin.neuron, twin.T, twin.early_T, twin.activation_bits) == (
        "base-quantised",
        "quantised",
        1,
        None,
        3,
    )
    assert twin.sample == replace(base.sample, guidance_T=None)
    of_base = ("preset", "neuron", "T", "early_T", "activation_bits", "rate", "sample")
    assert replace(twin, **{name: getattr(base, name) for name in of_base}) == base
    path = write(tmp_path, "extends: theirs\nseed: 3")
    (tmp_path / "theirs.yaml").write_text("seed: 1\nT: 5")
    config = load_config("vq_svae", path)
    assert (config.preset, config.seed, config.T) == ("mine", 3, 5)
    (tmp_path / "theirs.yaml").unlink()
    with pytest.raises(InputError, match=r"theirs\.yaml"):
        load_config("vq_svae", path)
    (tmp_path / "theirs.yaml").write_text("extends: mine")
    with pytest.raises(InputError, match="extends itself: mine -> theirs -> mine"):
        load_config("vq_svae", path)
    for name in ("../theirs", "~nosuchuser/x", "/theirs", "mine/", "[theirs/x]"):
        (tmp_path / "theirs.yaml").write_text(f"extends: {name}")
        with pytest.raises(InputError, match=r"theirs\.yaml: extends must be the name of a preset in the same folder"):
            load_config("vq_svae", tmp_path / "theirs.yaml")


@pytest.mark.parametrize(
    "override", ["early_T=0", "early_part=-0.1", "early_part=1.5", "styles=0", "styles=6", "label_dropout=1"]
)
def test_bad_value_of_a_denoiser_is_named(override):
    with pytest.raises(InputError, match=override.split("=")[0]):
        load_config("absorbing", CONFIGS / "absorbing/base.yaml", [override])


def test_unknown_stage():
    with pytest.raises(InputError, match="vq_svae, absorbing"):
        load_config("gan", PAPER)


# ---------------------------------------------------------------- types and ranges


def leaves(cls, prefix=""):
    """Dotted name of each field -> its annotation, and its annotation without `None` and `list`."""
    for name, hint in get_type_hints(cls, include_extras=True).items():
        kinds = [part for part in (hint, *get_args(hint)) if part is not NoneType]
        group = next((part for part in kinds if hasattr(part, "__dataclass_fields__")), None)
        if group:
            yield from leaves(group, f"{prefix}{name}.")
        else:
            yield prefix + name, hint


def numeric(kind):
    """(stage, field) of all fields that hold numbers of this type and can be set."""
    return [
        (stage, name, hint)
        for stage, cls in STAGES.items()
        for name, hint in leaves(cls)
        if kind.__name__ in str(hint) and not name.startswith(DERIVED)
    ]


def test_every_number_says_its_range():
    free = {"sample.threshold_shift"}
    unranged = {name for cls in STAGES.values() for name, hint in leaves(cls) if hint in (int, float, int | None)}
    unranged |= {name for cls in STAGES.values() for name, hint in leaves(cls) if hint in (float | None, list[int])}
    assert unranged == free


@pytest.mark.parametrize(
    "text", ["nan", "inf", "-inf", ".nan", "1e999", "-1e999", "fast", "1_0", "1,5", "true", "0x10"]
)
def test_every_number_is_finite(text):
    fields = numeric(float)
    assert len(fields) > 50
    for stage, name, _ in fields:
        with pytest.raises(InputError, match=rf"^configuration field {name} must be a finite number; got '{text}'$"):
            load_config(stage, CONFIGS / stage / "base.yaml", [f"{name}={text}"])


@pytest.mark.parametrize(
    "text", ["1.5", "1e3", "1.0", "true", "nan", "7e12345", "1_000", "0x10", "1:30", "${T}", "9" * 20]
)
def test_every_integer_is_an_integer(text):
    fields = numeric(int)
    assert len(fields) > 50
    for stage, name, hint in fields:
        given = f"[{text}]" if "list" in str(hint) else text
        with pytest.raises(InputError, match=rf"^configuration field {name} must be "):
            load_config(stage, CONFIGS / stage / "base.yaml", [f"{name}={given}"])


def test_numbers_in_text_are_decimal():
    config = load("T=010", "seed=+7", "train.lr=.5", "train.weight_decay=1e-3", "model.channels=[ 08,16]", "lif.beta=1")
    assert (config.T, config.seed, config.train.lr, config.train.weight_decay) == (10, 7, 0.5, 1e-3)
    assert config.model.channels == [8, 16]
    assert type(config.lif.beta) is float
    assert load(f"seed={LARGEST_SEED}").seed == LARGEST_SEED


@pytest.mark.parametrize("wrong", [{"T": 4.5}, {"T": True}, {"T": "4"}, {"T": None}, {"T": [4]}, {"T": 2**70}])
@pytest.mark.parametrize("read", ["json", "yaml"])
def test_a_wrong_type_in_a_file_is_named(tmp_path, wrong, read):
    check_wrong(tmp_path, wrong, "T", read)


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        ({"seed": 1.0e3}, "seed"),
        ({"train": {"lr": "fast"}}, "train.lr"),
        ({"train": {"lr": float("nan")}}, "train.lr"),
        ({"train": {"compile": 1}}, "train.compile"),
        ({"data": 2026}, "data"),
        ({"runs": None}, "runs"),
        ({"model": {"channels": 32}}, "model.channels"),
        ({"model": {"channels": [32, "64"]}}, "model.channels"),
        ({"train": [1]}, "train"),
        ({"T": {"a": 1}}, "T"),
    ],
)
@pytest.mark.parametrize("read", ["json", "yaml"])
def test_a_wrong_type_of_any_field_is_named(tmp_path, wrong, name, read):
    check_wrong(tmp_path, wrong, name, read)


def check_wrong(folder, wrong, name, read):
    def from_yaml():
        path = write(folder, json.dumps(wrong))  # which is YAML, too
        with pytest.raises(InputError, match=str(path)):
            load_config("vq_svae", path)
        return load_config("vq_svae", path)

    with pytest.raises(InputError, match=rf"configuration field '?{name}\b"):
        config_from_dict(asdict(load()) | wrong) if read == "json" else from_yaml()


@pytest.mark.parametrize("stage", [[], 3, None, {}])
def test_a_stage_that_is_no_text(stage):
    with pytest.raises(InputError, match="unknown stage"):
        config_from_dict({"stage": stage})


# ---------------------------------------------------------------- text and paths

WORDS = [
    "2026_11_28",
    "010",
    "7e12345",
    "1:30",
    "a #1",
    "${x}",
    "${",
    "é",
    "true",
    "null",
    "a b",
    "1e-3",
    "[1]",
    "it's",
]


@pytest.mark.parametrize("text", WORDS)
def test_text_is_taken_as_it_is(tmp_path, text):
    config = load_config(
        "absorbing", CONFIGS / "absorbing/base.yaml", [f"data={text}", f"runs={text}", f"stage1=./{text}"]
    )
    assert (config.data, config.runs, config.stage1) == (text, text, text)
    save_config(config, tmp_path / "config.yaml")
    assert read_config(tmp_path / "config.yaml") == config
    assert config_from_dict(asdict(config)) == config


def test_what_can_be_no_path_is_refused():
    with pytest.raises(InputError, match="runs must be a path without NUL"):
        load("runs=a\0b")
    with pytest.raises(InputError, match="runs=x+ is no path that can be used .File name too long"):
        load(f"runs={'x' * 300}")


def test_text_that_is_no_utf_8_is_refused():
    with pytest.raises(InputError, match="runs must be text in UTF-8"):
        load("runs=a\udce9")


def test_an_empty_value_keeps_the_preset():
    base = load_config("vq_svae", CONFIGS / "vq_svae/base.yaml")
    assert base.T == 4
    overrides = ["T=", "runs=", "train.lr=", "seed=3", "seed=", "perceptual.classifier="]
    assert load_config("vq_svae", CONFIGS / "vq_svae/base.yaml", overrides) == replace(base, seed=3)
    with pytest.raises(InputError, match="unknown configuration field 'tea'"):
        load("tea=")


def test_paths_begin_at_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", "/home/me")
    fields = {"data_dir", "runs", "tokens_dir", "stage1", "train.start_from"}
    config = load_config("absorbing", CONFIGS / "absorbing/base.yaml", [f"{name}=~/x" for name in fields])
    texts = (config.data_dir, config.runs, config.tokens_dir, config.stage1, config.train.start_from)
    assert texts == ("/home/me/x",) * 5
    assert load("perceptual.classifier=~/x").perceptual.classifier == "/home/me/x"
    assert load_config("vq_svae", write(tmp_path, "runs: ~/x")).runs == "/home/me/x"
    assert load("data=~/x").data == "~/x"  # no path
    with pytest.raises(InputError, match="runs=~nobody-here/x"):
        load("runs=~nobody-here/x")


# ---------------------------------------------------------------- files


BROKEN = [
    "T: [1",
    "T: 4\nT: 5",
    "train: {lr: 1, lr: 2}",
    "- 1\n- 2",
    "3: 4",
    b"\x00\x01",
    b"\xff\xfe\xfa",
    "a: &a {b: *a}",
    "T: !!timestamp x",
    "T: !!python/object:os.system {}",
    "T: " + "[" * 3000,
    "T: " + "9" * 5000,
    "? [1]\n: 2",
]


@pytest.mark.parametrize("text", BROKEN, ids=lambda text: str(text[:20]))
@pytest.mark.parametrize("read", [lambda path: load_config("vq_svae", path), read_config])
def test_broken_yaml_names_the_file(tmp_path, text, read):
    path = write(tmp_path, text)
    with pytest.raises(InputError, match=str(path)):
        read(path)


def test_what_is_written_is_read_again(tmp_path):
    values = {"text": WORDS, "numbers": {"lr": 1e-3, "T": 4, "none": None, "on": True}, "é": "${x}"}
    assert read_yaml(write(tmp_path, to_yaml(values))) == values


def test_unknown_key_in_a_file(tmp_path):
    with pytest.raises(InputError, match=r"'lr': did you mean train\.lr"):
        load_config("vq_svae", write(tmp_path, "lr: 3"))


@pytest.mark.parametrize("read", [lambda path: load_config("vq_svae", path), read_config])
def test_missing_file(tmp_path, read):
    with pytest.raises(InputError, match=r"none\.yaml"):
        read(tmp_path / "none.yaml")
    with pytest.raises(InputError):
        read(tmp_path)


# ---------------------------------------------------------------- there and back


def complete(vq_svae_config, absorbing_config):
    vq_svae_config.lif.beta, vq_svae_config.seed, vq_svae_config.train.lr = 0.75, 7, 1 / 3
    absorbing_config.sample = replace(absorbing_config.sample, sample_steps=3)
    absorbing_config.stage1 = "a folder/model.safetensors"
    return [vq_svae_config, absorbing_config, load()]


def test_dict_and_back(vq_svae_config, absorbing_config):
    for config in complete(vq_svae_config, absorbing_config):
        back = config_from_dict(asdict(config))
        assert back == config
        assert type(back) is type(config)


def test_file_and_back(tmp_path, vq_svae_config, absorbing_config):
    for config in complete(vq_svae_config, absorbing_config):
        save_config(config, tmp_path / "config.yaml")
        assert read_config(tmp_path / "config.yaml") == config


@pytest.mark.parametrize(
    "change",
    [{"stage": "gan"}, {"T": 0}, {"speed": 1}, {"vq_svae": {"stage": "vq_svae", "T": 0}}, {"vq_svae": {"speed": 1}}],
)
def test_bad_dict(absorbing_config, change):
    with pytest.raises(InputError):
        config_from_dict(asdict(absorbing_config) | change)


def test_an_image_has_three_sizes(absorbing_config):
    values = asdict(absorbing_config) | {"image_shape": [1, 2, 12, 12]}
    with pytest.raises(InputError, match=r"image_shape must be .C, H, W.; got .1, 2, 12, 12."):
        config_from_dict(values)


def test_a_nested_stage_1_is_checked_too(absorbing_config):
    absorbing_config.vq_svae.T = 0
    with pytest.raises(InputError, match="T must be at least 1"):
        config_from_dict(asdict(absorbing_config))


RETIRED_VALUES = {
    "persistent": (False, True),
    "moved_copies": (0, 3),
    "augment": ({"degrees": 0.0, "shift": 0.0}, {"degrees": 0.0, "shift": 0.1}),
    "judge_every": (1, 2),
    "sample.remask_calls": (0, 2),
    "sample.guide": ("unlabelled", "same_label"),
    "sample.guidance_from": (0.0, 0.25),
    "sample.guidance_to": (1.0, 0.75),
    "model.normalise_codes": (False, True),
}


@pytest.mark.parametrize("name", RETIRED_VALUES)
@pytest.mark.parametrize("nested", [False, True])
def test_a_retired_field_of_an_older_file_is_dropped_if_it_was_not_in_use(tmp_path, absorbing_config, name, nested):
    *group, leaf = name.split(".")
    unused, used = RETIRED_VALUES[name]
    for value, holds in ((unused, True), (used, False)):
        values = asdict(absorbing_config)
        holder = values["vq_svae"] if nested else values
        if group:
            holder = holder.setdefault(group[0], {})
        holder[leaf] = value
        (tmp_path / "config.yaml").write_text(to_yaml(values))
        if holds:
            assert config_from_dict(values) == read_config(tmp_path / "config.yaml") == absorbing_config
        else:
            full = f"{'vq_svae.' if nested else ''}{name}"
            with pytest.raises(InputError, match=rf"{full}.*, which no longer exists, must be (0|1|False|unlabelled)"):
                config_from_dict(values)


def test_the_classifier_keeps_its_augmentation():
    values = asdict(load_config("classifier", CONFIGS / "classifier/base.yaml", ["augment.shift=0.1"]))
    assert config_from_dict(values).augment.shift == 0.1


# ---------------------------------------------------------------- differences


def test_places_do_not_differ(absorbing_config):
    moved = replace(absorbing_config, data_dir="/d", runs="/r", device="cuda", stage1="/s")
    moved.vq_svae = replace(moved.vq_svae, data_dir="/d", runs="/r", device="cuda")
    assert differences(absorbing_config, moved) == []


def test_the_number_of_devices_is_a_place_if_batch_norm_is_synchronised(absorbing_config):
    for synchronised, expected in ((True, []), (False, ["trainer.devices: 1 -> 2"])):
        old, new = deepcopy(absorbing_config), deepcopy(absorbing_config)
        old.trainer.sync_batchnorm = new.trainer.sync_batchnorm = synchronised
        new.trainer.devices, new.trainer.strategy = 2, "ddp"
        assert differences(old, new) == expected


def test_a_file_that_leaves_names_no_place(absorbing_config):
    config = deepcopy(absorbing_config)
    config.runs, config.device, config.trainer.devices, config.trainer.sync_batchnorm = "/r", "cuda", 2, True
    config.vq_svae.data_dir, config.vq_svae.trainer.strategy = "/d", "ddp"
    left = portable(config)
    assert (left.runs, left.device, left.trainer.devices, left.trainer.sync_batchnorm) == ("runs", "cpu", 1, True)
    assert (left.vq_svae.data_dir, left.vq_svae.trainer.strategy) == ("data", "auto")
    assert (left.T, left.vq_svae.T) == (config.T, config.vq_svae.T)


def test_all_else_differs(absorbing_config):
    old = config_of(absorbing_config)
    new = config_of(absorbing_config)
    new.T, new.train.lr, new.vq_svae.T, new.stage1_sha256 = 4, 0.5, 8, "ab"
    assert sorted(differences(old, new)) == [
        "T: 2 -> 4",
        "stage1_sha256: None -> ab",
        "train.lr: 0.001 -> 0.5",
        "vq_svae.T: 2 -> 8",
    ]
    old.vq_svae = None
    assert "vq_svae.T: None -> 8" in differences(old, new)


def config_of(config):
    """A deep copy."""
    return replace(config, train=replace(config.train), vq_svae=replace(config.vq_svae))

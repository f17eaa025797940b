"""Configurations from YAML files, `key=value` overrides and the metadata of trained models."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from spiking_vq.config.schema import STAGES, TWINS, Config, SpikingConfig
from spiking_vq.config.text import FROM_TEXT
from spiking_vq.config.yaml_files import read_yaml, to_yaml
from spiking_vq.errors import InputError, require
from spiking_vq.fields import FROM_FILE, value_of
from spiking_vq.files import read_path

RETIRED = {
    "persistent": False,
    "judge_every": 1,
    "moved_copies": 0,
    "model.normalise_codes": False,
    "sample.remask_calls": 0,
    "sample.guide": "unlabelled",
    "sample.guidance_from": 0.0,
    "sample.guidance_to": 1.0,
    **{f"augment.{name}": 0.0 for name in ("degrees", "stretch", "shear", "shift")},
}
"""Fields that older files hold and their stage no longer has -> the one value with which such a file can be used."""

DERIVED = (
    "vq_svae.",
    "stage1_sha256",
    "train.start_from_sha256",
    "perceptual.classifier_sha256",
    "image_shape",
    "num_classes",
    "label_counts",
    "weight_bits",
)
"""Beginnings of the names of fields that are filled in when training starts, or when a model is quantised."""


def load_config(stage: str, path: str | Path, overrides: Iterable[str] = ()) -> Config:
    """Return the configuration of a stage: its defaults, then a YAML file, then overrides.

    Args:
        stage: a key of `STAGES`.
        path: YAML file with all that differs from the defaults, or from the preset in the same folder that `extends`
            names; its own name is the preset's. What differs further for one data set is in a file of the same name in
            the folder of the data set, as in `configs/absorbing/cifar10/base.yaml`.
        overrides: `key=value` strings; nested fields are dotted, as in `train.lr=1e-3`. An empty value is ignored.

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
    _check_keys(stage, given)
    path = Path(path)
    chosen = _typed(stage, {key: value for key, value in given.items() if value}, FROM_TEXT)
    preset = _read_preset(stage, path, chosen.get("data", STAGES[stage].data))
    twin = _as_twin(chosen.get("neuron", preset.get("neuron")), preset)
    return _built(STAGES[stage], {"preset": path.stem} | preset | twin | chosen)


def twin_bits(num_steps: int) -> int:
    """`ceil(log2(T + 1))`: bits that the number of spikes in T steps takes."""
    return num_steps.bit_length()


def config_from_dict(values: Mapping[str, Any]) -> Config:
    """Return the configuration that `asdict` turned into `values`; `values["stage"]` is its stage.

    Raises:
        InputError: unknown stage or key, or a value of the wrong type or range.
    """
    stage, flat = values.get("stage", ""), flatten(values)
    _check_stage(stage)
    known = leaves(STAGES[stage])
    for name in [name for name in flat if name not in known]:
        retired = name.removeprefix("vq_svae.")
        if retired in RETIRED:
            value, expected = flat.pop(name), RETIRED[retired]
            require(value == expected, f"configuration field {name}, which no longer exists,", expected, value)
    _check_keys(stage, flat, derived=True)
    return _built(STAGES[stage], flat)


def save_config(config: Config, path: str | Path) -> None:
    """Write the whole configuration as YAML."""
    read_path("path", path).write_text(to_yaml(asdict(config)), encoding="utf-8")


def read_config(path: str | Path) -> Config:
    """Read a file of `save_config`.

    Raises:
        InputError: unreadable YAML, or as `config_from_dict`.
    """
    values = read_yaml(path)
    try:
        return config_from_dict(values)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def group_of(hint: Any) -> type | None:
    """The dataclass that a field of this type holds, or may hold; None for any other field."""
    return next((part for part in (hint, *get_args(hint)) if is_dataclass(part)), None)


def leaves(cls: type, prefix: str = "") -> dict[str, Any]:
    """Dotted name -> type of each field of a configuration and of its groups."""
    hints: dict[str, Any] = {}
    for name, hint in get_type_hints(cls, include_extras=True).items():
        group = group_of(hint)
        hints |= leaves(group, f"{prefix}{name}.") if group else {prefix + name: hint}
    return hints


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by dotted names: `{"train": {"lr": 1}}` as `{"train.lr": 1}`."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _read_preset(stage: str, path: Path, data: str, extended_by: Sequence[Path] = ()) -> dict[str, Any]:
    """Values of a preset for a data set by dotted names, on top of the preset that it extends."""
    if path in extended_by:
        raise InputError(f"{path} extends itself: {' -> '.join(file.stem for file in [*extended_by, path])}")
    base, own = _read_values(stage, path)
    inherited = _read_preset(stage, path.with_name(f"{base}.yaml"), data, [*extended_by, path]) if base else {}
    special = path.parent / data / path.name
    return inherited | own | (_read_values(stage, special)[1] if special.is_file() else {})


def _read_values(stage: str, path: Path) -> tuple[str | None, dict[str, Any]]:
    """The preset that a file extends, and the file's own values by dotted names."""
    values = read_yaml(path)
    base = values.pop("extends", None)
    is_name = not base or Path(str(base)).name == str(base)
    require(is_name, f"{path}: extends", "the name of a preset in the same folder, such as base", repr(base))
    try:
        flat = flatten(values)
        _check_keys(stage, flat)
        return base, _typed(stage, flat, FROM_FILE)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _as_twin(neuron: str | None, preset: Mapping[str, Any]) -> dict[str, Any]:
    """Values that follow from a non-spiking neuron: one step, no firing-rate penalty, bits for the preset's spikes."""
    if neuron not in TWINS:
        return {}
    bits = {"activation_bits": twin_bits(preset.get("T", SpikingConfig.T))} if neuron == "quantised" else {}
    unset = {name: None for name in ("early_T", "sample.guidance_T") if name in preset}
    return {"T": 1, "rate.weight": 0.0} | unset | bits


def _typed(stage: str, flat: Mapping[str, Any], readers: Mapping[type, Callable[..., Any]]) -> dict[str, Any]:
    """Values of known fields, each of its field's type and in its range; empty groups are left out."""
    hints = leaves(STAGES[stage])
    return {
        name: value_of(f"configuration field {name}", value, hints[name], readers)
        for name, value in flat.items()
        if name in hints
    }


def _built(cls: type, flat: Mapping[str, Any], prefix: str = "") -> Any:
    """The configuration, or the group of it below `prefix`, with values by dotted names; the rest has its defaults."""
    values = {}
    for name, hint in get_type_hints(cls).items():
        full, group = prefix + name, group_of(hint)
        if group is None and full in flat:
            values[name] = flat[full]
        elif group and any(key.startswith(f"{full}.") for key in flat):
            values[name] = _built(group, flat, f"{full}.")
    try:
        return cls(**values)
    except InputError as error:
        raise InputError(f"configuration field {prefix}{error}") from None


def _check_stage(stage: Any) -> None:
    if not isinstance(stage, str) or stage not in STAGES:
        raise InputError(f"unknown stage {stage!r}: choose one of {', '.join(STAGES)}")


def _check_keys(stage: str, flat: Mapping[str, Any], derived: bool = False) -> None:
    """Check that the stage has all these fields; with `derived`, also those that are filled in when training starts.

    Raises:
        InputError: unknown stage or field, or a value for a whole group.
    """
    _check_stage(stage)
    known = [name for name in leaves(STAGES[stage]) if derived or not name.startswith(DERIVED)]
    for key, value in flat.items():
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

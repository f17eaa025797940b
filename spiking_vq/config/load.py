"""Configurations from YAML files, `key=value` overrides and the metadata of trained models."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from spiking_vq.config.schema import STAGES, TWINS, Config, SpikingConfig, check_values
from spiking_vq.config.text import FROM_TEXT
from spiking_vq.config.yaml_files import read_yaml, to_yaml
from spiking_vq.errors import InputError, require
from spiking_vq.fields import FROM_FILE, value_of
from spiking_vq.files import read_path

RETIRED = {"persistent": False}
"""Fields of older files that no longer exist -> the one value with which such a file can still be used."""

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
        group = group_of(hints[key])
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
    check_values(config)
    return config


def _as_dataclass(cls: type, values: Mapping[str, Any]) -> Any:
    groups = {key: group_of(hint) for key, hint in get_type_hints(cls).items()}
    return cls(**{key: _as_dataclass(groups[key], value) if groups[key] else value for key, value in values.items()})


def group_of(hint: Any) -> type | None:
    """The configuration class that a field of this type holds, or may hold."""
    return next((part for part in (hint, *get_args(hint)) if is_dataclass(part)), None)


def _check_keys(stage: str, values: Mapping[str, Any], derived: bool) -> None:
    """See that the stage exists and has all these fields; those filled in when training starts only where `derived`."""
    if not isinstance(stage, str) or stage not in STAGES:
        raise InputError(f"unknown stage {stage!r}: choose one of {', '.join(STAGES)}")
    known = [name for name in field_names(STAGES[stage]) if derived or not name.startswith(_DERIVED)]
    for key, value in flatten(values).items():
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


def field_names(cls: type, prefix: str = "") -> list[str]:
    """Dotted names of all leaves of a configuration class."""
    names = []
    for name, hint in get_type_hints(cls).items():
        group = group_of(hint)
        names += field_names(group, f"{prefix}{name}.") if group else [prefix + name]
    return names


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat

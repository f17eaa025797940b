"""Whether two configurations describe the same training, wherever it runs."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace

from spiking_vq.config.load import flatten
from spiking_vq.config.schema import STAGES, AbsorbingConfig, Config, VQSVAEConfig

# Where things are and what computes them does not change what is computed: a run may move.
_PLACES = ("data_dir", "runs", "tokens_dir", "device", "stage1", "strategy", "start_from", "classifier")


def differences(old: Config, new: Config, incomplete: bool = False) -> list[str]:
    """Lines `key: old -> new` for all that differs, apart from places (folders, device).

    The number of devices is a place only if batch norm sees the whole batch on any number.

    Args:
        old: the first configuration.
        new: the second.
        incomplete: `new` is not filled in yet: fields that are None in it are not compared.
    """
    old_values, new_values = flatten(asdict(old)), flatten(asdict(new))
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

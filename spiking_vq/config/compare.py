"""Comparison of configurations, wherever the training runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from dataclasses import asdict, replace

from spiking_vq.config.load import flatten
from spiking_vq.config.schema import STAGES, AbsorbingConfig, Config, VQSVAEConfig

# Folders, files and devices do not change the result: a run may move.
_LOCAL = ("data_dir", "runs", "tokens_dir", "device", "stage1", "strategy", "start_from", "classifier")


def differences(old: Config, new: Config, incomplete: bool = False, open_fields: Collection[str] = ()) -> list[str]:
    """Return a line `key: old -> new` for each field that differs, apart from folders, files and devices.

    The number of devices matters unless batch norm is synchronised.

    Args:
        old: the first configuration.
        new: the second.
        incomplete: `new` is not filled in yet: fields that are None in it are not compared. Default false.
        open_fields: further fields of `new` that are not decided yet, and not compared.
    """
    old_values, new_values = flatten(asdict(old)), flatten(asdict(new))
    local = (*_LOCAL, "devices") if new.trainer.sync_batchnorm else _LOCAL
    keys = [key for key in old_values | new_values if key.split(".")[-1] not in local and key not in open_fields]
    return [
        f"{key}: {old_values.get(key)} -> {new_values.get(key)}"
        for key in keys
        if old_values.get(key) != new_values.get(key) and not (incomplete and new_values.get(key) is None)
    ]


def portable(config: Config) -> Config:
    """Return the configuration with default folders, files and devices, for a file that leaves this machine."""
    defaults = asdict(STAGES[config.stage]())
    changes = {key: defaults[key] for key in _LOCAL if key in defaults}
    changes["trainer"] = replace(config.trainer, devices=1, strategy="auto")
    changes["train"] = replace(config.train, start_from=None)
    if isinstance(config, VQSVAEConfig):
        changes["perceptual"] = replace(config.perceptual, classifier=None)
    if isinstance(config, AbsorbingConfig) and config.vq_svae is not None:
        changes["vq_svae"] = portable(config.vq_svae)
    return replace(config, **changes)


def config_hash(config: Config) -> str:
    """Return the SHA-256 of a configuration, apart from folders, files and devices."""
    return hashlib.sha256(json.dumps(asdict(portable(config)), sort_keys=True).encode()).hexdigest()

"""Put a trained model among those that ship: `spiking-vq publish weights data=mnist preset=base [stage=gaussian]`.

Writes `spiking_vq/zoo/<data>-<preset>-<stage>.safetensors`, its weights in bf16, and beside it a JSON file of how and
on what all in it was trained. Evaluate that very file (`CKPT=`), since rounding changed it. Of a generator, settings of
its sampler, chosen on the validation split, become the file's own defaults.
"""

from __future__ import annotations

import hashlib
from dataclasses import fields, replace
from pathlib import Path

import torch

from spiking_vq.checkpoint.file import load_model, save_model
from spiking_vq.config.schema import DenoiserConfig
from spiking_vq.data.datasets import load_dataset
from spiking_vq.errors import InputError, require
from spiking_vq.files import atomic_write, json_text
from spiking_vq.pipelines.load import pipeline_of
from spiking_vq.pipelines.zoo import ZOO, find_model
from stages.cli.options import SAMPLER, parse_options
from stages.reporting.report import read_report

SETTINGS = {name: kind for name, kind in SAMPLER.items() if name != "label"}

OPTIONS = {
    "data": "mnist",
    "preset": "base",
    "stage": "absorbing",
    "data_dir": Path("data"),
    "runs": Path("runs"),
    "zoo": ZOO,
    **SETTINGS,
}

TRAINED = {"absorbing": ("vq_svae", "absorbing"), "gaussian": ("gaussian",), "classifier": ("classifier",)}
"""Stage of a file -> stages of what is in it."""

LARGEST = 6_000_000  # bytes; these files live in the repository


def main(arguments: list[str]) -> None:
    """Round, write, describe."""
    options = parse_options(arguments, OPTIONS)
    stage = options["stage"]
    require(stage in TRAINED, "stage", f"one of {', '.join(TRAINED)}", repr(stage))
    run = Path(options["runs"]) / options["data"] / options["preset"]
    source = find_model(stage, options["data"], options["preset"], ckpt=str(run / stage / "model.safetensors"))
    model, config = load_model(source)
    chosen = {key: options[key] for key in SETTINGS if options[key] is not None}
    if isinstance(config, DenoiserConfig):
        in_force = pipeline_of(model, config).sampling(**chosen)  # one out of range is found here
        defaults = {field.name: in_force[field.name] for field in fields(config.sample) if field.name in in_force}
        config = replace(config, sample=replace(config.sample, **defaults))
    elif chosen:
        raise InputError(f"a {stage} does not sample: leave {', '.join(chosen)} out")
    target = Path(options["zoo"]) / f"{config.data}-{config.preset}-{stage}.safetensors"
    num_bytes = 2 * sum(value.numel() for value in model.state_dict().values())
    if num_bytes > LARGEST:
        raise InputError(f"{source} takes {num_bytes / 1e6:.1f} MB in bf16; at most {LARGEST / 1e6:.0f} MB may ship")
    # Before anything is written: a file without its description is none of those that ship.
    training = {name: _training(run / name / "training.json") for name in TRAINED[stage]}
    stand_in = load_dataset(config.data, options["data_dir"]).stand_in
    save_model(target, model, config, torch.bfloat16)
    description = {
        "file": target.name,
        "sha256": hashlib.sha256(target.read_bytes()).hexdigest(),
        "dtype": "bfloat16",
        "stand_in": stand_in,
        "training": training,
    }
    with atomic_write(target.with_suffix(".json")) as temporary:
        temporary.write_text(json_text(description))
    print(f"wrote {target} ({target.stat().st_size / 1e6:.1f} MB) and {target.with_suffix('.json')}")


def _training(path: Path) -> dict:
    """What a run said of itself when it finished."""
    if not path.is_file():
        raise InputError(f"no {path}: publish from the folder of finished runs")
    return read_report(path)

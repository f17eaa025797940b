"""Put a trained model among those that ship: its weights in bf16, a description as JSON, and its model card.

Writes `<zoo>/<data>-<preset>-<stage>.safetensors`, `.json` and `.md` from the folder of finished runs. Settings of the
sampler, chosen on the validation split, become the defaults of the file. Evaluate that very file, as rounding changed
it: `only=cards` then takes the reports in `results` into the descriptions, and writes all cards again.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated

import torch

from spiking_vq.checkpoint.file import fingerprint, load_model, save_model
from spiking_vq.config.schema import Config, DenoiserConfig
from spiking_vq.data.datasets import load_dataset
from spiking_vq.errors import InputError, require
from spiking_vq.fields import OneOf
from spiking_vq.files import sha256_of
from spiking_vq.pipelines.load import pipeline_of
from spiking_vq.pipelines.zoo import ZOO, located
from stages.cli.options import SAMPLER, ModelOptions, SamplerArguments, read_options
from stages.publish.cards import card, update_card, update_cards
from stages.reporting.report import Report, write_report

EXAMPLE = "spiking-vq publish runs/mnist/base sample_steps=8"

TRAINED = {"absorbing": ("vq_svae", "absorbing"), "gaussian": ("gaussian",), "classifier": ("classifier",)}
"""Stage of a file -> stages of the networks in it."""

LARGEST = 12_000_000  # bytes; these files live in the repository


@dataclass(frozen=True, kw_only=True)
class Options(ModelOptions, SamplerArguments):
    """Options of `publish`.

    Attributes:
        only: `cards` publishes nothing, and updates the cards of all models that ship.
        data_dir: folder of the data sets.
        results: folder of the reports.
        zoo: folder of the models that ship.
    """

    only: Annotated[str, OneOf(("all", "cards"))] = "all"
    stage: Annotated[str, OneOf(tuple(TRAINED))] = "absorbing"
    data_dir: Path = Path("data")
    results: Path = Path("results")
    zoo: Path = ZOO


def main(arguments: list[str]) -> None:
    """Publish a model, or update the cards."""
    options = read_options(Options, arguments)
    if options.only == "cards":
        update_cards(options.zoo, options.results)
    else:
        publish(options)


def publish(options: Options) -> None:
    """Write weights, description and card of a finished run.

    Raises:
        InputError: the run is not finished, the file would be too large, or the settings do not fit the model.
    """
    run = options.runs / options.data / options.preset / options.stage / "model.safetensors"
    source = located(options.model or options.ckpt or run, options.stage)
    model, config = load_model(source)
    require(config.stage in TRAINED, "the model", f"of one of the stages {', '.join(TRAINED)}", config.stage)
    require(options.label is None, "label", "left out: it is no default of a model", options.label)
    chosen = {name: value for name in SAMPLER if (value := getattr(options, name)) is not None}
    if isinstance(config, DenoiserConfig):
        in_force = pipeline_of(model, config).sampling(**chosen)  # one out of range is found here
        defaults = {field.name: in_force[field.name] for field in fields(config.sample) if field.name in in_force}
        config = replace(config, sample=replace(config.sample, **defaults))
    elif chosen:
        raise InputError(f"a {config.stage} does not sample: leave {', '.join(chosen)} out")
    num_bytes = 2 * sum(value.numel() for value in model.state_dict().values())
    if num_bytes > LARGEST:
        raise InputError(f"{source} takes {num_bytes / 1e6:.1f} MB in bf16; at most {LARGEST / 1e6:.0f} MB may ship")
    training = {stage: _summary(source.parents[1], stage, config, options.zoo) for stage in TRAINED[config.stage]}
    stand_in = load_dataset(config.data, options.data_dir).stand_in
    target = options.zoo / f"{config.data}-{config.preset}-{config.stage}.safetensors"
    description = {"file": target.name, "sha256": "", "dtype": "bfloat16", "stand_in": stand_in, "training": training}
    card(Report(source, description | {"measured": {}}), config)  # a file without its card must not ship
    save_model(target, model, config, torch.bfloat16)
    print(f"wrote {target} ({target.stat().st_size / 1e6:.1f} MB)")
    write_report(target.with_suffix(".json"), description | {"sha256": sha256_of(target)})
    update_card(target.with_suffix(".json"), options.results)


def _summary(runs: Path, stage: str, config: Config, zoo: Path) -> dict:
    """The summary that the finished run of a stage left, or the shipped model whose stage 1 this model took over.

    Raises:
        InputError: there is neither.
    """
    path = runs / stage / "training.json"
    if path.is_file():
        return Report.read(path).contents
    if stage != config.stage:
        for shipped in sorted(zoo.glob(f"{config.data}-*-{config.stage}.safetensors")):
            if fingerprint(load_model(shipped)[0].vq_svae) == config.stage1_sha256:
                return Report.read(shipped.with_suffix(".json")).get(dict, "training", stage)
    raise InputError(f"no {path}: publish from the folder of finished runs")

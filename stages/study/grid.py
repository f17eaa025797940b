"""Train, sample and measure everything asked for: `spiking-vq study grid data="mnist fmnist" presets="base"`.

One command after another, as a person would give them; each resumes where it was, and what is done is skipped. A preset
of the continuous stage is named with it, as in `gaussian-base`.
`precision=` is that of the measurements; presets say what they train with.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from spiking_vq.config.load import load_config
from spiking_vq.data.datasets import DATASETS
from spiking_vq.errors import require
from spiking_vq.runtime.precision import PRECISIONS
from stages.cli.machine import check_device
from stages.cli.options import parse_options
from stages.evaluate.measures import check_inception
from stages.evaluate.protocols import PROTOCOLS
from stages.reporting.report import claim_report, evaluation_name, report_folder
from stages.study.steps import Step, check_trainings, classifier_step, places_of, run_steps
from stages.train import preset_file

OPTIONS = {
    "data": "mnist fmnist",
    "presets": "base",
    "protocols": "test-10k n1280-test",
    "seed": 0,
    "device": "cpu",
    "precision": "fp32",
    "data_dir": Path("data"),
    "runs": Path("runs"),
    "results": Path("results"),
}


def main(arguments: list[str]) -> None:
    """Run all steps that are not done."""
    options = parse_options(arguments, OPTIONS)
    for data in options["data"].split():
        require(data in DATASETS, "data", f"of {', '.join(DATASETS)}", repr(data))
    for protocol in options["protocols"].split():
        require(protocol in PROTOCOLS, "protocols", f"of {', '.join(PROTOCOLS)}", repr(protocol))
    require(options["precision"] in PRECISIONS, "precision", f"one of {', '.join(PRECISIONS)}", options["precision"])
    check_device(options["device"])
    todo = [step for data in options["data"].split() for step in steps(data, options)]
    check_trainings(todo)
    if options["protocols"].split():
        check_inception(options["data_dir"])
    run_steps(todo)


def steps(data: str, options: dict[str, Any]) -> Iterator[Step]:
    """What one data set takes, in order: the classifier, then each preset's two stages and measurements.

    Raises:
        InputError: no such preset, or a report on something else lies where one of these would.
    """
    places = places_of(options)
    yield from classifier_step(data, places)
    runs, seed = Path(options["runs"]) / data, f"seed={options['seed']}"
    training = [f"{name}={place}" for name, place in places.items()]
    for name in options["presets"].split():
        stages = ("gaussian",) if name.startswith("gaussian-") else ("vq_svae", "absorbing")
        preset, last = name.removeprefix("gaussian-"), stages[-1]
        subject = [f"data={data}", f"preset={preset}", seed]
        for stage in stages:
            model = runs / preset / stage / "model.safetensors"
            yield Step("train", [stage, *subject, *training], model)
        subject += [f"stage={last}", f"results={options['results']}"]
        reports = report_folder(options["results"], last, data, preset)
        for protocol in options["protocols"].split():
            arguments = [*subject, *training, f"protocol={protocol}", f"precision={options['precision']}"]
            name = evaluation_name({"protocol": protocol, "seed": options["seed"]})
            claim_report(reports / name, stage=last, data=data, preset=preset)
            yield Step("evaluate", arguments, reports / name, model)
        watching = [*subject, *(f"{name}={places[name]}" for name in ("runs", "device"))]
        if load_config(last, preset_file(last, preset)).neuron == "lif":  # its twins stand beside it
            claim_report(reports / "energy.json", stage=last, data=data, preset=preset)
            yield Step("inspect energy", watching, reports / "energy.json", model)
        yield Step("inspect portrait", watching, None)

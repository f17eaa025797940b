"""Train, sample and measure everything asked for: `python -m stages.all_runs data="mnist fmnist" presets="base"`.

One command after another, as a person would give them; each resumes where it was, and what is done is skipped. A preset
of the continuous stage is named with it, as in `gaussian-base`.
`precision=` is that of the measurements; presets say what they train with.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from spiking_vq.config import load_config
from spiking_vq.data import DATASETS
from spiking_vq.errors import require
from stages.command import parse_options, run_command
from stages.evaluate.protocols import PROTOCOLS
from stages.report import evaluation_name, report_folder
from stages.steps import Step, classifier_step, places_of, run_steps
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
    run_steps([step for data in options["data"].split() for step in steps(data, options)])


def steps(data: str, options: dict[str, Any]) -> Iterator[Step]:
    """What one data set takes, in order: the classifier, then each preset's two stages and measurements."""
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
            yield Step("stages.train", [stage, *subject, *training], model)
        subject += [f"stage={last}", f"results={options['results']}"]
        reports = report_folder(options["results"], last, data, preset)
        for protocol in options["protocols"].split():
            arguments = [*subject, *training, f"protocol={protocol}", f"precision={options['precision']}"]
            yield Step("stages.evaluate", arguments, reports / evaluation_name({"protocol": protocol}), model)
        watching = [*subject, *(f"{name}={places[name]}" for name in ("runs", "device"))]
        if load_config(last, preset_file(last, preset)).neuron == "lif":  # its twins stand beside it
            yield Step("stages.energy", watching, reports / "energy.json", model)
        yield Step("stages.portrait", watching, None)


if __name__ == "__main__":
    run_command(main)

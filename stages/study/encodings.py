"""Do the paper's own parts help? `spiking-vq study encodings data=mnist [preset=paper] [seeds=3]`.

Trains stage 1 with every encoding (`rate`, `psp`, `both`) and every spike generator (`adaptive`, `poisson`, `repeat`),
with several seeds, briefly and with few spiking steps, and measures reconstructions: mean and spread over the seeds,
and what the paper's own choice changes, all else being equal. `jobs=2` runs two at a time. The same command goes on
where it stopped. Writes `<results>/<data>/ablation.json` and `.md`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from spiking_vq.data.datasets import DATASETS
from spiking_vq.errors import LARGEST_SEED, require, require_integer
from spiking_vq.files import atomic_write, json_text
from spiking_vq.models.spike_generators import SPIKE_GENERATORS
from spiking_vq.models.vq_svae import ENCODINGS
from spiking_vq.runtime.precision import PRECISIONS
from stages.cli.machine import check_device, describe_machine
from stages.cli.options import parse_options, recorded_command
from stages.evaluate.measures import check_inception
from stages.evaluate.protocols import PROTOCOLS
from stages.reporting.markdown import table
from stages.reporting.report import claim_report, evaluation_name
from stages.reporting.spread import figure, spread, told
from stages.study.steps import Step, check_trainings, classifier_step, places_of, run_chains, run_steps

OPTIONS = {
    "data": "mnist",
    "preset": "paper",
    "T": 4,
    "epochs": 2,
    "seeds": 3,
    "jobs": 1,
    "protocol": "n1280-test",
    "device": "cpu",
    "precision": "fp32",
    "data_dir": Path("data"),
    "runs": Path("runs"),
    "results": Path("results"),
}

MEASURED = {
    "MSE x 1000": (("stage1", "mse"), 1000),
    "FID": (("reconstruction", "fid"), 1),
    "classifier distance": (("reconstruction", "classifier_distance"), 1),
    "perplexity": (("stage1", "perplexity"), 1),
    "firing rate": (("firing_rate", "vq_svae", "all"), 1),
}
"""Column -> where its figure stands in an evaluation, and a factor."""

CHOICES = (
    ("encoding", "both", "rate"),
    ("encoding", "both", "psp"),
    ("spike_generator", "adaptive", "poisson"),
    ("spike_generator", "adaptive", "repeat"),
)
"""Switch, the paper's choice, what it is compared with."""

OTHERS = {"encoding": tuple(SPIKE_GENERATORS), "spike_generator": ENCODINGS}
"""Switch -> options of the other one."""


def main(arguments: list[str]) -> None:
    """Train and measure all combinations, then tell mean and spread."""
    options = parse_options(arguments, OPTIONS)
    require_integer("seeds", options["seeds"], 1, LARGEST_SEED + 1)
    for name in ("T", "epochs", "jobs"):
        require_integer(name, options[name], 1)
    check_device(options["device"])
    for name, known in (("protocol", PROTOCOLS), ("precision", PRECISIONS), ("data", DATASETS)):
        require(options[name] in known, name, f"one of {', '.join(known)}", repr(options[name]))
    cells = {cell: [steps(*cell, seed, options) for seed in range(options["seeds"])] for cell in combinations()}
    check_trainings(runs[0][0] for runs in cells.values())  # another seed changes nothing
    folder = Path(options["results"]) / options["data"]
    claim_report(folder / "ablation.json", data=options["data"], preset=options["preset"])
    check_inception(options["data_dir"])
    run_steps(classifier_step(options["data"], places_of(options)))
    run_chains([pair for runs in cells.values() for pair in runs], options["jobs"], Path(options["runs"]) / "ablation")
    rows = [
        {"encoding": encoding, "spike_generator": generator}
        | {name: spread([figure(pair[-1].leaves, *where) for pair in runs]) for name, where in MEASURED.items()}
        for (encoding, generator), runs in cells.items()
    ]
    report = {
        "command": recorded_command("study encodings", arguments),
        **{name: options[name] for name in ("data", "preset", "T", "epochs", "seeds", "protocol", "precision")},
        "about": PROTOCOLS[options["protocol"]].about,
        "machine": describe_machine(options["device"]),
        "rows": rows,
        "differences": differences(rows),
    }
    for name, text in {"ablation.json": json_text(report), "ablation.md": markdown(report)}.items():
        with atomic_write(folder / name) as temporary:
            temporary.write_text(text)
        print(f"wrote {folder / name}")
    print("\n" + markdown(report))


def combinations() -> list[tuple[str, str]]:
    """All pairs of an encoding and a spike generator."""
    return list(product(ENCODINGS, SPIKE_GENERATORS))


def steps(encoding: str, generator: str, seed: int, options: dict[str, Any]) -> tuple[Step, Step]:
    """Training and measurement of one network."""
    data, preset = options["data"], options["preset"]
    settings = f"T={options['T']}-epochs={options['epochs']}-{options['precision']}"
    runs = Path(options["runs"]) / "ablation" / settings / f"{encoding}-{generator}-{seed}"
    subject = [f"data={data}", f"preset={preset}"]
    subject += [f"{name}={options[name]}" for name in ("data_dir", "device", "precision")]
    network = [f"T={options['T']}", f"model.encoding={encoding}", f"model.spike_generator={generator}"]
    length = [f"train.max_epochs={options['epochs']}"]
    model = runs / data / preset / "vq_svae" / "model.safetensors"
    wanted = {"only": "reconstruction", "protocol": options["protocol"], "seed": seed}
    measure = [*subject, *(f"{name}={value}" for name, value in wanted.items())]
    return (
        Step("train", ["vq_svae", *subject, *network, *length, f"seed={seed}", f"runs={runs}"], model),
        Step(
            "evaluate",
            [*measure, f"ckpt={model}", f"runs={options['runs']}", f"results={runs / 'results'}"],
            runs / "results" / data / preset / evaluation_name(wanted),
            model,
        ),
    )


def differences(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What each of the paper's choices changes: the mean difference between networks that differ in it alone, the seed
    being the same, its standard error, and in how many pairs it is below 0; over all pairs, then of those with each
    option of the other switch.
    """
    return [
        {"choice": choice, "instead_of": other, "beside": beside[0] if len(beside) == 1 else "any"}
        | {name: _difference(_pairs(rows, switch, choice, other, beside, name)) for name in MEASURED}
        for switch, choice, other in CHOICES
        for beside in (OTHERS[switch], *((option,) for option in OTHERS[switch]))
    ]


def _pairs(
    rows: list[dict[str, Any]], switch: str, choice: str, other: str, beside: Sequence[str], name: str
) -> list[tuple[float, float]]:
    """A figure of each network with a choice, beside that of the network that differs in this choice alone."""
    rest = "spike_generator" if switch == "encoding" else "encoding"
    theirs, ours = ({row[rest]: row[name]["per_seed"] for row in rows if row[switch] == of} for of in (other, choice))
    return [pair for key in beside for pair in zip(ours[key], theirs[key], strict=True)]


def _difference(pairs: list[tuple[float, float]]) -> dict[str, Any]:
    values = [ours - theirs for ours, theirs in pairs]
    error = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return {"mean": fmean(values), "error": error, "below_0": sum(value < 0 for value in values), "pairs": len(values)}


def about(report: dict[str, Any]) -> str:
    """What the table is of."""
    return (
        f"Stage 1 on {report['data']}, `PRESET={report['preset']}` at T = {report['T']}, {report['epochs']} epochs,"
        f" {report['precision']}, mean ± standard deviation over {report['seeds']} seeds. FID and classifier distance"
        f" are of reconstructions: {report['about']}."
    )


ABOUT_DIFFERENCES = (
    "What the paper's choices change, beside each option of the other switch: mean difference ± its standard error over"
    " the pairs of networks that differ in nothing else, and in how many of them it is below 0."
)


def shown_rows(report: dict[str, Any]) -> list[dict[str, str]]:
    """The nine networks, as text."""
    return [
        {"encoding": row["encoding"], "spike generator": row["spike_generator"]}
        | {name: told(row[name]) for name in MEASURED}
        for row in report["rows"]
    ]


def shown_differences(report: dict[str, Any]) -> list[dict[str, str]]:
    """What each choice changes, as text."""
    return [
        {"choice": f"{row['choice']}, not {row['instead_of']}", "beside": row["beside"]}
        | {name: _told(row[name]) for name in MEASURED}
        for row in report["differences"]
    ]


def _told(difference: dict[str, Any]) -> str:
    error = "" if difference["error"] is None else f" ± {difference['error']:.2g}"
    return "{mean:+.2g}{told} ({below_0} of {pairs})".format(told=error, **difference)


def markdown(report: dict[str, Any]) -> str:
    """The report as a document."""
    return "\n".join(["# Encoding and spike generator", "", *lines(report)]) + "\n"


def lines(report: dict[str, Any]) -> list[str]:
    """Both tables as Markdown, and what they are of."""
    rows, changes = table(shown_rows(report)), table(shown_differences(report))
    return [about(report), "", *rows, "", ABOUT_DIFFERENCES, "", *changes]

"""What makes `base` better? `python -m stages.candidates stage=absorbing data=mnist [only="base elbo"] [seeds=2]`.

Trains every candidate of `configs/candidates.yaml`, which is `base` with a few changes, and measures it by the
classifier distance on the validation split: of reconstructions, or of samples on one frozen stage 1 (`stage1=`, by
default your own or the one that ships). `also="train.max_steps=3000"` changes all alike. `jobs=2` runs two at a time.
The same command goes on where it stopped. Writes `<results>/<data>/candidates-<stage>.json` and `.md`.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from spiking_vq.checkpoint import atomic_write
from spiking_vq.errors import require
from spiking_vq.generators import find_model
from stages.command import parse_options, recorded_command, run_command
from stages.machine import describe_machine
from stages.markdown import table
from stages.report import evaluation_name
from stages.steps import Step, classifier_step, perceptual_step, places_of, run_chains, run_steps
from stages.train import CONFIGS
from stages.trials import figure, spread, told

OPTIONS = {
    "stage": "absorbing",
    "data": "mnist",
    "only": "",
    "also": "",
    "stage1": "",
    "seeds": 2,
    "jobs": 1,
    "device": "cpu",
    "data_dir": "data",
    "runs": "runs",
    "results": "results",
}
LISTS = CONFIGS / "candidates.yaml"
MEASURED = {
    "vq_svae": {
        "classifier distance": ("reconstruction", "classifier_distance"),
        "MSE": ("stage1", "mse"),
        "perplexity": ("stage1", "perplexity"),
        "firing rate": ("firing_rate", "vq_svae", "all"),
    },
    "absorbing": {
        "classifier distance": ("metrics", "classifier_distance", "mean"),
        "firing rate": ("firing_rate", "absorbing", "all"),
        "images / s": ("images_per_second",),
    },
}
"""Stage -> column -> where its figure stands in an evaluation."""

ONLY = {"vq_svae": "reconstruction", "absorbing": "samples"}
"""Stage -> what of it is evaluated."""


def main(arguments: list[str]) -> None:
    """Train and measure what has not been, then tell mean and spread."""
    options = parse_options(arguments, OPTIONS)
    stage = options["stage"]
    require(stage in MEASURED, "stage", f"one of {', '.join(MEASURED)}", repr(stage))
    require(options["seeds"] >= 1, "seeds", "at least 1", options["seeds"])
    chosen = chosen_of(OmegaConf.to_container(OmegaConf.load(LISTS))[stage], options["only"].split())
    chains = {
        name: [steps(name, changes or "", seed, options) for seed in range(options["seeds"])]
        for name, changes in chosen.items()
    }
    shared = [perceptual_step(options["data"], places_of(options))] if stage == "vq_svae" else []
    run_steps([*classifier_step(options["data"], places_of(options)), *shared])
    logs = Path(options["runs"]) / "candidates" / stage / "logs"
    run_chains([chain for runs in chains.values() for chain in runs], options["jobs"], logs)
    rows = [{"candidate": name, "changes": chosen[name] or ""} | row(stage, runs) for name, runs in chains.items()]
    report = {
        "command": recorded_command("stages.candidates", arguments),
        **{name: options[name] for name in ("stage", "data", "also", "seeds")},
        "about": "base with each of these changes; classifier distance to the validation images",
        "machine": describe_machine(options["device"]),
        "rows": rows,
    }
    out = Path(options["results"]) / options["data"] / f"candidates-{stage}"
    for suffix, text in {".json": json.dumps(report, indent=2) + "\n", ".md": markdown(report)}.items():
        with atomic_write(out.with_suffix(suffix)) as temporary:
            temporary.write_text(text)
        print(f"wrote {out.with_suffix(suffix)}")
    print("\n" + markdown(report))


def chosen_of(candidates: dict[str, str | None], names: list[str]) -> dict[str, str | None]:
    """Those of the candidates that are named, or all.

    Raises:
        InputError: one is not there.
    """
    unknown = [name for name in names if name not in candidates]
    require(not unknown, "only", f"of {', '.join(candidates)}", " ".join(unknown))
    return {name: candidates[name] for name in names or candidates}


def steps(name: str, changes: str, seed: int, options: dict[str, Any]) -> tuple[Step, Step]:
    """Training and measurement of one candidate with one seed, in a folder of its name and of what is changed in it."""
    stage, data = options["stage"], options["data"]
    subject = [f"data={data}", "preset=base", *(f"{place}={options[place]}" for place in ("data_dir", "device"))]
    network = [*changes.split(), *options["also"].split()]
    changed = hashlib.sha256(" ".join(network).encode())
    if stage == "absorbing":
        own = find_model("vq_svae", data, "base", options["runs"], options["stage1"] or None)
        network.append(f"stage1={own}")
        changed.update(own.read_bytes())
    else:
        network.append(f"perceptual.classifier={perceptual_step(data, places_of(options)).leaves}")
    runs = Path(options["runs"]) / "candidates" / stage / f"{name}-{changed.hexdigest()[:8]}-{seed}"
    model = runs / data / "base" / stage / "model.safetensors"
    wanted = {"protocol": "val", "only": ONLY[stage], "features": "classifier"}
    measure = [f"stage={stage}", *(f"{key}={value}" for key, value in wanted.items()), f"seed={seed}", "precision=bf16"]
    return (
        Step("stages.train", [stage, *subject, *network, f"seed={seed}", f"runs={runs}"], model),
        Step(
            "stages.evaluate",
            [*subject, *measure, f"ckpt={model}", f"runs={options['runs']}", f"results={runs / 'results'}"],
            runs / "results" / data / "base" / evaluation_name(wanted),
            model,
        ),
    )


def row(stage: str, runs: list[tuple[Step, Step]]) -> dict[str, Any]:
    """The figures of one candidate, over its seeds."""
    summaries = [training.leaves.with_name("training.json") for training, _ in runs]
    found = {
        name: [figure(measuring.leaves, keys) for _, measuring in runs] for name, keys in MEASURED[stage].items()
    } | {
        "training minutes": [figure(path, ("seconds",), 1 / 60) for path in summaries],
        "parameters": [figure(path, ("parameters",)) for path in summaries],
    }
    return {name: spread(values) for name, values in found.items()}


def markdown(report: dict[str, Any]) -> str:
    """The report as a document."""
    rows = [
        {"candidate": row["candidate"], "changes": f"`{row['changes']}`" if row["changes"] else ""}
        | {name: told(value) for name, value in row.items() if isinstance(value, dict)}
        for row in report["rows"]
    ]
    title = f"# {report['data']}, {report['stage']}: what makes base better?"
    also = f", all with `{report['also']}`" if report["also"] else ""
    about = f"{report['about']}{also}; mean ± standard deviation over {report['seeds']} seeds."
    return "\n".join([title, "", about[:1].upper() + about[1:], "", *table(rows)]) + "\n"


if __name__ == "__main__":
    run_command(main)

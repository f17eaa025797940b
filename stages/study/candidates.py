"""What makes `base` better? `spiking-vq study candidates stage=absorbing data=mnist [only="base elbo"] [seeds=2]`.

Trains every candidate of `configs/candidates.yaml`, which is `base` with a few changes, and measures it by the
classifier distance on the validation split: of stage 1's reconstructions; or of samples, by stage 2 on one frozen stage
1. `stage=sampler` trains nothing: it tries settings of the sampler on one trained model. `ckpt=` is that stage 1, or
that model; by default your own, or the one that ships. `length=0.1` trains a tenth of the steps. `features=all` tells
FID, too, by the Inception: some minutes for each. `jobs=2` runs two at a time. The same command goes on where it
stopped. Writes `<results>/<data>/candidates-<stage>.json` and `.md`, and of what was trained `.png`: quality against
firing rate.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt

from spiking_vq.config.load import load_config
from spiking_vq.config.yaml_files import read_yaml
from spiking_vq.data.datasets import DATASETS
from spiking_vq.errors import LARGEST_SEED, InputError, require, require_integer
from spiking_vq.files import atomic_write, json_text
from spiking_vq.pipelines.load import load
from spiking_vq.pipelines.zoo import find_model
from stages.cli.machine import check_device, describe_machine
from stages.cli.options import CONFIGS, SAMPLER, parse_options, recorded_command, say_which_weights
from stages.evaluate.measures import NETWORKS, check_inception
from stages.reporting.markdown import table
from stages.reporting.report import claim_report, evaluation_name, identity
from stages.reporting.spread import figure, spread, told
from stages.study.steps import Step, check_trainings, classifier_step, perceptual_step, places_of, run_chains, run_steps
from stages.train import preset_file

OPTIONS = {
    "stage": "absorbing",
    "data": "mnist",
    "only": "",
    "length": 1.0,
    "features": "classifier",
    "ckpt": Path,
    "seeds": 2,
    "jobs": 1,
    "device": "cpu",
    "data_dir": Path("data"),
    "runs": Path("runs"),
    "results": Path("results"),
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
    "sampler": {
        "classifier distance": ("metrics", "classifier_distance", "mean"),
        "confidence": ("metrics", "confidence", "mean"),
        "network calls": ("network_calls",),
        "spiking steps": ("network_steps",),
    },
}
"""What is varied -> column -> where its figure stands in an evaluation."""

FID = {"vq_svae": ("reconstruction", "fid"), **dict.fromkeys(("absorbing", "sampler"), ("metrics", "fid", "mean"))}
"""What is varied -> where, with `features=all`, FID stands."""

BUILT_ON = {"absorbing": "vq_svae", "sampler": "absorbing"}
"""What is varied -> the stage of the one model that all candidates are built on."""


def main(arguments: list[str]) -> None:
    """Train and measure what has not been, then tell mean and spread."""
    options = parse_options(arguments, OPTIONS)
    stage = options["stage"]
    require(stage in MEASURED, "stage", f"one of {', '.join(MEASURED)}", repr(stage))
    require_integer("seeds", options["seeds"], 1, LARGEST_SEED + 1)
    require(options["features"] in NETWORKS, "features", f"one of {', '.join(NETWORKS)}", repr(options["features"]))
    require_integer("jobs", options["jobs"], 1)
    length = options["length"]
    require(length > 0, "length", "above 0, 1 being that of base", length)
    require(stage != "sampler" or length == 1, "length", "1, as the sampler trains nothing", length)
    require(options["data"] in DATASETS, "data", f"one of {', '.join(DATASETS)}", repr(options["data"]))
    check_device(options["device"])
    if stage in BUILT_ON and not options["ckpt"]:
        say_which_weights(built_on(options), options["runs"])
    chosen = chosen_of(listed(stage), options["only"].split())
    chains = planned(chosen, options)
    out = Path(options["results"]) / options["data"] / f"candidates-{stage}"
    claim_report(out.with_suffix(".json"), stage=stage, data=options["data"])
    if options["features"] == "all":
        check_inception(options["data_dir"])
    shared = [] if stage in BUILT_ON else [perceptual_step(options["data"], places_of(options))]
    run_steps([*classifier_step(options["data"], places_of(options)), *shared])
    logs = Path(options["runs"]) / "candidates" / stage / "logs"
    run_chains([chain for runs in chains.values() for chain in runs], options["jobs"], logs)
    columns = MEASURED[stage] | ({"FID": FID[stage]} if options["features"] == "all" else {})
    rows = [{"candidate": name, "changes": chosen[name] or ""} | row(columns, runs) for name, runs in chains.items()]
    report = {
        "command": recorded_command("study candidates", arguments),
        **{name: options[name] for name in ("stage", "data", "length", "seeds")},
        **({"model": identity(built_on(options))} if stage in BUILT_ON else {}),
        "about": "base with each of these changes; distances are to the validation images",
        "machine": describe_machine(options["device"]),
        "rows": rows,
    }
    files = {".json": json_text(report).encode(), ".md": markdown(report).encode()}
    if stage != "sampler":
        files[".png"] = quality_by_rate(report)
    for suffix, content in files.items():
        with atomic_write(out.with_suffix(suffix)) as temporary:
            temporary.write_bytes(content)
        print(f"wrote {out.with_suffix(suffix)}")
    print("\n" + markdown(report))


def listed(stage: str) -> dict[str, str | None]:
    """The candidates of the list: name -> changes.

    Raises:
        InputError: the list cannot be read, or holds something else.
    """
    found = (read_yaml(LISTS) or {}).get(stage)
    texts = isinstance(found, dict) and all(isinstance(changes, str | None) for changes in found.values())
    require(texts and len(found) >= 1, f"{stage} in {LISTS}", "names of candidates, each with its changes", repr(found))
    return found


def planned(chosen: dict[str, str | None], options: dict[str, Any]) -> dict[str, list[list[Step]]]:
    """The steps of each candidate, seed by seed; that all of them are possible is seen here, before hours of training.

    Raises:
        InputError: one is not; the message names it.
    """
    generator = load(built_on(options)) if options["stage"] == "sampler" else None
    chains = {}
    for name, changes in chosen.items():
        try:
            chains[name] = [steps(name, changes or "", seed, options) for seed in range(options["seeds"])]
            check_trainings(chains[name][0])  # another seed changes nothing
            if generator:
                generator.sampling(**parse_options((changes or "").split(), SAMPLER))
        except InputError as error:
            raise InputError(f"candidate {name}: {error}") from error
    return chains


def chosen_of(candidates: dict[str, str | None], names: list[str]) -> dict[str, str | None]:
    """Those of the candidates that are named, or all.

    Raises:
        InputError: one is not there.
    """
    unknown = [name for name in names if name not in candidates]
    require(not unknown, "only", f"of {', '.join(candidates)}", " ".join(unknown))
    return {name: candidates[name] for name in names or candidates}


def built_on(options: dict[str, Any]) -> Path:
    """The file of the model that all candidates are built on; of `vq_svae` there is none."""
    return find_model(BUILT_ON[options["stage"]], options["data"], "base", options["runs"], options["ckpt"])


def steps(name: str, changes: str, seed: int, options: dict[str, Any]) -> list[Step]:
    """What makes and measures one candidate with one seed, in a folder of its name and of what is changed in it."""
    stage, data = options["stage"], options["data"]
    subject = [f"data={data}", "preset=base", *(f"{place}={options[place]}" for place in ("data_dir", "device"))]
    changed = changes.split()
    if options["length"] != 1:
        whole = load_config(stage, preset_file(stage, "base"), changed).train.max_steps
        require(whole is not None, "train.max_steps", "a number where length is not 1", "null")
        count = round(options["length"] * whole)
        changed += [f"train.max_steps={count}", f"train.val_every={count}"]
    described = hashlib.sha256(" ".join(changed).encode())
    if stage in BUILT_ON:
        described.update(built_on(options).read_bytes())
    runs = Path(options["runs"]) / "candidates" / stage / f"{name}-{described.hexdigest()[:8]}-{seed}"

    def evaluation(of: str, model: Path, **wanted: Any) -> Step:
        wanted = {"protocol": "val", "features": options["features"]} | wanted | {"seed": seed}
        settings = [f"stage={of}", *(f"{key}={value}" for key, value in wanted.items())]
        places = ["precision=bf16", f"ckpt={model}", f"runs={options['runs']}", f"results={runs / 'results'}"]
        leaves = runs / "results" / data / "base" / evaluation_name(wanted)
        return Step("evaluate", [*subject, *settings, *places], leaves, model)

    if stage == "sampler":
        settings = {name: value for name, value in parse_options(changed, SAMPLER).items() if value is not None}
        return [evaluation("absorbing", built_on(options), only="samples", **settings)]
    if stage == "absorbing":
        changed += [f"stage1={built_on(options)}", f"tokens_dir={Path(options['runs']) / data / 'tokens'}"]
    else:
        changed.append(f"perceptual.classifier={perceptual_step(data, places_of(options)).leaves}")
    model = runs / data / "base" / stage / "model.safetensors"
    return [
        Step("train", [stage, *subject, *changed, f"seed={seed}", f"runs={runs}"], model),
        evaluation(stage, model, only="reconstruction" if stage == "vq_svae" else "samples"),
    ]


def row(columns: dict[str, tuple[str, ...]], runs: list[list[Step]]) -> dict[str, Any]:
    """The figures of one candidate, over its seeds: column -> mean and spread."""
    found = {name: [figure(steps[-1].leaves, keys) for steps in runs] for name, keys in columns.items()}
    summaries = [training.leaves.with_name("training.json") for training, *measuring in runs if measuring]
    if summaries:
        found |= {
            "training minutes": [figure(path, ("seconds",), 1 / 60) for path in summaries],
            "parameters": [figure(path, ("parameters",)) for path in summaries],
        }
    return {name: spread(values) for name, values in found.items()}


def quality_by_rate(report: dict[str, Any]) -> bytes:
    """A chart of all candidates as PNG, a cross of standard deviations each: the lower left corner is best."""
    chart, axis = plt.subplots(figsize=(8, 5), layout="constrained")
    rows = sorted(report["rows"], key=lambda row: row["classifier distance"]["mean"])
    for place, row in enumerate(rows):  # many fire alike: their names stand in a column, each with a line to its cross
        (x, dx), (y, dy) = ((row[name]["mean"], row[name]["std"]) for name in ("firing rate", "classifier distance"))
        color = axis.errorbar(x, y, dy, dx, fmt="o", markersize=4).lines[0].get_color()
        axis.annotate(
            row["candidate"],
            (x, y),
            xytext=(1.03, (place + 0.5) / len(rows)),
            textcoords="axes fraction",
            fontsize=8,
            verticalalignment="center",
            arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.6, "relpos": (0, 0.5)},
        )
    axis.set(xlabel="mean firing rate", ylabel="classifier distance", title=f"{report['data']}, {report['stage']}")
    axis.set_xlim(left=0)
    axis.set_yscale("log")  # most candidates are close together, some far off
    for formatter in (axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter):
        formatter("{x:g}")
    axis.spines[["top", "right"]].set_visible(False)
    stream = io.BytesIO()
    chart.savefig(stream, format="png", dpi=120)
    plt.close(chart)
    return stream.getvalue()


def markdown(report: dict[str, Any]) -> str:
    """The report as a document."""
    rows = [
        {"candidate": row["candidate"], "changes": f"`{row['changes']}`" if row["changes"] else ""}
        | {name: told(value) for name, value in row.items() if isinstance(value, dict)}
        for row in report["rows"]
    ]
    title = f"# {report['data']}, {report['stage']}: what makes base better?"
    length = "" if report["length"] == 1 else f", all trained {report['length']:g} of the steps"
    about = f"{report['about']}{length}; mean ± standard deviation over {report['seeds']} seeds."
    return "\n".join([title, "", about[:1].upper() + about[1:], "", *table(rows)]) + "\n"

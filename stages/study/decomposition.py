"""Where quality is lost: `spiking-vq study decomposition data=mnist preset=base [features=all]` (or `ckpt=FILE`).

Measures on the validation split, step by step from real images to those of few calls: real training images, the
floor; stage 1's reconstructions of them; images of one token a call, at temperature and guidance 1 the network's own
distribution; images in fewer calls. What lies between two rows is what that step costs. Discrete models only. The same
command goes on where it stopped: its measurements lie in `<runs>/decomposition`. Writes
`<results>/<data>/<preset>/decomposition.json` and `.md`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from spiking_vq.errors import InputError, require
from spiking_vq.files import atomic_write
from spiking_vq.pipelines.latent import LatentPipeline
from spiking_vq.pipelines.load import load
from spiking_vq.runtime.precision import PRECISIONS
from stages.cli.machine import check_device, describe_machine
from stages.cli.options import MODEL, model_file, parse_options
from stages.evaluate.measures import NETWORKS
from stages.reporting.markdown import table
from stages.reporting.report import (
    claim_model_report,
    evaluation_name,
    heading,
    read_report,
    report_folder,
    write_report,
)
from stages.study.steps import Step, run_steps

OPTIONS = {
    **MODEL,
    "calls": "16 8",
    "features": "classifier",
    "seed": 0,
    "device": "cpu",
    "precision": "fp32",
    "data_dir": Path("data"),
    "results": Path("results"),
}

MEASURED = {"FID": ("fid", 1), "KID x 1000": ("kid", 1000), "classifier distance": ("classifier_distance", 1)}
"""Column -> the figure's name in an evaluation, and a factor."""


def main(arguments: list[str]) -> None:
    """Measure what has not been measured, then tell it step by step."""
    options = parse_options(arguments, OPTIONS)
    check_device(options["device"])
    require(options["features"] in NETWORKS, "features", f"one of {', '.join(NETWORKS)}", repr(options["features"]))
    require(options["precision"] in PRECISIONS, "precision", f"one of {', '.join(PRECISIONS)}", options["precision"])
    path = model_file(options)
    generator = load(path)
    if not isinstance(generator, LatentPipeline):
        raise InputError(f"{path} is a {generator.config.stage} model: only those on tokens have steps to decompose")
    config, calls = generator.config, numbers_of_calls(options["calls"], generator.diffusion.diffusion_steps)
    out = claim_model_report(options["results"], "decomposition.json", config)
    options |= {"data": config.data, "preset": config.preset, "ckpt": path}
    steps = {name: step(settings, options) for name, settings in samplings(calls, config.conditional)}
    stage1 = step({"only": "reconstruction"}, options)
    run_steps([stage1, *steps.values()])
    found = read_report(stage1.leaves)
    rows = [
        row("real, of the training split: the floor", found["floor"]),
        row("these, reconstructed by stage 1", found["reconstruction"]),
        *(row(f"generated, {name}", read_report(done.leaves)["metrics"]) for name, done in steps.items()),
    ]
    report = heading("study decomposition", arguments, config, path) | {
        "about": found["about"],
        "precision": options["precision"],
        "machine": describe_machine(options["device"]),
        "rows": rows,
    }
    write_report(out, report)
    with atomic_write(out.with_suffix(".md")) as temporary:
        temporary.write_text(markdown(report))
    print("\n" + markdown(report))


def numbers_of_calls(told: str, num_tokens: int) -> list[int]:
    """The numbers in a text such as `16 8`, after the number of tokens.

    Raises:
        InputError: not numbers, or none below the number of tokens.
    """
    words = told.split()
    expected = f"numbers in 1..{num_tokens - 1}"
    require(all(word.isdecimal() and 0 < int(word) < num_tokens for word in words), "calls", expected, repr(told))
    return [num_tokens, *map(int, words)]


def samplings(calls: list[int], conditional: bool) -> list[tuple[str, dict[str, Any]]]:
    """Name and sampler settings of each way to generate; the settings not told are the model's own."""
    one_a_call, plain = {"sample_steps": calls[0]}, {"temperature": 1.0} | ({"guidance": 1.0} if conditional else {})
    told = ", ".join(f"{name} {value:g}" for name, value in plain.items())
    return [
        (f"one token a call ({calls[0]} calls), {told}", one_a_call | plain),
        (f"one token a call ({calls[0]} calls)", one_a_call),
        *((f"{number} calls", {"sample_steps": number}) for number in calls[1:]),
    ]


def step(settings: dict[str, Any], options: dict[str, Any]) -> Step:
    """The measurement of one way to make images, and the report that it leaves."""
    wanted = {"protocol": "val", "only": "samples", "features": options["features"]} | settings
    same = ("ckpt", "data", "preset", "runs", "seed", "device", "precision", "data_dir")
    results = Path(options["runs"]) / "decomposition"
    given = {name: options[name] for name in same} | {"results": results} | wanted
    leaves = report_folder(results, "absorbing", options["data"], options["preset"]) / evaluation_name(given)
    return Step("evaluate", [f"{name}={value}" for name, value in given.items()], leaves, options["ckpt"])


def row(images: str, figures: dict[str, Any]) -> dict[str, Any]:
    """A row of the table: of which images, and those of the figures that it shows, means where there are several."""
    means = {key: value["mean"] if isinstance(value, dict) else value for key, value in figures.items()}
    shown = {name: factor * means[key] for name, (key, factor) in MEASURED.items() if key in means}
    return {"images": images} | shown


def markdown(report: dict[str, Any]) -> str:
    """The report as a document."""
    rows = [
        {name: value if isinstance(value, str) else f"{value:.3g}" for name, value in row.items()}
        for row in report["rows"]
    ]
    title = f"# {report['data']}, {report['preset']}: from real images to generated ones"
    return "\n".join([title, "", f"{report['about']}; {report['precision']}.", "", *table(rows)]) + "\n"

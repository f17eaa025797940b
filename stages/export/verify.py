"""Verify an exported model: every spike and every image against the network's own.

The graphs run by our own receiver in float64, where no spike may differ; then, in float32, by every installed library
that reads NIR, with a table of equal spikes. ONNX and torch.export files are compared by their outputs, at two batch
sizes. Ends with exit code 1 if our own run differs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from spiking_vq.data.levels import to_uint8
from spiking_vq.errors import InputError, require
from spiking_vq.export.check import TOLERANCE, faults, graph_of, own_agreement
from spiking_vq.export.expected import Result, compute, from_arrays
from spiking_vq.export.folder import DESCRIPTION, export_seeds, read_description, read_expected
from spiking_vq.export.nir_folder import read_integers
from spiking_vq.export.receivers.integers import IntegerReceiver
from spiking_vq.pipelines.load import load, load_exported
from stages.cli.options import read_options
from stages.export.receivers import AnyExamples, AnyModel, compare_receivers, in_words
from stages.reporting.report import claim_model_report, heading, write_report

EXAMPLE = "spiking-vq verify runs/mnist/large/export/nir"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `verify`.

    Attributes:
        model: folder of the exported model, written without `model=`.
        receivers: run by other libraries too, where they are installed.
        ungrouped: give them the networks without grouped convolutions, which they cannot read as they are: takes
            gigabytes of memory.
        results: folder of the reports, for `export-<to>-<form>.json`; None (default) writes none.
    """

    model: Path | None = None
    receivers: bool = True
    ungrouped: bool = False
    results: Path | None = None


def main(arguments: list[str]) -> None:
    """Run the parts, compare, and end with 1 if ours differ."""
    options = read_options(Options, arguments)
    if options.model is None:
        raise InputError(f"name the folder of an exported model, such as `{EXAMPLE}`")
    description, config = read_description(options.model)
    examples, expected = from_arrays(read_expected(options.model))
    model, _ = load_exported(options.model)
    way = "-".join(["export", description["to"], *([description["form"]] if "form" in description else [])])
    name = f"{way}{'-ungrouped' if options.ungrouped else ''}.json"
    out = claim_model_report(options.results, name, config) if options.results else None
    report: dict[str, Any] = {"weights_sha256": description["weights_sha256"], "images": len(examples.images)}
    report["files"] = {
        part["file"]: (options.model / part["file"]).stat().st_size for part in description["parts"].values()
    }
    if description["to"] != "nir":
        require(not options.ungrouped, "ungrouped", f"left out of an export to {description['to']}", "true")
        report["parts"] = compare_outputs(model, examples, expected)
    else:
        report["faults"] = list(faults(model, config, description["form"], description["inputs"]))
        print(*report["faults"], sep="\n", end="\n" if report["faults"] else "")
        model = model.double()
        report["parts"] = {part: own(model, part, examples, expected[part]) for part in expected}
        report["integers"] = {}
        if config.weight_bits is not None:
            report["integers"] = dict(integers(options.model, model, examples, expected))
            report["parts"]["encoder"]["by_rounding"] = True
            print("encoder    of a quantised model: integer weights end many sums of pixels exactly at the threshold,")
            print("           where the order of the sums decides; it need not agree")
        report["pixels_that_differ"] = images(options.model, examples)
        if options.receivers:
            model, form = model.float(), description["form"]
            report["receivers"] = compare_receivers(model, config, examples, expected, form, options.ungrouped)
    report["verified"] = agrees(report)
    if out:
        write_report(out, heading("verify", arguments, config, options.model / DESCRIPTION) | report)
    print("verified" if report["verified"] else "NOT verified: the export does not do what the network does")
    if not report["verified"]:
        sys.exit(1)


def agrees(report: dict[str, Any]) -> bool:
    """Whether our own run is the network's: its spikes, its outputs up to the order of sums, its images.

    The encoder of a quantised model is left out, see `main`.
    """
    rows = [row for row in report["parts"].values() if not row.get("by_rounding")]
    rows += report.get("integers", {}).values()
    same = all(not row.get("differ") and row["output"] <= row["tolerance"] and row.get("argmax", True) for row in rows)
    return same and not report.get("faults") and not report.get("pixels_that_differ")


def own(model: AnyModel, part: str, examples: AnyExamples, expected: Result) -> dict[str, Any]:
    """How far our receiver agrees, in float64."""
    row = own_agreement(model, part, examples, expected)._asdict() | {"tolerance": TOLERANCE[torch.float64]}
    print(f"{part:10} our receiver, float64: {in_words(row)}")
    return row


def images(folder: Path, examples: AnyExamples) -> int:
    """How many pixels of whole images, sampled through the graphs in float64, are not the network's."""
    pipeline, count = load(folder, precision="fp64"), len(examples.images)
    *_, last = pipeline.states(export_seeds(count))
    made = to_uint8(pipeline.decode(last.x, torch.Generator().manual_seed(0)))
    differ = (made != examples.images).sum().item()
    print(f"{count} whole images sampled through the graphs: {differ} of {made.numel()} pixels differ")
    return differ


def integers(
    folder: Path, model: AnyModel, examples: AnyExamples, expected: dict[str, Result]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """How far a quantised network's graphs agree in integer arithmetic, part by part.

    The encoder is left out: its first synapse reads pixels, which are real numbers.
    """
    for part in ("decoder", "denoiser"):
        receiver = IntegerReceiver(graph_of(model, part).graph, read_integers(folder, part))
        row = own_agreement(model, part, examples, expected[part], receiver)._asdict()
        row |= {"tolerance": TOLERANCE[torch.float64], "accumulator_bits": receiver.accumulator_bits}
        print(f"{part:10} integers, accumulators of {receiver.accumulator_bits} bits: {in_words(row)}")
        yield part, row


@torch.no_grad()
def compare_outputs(
    model: AnyModel, examples: AnyExamples, expected: dict[str, Result]
) -> dict[str, dict[str, float | bool]]:
    """How far exported functions give the network's outputs, all images at once and one by one."""
    rows = {}
    for part in expected:
        wanted = expected[part].output.double()
        single = [type(examples)(*(None if v is None else v[i : i + 1] for v in examples)) for i in range(len(wanted))]
        together, alone = compute(model, examples, part), torch.cat([compute(model, one, part) for one in single])
        differences = [(made.double() - wanted).abs().max().item() for made in (together, alone)]
        same = all((made.argmax(1) == wanted.argmax(1)).all().item() for made in (together, alone))
        scale = max(1.0, wanted.abs().max().item())
        rows[part] = {"output": max(differences), "tolerance": scale * TOLERANCE[torch.float32]}
        rows[part] |= {"argmax": same} if part == "denoiser" else {}
        most = f"output within {max(differences):.2g}, all images at once and one by one"
        print(f"{part:10} {most}" + (f"; argmax {'equal' if same else 'differs'}" if part == "denoiser" else ""))
    return rows

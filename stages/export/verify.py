"""Verify an exported model: every spike and every image against the network's own.

The graphs run by our own receiver in float64, where no spike may differ; then, in float32, by every installed library
that reads NIR, with a table of equal spikes. ONNX and torch.export files are compared by their outputs, at two batch
sizes. Ends with exit code 1 if our own run differs.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from spiking_vq.data.levels import to_uint8
from spiking_vq.errors import InputError
from spiking_vq.export.check import TOLERANCE, faults, graph_of, own_agreement
from spiking_vq.export.expected import Result, compute, from_arrays
from spiking_vq.export.folder import export_seeds, read_description, read_expected
from spiking_vq.export.integers import IntegerReceiver
from spiking_vq.export.nir_folder import read_integers
from spiking_vq.pipelines.load import load, load_exported
from stages.cli.options import read_options
from stages.export.receivers import AnyExamples, AnyModel, compare_receivers, line

EXAMPLE = "spiking-vq verify runs/mnist/large/export/nir"

SINGLE = torch.float32


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `verify`.

    Attributes:
        model: folder of the exported model, written without `model=`.
        receivers: run by other libraries too, where they are installed.
        ungrouped: give them the networks without grouped convolutions, which they cannot read as they are: takes
            gigabytes of memory.
    """

    model: Path | None = None
    receivers: bool = True
    ungrouped: bool = False


def main(arguments: list[str]) -> None:
    """Run the parts, compare, and end with 1 if ours differ."""
    options = read_options(Options, arguments)
    if options.model is None:
        raise InputError(f"name the folder of an exported model, such as `{EXAMPLE}`")
    description, config = read_description(options.model)
    examples, expected = from_arrays(read_expected(options.model))
    model, _ = load_exported(options.model)
    if description["to"] != "nir":
        agrees = verify_traced(model, examples, expected)
    else:
        found = list(faults(model, config, description["form"], description["inputs"]))
        print(*found, sep="\n", end="\n" if found else "")
        agrees = verify_own(model.double(), examples, expected) and not found
        agrees = verify_images(options.model, examples) and agrees
        agrees = verify_integers(options.model, model, examples, expected) and agrees
        if options.receivers:
            compare_receivers(model.float(), config, examples, expected, description["form"], options.ungrouped)
    print("verified" if agrees else "NOT verified: the export does not do what the network does")
    if not agrees:
        sys.exit(1)


def verify_own(model: AnyModel, examples: AnyExamples, expected: dict[str, Result]) -> bool:
    """Whether our receiver gives every spike and every output in float64."""
    agrees = True
    for part in expected:
        row = own_agreement(model, part, examples, expected[part])
        print(f"{part:10} our receiver, float64: {line(row)}")
        agrees &= row.differ == 0 and row.output <= TOLERANCE[torch.float64]
    return agrees


def verify_images(folder: Path, examples: AnyExamples) -> bool:
    """Whether whole images, sampled through the graphs in float64, are the network's own."""
    pipeline, count = load(folder, precision="fp64"), len(examples.images)
    *_, last = pipeline.states(export_seeds(count))
    pixels = (to_uint8(pipeline.decode(last.x, torch.Generator().manual_seed(0))) != examples.images).sum().item()
    print(f"{count} whole images sampled through the graphs: {pixels} of {examples.images.numel()} pixels differ")
    return pixels == 0


def verify_integers(folder: Path, model: AnyModel, examples: AnyExamples, expected: dict[str, Result]) -> bool:
    """Whether a quantised network's graphs give every spike in integer arithmetic.

    The encoder is left out: its first synapse reads pixels, which are real numbers.
    """
    agrees = True
    for part in ("decoder", "denoiser"):
        if integers := read_integers(folder, part):
            receiver = IntegerReceiver(graph_of(model, part).graph, integers)
            row = own_agreement(model, part, examples, expected[part], receiver)
            bits = receiver.accumulator_bits
            print(f"{part:10} integers, accumulators of {bits} bits: {line(row)}")
            agrees &= row.differ == 0 and row.output <= TOLERANCE[torch.float64]
    return agrees


def verify_traced(model: AnyModel, examples: AnyExamples, expected: dict[str, Result]) -> bool:
    """Whether exported functions give the network's outputs, all images at once and one by one."""
    agrees = True
    for part in expected:
        wanted = expected[part].output
        single = [type(examples)(*(None if v is None else v[i : i + 1] for v in examples)) for i in range(len(wanted))]
        with torch.no_grad():
            together, alone = compute(model, examples, part), torch.cat([compute(model, one, part) for one in single])
        for way, output in {"together": together, "one by one": alone}.items():
            difference = (output.double() - wanted.double()).abs().max().item()
            scale = max(1.0, wanted.double().abs().max().item())
            same = part != "denoiser" or bool((output.argmax(1) == wanted.argmax(1)).all())
            print(f"{part:10} {way:10} largest difference {difference:.2g}, {'equal' if same else 'other'} argmax")
            agrees &= same and difference <= scale * TOLERANCE[SINGLE]
    return agrees

"""Other libraries' runs of an exported model, compared with the network's own."""

from __future__ import annotations

from contextlib import ExitStack, nullcontext
from typing import Any

import torch
from torch import Tensor

from spiking_vq.checkpoint.build import LatentModel, PixelModel
from spiking_vq.config.schema import DenoiserConfig
from spiking_vq.data.levels import to_uint8
from spiking_vq.export.check import graph_of, stock_agreement, taken_over
from spiking_vq.export.expected import Examples, PixelExamples, Result
from spiking_vq.export.folder import export_seeds
from spiking_vq.export.graphs.graph import Graph
from spiking_vq.export.receivers.stock import RECEIVERS, StockReceiver, groups_mended, run_stock, ungrouped
from spiking_vq.pipelines.load import pipeline_of

AnyModel = LatentModel | PixelModel
AnyExamples = Examples | PixelExamples


def compare_receivers(
    model: AnyModel,
    config: DenoiserConfig,
    examples: AnyExamples,
    expected: dict[str, Result],
    form: str,
    without_groups: bool = False,
) -> dict[str, dict[str, Any]]:
    """Return, and print, how far each installed library agrees, in float32, on the first image.

    Args:
        model: read from a folder.
        config: its configuration.
        examples, expected: inputs, and what the network computes of them.
        form: of the graphs' neurons.
        without_groups: give the libraries graphs without grouped convolutions; else (default) mend how they build them.
    """
    examples = type(examples)(*(None if value is None else value[:1] for value in examples))
    first = {
        part: Result({name: spk[:, :1] for name, spk in result.spikes.items()}, result.output[:1])
        for part, result in expected.items()
    }
    graphs = {part: graph_of(model, part).graph for part in expected}
    grouped = [part for part, graph in graphs.items() if any(getattr(n, "groups", 1) > 1 for n in graph.nodes.values())]
    nodes = [graph.nodes[name] for graph in graphs.values() for name in graph.neurons()]
    subtracts = any(node.reset == "subtract" or node.kind == "CubaLIF" for node in nodes)
    if without_groups:
        graphs |= {part: ungrouped(graphs[part]) for part in grouped}
    found = {}
    for name, receiver in RECEIVERS.items():
        if not receiver.installed:
            print(f"{name}: not installed")
            continue
        print(f"{name} {receiver.version}, float32: {receiver.call}")
        if subtracts and form not in receiver.forms:
            print(f"  knows no subtracting resets in form={form}: export with form={receiver.forms[0]}")
        found[name] = {"version": receiver.version, "parts": {}}
        with nullcontext() if without_groups else groups_mended():
            for part, graph in graphs.items():
                row = _row(receiver, graph, model, part, examples, first[part])
                row |= {"grouped": "left out" if without_groups else "mended"} if part in grouped else {}
                way = f", groups {row['grouped']}" if part in grouped else ""
                print(f"  {part + way:26} {in_words(row)}")
                found[name]["parts"][part] = row
            found[name]["image"] = _image(receiver, graphs, model, config, examples)
            print(f"  {'one whole image':26} {in_words(found[name]['image'])}")
    return found


def in_words(row: dict[str, Any]) -> str:
    """An agreement of spikes, or of an image, or why there is none."""
    if "error" in row:
        return f"cannot run it: {row['error']}"
    if "pixels" in row:
        tokens = f"{row['tokens']} tokens and " if "tokens" in row else ""
        return f"{tokens}{row['pixels']} of {row['of']:,} pixels differ"
    layer, share = row["worst"]
    worst = f" (worst layer {layer}: {share:.2%} equal)" if row["differ"] else ""
    return f"{row['differ']:,} of {row['slots']:,} spikes differ{worst}; output within {row['output']:.2g}"


def _row(
    receiver: StockReceiver, graph: Graph, model: AnyModel, part: str, examples: AnyExamples, expected: Result
) -> dict[str, Any]:
    try:
        return stock_agreement(receiver, graph, model, part, examples, expected)._asdict()
    except Exception as error:  # the library's own, of any kind
        return _refusal(error)


@torch.no_grad()
def _image(
    receiver: StockReceiver, graphs: dict[str, Graph], model: AnyModel, config: DenoiserConfig, examples: AnyExamples
) -> dict[str, Any]:
    """How far an image agrees whose every network call the library answers."""
    pipeline = pipeline_of(model, config)

    def answer(graph: Graph) -> object:
        def run(x: Tensor, num_steps: int) -> Tensor:
            return run_stock(receiver, graph, x, num_steps).output

        return run

    try:
        with ExitStack() as stack:
            for part, graph in graphs.items():
                stack.enter_context(taken_over(graph_of(model, part), answer(graph)))
            *_, last = pipeline.states(export_seeds(1))
            made = to_uint8(pipeline.decode(last.x, torch.Generator().manual_seed(0)))
    except Exception as error:  # the library's own, of any kind
        return _refusal(error)
    row = {"pixels": (made != examples.images).sum().item(), "of": made.numel()}
    return row if last.x.is_floating_point() else row | {"tokens": (last.x != examples.tokens).sum().item()}


def _refusal(error: Exception) -> dict[str, str]:
    reason = (str(error).splitlines() or [""])[0]
    return {"error": f"{type(error).__name__}: {reason[:80]}"}

"""Checks of an exported model against the results that its folder holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from spiking_vq.checkpoint.build import LatentModel, PixelModel, build_on_cpu
from spiking_vq.config.schema import DenoiserConfig
from spiking_vq.export.expected import Examples, PixelExamples, Result, compute
from spiking_vq.export.graphs.graph import Convolution, Graph
from spiking_vq.export.graphs.unet import unet_graph
from spiking_vq.export.latent import latent_graphs
from spiking_vq.export.receivers.own import Receiver
from spiking_vq.export.receivers.stock import Run, StockReceiver, run_stock
from spiking_vq.layers.folding import fold_batch_norms

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}
"""Largest difference of images and logits that comes from the order of sums."""


class Agreement(NamedTuple):
    """How far a run of a part agrees with the network.

    Attributes:
        slots: number of spike slots, neurons x steps x images.
        differ: of these, how many hold another value.
        worst: name of the layer of the most, and its share of equal slots.
        output: largest difference of the output: images, tokens or logits.
    """

    slots: int
    differ: int
    worst: tuple[str, float]
    output: float


def graph_of(model: LatentModel | PixelModel, part: str) -> Receiver:
    """The receiver of a part of a model that was read from a folder."""
    if part in ("denoiser", "unet"):
        return getattr(model, part).graph
    return model.vq_svae.graphs[part]


def faults(model: LatentModel | PixelModel, config: DenoiserConfig, form: str, inputs: str) -> Iterator[str]:
    """What of a model's graphs is not as its configuration asks: nodes, edges, neurons, sizes; nothing about weights.

    Spikes alone would not show a flipped rule for membranes exactly at threshold, where no membrane is.
    """
    fresh = fold_batch_norms(build_on_cpu(config).eval())
    is_latent = isinstance(fresh, LatentModel)
    wanted = latent_graphs(fresh, form, inputs) if is_latent else {"unet": unet_graph(fresh.unet, form)}
    for part, graph in wanted.items():
        found = graph_of(model, part).graph
        if found.nodes.keys() != graph.nodes.keys() or sorted(found.edges) != sorted(graph.edges):
            yield f"{part}: nodes or edges are not those of the network"
            continue
        for name, node in graph.nodes.items():
            if (is_value := _without_values(found.nodes[name])) != (should := _without_values(node)):
                yield f"{part}, {name}: expected {should}; got {is_value}"


@torch.no_grad()
def own_agreement(
    model: LatentModel | PixelModel,
    part: str,
    examples: Examples | PixelExamples,
    expected: Result,
    receiver: Receiver | None = None,
) -> Agreement:
    """Run a part by our own receiver, in the precision of the model.

    Args:
        model: read from a folder.
        part: of the model.
        examples: inputs.
        expected: what the network computes of them.
        receiver: that runs the part; None (default) is the model's.
    """
    own, spikes = graph_of(model, part), {name: [] for name in expected.spikes}
    receiver = receiver or own

    def keep(step: int, name: str, spk: Tensor) -> None:
        if name in spikes:
            spikes[name].append(spk)

    receiver.observers.append(keep)
    with taken_over(own, receiver.forward):
        output = compute(model, examples, part)
    receiver.observers.remove(keep)
    return agreement(expected, {name: torch.stack(steps) for name, steps in spikes.items()}, output)


@torch.no_grad()
def stock_agreement(
    receiver: StockReceiver,
    graph: Graph,
    model: LatentModel | PixelModel,
    part: str,
    examples: Examples | PixelExamples,
    expected: Result,
) -> Agreement:
    """Run a part by another library, in float32.

    Args:
        receiver: of the library.
        graph: of the part.
        model: read from a folder, whose host prepares the input and reads the output.
        part, examples, expected: see `own_agreement`.
    """
    runs: list[Run] = []

    def run(x: Tensor, num_steps: int) -> Tensor:
        runs.append(run_stock(receiver, graph, x, num_steps))
        return runs[0].output

    with taken_over(graph_of(model, part), run):
        output = compute(model, examples, part)
    return agreement(expected, runs[0].spikes, output)


def agreement(expected: Result, spikes: dict[str, Tensor], output: Tensor) -> Agreement:
    """Compare a run with what the network computes."""
    differ = {name: (spikes[name].bool() != spk).sum().item() for name, spk in expected.spikes.items()}
    equal = {name: 1 - count / expected.spikes[name].numel() for name, count in differ.items()}
    worst = min(equal, key=equal.get)
    slots = sum(spk.numel() for spk in expected.spikes.values())
    difference = (output.double() - expected.output.double()).abs().max().item()
    return Agreement(slots, sum(differ.values()), (worst, equal[worst]), difference)


@contextmanager
def taken_over(receiver: Receiver, forward: Callable[[Tensor, int], Tensor]) -> Iterator[None]:
    """Inside the block another function answers a receiver's calls."""
    receiver.forward = forward
    try:
        yield
    finally:
        del receiver.forward


def _without_values(node: Any) -> Any:
    """A node's facts without its weights."""
    if isinstance(node, Convolution):
        shape = (tuple(node.weight.shape), tuple(node.bias.shape), tuple(node.size))
        return {"shapes": shape, "stride": node.stride, "padding": node.padding, "groups": node.groups}
    return replace(node, shape=tuple(node.shape))

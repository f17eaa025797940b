"""Spikes that enter and leave the graphs of a latent model, as address events; and an image made of them alone."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from spiking_vq.checkpoint.build import LatentModel
from spiking_vq.data.levels import to_uint8
from spiking_vq.errors import InputError, require
from spiking_vq.export.graphs.graph import INPUT, OUTPUT, Convolution, Graph
from spiking_vq.export.graphs.neurons import FORMS
from spiking_vq.export.host import INPUTS, GraphDenoiser, GraphVQSVAE, host_of
from spiking_vq.export.latent import as_model, latent_graphs
from spiking_vq.export.receivers.own import Receiver
from spiking_vq.layers.folding import fold_batch_norms
from spiking_vq.models.spike_generators import PoissonSpikeGenerator
from spiking_vq.models.vq_svae import VQSVAE

DENOISER, DECODER = "denoiser", "decoder"
"""Parts that generate an image, in the order in which they run."""

LAYERS = ("ends", "all")
"""Layers whose events are told: the input and those that the read-out sees, or all."""


class Events(NamedTuple):
    """The spikes of one layer in one spiking step, of one image.

    Attributes:
        part: `denoiser` or `decoder`.
        call: number of the part's call, from 0.
        step: spiking step in the call, from 0.
        layer: `input`, or name of the graph's node.
        indices: of the neurons that spike, int64 [n], ascending; the address of neuron (c, y, x) of a map (C, H, W) is
            (c H + y) W + x.
        size: number of the layer's neurons, C H W.
    """

    part: str
    call: int
    step: int
    layer: str
    indices: Tensor
    size: int


class Tap:
    """An observer of a part's graph that takes down its events; of a batch, those of the first image.

    Args:
        part: its name.
        layers: names of the layers.

    Attributes:
        events: taken down so far; whoever reads them may clear the list.
    """

    def __init__(self, part: str, layers: Iterable[str]) -> None:
        self.part, self.layers, self.events, self.calls = part, set(layers), [], 0

    def __call__(self, step: int, layer: str, spk: Tensor) -> None:
        """See `receiver.Observer`."""
        self.calls += layer == INPUT and step == 0
        if layer in self.layers:
            fired = spk[0].flatten()
            indices = fired.nonzero().flatten().cpu()
            self.events.append(Events(self.part, self.calls - 1, step, layer, indices, len(fired)))


@contextmanager
def tapped(model: LatentModel, layers: str) -> Iterator[list[Tap]]:
    """Taps of the denoiser and of the decoder inside the block.

    Args:
        model: whose networks run as graphs, see `on_graphs`.
        layers: one of `LAYERS`.
    """
    taps, receivers = [], (model.denoiser.graph, model.vq_svae.graphs[DECODER])
    for part, network, receiver in zip((DENOISER, DECODER), (model.denoiser, model.vq_svae), receivers, strict=True):
        graph = receiver.graph
        told = graph.neurons() if layers == "all" else read_layers(graph)
        taps.append(Tap(part, [INPUT, *told] if reads_spikes(network) else told))
        receiver.observers.append(taps[-1])
    try:
        yield taps
    finally:
        for tap, receiver in zip(taps, receivers, strict=True):
            receiver.observers.remove(tap)


def on_graphs(model: LatentModel) -> LatentModel:
    """The same model on the CPU with its networks as graphs of its own: those of an export, or new ones.

    New graphs read spikes where the model can (`inputs=spikes`), and have standard neurons where they can.

    Raises:
        InputError: a model that NIR cannot hold, or one that was exported to another format.
    """
    if isinstance(model.vq_svae, GraphVQSVAE):
        receivers = {**model.vq_svae.graphs, DENOISER: model.denoiser.graph}
        host = LatentModel(*(copy.deepcopy(part.host).cpu() for part in (model.vq_svae, model.denoiser)))
        own = {name: Receiver(receiver.graph) for name, receiver in receivers.items()}
        return as_model(host, own, model.vq_svae.inputs)
    require(isinstance(model.vq_svae, VQSVAE), "the model", "a trained one or its export to NIR", "another export")
    folded = fold_batch_norms(copy.deepcopy(model).cpu().float())
    for form, inputs in product(FORMS, reversed(INPUTS)):
        try:
            graphs = latent_graphs(folded, form, inputs)
        except InputError as error:
            refusal = error
        else:
            receivers = {name: Receiver(graph) for name, graph in graphs.items()}
            return as_model(host_of(folded), receivers, inputs)
    raise refusal


def read_layers(graph: Graph) -> list[str]:
    """Names of the neuron layers that the output reads, through synapses alone."""
    seen, todo = set(), graph.sources(OUTPUT)
    while todo:
        seen.add(name := todo.pop())
        todo += graph.sources(name) if isinstance(graph.nodes.get(name), Convolution) else []
    return [name for name in graph.neurons() if name in seen]


def reads_spikes(network: GraphVQSVAE | GraphDenoiser) -> bool:
    """Whether what enters a generating graph is spikes, not a current."""
    is_drawn = isinstance(getattr(network.host, "spike_generator", None), PoissonSpikeGenerator)
    return network.inputs == "spikes" or is_drawn


@torch.no_grad()
def image_of(events: Iterable[Events], model: LatentModel) -> Tensor:
    """The image of the events that leave the decoder: the host's read-out of these spikes, and of nothing else.

    Args:
        events: of one image; all but those of the decoder's last neuron layer are skipped.
        model: that they came from, its networks as graphs, see `on_graphs`.

    Returns:
        uint8 [1, C, H, W].

    Raises:
        InputError: no events of that layer, or events that do not fit it.
    """
    vq_svae = model.vq_svae
    decoder = vq_svae.graphs[DECODER].graph
    (readout,) = decoder.sources(OUTPUT)
    (layer,) = decoder.sources(readout)
    node = decoder.nodes[readout]
    left = [record for record in events if (record.part, record.layer) == (DECODER, layer)]
    require(len(left) > 0, "events", f"those of an image, with the decoder's layer {layer}", "none of that layer")
    spk = torch.zeros(vq_svae.T, 1, *node.input_shape, dtype=vq_svae.host.data_variance.dtype)
    for _, call, step, _, indices, size in left:
        fits = call == 0 and 0 <= step < len(spk) and size == spk[0].numel()
        if not fits or (len(indices) and not 0 <= indices.min() <= indices.max() < size):
            most = f"1 call of {len(spk)} steps and {spk[0].numel()} neurons"
            raise InputError(f"layer {layer} of the decoder has {most}; got events of call {call}, step {step}: {size}")
        spk[step].view(-1)[indices] = 1
    behind = Graph(node.input_shape, {readout: node}, [(INPUT, readout), (readout, OUTPUT)])
    return to_uint8(vq_svae.images(Receiver(behind)(spk, len(spk))))

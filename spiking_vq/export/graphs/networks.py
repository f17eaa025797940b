"""The graphs of our networks: decoder, encoder and denoiser of the latent pipeline."""

from __future__ import annotations

import torch
from torch import nn

from spiking_vq.errors import InputError
from spiking_vq.export.graphs.build import GraphBuilder, Signal
from spiking_vq.export.graphs.graph import Convolution, Graph
from spiking_vq.models.sdid import SDID
from spiking_vq.models.token_denoiser import TokenDenoiser
from spiking_vq.models.vq_svae import VQSVAE


def decoder_graph(vq_svae: VQSVAE, form: str, table: torch.Tensor | None = None) -> Graph:
    """From the spike generator's current (or its spikes, where these are drawn) to the read-out's current at each step.

    Args:
        vq_svae: stage 1 with folded batch norms.
        form: of the neurons, see `spiking_vq.export.graphs.neurons`.
        table: of one-hot planes, see `lookup`; None (default) reads the current itself.
    """
    generator = vq_svae.spike_generator
    builder, signal = _start(vq_svae, (_width(vq_svae), *vq_svae.grid), form, table)
    if hasattr(generator, "neuron"):
        signal = builder.add(generator.neuron, signal)
    signal = builder.add(vq_svae.readout.neuron, builder.add(vq_svae.decoder, signal))
    synapse = vq_svae.readout.synapse
    return builder.finish(builder.synapse(synapse, signal, synapse.bias, "readout"))


def encoder_graph(vq_svae: VQSVAE, form: str) -> Graph:
    """From images minus 0.5 [C, H, W], real-valued, to the encoder's spikes [D, h, w]."""
    builder, signal = _start(vq_svae, vq_svae.image_shape, form)
    return builder.finish(builder.add(vq_svae.encoder, builder.add(vq_svae.stem, signal)))


def denoiser_graph(denoiser: nn.Module, form: str, grid: tuple[int, int], table: torch.Tensor | None = None) -> Graph:
    """From the input current to the read-out's current at each step.

    Args:
        denoiser: with folded batch norms.
        form: of the neurons, see `spiking_vq.export.graphs.neurons`.
        grid: (h, w).
        table: of one-hot planes, see `lookup`; None (default) reads the current itself.

    Raises:
        InputError: a denoiser that cannot be exported.
    """
    if isinstance(denoiser, SDID):
        return _sdid_graph(denoiser, form, grid)
    if not isinstance(denoiser, TokenDenoiser):
        raise InputError(f"a denoiser of type {type(denoiser).__name__} cannot be exported")
    builder, signal = _start(denoiser, (denoiser.token_embedding.embedding_dim, *grid), form, table)
    signal = builder.add(denoiser.last_neuron, builder.add(denoiser.blocks, signal))
    return builder.finish(builder.synapse(denoiser.readout, signal, denoiser.readout.bias, "readout"))


def lookup(builder: GraphBuilder, table: torch.Tensor) -> Signal:
    """Look-up tables as synapses: one-hot planes [P, h, w], spikes at every step, to the current [C, h, w].

    Args:
        builder: whose input is the planes.
        table: [P, C], the current of each plane.
    """
    weight = table.double().T.contiguous()[..., None, None]
    planes = Convolution(weight, torch.zeros(len(weight), dtype=torch.float64), builder.input.shape[1:])
    return builder.node("lookup", planes, builder.input)


def _sdid_graph(sdid: SDID, form: str, grid: tuple[int, int]) -> Graph:
    """Both planes are real numbers; the read-out's concatenation becomes two convolutions."""
    builder, signal = _start(sdid, (2, *grid), form)
    first = builder.add(sdid.first_neuron, builder.add(sdid.stem, signal))
    last = builder.add(sdid.last_neuron, builder.add(sdid.blocks, first))
    read = []
    widths = (last.channels, first.channels)
    for index, (weight, source) in enumerate(zip(sdid.readout.weight.split(widths, dim=1), (last, first), strict=True)):
        bias = sdid.readout.bias.double() if index == 0 else torch.zeros(len(weight), dtype=torch.float64)
        part = Convolution(weight.double(), bias, grid, padding=sdid.readout.padding[0])
        read.append(builder.node(f"readout_{index}", part, source))
    return builder.finish(*read)


def _start(
    network: nn.Module, shape: tuple[int, int, int], form: str, table: torch.Tensor | None = None
) -> tuple[GraphBuilder, Signal]:
    """A builder for a network that reads a map of this shape, and what its first layer reads."""
    names = {module: name for name, module in network.named_modules()}
    if table is None:
        builder = GraphBuilder(shape, form, names)
        return builder, builder.input
    builder = GraphBuilder((len(table), *shape[1:]), form, names)
    return builder, lookup(builder, table)


def _width(vq_svae: VQSVAE) -> int:
    """D, channels of the code vectors."""
    return vq_svae.quantizer.lookup(torch.zeros(1, vq_svae.quantizer.num_codes, 1, 1, dtype=torch.int64)).shape[1]

"""The host's part of an exported model: look-ups, read-outs over time, sampling; the networks run as graphs."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spiking_vq.checkpoint.build import LatentModel
from spiking_vq.errors import InputError
from spiking_vq.export.graphs.cells import to_pixels
from spiking_vq.export.receivers.own import Receiver
from spiking_vq.layers.synapses import direct_coding
from spiking_vq.models.spike_generators import PoissonSpikeGenerator
from spiking_vq.models.token_denoiser import TokenDenoiser
from spiking_vq.models.vq_svae import VQSVAE
from spiking_vq.neurons.fused import as_current
from spiking_vq.neurons.readouts import decay_weights, rate_weights, weighted_sum
from spiking_vq.runtime.running import steps_of

INPUTS = ("host", "spikes")
"""Where look-ups are done: on the host, which feeds real-valued currents; or by synapses that one-hot spikes feed."""

ON_CHIP = {
    "vq_svae": ("stem", "encoder", "decoder", "readout"),
    "denoiser": ("stem", "first_neuron", "blocks", "last_neuron", "readout"),
}
"""Part of a latent model -> its modules that the graphs compute, where it has them."""

MOST_PLANES = 4096
"""Largest number of one-hot planes of a graph."""


def host_of(model: LatentModel) -> LatentModel:
    """A copy of a model without what its graphs compute."""
    return LatentModel(*(without(getattr(model, part), *names) for part, names in ON_CHIP.items()))


def without(network: nn.Module, *names: str) -> nn.Module:
    """A copy of a network without some of its modules."""
    rest = copy.deepcopy(network)
    for name in names:
        if hasattr(rest, name):
            setattr(rest, name, nn.Identity())
    return rest


def one_hot(indices: Tensor, num_classes: int) -> Tensor:
    """Planes `[B, G K, h, w]` of 0 and 1, of indices [B, G, h, w] in 0..K-1."""
    return F.one_hot(indices, num_classes).movedim(-1, 2).flatten(1, 2).to(torch.get_default_dtype())


@torch.no_grad()
def code_table(vq_svae: VQSVAE) -> Tensor:
    """The spike generator's current of each code of each codebook, float64 [G K, D]; a position's codes add up.

    Raises:
        InputError: too many codes, or spikes that are drawn.
    """
    quantizer, generator = vq_svae.quantizer, vq_svae.spike_generator
    num_codes, size = quantizer.num_codes, quantizer.codebook_size
    if not hasattr(generator, "input_current"):
        raise InputError("inputs=spikes needs a spike generator that a current drives: take inputs=host")
    if num_codes * size > MOST_PLANES:
        raise InputError(
            f"inputs=spikes would need {num_codes * size:,} one-hot planes, {MOST_PLANES:,} at most: take inputs=host"
        )
    codes = torch.zeros(num_codes * size, num_codes, 1, 1, dtype=torch.int64)
    for index in range(num_codes):
        codes[index * size : (index + 1) * size, index, 0, 0] = torch.arange(size)
    generator = copy.deepcopy(generator).double()
    vectors, rest = (copy.deepcopy(quantizer).double().lookup(rows).double() for rows in (codes, 0 * codes[:1]))
    own, zero = (as_current(generator.input_current(rows)).value()[0, :, :, 0, 0] for rows in (vectors, rest))
    return own if num_codes == 1 else own - zero + zero / num_codes


@torch.no_grad()
def denoiser_table(denoiser: nn.Module) -> Tensor:
    """The denoiser's current of each token of each code, of each position, and of each row of labels, float64 [P, C].

    Raises:
        InputError: a denoiser that reads real numbers.
    """
    if not isinstance(denoiser, TokenDenoiser):
        raise InputError("inputs=spikes needs embeddings, and the SDID reads a token's index as a number: inputs=host")
    parts = [denoiser.token_embedding.weight, denoiser.position_embedding.flatten(1).T]
    if denoiser.labels is not None:
        rows = denoiser.labels.weight.double().clone()
        rows[-1] *= denoiser.labels.halvings + 1  # no label is its row again and again, and a plane is 0 or 1
        parts.append(rows)
    return torch.cat([part.double() for part in parts])


class GraphDenoiser(nn.Module):
    """A denoiser whose spiking part runs as a graph.

    Args:
        host: the denoiser without it, see `host_of`.
        graph: of the spiking part.
        inputs: one of `INPUTS`.
    """

    def __init__(self, host: nn.Module, graph: Receiver, inputs: str) -> None:
        super().__init__()
        self.host, self.graph, self.inputs, self.T = host, graph, inputs, host.T
        self.register_buffer("zero", torch.zeros(()), persistent=False)  # the SDID's host has no weights to tell a type

    def forward(self, tokens: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """Logits [B, K, G, h, w]; arguments of the denoiser's own `forward`."""
        return self.logits(self.graph(self.graph_input(tokens, t, labels), steps_of(self)))

    def graph_input(self, tokens: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """What the graph reads, `[1, B, C, h, w]`; arguments of `forward`."""
        planes = self.inputs == "spikes"
        read = self.planes(tokens, labels) if planes else self.host.input_current(tokens, t, labels)
        return read.to(self.zero).unsqueeze(0)

    def logits(self, read: Tensor) -> Tensor:
        """Logits of the read-out's currents `[T, B, C, h, w]`."""
        return self.host.as_logits(weighted_sum(read, rate_weights(len(read))))

    def planes(self, tokens: Tensor, labels: Tensor | None) -> Tensor:
        """One-hot planes [B, P, h, w] of tokens [B, G, h, w], positions, and labels [B]."""
        host, (rows, columns) = self.host, tokens.shape[2:]
        made = [one_hot(tokens, host.token_embedding.num_embeddings // host.num_codes)]
        own = torch.eye(rows * columns).view(1, rows * columns, rows, columns)
        made.append(own.expand(len(tokens), -1, -1, -1))
        if host.labels is not None:
            chosen = F.one_hot(host.labels.rows(labels, len(tokens)), host.labels.num_embeddings).amax(1)
            made.append(chosen[..., None, None].expand(-1, -1, rows, columns).to(own.dtype))
        return torch.cat([part.to(host.token_embedding.weight) for part in made], dim=1)


class GraphVQSVAE(nn.Module):
    """Stage 1 whose encoder and decoder run as graphs; as the pipeline uses it.

    Args:
        host: stage 1 without them, see `host_of`.
        graphs: `encoder` and `decoder`.
        inputs: one of `INPUTS`.
    """

    def __init__(self, host: VQSVAE, graphs: Mapping[str, Receiver], inputs: str) -> None:
        super().__init__()
        self.host, self.graphs, self.inputs, self.T = host, nn.ModuleDict(graphs), inputs, host.T
        self.image_shape, self.grid = host.image_shape, host.grid
        self.code_grid, self.codebook_size = host.code_grid, host.codebook_size

    def tokenize(self, images: Tensor) -> Tensor:
        """See `VQSVAE.tokenize`."""
        return self.tokens(self.graphs["encoder"](self.encoder_input(images), steps_of(self)))

    def decode(self, tokens: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """See `VQSVAE.decode`."""
        return self.images(self.graphs["decoder"](self.decoder_input(tokens, generator), steps_of(self)))

    def encoder_input(self, images: Tensor) -> Tensor:
        """What the encoder's graph reads, `[1, B, C, H, W]`, of images [B, C, H, W] in [0, 1]."""
        return (images.to(self._dtype()) - 0.5).unsqueeze(0)

    def tokens(self, spk: Tensor) -> Tensor:
        """Tokens [B, G, h, w] of the encoder's spikes `[T, B, D, h, w]`."""
        return self.host.quantizer.nearest(self.host.encode_spikes(spk))

    def decoder_input(self, tokens: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """What the decoder's graph reads, `[T, B, C, h, w]`, or `[1, B, C, h, w]` if it is always the same."""
        host = self.host
        if self.inputs == "spikes":
            return one_hot(tokens, host.codebook_size).to(self._dtype()).unsqueeze(0)
        vectors = host.quantizer.lookup(tokens).to(self._dtype())
        if isinstance(host.spike_generator, PoissonSpikeGenerator):
            return host.spike_generator(vectors, steps_of(self), generator)
        if not hasattr(host.spike_generator, "input_current"):
            return vectors.unsqueeze(0)  # the ablation without spikes
        return direct_coding(host.spike_generator.input_current(vectors), 1).value()

    def images(self, read: Tensor) -> Tensor:
        """Images [B, C, H, W] in [0, 1] of the read-out's currents `[T, B, f^2 C, h, w]`, cells of f x f pixels."""
        side = self.image_shape[1] // read.shape[3]
        potential = weighted_sum(to_pixels(read, side), decay_weights(len(read)))
        return (self.host.reconstruct(potential) + 0.5).clamp(0, 1)

    def _dtype(self) -> torch.dtype:
        return self.host.data_variance.dtype

"""The synapses of a network that are rounded, by the names of their parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from torch import Tensor, nn

from spiking_vq.layers.mixing import GridMixer
from spiking_vq.layers.synapses import NormedSynapse
from spiking_vq.models.quantizers.vector import VectorQuantizer
from spiking_vq.models.spike_generators import AdaptiveSpikeGenerator
from spiking_vq.models.token_denoiser import TokenDenoiser
from spiking_vq.models.vq_svae import VQSVAE
from spiking_vq.neurons.lif import LIF
from spiking_vq.quantisation.feedback import Moments, round_with_feedback
from spiking_vq.quantisation.grid import best_exponents, to_grid

THRESHOLD_EXPONENT = 8
"""Thresholds are multiples of `2^-8`."""

EDGE_BITS = 8
"""Bits, at least, of the weights at the edges of a network, where numbers come in or go out."""


class Part(NamedTuple):
    """Weights that share their exponents.

    Attributes:
        weight, bias: their names in the state dict; no bias: None.
        dim: dimension of the weight's output channels; None where all its numbers share one exponent.
        is_edge: numbers come in or go out there: the stem, embeddings, codebooks, the spike generator, read-outs.
    """

    weight: str
    bias: str | None = None
    dim: int | None = 0
    is_edge: bool = False

    def bits(self, bits: int) -> int:
        """Bits of its weights in a network of so many bits."""
        return max(bits, EDGE_BITS) if self.is_edge else bits


def parts_of(model: nn.Module) -> Iterator[Part]:
    """Yield all that becomes a synapse of a folded network (`spiking_vq.layers.folding`), in the order of the modules.

    These are convolutions, mixers and read-outs; embeddings of tokens, positions and labels, which are synapses of
    one-hot inputs; and codebooks.
    """
    biases: dict[nn.Module, str] = {}
    edges: set[nn.Module] = set()
    for name, module in model.named_modules():
        prefix = f"{name}." if name else ""
        if isinstance(module, VQSVAE):
            edges.add(synapse_of(module.stem))
        elif isinstance(module, AdaptiveSpikeGenerator):
            edges.add(synapse_of(module.current))
        elif isinstance(module, NormedSynapse):
            biases[synapse_of(module)] = f"{prefix}1.bias"
        elif isinstance(module, GridMixer):
            biases[module.linear] = f"{prefix}norm.bias"
        elif isinstance(module, nn.Embedding):
            yield Part(f"{prefix}weight", dim=1, is_edge=True)
        elif isinstance(module, VectorQuantizer):
            yield Part(f"{prefix}codebook", dim=None, is_edge=True)
        elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            bias = biases.get(module, f"{prefix}bias" if module.bias is not None else None)
            is_edge = module in edges or module not in biases  # a read-out has no norm
            yield Part(f"{prefix}weight", bias, int(isinstance(module, nn.ConvTranspose2d)), is_edge)
        if isinstance(module, TokenDenoiser):
            yield Part(f"{prefix}position_embedding", is_edge=True)


def synapse_of(module: NormedSynapse) -> nn.Module:
    """The layer with the weights of a synapse."""
    return [part for part in module[0].modules() if hasattr(part, "weight")][-1]


def rounded_weights(
    model: nn.Module, bits: int, most: int, moments: Mapping[str, Moments] | None = None
) -> dict[str, Tensor]:
    """The parameters of a folded network that rounding changes, rounded.

    Args:
        model: folded, `separate_connections` too.
        bits: of the weights, but for those at the edges, see `EDGE_BITS`.
        most: largest exponent.
        moments: of the inputs of those weights that are rounded with feedback (`spiking_vq.quantisation.feedback`);
            None (default): all are rounded to the nearest.

    Returns:
        Name in the state dict -> value; biases and thresholds have as many bits as they need.
    """
    state, rounded = model.state_dict(), {}
    for part in parts_of(model):
        weight, own_bits, lacking = state[part.weight], part.bits(bits), 0.0
        exponents = best_exponents(weight, own_bits, part.dim, most)
        if moments and part.weight in moments:
            layer = model.get_submodule(part.weight.removesuffix(".weight"))
            rounded[part.weight], lacking = round_with_feedback(layer, exponents, own_bits, moments[part.weight])
        else:
            rounded[part.weight] = to_grid(weight, exponents, part.dim, own_bits)
        if part.bias:
            rounded[part.bias] = to_grid(state[part.bias] + lacking, exponents).to(weight.dtype)
    for name, module in model.named_modules():
        if isinstance(module, LIF):
            exponent = module.threshold.new_full((1,), THRESHOLD_EXPONENT).long()
            rounded[f"{name}.threshold"] = to_grid(module.threshold.detach(), exponent, None)
    return rounded

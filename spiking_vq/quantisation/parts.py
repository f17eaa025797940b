"""The synapses of a network that are rounded, by the names of their parameters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor, nn

from spiking_vq.layers.mixing import GridMixer
from spiking_vq.layers.synapses import NormedSynapse
from spiking_vq.models.quantizers.vector import VectorQuantizer
from spiking_vq.models.token_denoiser import TokenDenoiser
from spiking_vq.neurons.lif import LIF
from spiking_vq.quantisation.grid import best_exponents, to_grid

THRESHOLD_EXPONENT = 8
"""Thresholds are multiples of `2^-8`."""


class Part(NamedTuple):
    """Weights that share their exponents.

    Attributes:
        weight, bias: their names in the state dict; no bias: None.
        dim: dimension of the weight's output channels; None where all its numbers share one exponent.
    """

    weight: str
    bias: str | None = None
    dim: int | None = 0


def parts_of(model: nn.Module) -> Iterator[Part]:
    """Yield all that becomes a synapse of a folded network (`spiking_vq.layers.folding`), in the order of the modules.

    These are convolutions, mixers and read-outs; embeddings of tokens, positions and labels, which are synapses of
    one-hot inputs; and codebooks.
    """
    biases: dict[nn.Module, str] = {}
    for name, module in model.named_modules():
        prefix = f"{name}." if name else ""
        if isinstance(module, NormedSynapse):
            layer = synapse_of(module)
            biases[layer] = f"{prefix}1.bias"
        elif isinstance(module, GridMixer):
            biases[module.linear] = f"{prefix}norm.bias"
        elif isinstance(module, nn.Embedding):
            yield Part(f"{prefix}weight", dim=1)
        elif isinstance(module, VectorQuantizer):
            yield Part(f"{prefix}codebook", dim=None)
        elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            bias = biases.get(module, f"{prefix}bias" if module.bias is not None else None)
            yield Part(f"{prefix}weight", bias, 1 if isinstance(module, nn.ConvTranspose2d) else 0)
        if isinstance(module, TokenDenoiser):
            yield Part(f"{prefix}position_embedding")


def synapse_of(module: NormedSynapse) -> nn.Module:
    """The layer with the weights of a synapse."""
    return [part for part in module[0].modules() if hasattr(part, "weight")][-1]


def rounded_weights(model: nn.Module, bits: int, most: int) -> dict[str, Tensor]:
    """The parameters of a folded network that rounding changes, rounded.

    Args:
        model: folded, `separate_connections` too.
        bits: of the weights.
        most: largest exponent.

    Returns:
        Name in the state dict -> value; biases and thresholds have as many bits as they need.
    """
    state, rounded = model.state_dict(), {}
    for part in parts_of(model):
        exponents = best_exponents(state[part.weight], bits, part.dim, most)
        rounded[part.weight] = to_grid(state[part.weight], exponents, part.dim, bits)
        if part.bias:
            rounded[part.bias] = to_grid(state[part.bias], exponents)
    for name, module in model.named_modules():
        if isinstance(module, LIF):
            exponent = module.threshold.new_full((1,), THRESHOLD_EXPONENT).long()
            rounded[f"{name}.threshold"] = to_grid(module.threshold.detach(), exponent, None)
    return rounded

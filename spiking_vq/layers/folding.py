"""Folding of batch norms into the synapses before them, as a chip holds them: weights and biases alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spiking_vq.layers.mixing import ChannelwisePositionLinear, GridMixer
from spiking_vq.layers.synapses import BatchNorm, NormedSynapse


@torch.no_grad()
def fold_batch_norms(model: nn.Module) -> nn.Module:
    """Fold every batch norm of a trained network, in place, and return the network.

    The weights of a `NormedSynapse` take up the scale, so that its norm only adds a bias. Norms behind anything else (a
    `GridMixer`, a bare shortcut) keep a scale and a bias, and no statistics. The scales are computed in float64 and
    rounded once, to the network's own type. Outputs stay the same but for that rounding.

    Args:
        model: a network in evaluation mode; its keys in `state_dict` stay, but for `synapse_bias`.
    """
    for module in model.modules():
        if isinstance(module, NormedSynapse):
            synapse, norm = module
            layer = [part for part in synapse.modules() if hasattr(part, "weight")][-1]
            scale = _simplify(norm, keep_scale=False)
            out_first = [-1, 1, 1, 1] if not isinstance(layer, nn.ConvTranspose2d) else [1, -1, 1, 1]
            layer.weight.copy_(layer.weight.double() * scale.view(out_first))
    for module in model.modules():
        if isinstance(module, BatchNorm) and module.eps:
            _simplify(module, keep_scale=True)
    return model


@torch.no_grad()
def separate_connections(model: nn.Module) -> nn.Module:
    """Give each connection of a folded network a weight of its own, in place, and return the network.

    A `GridMixer` shares its weights over the channels, and its norm has a gain for each: a `ChannelwisePositionLinear`
    holds their products, so that the norm only adds a bias.

    Args:
        model: a network by `fold_batch_norms`.
    """
    for module in model.modules():
        if isinstance(module, GridMixer) and not isinstance(module.linear, ChannelwisePositionLinear):
            gain, shared = module.norm.weight, module.linear.weight
            module.linear = ChannelwisePositionLinear(len(gain), len(shared)).to(shared)
            module.linear.weight.copy_(gain.view(-1, 1, 1) * shared)
            gain.fill_(1.0)
    return model


def _simplify(norm: BatchNorm, keep_scale: bool) -> Tensor:
    """Turn a norm into `scale * x + bias`, or `x + bias` without `keep_scale`; return its scale, float64 [C]."""
    mean, var, weight, bias = (
        value.detach().double() for value in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    )
    offset = 0.0 if norm.synapse_bias is None else norm.synapse_bias.detach().double()
    scale = norm.gain * weight * (var + norm.eps).rsqrt()
    norm.bias.copy_(bias + (offset - mean) * scale)
    norm.weight.copy_(scale if keep_scale else torch.ones_like(scale))
    norm.running_mean.zero_()
    norm.running_var.fill_(1.0)
    norm.gain, norm.eps, norm.synapse_bias = 1.0, 0.0, None
    return scale

"""What rounding changes: the weights of each part, and the spikes of each neuron layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from spiking_vq.neurons.activity import observed
from spiking_vq.quantisation.grid import along, integers_of, largest
from spiking_vq.quantisation.parts import parts_of


class Rounding(NamedTuple):
    """Rounding of the weights of one part.

    Attributes:
        exponents: the smallest and the largest of its channels.
        clipped, zero: shares of its weights that lay outside the range, and that are 0 now.
        error: root of the squared error over the squared weights.
    """

    exponents: tuple[int, int]
    clipped: float
    zero: float
    error: float


@torch.no_grad()
def roundings(folded: nn.Module, quantised: nn.Module, bits: int) -> dict[str, Rounding]:
    """Compare each part of a folded network (`quantisation.model.folded`) with the one rounded to so many bits.

    Returns:
        Name of the weight in the state dict -> its rounding.
    """
    before, after, found = folded.state_dict(), quantised.state_dict(), {}
    for part in parts_of(quantised):
        real, rounded = before[part.weight].double(), after[part.weight].double()
        bias, own_bits = after[part.bias] if part.bias else None, part.bits(bits)
        k, exponents, _ = integers_of(rounded, bias, part.dim)
        beyond = real.abs() * 2.0 ** along(exponents, real, part.dim) > largest(own_bits) + 0.5
        found[part.weight] = Rounding(
            (int(exponents.min()), int(exponents.max())),
            ((k.abs() == largest(own_bits)) & beyond).double().mean().item(),
            (k == 0).double().mean().item(),
            ((rounded - real).norm() / real.norm()).item(),
        )
    return found


@torch.no_grad()
def spike_differences(
    first: nn.Module, second: nn.Module, run: Callable[[nn.Module], None]
) -> dict[str, tuple[float, float]]:
    """Compare the spikes of two networks of the same neuron layers.

    Args:
        first, second: the networks.
        run: called with each; runs it on the same input.

    Returns:
        Neuron layer -> share of the neurons' steps in which only one of the two networks fires; and the firing rate of
        the first, in the order of the calls.
    """
    seen: list[dict[str, list[Tensor]]] = []
    for network in (first, second):
        spikes: dict[str, list[Tensor]] = {}
        with observed(network, lambda name, spk, spikes=spikes: spikes.setdefault(name, []).append(spk.bool().cpu())):
            run(network)
        seen.append(spikes)
    ours, theirs = ({name: torch.cat(spk, 1) for name, spk in spikes.items()} for spikes in seen)
    return {
        name: ((spk != theirs[name]).double().mean().item(), spk.double().mean().item()) for name, spk in ours.items()
    }

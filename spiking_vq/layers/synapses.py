"""Building blocks on `[T, B, C, H, W]`: time folded into the batch, convolution with batch norm, residual blocks.

Synapses turn spikes into a `LazyCurrent`, which the next neurons compute as they read it. A current that is the same at
every step is kept as `[1, B, C, H, W]` until `direct_coding` presents it for T steps.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from spiking_vq.neurons.fused import LazyCurrent, Norm, as_current, batch_statistics
from spiking_vq.runtime.conv3x3 import Conv3x3
from spiking_vq.runtime.distributed import num_ranks

NeuronFactory = Callable[[], nn.Module]


def fold_time(x: Tensor) -> Tensor:
    """Fold time into the batch: `[T, B, ...] -> [T*B, ...]`."""
    return x.flatten(0, 1)


def unfold_time(x: Tensor, num_steps: int) -> Tensor:
    """Unfold time from the batch: `[T*B, ...] -> [T, B, ...]`."""
    return x.unflatten(0, (num_steps, -1))


def direct_coding(x: Tensor | LazyCurrent, num_steps: int) -> LazyCurrent:
    """Present a current that is the same at every step, `[1, B, ...]`, for `num_steps` steps, without copies."""
    current = as_current(x)
    return LazyCurrent(current.x, current.norm, current.residual, num_steps)


def at_each_step(layer: nn.Module, x: Tensor) -> Tensor:
    """Apply a layer of `[B, C, H, W]` to every step of `x` `[T, B, C, H, W]`."""
    return unfold_time(layer(fold_time(x)), len(x))


def concatenate(*currents: Tensor) -> Tensor:
    """Currents `[T, B, C, H, W]`, which may differ in C, along the channels; channels-last like the convolutions."""
    return unfold_time(torch.cat([fold_time(x) for x in currents], dim=1), len(currents[0]))


class BatchNorm(nn.BatchNorm2d):
    """Batch norm of currents `[T, B, C, ...]`: statistics over all but the channels; the neurons compute the result.

    The running variance of a current that is the same at every step, `[1, B, C, ...]`, is the unbiased one of its
    B H W values, not that of T copies.

    The bias of the synapse, which published networks have, lies here. In training it is not added, as the mean of the
    batch would subtract it again: a transposed convolution takes as long for the gradient of its bias, 0, as for that
    of its weights.

    A norm that has been folded into its synapse (`spiking_vq.layers.folding`; its `eps` is 0) has no statistics, in
    training neither.

    Args:
        num_channels: C.
        synapse_bias: the synapse has a bias; default False.
        gain: constant factor of the normalised current, before the learnt weight; default 1. Threshold-dependent batch
            norm sets it to the neurons' threshold, divided by the square root of 2 where two arms are summed.

    Attributes:
        synchronised: training statistics are those of all ranks' currents together; default False.

    Reference: Ioffe and Szegedy, arXiv:1502.03167; threshold-dependent: Zheng et al., arXiv:2011.05280.
    """

    synchronised = False

    def __init__(self, num_channels: int, synapse_bias: bool = False, gain: float = 1.0) -> None:
        super().__init__(num_channels)
        self.gain = gain
        self.synapse_bias = nn.Parameter(torch.zeros(num_channels)) if synapse_bias else None

    def forward(self, x: Tensor) -> LazyCurrent:
        """Output of a synapse without its bias, `[T, B, C, ...]` or `[1, B, C, ...]`, to currents of the same shape."""
        offset = 0.0 if self.synapse_bias is None else self.synapse_bias
        weight = self.weight if self.gain == 1.0 else self.gain * self.weight
        if not self.training or not self.eps:
            rstd = (self.running_var + self.eps).rsqrt()
            bias = self.bias + offset * weight * rstd
            return LazyCurrent(x, Norm(weight, bias, self.running_mean, rstd, from_batch=False))
        mean, var = batch_statistics(x, self.synchronised)
        count = x.numel() // x.shape[2] * (num_ranks() if self.synchronised else 1)
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_((mean + offset).to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_((var * count / max(count - 1, 1)).to(self.running_var.dtype), self.momentum)
        bias = self.bias + 0.0 * offset  # its gradient is 0, not missing
        return LazyCurrent(x, Norm(weight, bias, mean, (var + self.eps).rsqrt(), True, self.synchronised))


def synchronise(model: nn.Module) -> None:
    """Make the batch norms of a network compute their statistics over all ranks; see `runtime.distributed`."""
    for module in model.modules():
        if isinstance(module, BatchNorm):
            module.synchronised = True


class NormedSynapse(nn.Sequential):
    """A synapse applied at every step, then batch norm: spikes `[T, B, C, H, W]` in, a current out.

    Args:
        synapse: layer of `[B, C, H, W]` without bias, which the batch norm has.
        num_channels: C', number of output channels.
        gain: of the batch norm; default 1.
    """

    def __init__(self, synapse: nn.Module, num_channels: int, gain: float = 1.0) -> None:
        super().__init__(synapse, BatchNorm(num_channels, synapse_bias=True, gain=gain))

    def forward(self, spk: Tensor, current: Tensor | None = None) -> LazyCurrent:
        """Spikes to the current `[T, B, C', H', W']`; `current`, which broadcasts, is added before the batch norm."""
        synapse, norm = self
        x = at_each_step(synapse, spk)
        return norm(x if current is None else x + current)


def conv_norm(
    in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1, gain: float = 1.0
) -> NormedSynapse:
    """Convolution that divides the size by `stride` (default 1), then batch norm; spikes in, currents out."""
    if kernel_size == 3 and stride == 1:
        return NormedSynapse(Conv3x3(in_channels, out_channels), out_channels, gain)
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=False)
    return NormedSynapse(conv, out_channels, gain)


def up_conv_norm(in_channels: int, out_channels: int) -> NormedSynapse:
    """Transposed 3x3 convolution that doubles the size, then batch norm; spikes in, currents out."""
    conv = nn.ConvTranspose2d(in_channels, out_channels, 3, stride=2, padding=1, output_padding=1, bias=False)
    return NormedSynapse(conv, out_channels)


class SpikingResidual(nn.Module):
    """Pre-spike residual block: `x + layer_n(neuron(... layer_1(neuron(x))))`, currents in, currents out.

    The sum of real-valued currents precedes a neuron, so that no synapse reads the 0/1/2 of a sum of spikes.
    Reference: the pre-spike block of SDDPM, Cao et al., arXiv:2306.17046.

    Args:
        neuron: builds the neuron layers.
        layers: synapses with batch norm; each is fed by neurons of its own.
    """

    INITIAL_GAIN = 0.4
    """Scale of the last batch norm at the start: with 1 the variance of the current would grow by 1 a block, and the
    deeper neurons would start far from their threshold, where the surrogate gradient is flat."""

    num_sums = 1
    """Sums of currents; see `spiking_vq.energy`."""

    def __init__(self, neuron: NeuronFactory, *layers: nn.Module) -> None:
        super().__init__()
        self.branch = nn.Sequential(*(module for layer in layers for module in (neuron(), layer)))
        last_norm = [module for module in self.branch.modules() if isinstance(module, BatchNorm)][-1]
        nn.init.constant_(last_norm.weight, self.INITIAL_GAIN)

    def forward(self, x: Tensor | LazyCurrent) -> LazyCurrent:
        """Currents `[T, B, C, H, W]` to currents `[T, B, C, H, W]`."""
        x = as_current(x)
        x.keep = True  # the first neurons compute it, and the sum below needs it
        branch = self.branch(x)
        return LazyCurrent(branch.x, branch.norm, x.value())

"""Building blocks on `[T, B, C, H, W]`: time folded into the batch, convolution with batch norm, residual blocks.

A quantity that is the same at every step is kept as `[1, B, C, H, W]` for as long as it stays so (convolution and batch
norm of a constant are constant) and expanded by `direct_coding` just before the first neuron.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

NeuronFactory = Callable[[], nn.Module]


def fold_time(x: Tensor) -> Tensor:
    """Time into the batch: `[T, B, ...] -> [T*B, ...]`."""
    return x.flatten(0, 1)


def unfold_time(x: Tensor, num_steps: int) -> Tensor:
    """Time out of the batch again: `[T*B, ...] -> [T, B, ...]`."""
    return x.unflatten(0, (num_steps, -1))


def direct_coding(x: Tensor, num_steps: int) -> Tensor:
    """Present a constant current at every step, `[1, B, ...] -> [T, B, ...]`, without copying it."""
    return x.expand(num_steps, *x.shape[1:])


class OverTime(nn.Sequential):
    """Layers without memory, applied to every step alike: `[T, B, C, H, W] -> [T, B, C', H', W']`.

    Batch norm inside sees T*B samples: its statistics are shared by all steps.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layers to each of the steps of `x`."""
        return unfold_time(super().forward(fold_time(x)), x.shape[0])


def conv_norm(in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1) -> OverTime:
    """Convolution that keeps the size (or divides it by `stride`), then batch norm; spikes in, currents out."""
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2)
    return OverTime(conv, nn.BatchNorm2d(out_channels))


def up_conv_norm(in_channels: int, out_channels: int) -> OverTime:
    """Transposed 3x3 convolution that doubles the size, then batch norm; spikes in, currents out."""
    conv = nn.ConvTranspose2d(in_channels, out_channels, 3, stride=2, padding=1, output_padding=1)
    return OverTime(conv, nn.BatchNorm2d(out_channels))


class SpikingResidual(nn.Module):
    """Pre-spike residual branch: `x + layer_n(neuron(... layer_1(neuron(x))))`, currents in, currents out.

    The sum is of real-valued currents, before a neuron, so that no synapse ever sees the 0/1/2 that a sum of spikes
    would give. Reference: the pre-spike block of SDDPM, Cao et al., arXiv:2306.17046.

    Args:
        neuron: builds a neuron layer.
        layers: synapses with batch norm; each is fed by a neuron of its own.
    """

    INITIAL_GAIN = 0.4
    """Scale of the last batch norm at the start: with gain 1 the current's variance would grow by 1 a block, and
    the deeper neurons would start far from their threshold, where the surrogate gradient is flat."""

    def __init__(self, neuron: NeuronFactory, *layers: nn.Module) -> None:
        super().__init__()
        self.branch = nn.Sequential(*(module for layer in layers for module in (neuron(), layer)))
        last_norm = [module for module in self.branch.modules() if isinstance(module, nn.BatchNorm2d)][-1]
        nn.init.constant_(last_norm.weight, self.INITIAL_GAIN)

    def forward(self, x: Tensor) -> Tensor:
        """`[T, B, C, H, W]` currents to `[T, B, C, H, W]` currents."""
        return x + self.branch(x)


class GridMixer(nn.Module):
    """Every place of the grid sees every other: one linear map over the places for all channels, and batch norm.

    `y[c, j] = sum_i W[j, i] x[c, i]`: full-grid reach for N operations a place and channel, where a 3x3 convolution
    takes 9 C. Reference: token mixing of Tolstikhin et al., arXiv:2105.01601.

    Args:
        grid: (h, w); N = h * w.
        num_channels: C, for the batch norm.
    """

    def __init__(self, grid: tuple[int, int], num_channels: int) -> None:
        super().__init__()
        num_places = grid[0] * grid[1]
        self.linear = nn.Linear(num_places, num_places, bias=False)
        self.norm = OverTime(nn.BatchNorm2d(num_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Spikes `[T, B, C, h, w]` to currents `[T, B, C, h, w]`."""
        return self.norm(self.linear(x.flatten(-2)).view_as(x))

"""Mixing over the positions of a grid: a linear map, and spiking self-attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spiking_vq.errors import require
from spiking_vq.layers.synapses import BatchNorm, NeuronFactory, conv_norm, fold_time
from spiking_vq.neurons.fused import LazyCurrent


class PositionLinear(nn.Linear):
    """Linear map over the positions of a grid, the same for all channels: `y[c, j] = sum_i W[j, i] x[c, i]`."""

    def forward(self, x: Tensor) -> Tensor:
        """`[T, B, C, h, w]` to `[T, B, C, h, w]`, channels-last like the convolutions."""
        rows = fold_time(x).flatten(2).mT  # [T*B, h*w, C]
        return torch.matmul(self.weight.expand(rows.shape[0], -1, -1), rows).mT.view_as(x)


class ChannelwisePositionLinear(nn.Linear):
    """Linear map over the positions of a grid, another for each channel: `y[c, j] = sum_i W[c, j, i] x[c, i]`.

    A chip holds a `GridMixer` so, as each connection has a weight of its own there: `W[c, j, i]` is the mixer's weight
    times the channel's gain.

    Args:
        num_channels: C.
        num_positions: N, of the grid.

    Attributes:
        weight: [C, N, N].
    """

    def __init__(self, num_channels: int, num_positions: int) -> None:
        super().__init__(num_positions, num_positions, bias=False)
        self.weight = nn.Parameter(self.weight.detach().expand(num_channels, -1, -1).clone())

    def forward(self, x: Tensor) -> Tensor:
        """`[T, B, C, h, w]` to `[T, B, C, h, w]`, channels-last like the convolutions."""
        rows = fold_time(x).flatten(2).transpose(0, 1)  # [C, T*B, h*w]
        mixed = torch.bmm(rows, self.weight.mT)
        return mixed.permute(1, 2, 0).contiguous().mT.view_as(x)


class GridMixer(nn.Module):
    """Every position of a grid reads every other: a `PositionLinear`, then batch norm.

    It takes N operations a position and channel, where a 3x3 convolution takes 9 C. Reference: token mixing of
    Tolstikhin et al., arXiv:2105.01601.

    Args:
        grid: (h, w); N = h * w.
        num_channels: C, for the batch norm.
    """

    def __init__(self, grid: tuple[int, int], num_channels: int) -> None:
        super().__init__()
        num_positions = grid[0] * grid[1]
        self.linear = PositionLinear(num_positions, num_positions, bias=False)
        self.norm = BatchNorm(num_channels)

    def forward(self, spk: Tensor) -> LazyCurrent:
        """Spikes `[T, B, C, h, w]` to currents `[T, B, C, h, w]`."""
        return self.norm(self.linear(spk))


class AttentionProduct(nn.Module):
    """`y[c, i] = sum_j v[c, j] sum_d k[d, j] q[d, i]` at every step: values of positions j, by their match with i.

    It has no weights, and spikes take additions only.
    """

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Spikes `[..., D, N]` of queries, keys and values to sums `[..., D, N]`."""
        return torch.matmul(v, torch.matmul(k.mT, q))


class SpikingSelfAttention(nn.Module):
    """Every position of a grid reads every other by content, not by position; spikes in, a current out.

    Queries, keys and values are spikes of neurons that a 1x1 convolution drives. The heads' sums drive neurons through
    a batch norm, which replaces the fixed scale, and these drive a last 1x1 convolution.

    Args:
        neuron: builds the neuron layers.
        num_channels: C.
        num_heads: divides C; default 4.

    Raises:
        InputError: `num_heads` does not divide C.

    Reference: Spikformer, Zhou et al., arXiv:2209.15425, spiking self-attention.
    """

    def __init__(self, neuron: NeuronFactory, num_channels: int, num_heads: int = 4) -> None:
        super().__init__()
        divides = num_heads >= 1 and num_channels % num_heads == 0
        require(divides, "num_channels, the width,", f"a multiple of the {num_heads} heads", num_channels)
        self.num_heads = num_heads
        self.current = conv_norm(num_channels, 3 * num_channels, kernel_size=1)
        self.neuron = neuron()
        self.attended = AttentionProduct()
        self.norm = BatchNorm(num_channels)
        self.last_neuron = neuron()
        self.synapse = conv_norm(num_channels, num_channels, kernel_size=1)

    def forward(self, spk: Tensor) -> LazyCurrent:
        """Spikes `[T, B, C, h, w]` to currents `[T, B, C, h, w]`."""
        heads = self.neuron(self.current(spk)).flatten(3).unflatten(2, (3, self.num_heads, -1))
        gathered = self.attended(*heads.unbind(2))  # [T, B, heads, C / heads, h * w]
        gathered = gathered.flatten(2, 3).view_as(spk)
        return self.synapse(self.last_neuron(self.norm(gathered)))

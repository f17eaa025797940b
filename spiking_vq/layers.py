"""Building blocks on `[T, B, C, H, W]`: time folded into the batch, convolution with batch norm, residual blocks.

Synapses take spikes and give a `Current`, which the next neuron computes while it reads it. A quantity that is the same
at every step is kept as `[1, B, C, H, W]` (convolution and batch norm of a constant are constant), and `direct_coding`
tells the first neuron for how many steps it is presented.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from spiking_vq.distributed import num_ranks
from spiking_vq.neurons import decay_weights, weighted_sum
from spiking_vq.running import running
from spiking_vq.scan import Current, Norm, as_current, batch_statistics
from spiking_vq.winograd import Conv3x3

NeuronFactory = Callable[[], nn.Module]


def fold_time(x: Tensor) -> Tensor:
    """Time into the batch: `[T, B, ...] -> [T*B, ...]`."""
    return x.flatten(0, 1)


def unfold_time(x: Tensor, num_steps: int) -> Tensor:
    """Time out of the batch again: `[T*B, ...] -> [T, B, ...]`."""
    return x.unflatten(0, (num_steps, -1))


def direct_coding(x: Tensor | Current, num_steps: int) -> Current:
    """Present a current that is the same at every step, `[1, B, ...]`, for `num_steps` of them, not repeating it."""
    current = as_current(x)
    return Current(current.x, current.norm, current.residual, num_steps)


def at_each_step(layer: nn.Module, x: Tensor) -> Tensor:
    """A layer of `[B, C, H, W]` applied to every step of `x` `[T, B, C, H, W]`."""
    return unfold_time(layer(fold_time(x)), len(x))


class BatchNorm(nn.BatchNorm2d):
    """Batch norm of currents `[T, B, C, ...]`, statistics over all but the channels; the neuron computes it on the way.

    A current that is the same at every step has the mean and the biased variance of its T-fold repeat; the running
    variance is the unbiased one of what is there, T B H W / (T B H W - 1) of the repeat's.

    The bias of the synapse lies here, as published networks have one. The batch's mean takes it away again, so in
    training it is not even added: a transposed convolution spends as long on its gradient, 0, as on the weights'.

    Reference: Ioffe and Szegedy, arXiv:1502.03167; threshold-dependent: Zheng et al., arXiv:2011.05280.

    Args:
        num_channels: C.
        synapse_bias: the synapse has a bias.
        gain: fixed factor of what is normalised, before the learnt weight. Threshold-dependent batch norm is that with
            the neurons' threshold, and over the square root of 2 where two arms are summed.

    Attributes:
        synchronised: in training, the statistics are those of all ranks' currents together; see `synchronise`.
    """

    synchronised = False

    def __init__(self, num_channels: int, synapse_bias: bool = False, gain: float = 1.0) -> None:
        super().__init__(num_channels)
        self.gain = gain
        self.synapse_bias = nn.Parameter(torch.zeros(num_channels)) if synapse_bias else None

    def forward(self, x: Tensor) -> Current:
        """Of the synapse's output without its bias, `[T, B, C, ...]`, or `[1, B, C, ...]` if the same at every step."""
        offset = 0.0 if self.synapse_bias is None else self.synapse_bias
        weight = self.weight if self.gain == 1.0 else self.gain * self.weight
        if not self.training:
            rstd = (self.running_var + self.eps).rsqrt()
            bias = self.bias + offset * weight * rstd
            return Current(x, Norm(weight, bias, self.running_mean, rstd, from_batch=False))
        mean, var = batch_statistics(x, self.synchronised)
        count = x.numel() // x.shape[2] * (num_ranks() if self.synchronised else 1)
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_((mean + offset).to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_((var * count / max(count - 1, 1)).to(self.running_var.dtype), self.momentum)
        bias = self.bias + 0.0 * offset  # its gradient is 0, not missing
        return Current(x, Norm(weight, bias, mean, (var + self.eps).rsqrt(), True, self.synchronised))


def synchronise(model: nn.Module) -> None:
    """Make the batch norms of a network reduce their statistics over all ranks (see `spiking_vq.distributed`)."""
    for module in model.modules():
        if isinstance(module, BatchNorm):
            module.synchronised = True


class NormedSynapse(nn.Sequential):
    """A synapse applied to every step alike, then batch norm: spikes `[T, B, C, H, W]` in, a current out.

    Args:
        synapse: a layer of `[B, C, H, W]` without bias; the batch norm has it.
        num_channels: C', what it gives.
        gain: of the batch norm.
    """

    def __init__(self, synapse: nn.Module, num_channels: int, gain: float = 1.0) -> None:
        super().__init__(synapse, BatchNorm(num_channels, synapse_bias=True, gain=gain))

    def forward(self, spk: Tensor, current: Tensor | None = None) -> Current:
        """The current `[T, B, C', H', W']`; `current`, of a shape that broadcasts, is added before the batch norm."""
        synapse, norm = self
        x = at_each_step(synapse, spk)
        return norm(x if current is None else x + current)


def conv_norm(
    in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1, gain: float = 1.0
) -> NormedSynapse:
    """Convolution that keeps the size (or divides it by `stride`), then batch norm; spikes in, currents out."""
    if kernel_size == 3 and stride == 1:
        return NormedSynapse(Conv3x3(in_channels, out_channels), out_channels, gain)
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=False)
    return NormedSynapse(conv, out_channels, gain)


def up_conv_norm(in_channels: int, out_channels: int) -> NormedSynapse:
    """Transposed 3x3 convolution that doubles the size, then batch norm; spikes in, currents out."""
    conv = nn.ConvTranspose2d(in_channels, out_channels, 3, stride=2, padding=1, output_padding=1, bias=False)
    return NormedSynapse(conv, out_channels)


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
        last_norm = [module for module in self.branch.modules() if isinstance(module, BatchNorm)][-1]
        nn.init.constant_(last_norm.weight, self.INITIAL_GAIN)

    def forward(self, x: Tensor | Current) -> Current:
        """`[T, B, C, H, W]` currents to `[T, B, C, H, W]` currents."""
        x = as_current(x)
        x.keep = True  # the first neuron computes it, and the sum below needs it
        branch = self.branch(x)
        return Current(branch.x, branch.norm, x.value())


class PlaceLinear(nn.Linear):
    """A linear map over the places of a grid, the same for all channels: `y[c, j] = sum_i W[j, i] x[c, i]`."""

    def forward(self, x: Tensor) -> Tensor:
        """`[T, B, C, h, w]` to `[T, B, C, h, w]`, channels-last as convolutions are."""
        rows = fold_time(x).flatten(2).mT  # [T*B, h*w, C]
        return torch.matmul(self.weight.expand(len(rows), -1, -1), rows).mT.view_as(x)


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
        self.linear = PlaceLinear(num_places, num_places, bias=False)
        self.norm = BatchNorm(num_channels)

    def forward(self, spk: Tensor) -> Current:
        """Spikes `[T, B, C, h, w]` to currents `[T, B, C, h, w]`."""
        return self.norm(self.linear(spk))


class ClassEmbedding(nn.Embedding):
    """A vector for each label, and one for none, which stands last.

    Of labels with styles (`spiking_vq.styles`) the vector is a sum, of one for the label and of one for each halving of
    its images, so that styles which look alike share most of what they learn.

    Args:
        num_classes: number of labels.
        num_features: length of a vector.
        styles: of each label, a power of two.
    """

    def __init__(self, num_classes: int, num_features: int, styles: int = 1) -> None:
        super().__init__(num_classes * (2 * styles - 1) + 1, num_features)
        self.none, self.halvings = num_classes * styles, styles.bit_length() - 1
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, labels: Tensor | None, n: int) -> Tensor:
        """Vectors [n, E] of labels int64 [n], `label * styles + style` or, meaning none, `num_classes * styles`.

        Without labels, those of none.
        """
        if labels is None:
            labels = torch.full((n,), self.none, device=self.weight.device)
        shift = torch.arange(self.halvings, -1, -1, device=labels.device)
        # the labels' rows come first, then those of their images' halves, then of the quarters...
        first = (self.none >> self.halvings) * (2 ** shift.flip(0) - 1)
        rows = first + (labels.unsqueeze(1) >> shift)
        rows = rows.where(labels.unsqueeze(1) < self.none, self.num_embeddings - 1)
        return super().forward(rows).sum(1)


def read_out(
    synapse: nn.Module, weights: Sequence[float], *sources: Tensor | tuple[nn.Module, Tensor | Current]
) -> Tensor:
    """`sum_t weights[t] synapse(spk[t])`, [B, C', H, W], fp32 at least but for autocast.

    The synapse is linear, so the sum is taken over its spikes instead: one application for T, in which its bias counts
    `sum(weights)` times. Inside `run_with(unfolded=True)` it is applied at every step.

    Args:
        synapse: a linear layer of `[B, C, H, W]` with a bias [C'].
        weights: T numbers.
        sources: where the spikes `[T, B, c, H, W]` are from, together C channels: themselves, or a neuron layer and its
            input current, whose spikes then need not be stored.
    """
    if running().unfolded:
        spk = [source if isinstance(source, Tensor) else source[0](source[1]) for source in sources]
        return weighted_sum(at_each_step(synapse, torch.cat(spk, dim=2)), weights)
    sums = [
        weighted_sum(source, weights) if isinstance(source, Tensor) else source[0].integrate(source[1], weights)
        for source in sources
    ]
    read = synapse(torch.cat(sums, dim=1) if len(sums) > 1 else sums[0])
    more = sum(weights) - 1  # of the bias, which the synapse has added once
    return read if abs(more) < 1e-6 else read + more * synapse.bias.view(-1, 1, 1)


class MembraneReadout(nn.Module):
    """Membrane potential of output neurons that never fire, fed by a last layer of neurons through a last synapse.

    `sum_t decay^(T-1-t) synapse(spk[t])`; see `read_out`.

    Args:
        neuron: the last layer of neurons.
        synapse: a linear layer of `[B, C, H, W]` with a bias [C'].
        decay: of the membrane, per step.
    """

    def __init__(self, neuron: nn.Module, synapse: nn.Module, decay: float = 0.8) -> None:
        super().__init__()
        self.neuron, self.synapse, self.decay = neuron, synapse, decay

    def forward(self, x: Tensor | Current) -> Tensor:
        """Potentials [B, C', H, W], fp32 at least, of the neurons' input currents `[T, B, C, H, W]`."""
        with torch.autocast(self.synapse.weight.device.type, enabled=False):
            return read_out(self.synapse, decay_weights(x.shape[0], self.decay), (self.neuron, x))

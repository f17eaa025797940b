"""FSDDIM: the U-Net of the fully spiking denoising diffusion implicit model, on synaptic currents."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spiking_vq.layers.labels import ClassEmbedding
from spiking_vq.layers.synapses import BatchNorm, NeuronFactory, at_each_step, concatenate, conv_norm, direct_coding
from spiking_vq.models.unet_parts import SpikingUNet, sinusoid
from spiking_vq.neurons.fused import LazyCurrent
from spiking_vq.runtime.conv3x3 import Conv3x3
from spiking_vq.runtime.running import steps_of


class PostSumBlock(nn.Module):
    """Residual block that spikes after the sum: `neuron(norm(conv(neuron(norm(conv(x) + time)))) + norm(shortcut(x)))`.

    Both arms of the sum have a threshold-dependent batch norm over the square root of 2. The time embedding comes
    through a neuron of its own.

    Args:
        neuron: builds the neuron layers.
        threshold: firing threshold of these neurons.
        in_channels, out_channels: C and C'.
        num_features: E, length of the time embedding.

    Reference: Watanabe et al., arXiv:2312.01742.
    """

    num_sums = 2  # the time's current and the shortcut; see `spiking_vq.energy`

    def __init__(
        self, neuron: NeuronFactory, threshold: float, in_channels: int, out_channels: int, num_features: int
    ) -> None:
        super().__init__()
        arm = threshold / math.sqrt(2)
        self.time_neuron, self.time = neuron(), nn.Linear(num_features, out_channels)
        self.first = conv_norm(in_channels, out_channels, gain=threshold)
        self.neuron = neuron()
        self.second = conv_norm(out_channels, out_channels, gain=arm)
        same = in_channels == out_channels
        self.shortcut = BatchNorm(out_channels, gain=arm) if same else conv_norm(in_channels, out_channels, 1, gain=arm)
        self.last_neuron = neuron()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Spikes or currents `[T, B, C, H, W]` and the time's currents `[T, B, E]` to spikes `[T, B, C', H, W]`."""
        steady = self.time(self.time_neuron(time))[..., None, None]
        current = self.second(self.neuron(self.first(x, steady)))
        return self.last_neuron(LazyCurrent(current.x, current.norm, self.shortcut(x).value()))


class FSDDIMUNet(SpikingUNet):
    """The U-Net of the fully spiking DDIM, on synaptic currents.

    Each step has a current of its own, in and out. The output convolution, 1x1 without norm, reads all outputs of the
    first level, on the way down and on the way up. Levels are connected by 2x2 averages with a 1x1 convolution down and
    by nearest-neighbour doubling with a 3x3 convolution up. As in the authors' configuration these connections and the
    first convolution have neither norm nor neuron, so the synapses behind them are fed by real numbers.

    Args:
        image_shape, T, width, multipliers, num_blocks, patch_size: see `SpikingUNet`; `multipliers` gives the levels'
            output widths.
        neuron: builds the neuron layers.
        threshold: firing threshold of these neurons, to which the batch norms scale.
        num_classes: number of labels; None makes an unconditional network.
        styles: number of styles of each label, a power of two.

    Reference: Watanabe et al., arXiv:2312.01742.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        T: int,
        neuron: NeuronFactory,
        threshold: float = 1.0,
        width: int = 128,
        multipliers: Sequence[int] = (1, 2, 3, 4),
        num_blocks: int = 2,
        num_classes: int | None = None,
        styles: int = 1,
        patch_size: int = 1,
    ) -> None:
        super().__init__(image_shape, T, width, multipliers, num_blocks, patch_size)
        num_channels, num_features = self.num_channels, self.num_features
        widths = [width, *(width * factor for factor in multipliers)]

        def block(in_channels: int, out_channels: int) -> PostSumBlock:
            return PostSumBlock(neuron, threshold, in_channels, out_channels, num_features)

        def blocks(in_channels: int, out_channels: int) -> nn.ModuleList:
            return nn.ModuleList(block(in_channels, out_channels) for _ in range(num_blocks))

        def change(before: int, after: int) -> nn.Module:
            return nn.Sequential(conv_norm(before, after, gain=threshold), neuron())

        self.time_in, self.time_neuron = nn.Linear(width, num_features), neuron()
        self.time_out = nn.Linear(num_features, num_features)
        self.labels = None if num_classes is None else ClassEmbedding(num_classes, num_features, styles)
        self.stem = nn.Conv2d(num_channels, width, 3, padding=1)
        levels = list(pairwise(widths))
        self.down = nn.ModuleList(blocks(before, before) for before, _ in levels)
        self.shrink = nn.ModuleList(
            nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(before, after, 1)) for before, after in levels[:-1]
        )
        self.bottom = change(*levels[-1])
        self.middle = nn.ModuleList(block(widths[-1], widths[-1]) for _ in range(2))
        self.up = nn.ModuleList(blocks(before + after, after) for before, after in reversed(levels))
        self.grow = nn.ModuleList(
            nn.Sequential(nn.Upsample(scale_factor=2), Conv3x3(after, before, bias=True))
            for before, after in reversed(levels[1:])
        )
        self.top = change(widths[1], width)
        self.last = block(2 * width, width)
        self.head = nn.Conv2d(2 * width + num_blocks * (width + widths[1]), num_channels, 1)
        self.to(memory_format=torch.channels_last)

    def forward(self, noisy: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """Predicted currents `[T, B, C, H, W]` at times `t` [B], with `labels` [B].

        `noisy` are currents `[T, B, C, H, W]`, or `[1, B, C, H, W]` if they are the same at every step.
        """
        time, dtype = self._time(t, labels), self.head.weight.dtype
        x = at_each_step(self.stem, F.pixel_unshuffle(noisy.to(dtype), self.patch_size))
        x = x.expand(steps_of(self), *x.shape[1:])
        skips, of_first_level = [x], [x]
        for level, blocks in enumerate(self.down):
            for block in blocks:
                x = block(x, time)
                skips.append(x)
            of_first_level += [] if level else skips[1:]
            x = at_each_step(self.shrink[level], x) if level < len(self.shrink) else self.bottom(x)
        for block in self.middle:
            x = block(x, time)
        for level, blocks in enumerate(self.up):
            for block in blocks:
                x = block(concatenate(x, skips.pop()), time)
                of_first_level += [x] if level == len(self.grow) else []
            x = at_each_step(self.grow[level], x) if level < len(self.grow) else self.top(x)
        x = self.last(concatenate(x, skips.pop()), time)
        with torch.autocast(x.device.type, enabled=False):  # rounding errors here add up from call to call
            patches = at_each_step(self.head, concatenate(x, *of_first_level).to(dtype))
        return F.pixel_shuffle(patches, self.patch_size)

    def time_features(self, t: Tensor) -> Tensor:
        """See `SpikingUNet.time_features`; here of t - 1, as the authors count times from 0, up to frequency 1e-4."""
        return sinusoid(t - 1, self.width, to_the_end=True).to(self.head.weight.dtype)

    def _time(self, t: Tensor, labels: Tensor | None) -> Tensor:
        """The currents `[T, B, E]` of time and labels."""
        current = self.time_in(self.time_features(t)).unsqueeze(0)
        time = self.time_out(self.time_neuron(direct_coding(current, steps_of(self))))
        return time if self.labels is None else time + self.labels(labels, len(t))

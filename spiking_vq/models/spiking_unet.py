"""Spiking U-Nets: networks that see noisy images and predict what a Gaussian diffusion asks for.

All are called as `unet(noisy [B, C, H, W], t [B] in 1..N, labels [B] or None) -> prediction [B, C, H, W]`; one on
synaptic currents takes and gives `[T, B, C, H, W]`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spiking_vq.errors import InputError, require
from spiking_vq.layers import (
    BatchNorm,
    ClassEmbedding,
    NeuronFactory,
    NormedSynapse,
    at_each_step,
    conv_norm,
    direct_coding,
)
from spiking_vq.neurons import decayed_sum
from spiking_vq.running import steps_of
from spiking_vq.scan import Current, as_current
from spiking_vq.winograd import Conv3x3


def sinusoid(t: Tensor, num_features: int) -> Tensor:
    """Sines and cosines of the diffusion times `t` [B], wave lengths from 2 pi to about 20,000 pi; float32 [B, E].

    Reference: Vaswani et al., arXiv:1706.03762, section 3.5.
    """
    half = torch.arange(0, num_features, 2, device=t.device, dtype=torch.float64)
    angles = t.double().unsqueeze(1) * torch.exp(-math.log(10_000) * half / num_features)
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)[:, :num_features].float()


def check_sizes(
    image_shape: Sequence[int], T: int, width: int, multipliers: Sequence[int], num_blocks: int, patch_size: int
) -> None:
    """Raise `InputError` unless a U-Net of these sizes can be built."""
    require(T >= 1, "T, the number of spiking steps,", "at least 1", T)
    require(width >= 2 and width % 2 == 0, "width", "even, at least 2", width)
    require(num_blocks >= 1, "num_blocks", "at least 1", num_blocks)
    require(patch_size >= 1, "patch_size", "at least 1", patch_size)
    require(
        len(multipliers) >= 1 and min(multipliers) >= 1, "multipliers", "at least one, each at least 1", multipliers
    )
    _, height, width = image_shape
    halvings = len(multipliers) - 1
    divisor = patch_size * 2**halvings
    if height % divisor or width % divisor:
        raise InputError(
            f"image height and width must be multiples of {divisor}, as patches are {patch_size}x{patch_size} pixels"
            f" and {len(multipliers)} levels halve them {halvings} times; got {height}x{width}. Set image_size,"
            " patch_size, or fewer multipliers."
        )


# ---------------------------------------------------------------------------------------------------------------------
# SDDPM


class PreSpikeBlock(nn.Module):
    """Pre-spike residual block with time: `shortcut(x) + norm(conv(neuron(norm(conv(neuron(x))) + time)))`.

    Currents in, currents out: the sums are of real numbers before a neuron, so that no synapse sees the 0/1/2 that a
    sum of spikes would give; but a shortcut that changes the width convolves the real-valued current.

    Args:
        neuron: builds a neuron layer.
        in_channels, out_channels: C and C'.
        num_features: E, of the time's embedding.

    Reference: Cao et al., arXiv:2306.17046, section 4.1.
    """

    def __init__(self, neuron: NeuronFactory, in_channels: int, out_channels: int, num_features: int) -> None:
        super().__init__()
        self.first_neuron, self.first = neuron(), conv_norm(in_channels, out_channels)
        self.time = nn.Linear(num_features, out_channels)
        self.second_neuron, self.second = neuron(), conv_norm(out_channels, out_channels)
        self.shortcut = nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor | Current, time: Tensor) -> Current:
        """Currents `[T, B, C, H, W]` and the time's embedding [B, E] to currents `[T, B, C', H, W]`."""
        x = as_current(x)
        x.keep = True  # the first neuron computes it, and the sum below needs it
        current = self.first(self.first_neuron(x))
        steady = self.time(time)[None, :, :, None, None].to(current.x.dtype)
        current = Current(current.x, current.norm, steady.expand(1, *current.x.shape[1:]))
        current = self.second(self.second_neuron(current))
        return Current(current.x, current.norm, at_each_step(self.shortcut, x.value()))


class SDDPMUNet(nn.Module):
    """The spiking U-Net of SDDPM (66,568,413 parameters on 3x32x32 images).

    The image is presented unchanged at every step. Levels of pre-spike blocks are connected by strided convolutions
    down and by nearest-neighbour doubling and convolution up, each fed by a neuron; one block more going up, and the
    real-valued currents of the way down are concatenated to those of the way up. The time's embedding is real-valued
    and added as a constant current. The head is not spiking: `h = conv(swish(norm(x)))` at each step, plus
    `swish(norm(conv(h)))`, then the sum over time with decay 0.8.

    Args:
        image_shape: (C, H, W); H and W multiples of 2^(levels - 1).
        T: number of spiking steps.
        neuron: builds the neuron layers.
        width: channels of the first level.
        multipliers: of each level's width.
        num_blocks: blocks a level going down.
        num_classes: labels it is told; None for none.
        styles: of each label, told with it.
        patch_size: side of the square of pixels that is one position of the first level; as published, 1.

    Raises:
        InputError: sizes that do not fit.

    Reference: Cao et al., arXiv:2306.17046.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        T: int,
        neuron: NeuronFactory,
        width: int = 128,
        multipliers: Sequence[int] = (1, 2, 2, 4),
        num_blocks: int = 2,
        num_classes: int | None = None,
        styles: int = 1,
        patch_size: int = 1,
    ) -> None:
        super().__init__()
        check_sizes(image_shape, T, width, multipliers, num_blocks, patch_size)
        self.image_shape, self.T, self.width, self.patch_size = tuple(image_shape), T, width, patch_size
        num_channels, num_features = image_shape[0] * patch_size**2, 4 * width
        widths = [width * factor for factor in multipliers]

        def block(in_channels: int, out_channels: int) -> PreSpikeBlock:
            return PreSpikeBlock(neuron, in_channels, out_channels, num_features)

        self.time = nn.Sequential(nn.Linear(width, num_features), nn.SiLU(), nn.Linear(num_features, num_features))
        self.labels = None if num_classes is None else ClassEmbedding(num_classes, num_features, styles)
        self.stem = conv_norm(num_channels, width)
        self.entry = nn.Sequential(neuron(), conv_norm(width, width))
        self.down, self.up, skips = nn.ModuleList(), nn.ModuleList(), [width]
        for level, (before, after) in enumerate(pairwise([width, *widths])):
            for index in range(num_blocks):
                self.down.append(block(after if index else before, after))
                skips.append(after)
            if level < len(widths) - 1:
                self.down.append(nn.Sequential(neuron(), conv_norm(after, after, stride=2)))
                skips.append(after)
        self.middle = nn.ModuleList([block(widths[-1], widths[-1]) for _ in range(2)])
        before = widths[-1]
        for level, after in reversed(list(enumerate(widths))):
            for _ in range(num_blocks + 1):
                self.up.append(block(before + skips.pop(), after))
                before = after
            if level > 0:
                doubling = nn.Sequential(nn.Upsample(scale_factor=2), Conv3x3(after, after))
                self.up.append(nn.Sequential(neuron(), NormedSynapse(doubling, after)))
        self.head_norm = BatchNorm(before)
        self.head = nn.Conv2d(before, num_channels, 3, padding=1)
        self.smooth = conv_norm(num_channels, num_channels)
        self.to(memory_format=torch.channels_last)

    def forward(self, noisy: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """The prediction [B, C, H, W], fp32 at least; see the module."""
        dtype = self.head.weight.dtype
        time = self.time(sinusoid(t, self.width).to(dtype))
        if self.labels is not None:
            time = time + self.labels(labels, len(t))
        time = F.silu(time)
        patches = F.pixel_unshuffle(noisy.to(dtype), self.patch_size)
        x = self.entry(direct_coding(self.stem(patches.unsqueeze(0)), steps_of(self)))
        skips = [x]
        for layer in self.down:
            x = layer(x, time) if isinstance(layer, PreSpikeBlock) else layer(x)
            skips.append(x)
        for layer in self.middle:
            x = layer(x, time)
        for layer in self.up:
            if isinstance(layer, PreSpikeBlock):
                x = layer(torch.cat([x.value(), skips.pop().value()], dim=2), time)
            else:
                x = layer(x)
        return F.pixel_shuffle(self._read_out(x), self.patch_size)

    def _read_out(self, x: Current) -> Tensor:
        """The patches [B, C, H, W], fp32 at least, of currents `[T, B, C', H, W]`."""
        with torch.autocast(x.x.device.type, enabled=False):
            active = F.silu(self.head_norm(x.value().to(self.head.weight.dtype)).value())
            images = at_each_step(self.head, active)
            return decayed_sum(images + F.silu(self.smooth(images).value()))


# ---------------------------------------------------------------------------------------------------------------------
# FSDDIM


class PostSumBlock(nn.Module):
    """Residual block that spikes after the sum: `neuron(norm(conv(neuron(norm(conv(x) + time)))) + norm(shortcut(x)))`.

    Both arms of the sum have a threshold-dependent batch norm over the square root of 2. The time's current comes
    through a neuron of its own.

    Args:
        neuron: builds a neuron layer.
        threshold: of these neurons.
        in_channels, out_channels: C and C'.
        num_features: E, of the time's embedding.

    Reference: Watanabe et al., arXiv:2312.01742.
    """

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
        """What came in `[T, B, C, H, W]` and the time's currents `[T, B, E]` to spikes `[T, B, C', H, W]`."""
        steady = self.time(self.time_neuron(time))[..., None, None]
        current = self.second(self.neuron(self.first(x, steady)))
        return self.last_neuron(Current(current.x, current.norm, self.shortcut(x).value()))


class FSDDIMUNet(nn.Module):
    """The U-Net of the fully spiking DDIM, on synaptic currents.

    Each step has a current of its own, in and out: the output convolution, 1x1, bare, reads all that the first level
    gave on both ways. Levels are connected by 2x2 averages with a 1x1 convolution down and by nearest-neighbour
    doubling with a 3x3 convolution up. As in the authors' configuration these connections and the first convolution
    have neither norm nor neuron, so the synapses behind them are fed by real numbers.

    Args:
        image_shape: (C, H, W); H and W multiples of 2^(levels - 1).
        T: number of spiking steps.
        neuron: builds the neuron layers.
        threshold: of these neurons, to which the batch norms scale.
        width, multipliers, num_blocks: channels of the first level; of each level's output; blocks a level, both ways.
        num_classes: labels it is told; None for none.
        styles: of each label, told with it.
        patch_size: side of the square of pixels that is one position of the first level; as published, 1.

    Raises:
        InputError: sizes that do not fit.

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
        super().__init__()
        check_sizes(image_shape, T, width, multipliers, num_blocks, patch_size)
        self.image_shape, self.T, self.width, self.patch_size = tuple(image_shape), T, width, patch_size
        num_channels, num_features = image_shape[0] * patch_size**2, 4 * width
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
            nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(after, before, 3, padding=1))
            for before, after in reversed(levels[1:])
        )
        self.top = change(widths[1], width)
        self.last = block(2 * width, width)
        self.head = nn.Conv2d(2 * width + num_blocks * (width + widths[1]), num_channels, 1)
        self.to(memory_format=torch.channels_last)

    def forward(self, noisy: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """Currents `[T, B, C, H, W]` of the noisy ones `[T, B, C, H, W]`, or `[1, ...]` if the same at every step."""
        dtype = self.head.weight.dtype
        time = self._time(t, labels, dtype)
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
                x = block(torch.cat([x, skips.pop()], dim=2), time)
                of_first_level += [x] if level == len(self.grow) else []
            x = at_each_step(self.grow[level], x) if level < len(self.grow) else self.top(x)
        x = self.last(torch.cat([x, skips.pop()], dim=2), time)
        with torch.autocast(x.device.type, enabled=False):  # what is read out adds up from call to call
            patches = at_each_step(self.head, torch.cat([x, *of_first_level], dim=2).to(dtype))
        return F.pixel_shuffle(patches, self.patch_size)

    def _time(self, t: Tensor, labels: Tensor | None, dtype: torch.dtype) -> Tensor:
        """The time's currents `[T, B, E]`, and those of the labels."""
        current = self.time_in(sinusoid(t, self.width).to(dtype)).unsqueeze(0)
        time = self.time_out(self.time_neuron(direct_coding(current, steps_of(self))))
        return time if self.labels is None else time + self.labels(labels, len(t))


UNETS = {"sddpm": SDDPMUNet, "fsddim": FSDDIMUNet}

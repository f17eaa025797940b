"""SDDPM: the spiking U-Net of spiking denoising diffusion probabilistic models."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spiking_vq.layers.labels import ClassEmbedding
from spiking_vq.layers.synapses import (
    BatchNorm,
    NeuronFactory,
    NormedSynapse,
    at_each_step,
    concatenate,
    conv_norm,
    direct_coding,
)
from spiking_vq.models.unet_parts import SpikingUNet
from spiking_vq.neurons.fused import LazyCurrent, as_current
from spiking_vq.neurons.readouts import decayed_sum
from spiking_vq.runtime.conv3x3 import Conv3x3
from spiking_vq.runtime.running import steps_of


class PreSpikeBlock(nn.Module):
    """Pre-spike residual block with time: `shortcut(x) + norm(conv(neuron(norm(conv(neuron(x))) + time)))`.

    The sums are of currents, before a neuron, so that no synapse sees the 0/1/2 that a sum of spikes would give; but a
    shortcut that changes the width convolves the real-valued current.

    Args:
        neuron: builds the neuron layers.
        in_channels, out_channels: C and C'.
        num_features: E, length of the time embedding.

    Reference: Cao et al., arXiv:2306.17046, section 4.1.
    """

    num_sums = 2  # the time's current and the shortcut; see `spiking_vq.energy`

    def __init__(self, neuron: NeuronFactory, in_channels: int, out_channels: int, num_features: int) -> None:
        super().__init__()
        self.first_neuron, self.first = neuron(), conv_norm(in_channels, out_channels)
        self.time = nn.Linear(num_features, out_channels)
        self.second_neuron, self.second = neuron(), conv_norm(out_channels, out_channels)
        self.shortcut = nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor | LazyCurrent, time: Tensor) -> LazyCurrent:
        """Currents `[T, B, C, H, W]` and the time embedding [B, E] to currents `[T, B, C', H, W]`."""
        x = as_current(x)
        x.keep = True  # the first neuron computes it, and the sum below needs it
        current = self.first(self.first_neuron(x))
        steady = self.time(time)[None, :, :, None, None].to(current.x.dtype)
        current = LazyCurrent(current.x, current.norm, steady.expand(1, *current.x.shape[1:]))
        current = self.second(self.second_neuron(current))
        return LazyCurrent(current.x, current.norm, at_each_step(self.shortcut, x.value()))


class SDDPMUNet(SpikingUNet):
    """The spiking U-Net of SDDPM (66,568,413 parameters on 3x32x32 images).

    The image is presented unchanged at every step. Levels of pre-spike blocks are connected by strided convolutions
    down and by nearest-neighbour doubling and convolution up, each fed by a neuron; a level has one block more on the
    way up, where the real-valued currents of the way down are concatenated. The time embedding is real-valued and added
    as a constant current. The head does not spike: `h = conv(swish(norm(x)))` at each step, plus
    `swish(norm(conv(h)))`, then the sum over time with decay 0.8.

    Args:
        image_shape, T, width, multipliers, num_blocks, patch_size: see `SpikingUNet`.
        neuron: builds the neuron layers.
        num_classes: number of labels; None makes an unconditional network.
        styles: number of styles of each label, a power of two.

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
        super().__init__(image_shape, T, width, multipliers, num_blocks, patch_size)
        num_channels, num_features = self.num_channels, self.num_features
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
        self._initialise()
        self.to(memory_format=torch.channels_last)

    def forward(self, noisy: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """The prediction [B, C, H, W], fp32 at least, for `noisy` [B, C, H, W] at times `t` [B], with `labels` [B]."""
        time = self.embed_time(t, labels)
        patches = F.pixel_unshuffle(noisy.to(self.head.weight.dtype), self.patch_size)
        x = self.entry(direct_coding(self.stem(patches.unsqueeze(0)), steps_of(self)))
        skips = [x]
        for layer in self.down:
            x = layer(x, time) if isinstance(layer, PreSpikeBlock) else layer(x)
            skips.append(x)
        for layer in self.middle:
            x = layer(x, time)
        for layer in self.up:
            if isinstance(layer, PreSpikeBlock):
                x = layer(concatenate(x.value(), skips.pop().value()), time)
            else:
                x = layer(x)
        return self.read_out(x)

    def _initialise(self) -> None:
        """Start as the authors' network does: Xavier-uniform weights, biases of 0, and an output near 0.

        The convolutions behind the first neuron and over the output keep torch's own start.
        """
        kept = {id(module) for part in (self.entry, self.smooth) for module in part.modules()}
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear) and id(module) not in kept:
                nn.init.xavier_uniform_(module.weight, gain=1e-5 if module is self.head else 1.0)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def embed_time(self, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """Time embedding [B, E], with that of the labels; arguments of `forward`."""
        time = self.time(self.time_features(t))
        return F.silu(time if self.labels is None else time + self.labels(labels, len(t)))

    def read_out(self, x: LazyCurrent) -> Tensor:
        """The prediction [B, C, H, W], fp32 at least, of the last block's currents `[T, B, C', h, w]`."""
        with torch.autocast(x.x.device.type, enabled=False):
            active = F.silu(self.head_norm(x.value().to(self.head.weight.dtype)).value())
            images = at_each_step(self.head, active)
            patches = decayed_sum(images + F.silu(self.smooth(images).value()))
        return F.pixel_shuffle(patches, self.patch_size)

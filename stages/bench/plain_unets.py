"""The two published U-Nets written the plain way: the reference of the benchmark of the continuous stage.

SDDPM is on SpikingJelly, whose neurons step one by one; FSDDIM has a loop of its own over the steps, as its authors'
program does. The image is repeated T times through every layer, every layer is a module of its own, and read-outs are
applied at every step. The arithmetic is that of the presets `sddpm` and `fsddim`, of which these networks are the
defaults, and the layers stand in the same order.

Reference: Cao et al., arXiv:2306.17046; Watanabe et al., arXiv:2312.01742.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import Tensor, nn

from stages.bench.plain import decayed_sum

T = 4


def sinusoid(position: Tensor, width: int, intervals: int) -> Tensor:
    """Sines and cosines [B, width], side by side, at frequencies `10000^(-i / intervals)`."""
    rates = torch.exp(-math.log(10_000) * torch.arange(width // 2, device=position.device).double() / intervals)
    angles = position.double().unsqueeze(1) * rates
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1).float()


def if_neuron() -> nn.Module:
    """SDDPM's neuron, step by step: integrate-and-fire, threshold 1, hard reset, atan surrogate."""
    return layer.MultiStepContainer(neuron.IFNode(surrogate_function=surrogate.ATan(alpha=2.0), step_mode="s"))


def normed(
    before: int, after: int, kernel_size: int = 3, stride: int = 1, norm: type[nn.Module] = nn.BatchNorm2d
) -> list[nn.Module]:
    """Convolution and batch norm at every step."""
    conv = nn.Conv2d(before, after, kernel_size, stride, kernel_size // 2)
    return [layer.SeqToANNContainer(conv), layer.SeqToANNContainer(norm(after))]


class PlainPreSpikeBlock(nn.Module):
    """SDDPM's residual block."""

    def __init__(self, before: int, after: int, num_features: int) -> None:
        super().__init__()
        self.first = nn.Sequential(if_neuron(), *normed(before, after))
        self.time = nn.Linear(num_features, after)
        self.second = nn.Sequential(if_neuron(), *normed(after, after))
        same = before == after
        self.shortcut = nn.Identity() if same else layer.SeqToANNContainer(nn.Conv2d(before, after, 1))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Currents `[T, B, C, H, W]` and the time embedding [B, E] to currents."""
        return self.second(self.first(x) + self.time(time)[:, :, None, None]) + self.shortcut(x)


class PlainSDDPM(nn.Module):
    """SDDPM's U-Net."""

    def __init__(
        self, channels: int = 3, width: int = 128, multipliers: tuple[int, ...] = (1, 2, 2, 4), num_blocks: int = 2
    ) -> None:
        super().__init__()
        widths, features = [width * factor for factor in multipliers], 4 * width
        self.time = nn.Sequential(nn.Linear(width, features), nn.SiLU(), nn.Linear(features, features))
        self.stem = nn.Sequential(*normed(channels, width))
        self.entry = nn.Sequential(if_neuron(), *normed(width, width))
        self.down, self.up, skips, before = nn.ModuleList(), nn.ModuleList(), [width], width
        for level, after in enumerate(widths):
            for _ in range(num_blocks):
                self.down.append(PlainPreSpikeBlock(before, after, features))
                skips.append(after)
                before = after
            if level < len(widths) - 1:
                self.down.append(nn.Sequential(if_neuron(), *normed(after, after, stride=2)))
                skips.append(after)
        self.middle = nn.ModuleList(PlainPreSpikeBlock(before, before, features) for _ in range(2))
        for level, after in reversed(list(enumerate(widths))):
            for _ in range(num_blocks + 1):
                self.up.append(PlainPreSpikeBlock(before + skips.pop(), after, features))
                before = after
            if level:
                doubling = layer.SeqToANNContainer(nn.Upsample(scale_factor=2))
                self.up.append(nn.Sequential(if_neuron(), doubling, *normed(after, after)))
        self.head_norm = layer.SeqToANNContainer(nn.BatchNorm2d(width))
        self.head = layer.SeqToANNContainer(nn.Conv2d(width, channels, 3, padding=1))
        self.smooth = nn.Sequential(*normed(channels, channels))

    def forward(self, noisy: Tensor, t: Tensor) -> Tensor:
        """The predicted noise of images [B, C, H, W] at times t [B] in 1..N."""
        functional.reset_net(self)
        width = self.time[0].in_features
        time = F.silu(self.time(sinusoid(t, width, width // 2).to(noisy.dtype)))
        x = self.entry(self.stem(noisy.unsqueeze(0).repeat(T, 1, 1, 1, 1)))
        skips = [x]
        for part in self.down:
            x = part(x, time) if isinstance(part, PlainPreSpikeBlock) else part(x)
            skips.append(x)
        for part in self.middle:
            x = part(x, time)
        for part in self.up:
            is_block = isinstance(part, PlainPreSpikeBlock)
            x = part(torch.cat([x, skips.pop()], dim=2), time) if is_block else part(x)
        images = self.head(F.silu(self.head_norm(x)))
        return decayed_sum(images + F.silu(self.smooth(images)))


class _Fire(torch.autograd.Function):
    """A spike above threshold 1; the gradient is a triangle of half-width 0.5."""

    @staticmethod
    def forward(ctx: Any, membrane: Tensor) -> Tensor:
        ctx.save_for_backward(membrane)
        return (membrane > 1).to(membrane.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (membrane,) = ctx.saved_tensors
        return grad * (1 - (membrane - 1).abs() / 0.5).clamp(min=0)


class LoopLIF(nn.Module):
    """FSDDIM's neuron, step by step: decay 0.8, threshold 1, hard reset without gradient."""

    def forward(self, x: Tensor) -> Tensor:
        """Currents `[T, ...]` to spikes."""
        membrane, spikes = torch.zeros_like(x[0]), []
        for current in x:
            membrane = 0.8 * membrane + current
            spikes.append(_Fire.apply(membrane))
            membrane = membrane * (1 - spikes[-1].detach())
        return torch.stack(spikes)


class ArmNorm(nn.BatchNorm2d):
    """The threshold-dependent norm of an arm of a sum, at threshold 1: 1/sqrt(2) of the normalised current."""

    def forward(self, x: Tensor) -> Tensor:
        """Currents [B, C, H, W] to normalised ones."""
        weight = self.weight / math.sqrt(2)
        return F.batch_norm(
            x, self.running_mean, self.running_var, weight, self.bias, self.training, self.momentum, self.eps
        )


class PlainPostSumBlock(nn.Module):
    """FSDDIM's residual block."""

    def __init__(self, before: int, after: int, num_features: int) -> None:
        super().__init__()
        self.time_neuron, self.time = LoopLIF(), nn.Linear(num_features, after)
        self.first_synapse, self.first_norm = normed(before, after)
        self.neuron, self.second = LoopLIF(), nn.Sequential(*normed(after, after, norm=ArmNorm))
        same = before == after
        norm = [layer.SeqToANNContainer(ArmNorm(after))] if same else normed(before, after, 1, norm=ArmNorm)
        self.shortcut = nn.Sequential(*norm)
        self.last_neuron = LoopLIF()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Spikes or currents `[T, B, C, H, W]` and the time's currents `[T, B, E]` to spikes."""
        steady = self.time(self.time_neuron(time))[..., None, None]
        spk = self.neuron(self.first_norm(self.first_synapse(x) + steady))
        return self.last_neuron(self.second(spk) + self.shortcut(x))


class PlainFSDDIM(nn.Module):
    """FSDDIM's U-Net."""

    def __init__(
        self, channels: int = 3, width: int = 128, multipliers: tuple[int, ...] = (1, 2, 3, 4), num_blocks: int = 2
    ) -> None:
        super().__init__()
        widths, features = [width, *(width * factor for factor in multipliers)], 4 * width
        levels = list(pairwise(widths))

        def blocks(before: int, after: int, number: int = num_blocks) -> nn.ModuleList:
            return nn.ModuleList(PlainPostSumBlock(before, after, features) for _ in range(number))

        def each(*modules: nn.Module) -> nn.Module:
            return layer.SeqToANNContainer(*modules)

        self.time_in, self.time_neuron = nn.Linear(width, features), LoopLIF()
        self.time_out = nn.Linear(features, features)
        self.stem = each(nn.Conv2d(channels, width, 3, padding=1))
        self.down = nn.ModuleList(blocks(before, before) for before, _ in levels)
        self.shrink = nn.ModuleList(each(nn.AvgPool2d(2), nn.Conv2d(*level, 1)) for level in levels[:-1])
        self.bottom = nn.Sequential(*normed(*levels[-1]), LoopLIF())
        self.middle = blocks(widths[-1], widths[-1], 2)
        self.up = nn.ModuleList(blocks(before + after, after) for before, after in reversed(levels))
        self.grow = nn.ModuleList(
            each(nn.Upsample(scale_factor=2), nn.Conv2d(after, before, 3, padding=1))
            for before, after in reversed(levels[1:])
        )
        self.top = nn.Sequential(*normed(widths[1], width), LoopLIF())
        (self.last,) = blocks(2 * width, width, 1)
        self.head = each(nn.Conv2d(2 * width + num_blocks * (width + widths[1]), channels, 1))

    def forward(self, noisy: Tensor, t: Tensor) -> Tensor:
        """The predicted currents `[T, B, C, H, W]` of images `[1, B, C, H, W]` at times t [B] in 1..N."""
        width = self.time_in.in_features
        embedded = self.time_in(sinusoid(t - 1, width, width // 2 - 1).to(noisy.dtype))
        time = self.time_out(self.time_neuron(embedded.unsqueeze(0).repeat(T, 1, 1)))
        x = self.stem(noisy.repeat(T, 1, 1, 1, 1))
        skips, of_first_level = [x], [x]
        for level, blocks in enumerate(self.down):
            for block in blocks:
                x = block(x, time)
                skips.append(x)
            of_first_level += [] if level else skips[1:]
            x = self.shrink[level](x) if level < len(self.shrink) else self.bottom(x)
        for block in self.middle:
            x = block(x, time)
        for level, blocks in enumerate(self.up):
            for block in blocks:
                x = block(torch.cat([x, skips.pop()], dim=2), time)
                of_first_level += [x] if level == len(self.grow) else []
            x = self.grow[level](x) if level < len(self.grow) else self.top(x)
        x = self.last(torch.cat([x, skips.pop()], dim=2), time)
        return self.head(torch.cat([x, *of_first_level], dim=2))

"""Critics for training stage 1: a perceptual distance and an adversary. They are not part of the trained model."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call

from spiking_vq.errors import require
from spiking_vq.models.classifier import Classifier
from spiking_vq.runtime.compiling import kernel
from spiking_vq.runtime.running import running


class PatchAdversary(nn.Module):
    """A score D for every patch of an image, by a few convolutions without spikes; all but the first halve the image.

    Its weight in the autoencoder's loss should be fixed. Scaled to a share of the reconstruction error's gradient, as
    is usual, it would pull as hard while it cannot tell anything yet, and nowhere in particular.

    Args:
        in_channels: C of the images.
        channels: widths of all convolutions but the last, which gives the scores.

    Raises:
        InputError: no channels.

    Reference: patches, Isola et al., arXiv:1611.07004; against an autoencoder, Esser et al., arXiv:2012.09841; hinge
        loss, Lim and Ye, arXiv:1705.02894.
    """

    def __init__(self, in_channels: int, channels: Sequence[int] = (32, 64, 128)) -> None:
        super().__init__()
        require(len(channels) >= 1 and min(channels) >= 1, "adversary.channels", "at least one width", list(channels))
        halving = [
            module
            for before, after in pairwise(channels)
            for module in (nn.Conv2d(before, after, 4, stride=2, padding=1), nn.LeakyReLU(0.2))
        ]
        first = nn.Conv2d(in_channels, channels[0], 3, padding=1)
        self.scores = nn.Sequential(first, nn.LeakyReLU(0.2), *halving, nn.Conv2d(channels[-1], 1, 3, padding=1))
        self.to(memory_format=torch.channels_last)

    def forward(self, made: Tensor, real: Tensor) -> Tensor:
        """The adversary's own loss, `mean(relu(1 - D(real))) + mean(relu(1 + D(made)))`; `made` gets no gradient.

        Args:
            made, real: images [B, C, H, W], in the same range.
        """
        of_real, of_made = self.scores(torch.cat([real, made.detach()])).float().chunk(2)
        return F.relu(1 - of_real).mean() + F.relu(1 + of_made).mean()

    def pull(self, made: Tensor) -> Tensor:
        """The autoencoder's loss, `mean(-D(made))` of images [B, C, H, W]; the adversary's weights get no gradient."""
        held = {name: parameter.detach() for name, parameter in self.scores.named_parameters()}
        return -functional_call(self.scores, held, made).float().mean()


SHORTEST = 1e-12  # lengths below this count as this, when vectors are scaled to length 1


class PerceptualDistance(nn.Module):
    """Distance of two images in the feature maps of a classifier.

    `sum_l mean_positions |u_l(x) - u_l(y)|^2`, u_l the l-th convolution's maps scaled to length 1 at each position. The
    squared error of pixels asks for the mean of all textures that might be; this one, for a texture.

    Args:
        classifier: trained on real images; it is frozen and put into evaluation mode.

    Reference: Zhang et al., arXiv:1801.03924, without weights for the channels.
    """

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier.eval().requires_grad_(False)

    def forward(self, made: Tensor, real: Tensor) -> Tensor:
        """The distance, a scalar with gradient for `made`; both are images [B, C, H, W] in [0, 1]."""
        with torch.no_grad():
            targets = self.classifier.maps(real)
        return sum(
            _Unlikeness.apply(*(maps.movedim(1, -1).flatten(0, -2) for maps in pair)).mean()
            for pair in zip(self.classifier.maps(made), targets, strict=True)
        )


def _direction(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows [N, C] scaled to length 1, and the lengths [N, 1], in fp32."""
    length = x.float().square().sum(1, keepdim=True).sqrt().clamp(min=SHORTEST)
    return x.float() / length, length


def unlikeness_kernel(x: Tensor, y: Tensor) -> Tensor:
    """Squared distances [N] of the directions of the rows [N, C] of x and y."""
    return (_direction(x)[0] - _direction(y)[0]).square().sum(1)


def unlikeness_backward_kernel(x: Tensor, y: Tensor, grad: Tensor) -> Tensor:
    """Gradient [N, C] of x from the gradient [N] of the squared distances."""
    direction, length = _direction(x)
    difference = direction - _direction(y)[0]
    across = difference - (direction * difference).sum(1, keepdim=True) * direction
    return (2 * grad.unsqueeze(1) / length * across).to(x.dtype)


class _Unlikeness(torch.autograd.Function):
    """The kernels as one function, differentiable in x: one pass over memory each way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        ctx.compile = running().compile
        ctx.save_for_backward(x, y)
        return kernel(unlikeness_kernel, None, ctx.compile)(x, y)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return kernel(unlikeness_backward_kernel, None, ctx.compile)(*ctx.saved_tensors, grad), None

"""How unlike two images look to a trained classifier, for an autoencoder to be trained by.

It is part of training only: no file of a trained model holds it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from spiking_vq.compiling import kernel
from spiking_vq.errors import require
from spiking_vq.models.classifier import Classifier
from spiking_vq.running import running

SHORTEST = 1e-12  # a vector shorter than this is divided by this


class PerceptualDistance(nn.Module):
    """Distance of two images by what every convolution of a classifier makes of them.

    `sum_l mean_places |u_l(x) - u_l(y)|^2`, u_l the l-th convolution's maps scaled to length 1 at each place. The
    squared error of pixels asks for the mean of all textures that might be; this one, for a texture.

    Args:
        classifier: trained on real images. Its weights stay as they are.
        weight: of the distance in the autoencoder's loss.

    Reference: Zhang et al., arXiv:1801.03924, without weights for the channels.
    """

    def __init__(self, classifier: Classifier, weight: float) -> None:
        super().__init__()
        require(weight >= 0, "perceptual.weight", "at least 0", weight)
        self.weight = weight
        self.classifier = classifier.eval().requires_grad_(False)

    def forward(self, made: Tensor, real: Tensor) -> Tensor:
        """A scalar, with gradient for `made`; both are images [B, C, H, W] in [0, 1]."""
        with torch.no_grad():
            wanted = self.classifier.maps(real)
        return sum(
            _Unlikeness.apply(*(maps.movedim(1, -1).flatten(0, -2) for maps in pair)).mean()
            for pair in zip(self.classifier.maps(made), wanted, strict=True)
        )


def _direction(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows [N, C] scaled to length 1, and the lengths [N, 1], in fp32."""
    length = x.float().square().sum(1, keepdim=True).sqrt().clamp(min=SHORTEST)
    return x.float() / length, length


def unlikeness_kernel(x: Tensor, y: Tensor) -> Tensor:
    """Squared distances [N] of the directions of the rows [N, C] of x and y."""
    return (_direction(x)[0] - _direction(y)[0]).square().sum(1)


def unlikeness_backward_kernel(x: Tensor, y: Tensor, grad: Tensor) -> Tensor:
    """Gradient [N, C] of x, of that of the squared distances [N]."""
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

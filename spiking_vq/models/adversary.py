"""A network that tells reconstructed images from real ones, patch by patch, for an autoencoder to be trained against.

It is part of training only: no file of a trained model holds it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from spiking_vq.errors import require


class PatchAdversary(nn.Module):
    """A few convolutions without spikes, each but the last of which halves the image: a score for every patch.

    Args:
        in_channels: C of the images.
        channels: of each convolution but the last.
        weight: how strongly it pulls at the autoencoder, as a multiple of what the reconstruction error does.

    Reference: patches, Isola et al., arXiv:1611.07004; against an autoencoder, weighed by gradients, Esser et al.,
    arXiv:2012.09841; hinge loss, Lim and Ye, arXiv:1705.02894.
    """

    def __init__(self, in_channels: int, channels: Sequence[int], weight: float) -> None:
        super().__init__()
        require(len(channels) >= 1 and min(channels) >= 1, "adversary.channels", "at least one width", list(channels))
        require(weight >= 0, "adversary.weight", "at least 0", weight)
        self.weight = weight
        halving = [
            module
            for before, after in pairwise([in_channels, *channels])
            for module in (nn.Conv2d(before, after, 4, stride=2, padding=1), nn.LeakyReLU(0.2))
        ]
        self.scores = nn.Sequential(*halving, nn.Conv2d(channels[-1], 1, 3, padding=1))
        self.to(memory_format=torch.channels_last)

    def forward(self, made: Tensor, real: Tensor) -> Tensor:
        """Its own loss, to train it: `mean(relu(1 - D(real))) + mean(relu(1 + D(made)))`; `made` is given no gradient.

        Args:
            made, real: images [B, C, H, W], in the same range.
        """
        scores = self.scores(torch.cat([real, made.detach()]))
        of_real, of_made = scores.chunk(2)
        return F.relu(1 - of_real).mean() + F.relu(1 + of_made).mean()

    def pull(self, made: Tensor, error: Tensor, at: Tensor) -> Tensor:
        """The autoencoder's loss, `-mean(D(made))` scaled; the weights in here are given no gradient.

        Args:
            made: images [B, C, H, W].
            error: the reconstruction error, a scalar.
            at: what both are computed from. The result's gradient there has `weight` times the norm of `error`'s.
        """
        held = {name: parameter.detach() for name, parameter in self.scores.named_parameters()}
        loss = -functional_call(self.scores, held, made).mean()
        norms = [torch.autograd.grad(term, at, retain_graph=True)[0].norm() for term in (error, loss)]
        return self.weight * norms[0] / norms[1].clamp_min(1e-12) * loss

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
    """A few convolutions without spikes, all but the first of which halve the image: a score for every patch.

    Its pull at the autoencoder has a fixed weight. Scaled to a share of the reconstruction error's gradient, as is
    usual, it would pull as hard while it cannot tell anything yet, and nowhere in particular.

    Args:
        in_channels: C of the images.
        channels: of each convolution but the last, which gives the scores.
        weight: of `mean(-D(made))` in the autoencoder's loss.

    Reference: patches, Isola et al., arXiv:1611.07004; against an autoencoder, Esser et al., arXiv:2012.09841; hinge
    loss, Lim and Ye, arXiv:1705.02894.
    """

    def __init__(self, in_channels: int, channels: Sequence[int], weight: float) -> None:
        super().__init__()
        require(len(channels) >= 1 and min(channels) >= 1, "adversary.channels", "at least one width", list(channels))
        require(weight >= 0, "adversary.weight", "at least 0", weight)
        self.weight = weight
        halving = [
            module
            for before, after in pairwise(channels)
            for module in (nn.Conv2d(before, after, 4, stride=2, padding=1), nn.LeakyReLU(0.2))
        ]
        first = nn.Conv2d(in_channels, channels[0], 3, padding=1)
        self.scores = nn.Sequential(first, nn.LeakyReLU(0.2), *halving, nn.Conv2d(channels[-1], 1, 3, padding=1))
        self.to(memory_format=torch.channels_last)

    def forward(self, made: Tensor, real: Tensor) -> Tensor:
        """Its own loss, to train it: `mean(relu(1 - D(real))) + mean(relu(1 + D(made)))`; `made` is given no gradient.

        Args:
            made, real: images [B, C, H, W], in the same range.
        """
        of_real, of_made = self.scores(torch.cat([real, made.detach()])).float().chunk(2)
        return F.relu(1 - of_real).mean() + F.relu(1 + of_made).mean()

    def pull(self, made: Tensor) -> Tensor:
        """The autoencoder's part, `weight * mean(-D(made))` of images [B, C, H, W]; the weights get no gradient."""
        held = {name: parameter.detach() for name, parameter in self.scores.named_parameters()}
        return -self.weight * functional_call(self.scores, held, made).float().mean()

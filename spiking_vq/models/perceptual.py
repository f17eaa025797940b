"""How unlike two images look to a trained classifier, for an autoencoder to be trained by.

It is part of training only: no file of a trained model holds it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spiking_vq.errors import require
from spiking_vq.models.classifier import Classifier


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
            (F.normalize(x.float(), dim=1) - F.normalize(y.float(), dim=1)).square().sum(1).mean()
            for x, y in zip(self.classifier.maps(made), wanted, strict=True)
        )

"""Frechet distance between two sets of features: the FID if they are Inception's."""

from __future__ import annotations

from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from spiking_vq.metrics.features import check_features


def fid(features_a: Tensor, features_b: Tensor) -> float:
    """Frechet distance between the Gaussians that fit two sets of features, in float64.

    `|mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2))`, mu the means and S the unbiased covariances, computed by
    torchmetrics. It falls with the number of rows: compare distances of equal numbers only. With fewer rows than
    features its error is about 1e-4, and it may be negative by that much.

    Args:
        features_a: floating point [N, D], N >= 2.
        features_b: floating point [M, D], M >= 2.

    Returns:
        The distance, >= 0 up to rounding.

    Raises:
        InputError: other shapes or types, or features that are not finite.

    Reference: Heusel et al., arXiv:1706.08500, equation 6.
    """
    check_features(features_a, features_b)
    identity = nn.Identity()
    identity.num_features = features_a.shape[1]
    metric = FrechetInceptionDistance(feature=identity).to(features_a.device)
    metric.update(features_a.double(), real=True)
    metric.update(features_b.double(), real=False)
    return metric.compute().item()

"""Kernel distance between two sets of features: the KID if they are Inception's."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchmetrics.image.kid import KernelInceptionDistance

from spiking_vq.metrics.features import check_features

SUBSETS, SUBSET_SIZE = 100, 1000


def kid(features_a: Tensor, features_b: Tensor, seed: int = 0) -> float:
    """Unbiased squared maximum mean discrepancy with the kernel `(x y / D + 1)^3`.

    The mean over 100 subsets of 1,000 rows (or all rows, if fewer), computed by torchmetrics. Its expected value is 0
    for equal distributions and, unlike that of the Frechet distance, does not depend on the number of rows.

    Args:
        features_a: floating point [N, D], N >= 2.
        features_b: floating point [M, D], M >= 2.
        seed: of the subsets; default 0.

    Returns:
        The distance, possibly slightly below 0.

    Raises:
        InputError: other shapes or types, or features that are not finite.

    Reference: Binkowski et al., arXiv:1801.01401, section 3.
    """
    check_features(features_a, features_b)
    subset_size = min(SUBSET_SIZE, len(features_a), len(features_b))
    metric = KernelInceptionDistance(feature=nn.Identity(), subsets=SUBSETS, subset_size=subset_size)
    metric.to(features_a.device)
    metric.update(features_a, real=True)
    metric.update(features_b, real=False)
    with torch.random.fork_rng(devices=[]):  # torchmetrics draws from the global state
        torch.manual_seed(seed)
        mean, _ = metric.compute()
    return mean.item()

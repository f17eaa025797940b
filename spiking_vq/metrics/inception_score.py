"""Inception score of features."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchmetrics.image.inception import InceptionScore

from spiking_vq.errors import InputError, require


def inception_score(features: Tensor, classifier: Tensor, seed: int = 0) -> float | None:
    """`exp(E_x KL(p(y|x) || p(y)))`, the mean over ten parts of the rows, computed by torchmetrics.

    Args:
        features: [N, 2048], N >= 10, of `Inception`.
        classifier: weights [1008, 2048] of `Inception.classifier`, without bias as in TensorFlow's original.
        seed: of the rows' order; default 0.

    Returns:
        The score in [1, 1008], or None if the classifier is NaN, as from files that lack it.

    Raises:
        InputError: other shapes, or features that are not finite.

    Reference: Salimans et al., arXiv:1606.03498, section 4.
    """
    rows, columns = (list(part.shape) for part in (features, classifier))
    if len(rows) != 2 or len(columns) != 2 or rows[0] < 10 or rows[1] != columns[1]:
        raise InputError(f"expected features [N, D], N at least 10, and weights [classes, D]; got {rows} and {columns}")
    require(bool(features.isfinite().all()), "features", "finite", "some that are not")
    if not classifier.isfinite().all():
        return None
    metric = InceptionScore(feature=nn.Identity())
    metric.update(features @ classifier.T)
    with torch.random.fork_rng(devices=[]):  # torchmetrics draws from the global state
        torch.manual_seed(seed)
        mean, _ = metric.compute()
    return mean.item()

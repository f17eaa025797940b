"""Use of the codes."""

import torch
from torch import Tensor


def perplexity(tokens: Tensor) -> Tensor:
    """Effective number of classes that a code uses, `exp(-sum_k p_k ln p_k)`, p their relative frequencies.

    Args:
        tokens: int64 [B, G, h, w].

    Returns:
        Scalar in [1, K], the geometric mean over the G codes; K if all classes are equally frequent.
    """
    entropies = [-_share_of_class(code.flatten()).log().mean() for code in tokens.unbind(1)]
    return torch.stack(entropies).mean().exp()


def _share_of_class(tokens: Tensor) -> Tensor:
    """Share [n] of the tokens [n] that are of the same class; sorted, so that no shape depends on the classes."""
    ordered = tokens.sort().values
    count = torch.searchsorted(ordered, ordered, right=True) - torch.searchsorted(ordered, ordered)
    return count.float() / len(tokens)

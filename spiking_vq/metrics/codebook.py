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
    shares = [code.unique(return_counts=True)[1].float() / code.numel() for code in tokens.unbind(1)]
    return torch.stack([torch.special.entr(p).sum() for p in shares]).mean().exp()

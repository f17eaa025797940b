"""Use of a codebook."""

import torch
from torch import Tensor


def perplexity(tokens: Tensor, codebook_size: int) -> Tensor:
    """Effective number of codes in use, `exp(-sum_k p_k ln p_k)`, p the codes' relative frequencies.

    Args:
        tokens: int64, any shape, in 0..K-1.
        codebook_size: K.

    Returns:
        Scalar in [1, K]; K if all codes are equally frequent.
    """
    p = torch.bincount(tokens.flatten(), minlength=codebook_size).float() / tokens.numel()
    return torch.special.entr(p).sum().exp()

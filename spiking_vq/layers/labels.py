"""Embeddings of class labels and styles."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ClassEmbedding(nn.Embedding):
    """A vector for each label, and one for none, which stands last.

    Of labels with styles (`spiking_vq.styles`) the vector is a sum, of one for the label and of one for each halving of
    its images, so that styles which look alike share most of what they learn.

    Args:
        num_classes: number of labels.
        num_features: length of a vector.
        styles: of each label, a power of two.
    """

    def __init__(self, num_classes: int, num_features: int, styles: int = 1) -> None:
        super().__init__(num_classes * (2 * styles - 1) + 1, num_features)
        self.none, self.halvings = num_classes * styles, styles.bit_length() - 1
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, labels: Tensor | None, n: int) -> Tensor:
        """Vectors [n, E] of labels int64 [n], `label * styles + style` or, meaning none, `num_classes * styles`.

        Without labels, those of none.
        """
        if labels is None:
            labels = torch.full((n,), self.none, device=self.weight.device)
        shift = torch.arange(self.halvings, -1, -1, device=labels.device)
        # the labels' rows come first, then those of their images' halves, then of the quarters...
        first = (self.none >> self.halvings) * (2 ** shift.flip(0) - 1)
        rows = first + (labels.unsqueeze(1) >> shift)
        rows = rows.where(labels.unsqueeze(1) < self.none, self.num_embeddings - 1)
        return super().forward(rows).sum(1)

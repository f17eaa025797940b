"""Embeddings of class labels and styles."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ClassEmbedding(nn.Embedding):
    """A vector for each label; the last one stands for no label.

    With styles (see `spiking_vq.data.styles`) the vector is the sum of one for the label and one for each halving of
    the label's images, so that similar styles share most of their parameters.

    Args:
        num_classes: number of labels.
        num_features: E, length of a vector.
        styles: number of styles of each label, a power of two; 1 (default) for none.
    """

    def __init__(self, num_classes: int, num_features: int, styles: int = 1) -> None:
        super().__init__(num_classes * (2 * styles - 1) + 1, num_features)
        self.none, self.halvings = num_classes * styles, styles.bit_length() - 1
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, labels: Tensor | None, n: int) -> Tensor:
        """Vectors [n, E] of labels int64 [n]: `label * styles + style`, or `num_classes * styles` for no label.

        `labels=None` gives every row no label.
        """
        return super().forward(self.rows(labels, n)).sum(1)

    def rows(self, labels: Tensor | None, n: int) -> Tensor:
        """Numbers of the rows whose sum is a label's vector, [n, halvings + 1]; of no label, its row repeated."""
        if labels is None:
            labels = torch.full((n,), self.none, device=self.weight.device)
        shift = torch.arange(self.halvings, -1, -1, device=labels.device)
        # rows of the labels come first, then those of the halves of their images, then of the quarters...
        first = (self.none >> self.halvings) * (2 ** shift.flip(0) - 1)
        rows = first + torch.div(labels.unsqueeze(1), 2**shift, rounding_mode="floor")  # ONNX has no signed shift
        return rows.where(labels.unsqueeze(1) < self.none, self.num_embeddings - 1)

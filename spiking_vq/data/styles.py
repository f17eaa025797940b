"""Styles: the training images of each label, split by appearance into clusters of equal size.

A network conditioned on the style need not guess the appearance of an image from its first few tokens. All styles of a
label hold the same number of images, so that drawing one uniformly follows the data.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from spiking_vq.data.official import Split
from spiking_vq.errors import InputError

_SIDE = 16  # positions a side, of which appearance is judged
_BATCH = 4096


def with_styles(train: Split, val: Split, styles: int) -> tuple[Tensor, Tensor]:
    """Label and style of every image in one number, int64 [N]: `label * styles + style`.

    The images of a label, at half their height and width or less, are split at the median of their first principal
    component, each half is split again, and so on. The training images alone decide where.

    Args:
        train, val: images with their labels.
        styles: number of styles of each label, a power of two; 1 gives the labels themselves.

    Raises:
        InputError: a label has fewer training images than styles.

    Reference: principal direction divisive partitioning, Boley, Data Mining and Knowledge Discovery 2, 1998; diffusion
        models conditioned on clusters, Hu et al., arXiv:2210.06462.
    """
    cells = [train.labels, val.labels]
    if styles == 1:
        return cells[0], cells[1]
    from sklearn.decomposition import PCA  # a slow import that few users of this module need

    least = int(train.labels.unique(return_counts=True)[1].min())
    if styles > least:
        raise InputError(f"styles must be at most {least}, the images of the rarest label; got {styles}")
    factor = max(2, min(train.images.shape[2:]) // _SIDE)
    rows = [
        torch.cat([F.avg_pool2d(batch.float(), factor).flatten(1) for batch in images.split(_BATCH)])
        for images in (train.images, val.images)
    ]
    for _ in range(styles.bit_length() - 1):
        halves = [2 * cell for cell in cells]
        for cell in cells[0].unique():
            component = PCA(1, svd_solver="randomized", random_state=0).fit(rows[0][cells[0] == cell].numpy())
            border = None
            for row, known, half in zip(rows, cells, halves, strict=True):
                inside = known == cell
                if inside.any():
                    along = row.new_tensor(component.transform(row[inside].numpy())[:, 0])
                    border = along.median() if border is None else border  # of the training images, which come first
                    half[inside] += along > border
        cells = halves
    return cells[0], cells[1]

"""A small classifier of real images, for evaluation of generated ones and as perceptual loss of stage 1."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spiking_vq.errors import require


class Classifier(nn.Module):
    """A few convolutions without spikes, all but the first of which halve the image, and a linear layer.

    Args:
        image_shape: (C, H, W).
        num_classes: number of labels.
        channels: widths of the convolutions; the last one is the number of features D.

    Raises:
        InputError: no channels.
    """

    def __init__(self, image_shape: Sequence[int], num_classes: int, channels: Sequence[int] = (32, 64, 128)) -> None:
        super().__init__()
        require(len(channels) >= 1, "channels", "one width or more, such as [32, 64]", list(channels))
        self.image_shape = tuple(image_shape)
        widths = [image_shape[0], *channels]
        self.trunk = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(before, after, 3, stride=1 if index == 0 else 2, padding=1, bias=False),
                    nn.BatchNorm2d(after),
                    nn.ReLU(),
                )
                for index, (before, after) in enumerate(pairwise(widths))
            )
        ).to(memory_format=torch.channels_last)
        self.readout = nn.Linear(widths[-1], num_classes)

    def maps(self, images: Tensor) -> list[Tensor]:
        """Feature maps [B, C', H', W'] after each convolution, of images [B, C, H, W] in [0, 1]."""
        maps = [(images - 0.5).contiguous(memory_format=torch.channels_last)]
        for block in self.trunk:
            maps.append(block(maps[-1]))
        return maps[1:]

    def features(self, images: Tensor) -> Tensor:
        """Features [B, D] of images [B, C, H, W] in [0, 1]: the last maps' mean over positions."""
        return self.maps(images)[-1].mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, num_classes] of images [B, C, H, W] in [0, 1]."""
        return self.readout(self.features(images))

    def loss(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Cross-entropy in nats.

        Args:
            images: [B, C, H, W] in [0, 1].
            labels: int64 [B].

        Returns:
            `loss` (scalar, with gradient), and detached: `accuracy` in [0, 1].
        """
        logits = self(images)
        accuracy = (logits.argmax(1) == labels).float().mean()
        return {"loss": F.cross_entropy(logits, labels), "accuracy": accuracy.detach()}

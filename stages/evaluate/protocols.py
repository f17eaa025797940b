"""Protocols: which images are compared with which, without which a metric means nothing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Protocol:
    """How generated images are compared with real ones.

    Attributes:
        generated: number of generated images.
        reference: the split they are compared with: `test`, `train` or `val`.
        about: the protocol in a sentence, printed with the metrics.
        first: number of images of the split that are compared, from its beginning; None (default) takes all.
        image_size: side of the square that all images are resized to first; None (default) leaves them as they are.
        resize: resize of Inception's input, one of `RESIZES`.
        num_seeds: number of sets that are generated and measured. One is enough for sets of 10,000: over three of the
            same model FID has a standard deviation of 0.2 to 0.3.
    """

    generated: int
    reference: str
    about: str
    first: int | None = None
    image_size: int | None = None
    resize: str = "tensorflow"
    num_seeds: int = 1


PROTOCOLS = {
    "test-10k": Protocol(
        10_000,
        "test",
        "10,000 generated images against all test images; the Inception network and the resize FID was defined with",
    ),
    "n1280-test": Protocol(
        1280,
        "test",
        "1,280 generated images against the first 1,280 test images: the numbers of images behind Spiking-Diffusion's"
        " published FIDs, but not their Inception (torchvision's) nor their matrix square root (not one)",
        first=1280,
        num_seeds=3,
    ),
    "fsddim-10k": Protocol(
        10_000,
        "test",
        "10,000 generated images against all test images, at 32 x 32 pixels, with clean-fid's resize: as FSDDIM's"
        " published FIDs",
        image_size=32,
        resize="clean",
    ),
    "train-50k": Protocol(
        50_000,
        "train",
        "50,000 generated images against the training images (of ours, the nine tenths that are trained on): as SDDPM's"
        " and SDM's published FIDs",
    ),
    "val": Protocol(
        2000,
        "val",
        "2,000 generated images against the validation images: for choosing checkpoints, temperatures and numbers of"
        " calls, which is never done on the test images",
    ),
}

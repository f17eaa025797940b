"""Figures that others published, each under a protocol of its own."""

from __future__ import annotations

from typing import NamedTuple


class Published(NamedTuple):
    """A row of published figures.

    Attributes:
        system: name, and T where it was told.
        about: how it was measured.
        fid: data set -> FID.
        protocol: the one of ours that is comparable; None if none is.
        spikes: whether the network spikes.
    """

    system: str
    about: str
    fid: dict[str, float]
    protocol: str | None = None
    spikes: bool = True


CLEAN_5K = "5,000 images against the test images, clean-fid's resize: no protocol of ours has as few"
UNKNOWN = "under a protocol that we do not know"
TRAIN_50K = "50,000 images against the training images, TensorFlow's Inception"

PUBLISHED = [
    Published(
        "Spiking-Diffusion (T 16)",
        "1,280 images against the first 1,280 test images in torchvision's Inception, an ImageNet network, and without"
        " a true matrix square root: of the number of images of n1280-test, but of other features and arithmetic",
        {"mnist": 37.50, "fmnist": 91.98, "kmnist": 59.23, "letters": 67.41, "cifar10": 120.5},
    ),
    Published(
        "SDDPM (T 4)", TRAIN_50K, {"mnist": 29.48, "fmnist": 21.38, "cifar10": 19.73, "celeba": 25.09}, "train-50k"
    ),
    Published("SDM, best", TRAIN_50K, {"cifar10": 12.95}, "train-50k"),
    Published(
        "FSDDIM, best",
        "10,000 images against the test images, clean-fid's resize; the checkpoint was chosen on these images",
        {"mnist": 3.99, "fmnist": 9.17, "cifar10": 46.14, "celeba": 36.08},
        "fsddim-10k",
    ),
    Published("FSVAE (T 16)", CLEAN_5K, {"mnist": 97.06, "fmnist": 90.12, "cifar10": 175.5, "celeba": 101.6}),
    Published("ESVAE (T 16)", CLEAN_5K, {"mnist": 117.8, "fmnist": 125.3, "cifar10": 127.0, "celeba": 85.33}),
    Published("SGAD (T 16)", UNKNOWN, {"mnist": 69.64, "fmnist": 165.42, "cifar10": 181.5, "celeba": 151.36}),
    Published("Hybrid spiking GAN", UNKNOWN, {"mnist": 123.93, "fmnist": 198.94, "cifar10": 72.64, "celeba": 63.18}),
    Published("D3PM absorbing, no spikes", TRAIN_50K, {"cifar10": 41.28}, "train-50k", spikes=False),
    Published("D3PM absorbing with cross-entropy, no spikes", TRAIN_50K, {"cifar10": 30.97}, "train-50k", spikes=False),
]

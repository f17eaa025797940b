"""Calling, saving and sharing a pipeline as diffusers and the Hugging Face hub do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.functional import to_pil_image

from spiking_vq.config.schema import DenoiserConfig
from spiking_vq.data.levels import to_unit
from spiking_vq.errors import LARGEST_SEED, described, require, require_one_of
from spiking_vq.pipelines.hub import require_repository, upload
from spiking_vq.pipelines.saving import write_pretrained

OUTPUTS: dict[str, Callable[[Tensor], Any]] = {
    "pil": lambda images: [to_pil_image(image) for image in images],
    "pt": to_unit,
    "np": lambda images: to_unit(images).permute(0, 2, 3, 1).numpy(),
}
"""`output_type` -> images of that type, from uint8 [n, C, H, W]."""


class ImageOutput(NamedTuple):
    """Generated images, as diffusers' pipelines return them.

    Attributes:
        images: PIL images of mode L or RGB; or float32 in [0, 1], a tensor [n, C, H, W] on the CPU or a NumPy array
            [n, H, W, C].
    """

    images: list[Image.Image] | Tensor | np.ndarray


class Conventions:
    """What `Pipeline` inherits: a call with diffusers' names, `save_pretrained` and `push_to_hub`."""

    model: nn.Module
    config: DenoiserConfig
    is_exported: bool
    sample: Callable[..., Any]

    def __call__(
        self,
        class_labels: int | Sequence[int] | np.ndarray | Tensor | None = None,
        *,
        batch_size: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        generator: torch.Generator | None = None,
        output_type: str = "pil",
    ) -> ImageOutput:
        """Generate images; `sample`, by the names of diffusers' pipelines.

        Args:
            class_labels: one for each image, or one for all; `label` of `sample`. None (default) is without label,
                or, if `guidance` of the model is above 0, with drawn ones.
            batch_size: number of images; None (default) is the number of labels, or 1.
            num_inference_steps: `sample_steps`; None (default) is the model's own.
            guidance_scale: `guidance`, the w of `without + w (with - without)`; None (default) is the model's own.
            generator: whose next integer is the seed of all images, so that two calls with one generator differ, and
                two generators of one seed agree; None (default) takes torch's default generator.
            output_type: `pil` (default), `pt` or `np`.

        Raises:
            InputError: a value out of range, of which `sample` speaks by its own names.
        """
        require_one_of("output_type", output_type, OUTPUTS)
        n, seed = number_of_images(class_labels, batch_size), drawn_seed(generator)
        settings = {"label": class_labels, "sample_steps": num_inference_steps, "guidance": guidance_scale}
        return ImageOutput(OUTPUTS[output_type](self.sample(n, seed, **settings).images))

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write the model to a folder, which `spiking_vq.load` takes: the same seed gives the same images.

        `model.safetensors` holds weights and configuration, in bf16 where that is exact; `config.json` the
        configuration again, for readers; `README.md` a model card: that of the model that ships, with its metrics, if
        it is this very model. Paths of this machine are left out.

        Args:
            folder: to write to; the three files of an earlier call there are replaced, no other is touched.

        Returns:
            The folder.

        Raises:
            InputError: an exported model; a folder with such files of something else, or one that cannot be written
                to; weights that are NaN or infinite.
        """
        self._require_networks()
        return write_pretrained(folder, self.model, self.config, "path/of/this/folder")

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | None = None,
        commit_message: str = "Upload a spiking_vq model",
        create_pr: bool = False,
    ) -> str:
        """Put what `save_pretrained` writes into a repository of the Hugging Face hub; `spiking_vq.load` takes it.

        Args:
            repo_id: `owner/name`; created if there is none.
            private: of a new repository; None (default) is public, unless the owner's settings say otherwise.
            token: of the hub; None (default) is that of `hf auth login` or `HF_TOKEN`.
            commit_message: of the one commit.
            create_pr: open a pull request instead of committing to `main`.

        Returns:
            The address of the commit, or of the pull request.

        Raises:
            InputError: an exported model, huggingface_hub is not installed, or the hub cannot be reached or refuses.
        """
        self._require_networks()
        require_repository(repo_id)
        with TemporaryDirectory() as folder:
            write_pretrained(folder, self.model, self.config, repo_id)
            return upload(Path(folder), repo_id, private, token, commit_message, create_pr)

    def _require_networks(self) -> None:
        """Raise `InputError` if the networks are graphs of an export."""
        require(not self.is_exported, "the model", "one that is not exported already", "an export")


def number_of_images(class_labels: Any, batch_size: int | None) -> int:
    """Number of images of a call.

    Raises:
        InputError: a `batch_size` that is not the number of labels.
    """
    labels = class_labels.tolist() if hasattr(class_labels, "tolist") else class_labels
    if not isinstance(labels, Sequence) or isinstance(labels, str):
        return 1 if batch_size is None else batch_size
    require(batch_size in (None, len(labels)), "batch_size", f"{len(labels)}, as many as class_labels", batch_size)
    return len(labels)


def drawn_seed(generator: torch.Generator | None) -> int:
    """The next seed, in 0..2^32 - 1, of a generator on any device; of torch's default one for None.

    Raises:
        InputError: something else, such as a list with a generator for each image.
    """
    is_one = generator is None or isinstance(generator, torch.Generator)
    require(is_one, "generator", "one torch.Generator, for the seed of all images", described(generator))
    device = "cpu" if generator is None else generator.device
    return int(torch.randint(LARGEST_SEED + 1, (1,), generator=generator, device=device))

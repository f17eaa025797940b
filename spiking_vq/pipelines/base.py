"""What both pipelines have in common."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

import torch
from torch import Tensor, nn

from spiking_vq.checkpoint.file import load_model
from spiking_vq.config.schema import DenoiserConfig
from spiking_vq.errors import InputError, require, require_integer, require_seed
from spiking_vq.fields import FROM_FILE, value_of
from spiking_vq.pipelines.zoo import shipped
from spiking_vq.randomness import mix_seed
from spiking_vq.runtime.precision import PRECISIONS, autocast, parameter_type
from spiking_vq.runtime.running import run_with

CHUNK = 64
"""Images computed at once. Fixed, the last chunk padded: convolutions round differently at another batch size, and an
image must be the same however many are asked for."""


GROUP = 16 * CHUNK
"""Images whose noise is held at once; in a group, a finished image leaves its place in the chunk to the next one."""

MOST = 2**31 - 1
"""Images that a call makes at most."""


class Samples(NamedTuple):
    """What a generator makes.

    Attributes:
        images: uint8 [n, C, H, W].
        tokens: int64 [n, h, w] in 0..K-1; None where there are none.
    """

    images: Tensor
    tokens: Tensor | None = None


class Pipeline:
    """What the generators of both pipelines have in common.

    Args:
        model: the networks.
        config: they were trained with.
        device: where to compute.
        precision: `fp32`, `bf16` (autocast; membranes stay fp32) or `fp64`.
        compile: compile the neurons' kernels (`spiking_vq.compiling`): faster from some hundred images on.

    Attributes:
        kind, stage: of the model, and what training it is called.
        network: the network that is called again and again.

    Raises:
        InputError: another precision.
    """

    kind: type[nn.Module]
    stage: str

    def __init__(
        self,
        model: nn.Module,
        config: DenoiserConfig,
        device: torch.device | str = "cpu",
        precision: str = "fp32",
        compile: bool = False,
    ) -> None:
        require(precision in PRECISIONS, "precision", f"one of {', '.join(PRECISIONS)}", repr(precision))
        self.model, self.config = model.to(device, parameter_type(precision)).eval(), config
        self.device, self.precision, self.compile = torch.device(device), precision, compile

    @classmethod
    def from_pretrained(
        cls, path: str | Path, device: torch.device | str = "cpu", precision: str = "fp32", compile: bool = False
    ) -> Pipeline:
        """Read a `model.safetensors`, or the weights that ship for a data set; other arguments as in the constructor.

        Args:
            path: a file; or a data set, `mnist`, or with the preset, `mnist-base-relu`.

        Raises:
            InputError: not such a file, or one of another kind of model.
        """
        path = shipped(path, cls.stage)
        model, config = load_model(path)
        if not isinstance(model, cls.kind):
            raise InputError(f"{path} is a {config.stage} model: a {cls.__name__} is made of one of stage {cls.stage}")
        return cls(model, config, device, precision, compile)

    @property
    def network(self) -> nn.Module:
        """The network that is called again and again."""
        raise NotImplementedError

    @property
    def num_steps(self) -> dict[str, int]:
        """Part of the model -> its spiking steps T."""
        raise NotImplementedError

    def sampling(self, **given: Any) -> dict[str, Any]:
        """The sampler's settings in force: those given, else the file's own defaults.

        Raises:
            InputError: a setting that this sampler does not have, or a value out of range.
        """
        raise NotImplementedError

    def to(self, device: torch.device | str) -> Pipeline:
        """Move the networks to a device, and compute there from now on."""
        self.model, self.device = self.model.to(device), torch.device(device)
        return self

    def sample(
        self,
        n: int,
        seed: int = 0,
        *,
        first: int = 0,
        progress: Callable[[int, int], None] | None = None,
        **settings: Any,
    ) -> Samples:
        """Generate `n` images. Image i depends on (seed, i) alone, not on `n`.

        Args:
            n: how many, at least 1.
            seed: of the whole set, in 0..2^32 - 1.
            first: number of the first image, a multiple of `GROUP`: a large set may be made in parts.
            progress: called as `progress(images_done, n)` as they are made.
            settings: of the sampler, see `sampling`; what is not given, or None, is the file's own.

        Raises:
            InputError: a value out of range.
        """
        require_integer("n, the number of images,", n, 1)
        require(n <= MOST, "n, the number of images,", f"at most {MOST}", n)
        require_seed(seed)
        require_integer("first", first, 0)
        require(first % GROUP == 0, "first", f"a multiple of {GROUP}", first)
        settings = self.sampling(**settings)
        with torch.no_grad(), run_with(compile=self.compile), autocast(self.precision, self.device):
            return self._sample(n, seed, first, settings, progress or (lambda done, of: None))

    def make_alone(self, seed: int, **settings: Any) -> Tensor:
        """One image [1, C, H, W] in [0, 1], made by itself and not in a chunk, by settings in force; without autocast.

        For watching and counting what an image takes; rounding may differ from `sample`'s.
        """
        raise NotImplementedError

    def _sample(
        self, n: int, seed: int, first: int, settings: dict[str, Any], progress: Callable[[int, int], None]
    ) -> Samples:
        raise NotImplementedError

    def _in_force(self, given: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
        """The defaults, with what is given and not None in their place; of a network that knows labels, the label too.

        Without a label, but with guidance above 0, the labels are drawn.
        """
        given = {name: value for name, value in given.items() if value is not None}
        known, kinds = [*defaults, "label"], get_type_hints(type(self.config.sample)) | {"label": int}
        if foreign := given.keys() - known:
            named = ", ".join(sorted(foreign))
            raise InputError(
                f"the sampler of a {self.config.stage} model has no {named}: its settings are {', '.join(known)}"
            )
        given = {name: value_of(name, value, kinds[name], FROM_FILE) for name, value in given.items()}
        settings = defaults | {name: value for name, value in given.items() if name in defaults}
        label, guidance = given.get("label"), settings.pop("guidance")
        if not self.config.conditional:
            settings.pop("guidance_T", None)
            if given.keys() & {"label", "guidance", "guidance_T"}:
                raise InputError("this model knows no labels: train one with conditional=true")
            return settings
        require(guidance >= 0, "guidance", "at least 0", guidance)
        if label is not None:
            known = self.config.labels
            require(label in known, "label", f"a number it was trained on, one of {', '.join(map(str, known))}", label)
            guidance = guidance if "guidance" in given else guidance or 1.0
        return settings | {"label": label, "guidance": guidance}

    def _split(self, settings: dict[str, Any], seeds: Sequence[int]) -> tuple[Tensor | None, float, dict[str, Any]]:
        """Of settings in force: the labels int64 [n] of images of these seeds, the guidance, and the sampler's part.

        A label that is not asked for is drawn from the image's seed, as probable as among the training images, and so
        is a label's style, of which all are.
        """
        settings = dict(settings)
        if not self.config.conditional:
            return None, 1.0, settings
        label, guidance = settings.pop("label"), settings.pop("guidance")
        styles, ends = self.config.styles, list(accumulate(self.config.counts))
        drawn = [bisect(ends, mix_seed(seed, 2) % ends[-1]) for seed in seeds]
        labels = drawn if label is None else [label] * len(seeds)
        told = [label * styles + mix_seed(seed, 3) % styles for label, seed in zip(labels, seeds, strict=True)]
        return torch.tensor(told, device=self.device), guidance, settings


def within(network: nn.Module, **settings: Any) -> Callable[..., Tensor]:
    """The network, each of its calls with these settings of `running.Run`."""

    def call(*inputs: Tensor) -> Tensor:
        with run_with(**settings):
            return network(*inputs)

    return call


def chunks(n: int) -> Iterator[tuple[Tensor, int]]:
    """Row numbers [CHUNK] of each chunk of `n` rows, the last row repeated as padding, and how many count."""
    for first in range(0, n, CHUNK):
        yield torch.arange(first, first + CHUNK, device="cpu").clamp(max=n - 1), min(CHUNK, n - first)

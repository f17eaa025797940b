"""What a user holds: a trained generator that needs one file and nothing else."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

import numpy as np
import torch
from torch import Tensor, nn

from spiking_vq.checkpoint import LatentModel, PixelModel, load_model
from spiking_vq.config import DenoiserConfig
from spiking_vq.data import to_uint8, to_unit
from spiking_vq.diffusion.absorbing import AbsorbingDiffusion
from spiking_vq.diffusion.gaussian import GaussianDiffusion
from spiking_vq.diffusion.guidance import guided, told
from spiking_vq.errors import InputError, described, require, require_integer, require_seed
from spiking_vq.images import as_uint8_images
from spiking_vq.neurons import check_threshold_shift
from spiking_vq.precision import PRECISIONS, autocast, parameter_type
from spiking_vq.randomness import mix_seed
from spiking_vq.running import run_with
from spiking_vq.values import FROM_FILE, read_path, value_of

ZOO = Path(__file__).parent / "zoo"

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


class Generator:
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
    ) -> Generator:
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

    def to(self, device: torch.device | str) -> Generator:
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


class LatentGenerator(Generator):
    """Tokens from absorbing diffusion, images from the VQ-SVAE's decoder; the arguments are those of `Generator`."""

    kind, stage = LatentModel, "absorbing"

    @property
    def network(self) -> nn.Module:
        """The denoiser."""
        return self.model.denoiser

    @property
    def num_steps(self) -> dict[str, int]:
        """Of stage 1 and of the denoiser."""
        return {"vq_svae": self.config.vq_svae.T, "denoiser": self.config.T}

    @property
    def diffusion(self) -> AbsorbingDiffusion:
        """The process that the denoiser was trained on."""
        return AbsorbingDiffusion(self.model.vq_svae.grid, self.model.vq_svae.codebook_size, self.config.loss)

    def sampling(self, **given: Any) -> dict[str, Any]:
        """Settings: `sample_steps`, `order`, `temperature`, `last_temperature`, `top_p`, `remask_calls` and `schedule`
        of `AbsorbingDiffusion.sample`; `guidance`, `guidance_T`, `label`. A `temperature` given alone is that of all
        calls.
        """
        settings = self._in_force(given, asdict(self.config.sample))
        if given.get("temperature") is not None:
            settings["last_temperature"] = given.get("last_temperature")
        most = self.diffusion.diffusion_steps + settings["remask_calls"]
        if given.get("sample_steps") is None:  # a preset's default may be more calls than a small grid has tokens
            settings["sample_steps"] = min(settings["sample_steps"] or most, most)
        names = ("sample_steps", "order", "temperature", "last_temperature", "top_p", "remask_calls", "schedule")
        self.diffusion.check_settings(**{name: settings[name] for name in names})
        steps, most = settings.get("guidance_T"), self.config.T
        require(steps is None or 1 <= steps <= most, "guidance_T", f"in 1..{most}, the network's T", steps)
        return settings

    @torch.no_grad()
    def make_alone(self, seed: int, **settings: Any) -> Tensor:
        """See `Generator.make_alone`."""
        tokens = self.tokens([seed], **settings)
        return self.model.vq_svae.decode(tokens, torch.Generator().manual_seed(mix_seed(seed, 1)))

    def tokens(self, seeds: Sequence[int], watch: Callable[[Tensor], None] | None = None, **settings: Any) -> Tensor:
        """Tokens [n, h, w] of one image for each seed, by settings in force, and where `known` places are among these.

        Autocast is the caller's.

        Args:
            seeds: of the images.
            watch: called with the tokens that the denoiser sees in each call.
            settings: of `AbsorbingDiffusion.sample`, and the labels'.
        """
        labels, guidance, settings = self._split(settings, seeds)
        unlabelled = within(self.network, num_steps=settings.pop("guidance_T", None))
        denoiser = guided(self.network, guidance, unlabelled)

        def watched(tokens: Tensor, *rest: Tensor) -> Tensor:
            watch(tokens)
            return denoiser(tokens, *rest)

        settings |= {"labels": labels, "device": self.device}
        return self.diffusion.sample(watched if watch else denoiser, seeds, **settings)

    def inpaint(self, images: Any, keep: Any, seed: int = 0, **settings: Any) -> Samples:
        """Keep some positions of the token grid of given images, and generate the others.

        Args:
            images: [n, C, H, W] or one image, as tensor, NumPy array, PIL image or a list of these; see
                `spiking_vq.images.as_uint8_images`.
            keep: bool [h, w] or [n, h, w], as tensor, NumPy array or lists; positions of the grid whose tokens stay.
            seed, settings: as in `sample`; a label that is not given is not drawn, as it could contradict the images.

        Raises:
            InputError: shapes that do not fit, or a value out of range.
        """
        require_seed(seed)
        vq_svae, settings = self.model.vq_svae, self.sampling(**settings)
        if settings.get("label", 0) is None:
            settings["guidance"] = 0.0
        images = to_unit(as_uint8_images(images, vq_svae.image_shape))
        n, keep = len(images), as_grids(keep, len(images), vq_svae.grid)
        with torch.no_grad(), autocast("fp32", self.device):  # whatever autocast the caller is in
            tokens = [vq_svae.tokenize(images[rows].to(self.device))[:kept].cpu() for rows, kept in _chunks(n)]
        known = torch.cat(tokens).where(keep, self.diffusion.mask_id)
        with torch.no_grad(), run_with(compile=self.compile), autocast(self.precision, self.device):
            return self._complete(known, seed, 0, settings, lambda done, of: None)

    def _sample(
        self, n: int, seed: int, first: int, settings: dict[str, Any], progress: Callable[[int, int], None]
    ) -> Samples:
        free = torch.full((n, *self.model.vq_svae.grid), self.diffusion.mask_id, device="cpu")
        return self._complete(free, seed, first, settings, progress)

    def _complete(
        self, known: Tensor, seed: int, first: int, settings: dict[str, Any], progress: Callable[[int, int], None]
    ) -> Samples:
        """Fill in the masked places of `known` [n, h, w], in chunks of one size."""
        n, images, tokens = len(known), [], []
        for start in range(0, n, GROUP):
            group = known[start : start + GROUP]

            def tell(calls: int, of: int, start: int = start, held: int = len(group)) -> None:
                progress(start + held * calls // of, n)

            seeds = [mix_seed(seed, first + row) for row in range(start, start + len(group))]
            tokens.append(self.tokens(seeds, known=group, progress=tell, batch_size=CHUNK, **settings))
        tokens = torch.cat(tokens)
        for rows, kept in _chunks(n):
            spikes_from = torch.Generator().manual_seed(mix_seed(seed, first + int(rows[0]), 1))
            decoded = to_uint8(self.model.vq_svae.decode(tokens[rows.to(self.device)], spikes_from))
            images.append(decoded[:kept].cpu())
        return Samples(torch.cat(images), tokens.cpu())


class PixelGenerator(Generator):
    """Images from Gaussian diffusion, by a spiking U-Net; the arguments are those of `Generator`."""

    kind, stage = PixelModel, "gaussian"

    @property
    def network(self) -> nn.Module:
        """The U-Net."""
        return self.model.unet

    @property
    def num_steps(self) -> dict[str, int]:
        """Of the U-Net."""
        return {"unet": self.config.T}

    @property
    def diffusion(self) -> GaussianDiffusion:
        """The process that the U-Net was trained on."""
        return GaussianDiffusion(**asdict(self.config.diffusion))

    def sampling(self, **given: Any) -> dict[str, Any]:
        """Settings: `sampler`, `sample_steps` and `eta` of `GaussianDiffusion.trajectory`; `contrast`, by which the
        images are multiplied about mid-grey; `threshold_shift`, which is added to every neuron's threshold; `label`,
        `guidance`.
        """
        settings = self._in_force(given, asdict(self.config.sample))
        diffusion, sampler = self.diffusion, settings["sampler"]
        if settings["sample_steps"] is None:
            settings["sample_steps"] = diffusion.diffusion_steps
        if given.get("eta") is None and sampler != "ddim":  # the file's own is of the file's own sampler
            settings["eta"] = 0.0
        diffusion.check_settings(sampler, settings["sample_steps"], settings["eta"], self.model.image_error)
        require(settings["contrast"] > 0, "contrast", "greater than 0", settings["contrast"])
        shift = settings["threshold_shift"]
        require(self.config.neuron == "lif" or not shift, "threshold_shift", "0 without spikes", shift)
        check_threshold_shift(self.network, shift)
        return settings

    @torch.no_grad()
    def make_alone(self, seed: int, **settings: Any) -> Tensor:
        """See `Generator.make_alone`."""
        *_, images = self.trajectory([seed], **settings)
        return images

    def trajectory(self, seeds: Sequence[int], **settings: Any) -> Iterator[Tensor]:
        """The images so far after each call, [B, C, H, W] in [0, 1], one for each seed, all at once.

        The settings are those in force (`sampling` gives them). Autocast is the caller's.
        """
        labels, guidance, settings = self._split(settings, seeds)
        diffusion, contrast = self.diffusion, settings.pop("contrast")
        network = within(self.network, threshold_shift=settings.pop("threshold_shift"))
        states = diffusion.trajectory(
            told(guided(network, guidance), labels),
            seeds,
            self.model.image_shape,
            image_error=self.model.image_error,
            num_currents=self.config.T if diffusion.on_currents else None,
            device=self.device,
            dtype=parameter_type(self.precision),
            **settings,
        )
        for state in states:
            yield as_images(state.noisy, contrast)

    def _sample(
        self, n: int, seed: int, first: int, settings: dict[str, Any], progress: Callable[[int, int], None]
    ) -> Samples:
        finished, steps = [], settings["sample_steps"]
        for rows, kept in _chunks(n):
            seeds = [mix_seed(seed, first + row) for row in rows.tolist()]
            for done, so_far in enumerate(self.trajectory(seeds, **settings), start=1):
                images = so_far
                progress(int(rows[0]) + kept * done // steps, n)
            finished.append(to_uint8(images)[:kept].cpu())
        return Samples(torch.cat(finished))


def as_grids(keep: Any, n: int, grid: tuple[int, int]) -> Tensor:
    """The positions to keep, bool [h, w] or [n, h, w] on the CPU, of a tensor, a NumPy array or lists.

    Raises:
        InputError: another type or shape.
    """
    try:
        found = keep if isinstance(keep, Tensor) else np.array(keep)
    except ValueError as error:
        raise InputError("keep must be grids of one size; got lists of different lengths") from error
    if isinstance(found, np.ndarray) and found.dtype == np.bool_:
        found = torch.from_numpy(found)
    if not isinstance(found, Tensor) or found.dtype != torch.bool or tuple(found.shape) not in (grid, (n, *grid)):
        shapes = f"{list(grid)}, or one such grid for each of the {n} images"
        raise InputError(f"keep must be bool {shapes}; got {described(found)}")
    return found.detach().cpu()


def within(network: nn.Module, **settings: Any) -> Callable[..., Tensor]:
    """The network, each of its calls with these settings of `running.Run`."""

    def call(*inputs: Tensor) -> Tensor:
        with run_with(**settings):
            return network(*inputs)

    return call


def as_images(noisy: Tensor, contrast: float = 1.0) -> Tensor:
    """Images [B, C, H, W] in [0, 1] of a state of sampling in [-1, 1], or of its currents `[T, B, C, H, W]`.

    Above 1, `contrast` takes what is nearly black or white for black or white.
    """
    decoded = noisy.mean(0) if noisy.dim() == 5 else noisy
    return ((contrast * decoded).clamp(-1, 1) + 1) / 2


GENERATORS = (LatentGenerator, PixelGenerator)


def load_generator(
    path: str | Path, device: torch.device | str = "cpu", precision: str = "fp32", compile: bool = False
) -> LatentGenerator | PixelGenerator:
    """The generator of a `model.safetensors`, or of the weights that ship for a data set, whichever pipeline's it is.

    Args:
        path: a file; or a data set, `mnist`, or with preset or stage, `mnist-base-gaussian`.
        device, precision, compile: see `Generator`.

    Raises:
        InputError: not such a file, or of a model that cannot generate.
    """
    path = shipped(path, *(generator.stage for generator in GENERATORS))
    model, config = load_model(path)
    if not isinstance(model, tuple(generator.kind for generator in GENERATORS)):
        raise InputError(f"{path} is a {config.stage} model, which cannot generate: name a file of another stage")
    return generator_of(model, config, device, precision, compile)


def generator_of(
    model: LatentModel | PixelModel, config: DenoiserConfig, *arguments: Any
) -> LatentGenerator | PixelGenerator:
    """The generator of this kind of model; the arguments are its constructor's."""
    (kind,) = (generator for generator in GENERATORS if isinstance(model, generator.kind))
    return kind(model, config, *arguments)


def _chunks(n: int) -> Iterator[tuple[Tensor, int]]:
    """Row numbers [CHUNK] of each chunk of `n` rows, the last row repeated as padding, and how many count."""
    for first in range(0, n, CHUNK):
        yield torch.arange(first, first + CHUNK, device="cpu").clamp(max=n - 1), min(CHUNK, n - first)


def shipped(name: str | Path, *stages: str) -> Path:
    """The file of this name if there is one, else that of the weights that ship: `mnist` or `mnist-base`.

    Args:
        name: a file, a data set, data set and preset, or data set, preset and stage.
        stages: of the weights; the first that there is.

    Raises:
        InputError: neither; the message lists what ships.
    """
    named = [ZOO / f"{name}{preset}-{stage}.safetensors" for stage in stages for preset in ("", "-base")]
    named += [ZOO / f"{name}.safetensors"] if str(name).endswith(stages) else []
    for path in (read_path("path", name), *named):
        if path.is_file():
            return path
    there = sorted(path.stem for path in ZOO.glob("*.safetensors") if path.stem.endswith(stages))
    raise InputError(
        f"no model file at {name}, and no weights of this name ship: give the path of a model.safetensors, or one of"
        f" {', '.join(there) or 'none'}"
    )


def find_model(stage: str, data: str, preset: str, runs: str | Path = "runs", ckpt: str | Path | None = None) -> Path:
    """The file to use: the one named, else that of your own run, else the one that ships.

    Of an unfinished run it is the best checkpoint so far; but a classifier, which judges others, must be finished.

    Args:
        stage: `absorbing`; `vq_svae`, which a stage-2 file holds too; `gaussian`; or `classifier`.
        data, preset: of the run or of the shipped weights.
        runs: folder of the run folders.
        ckpt: a file that was named; it must exist.

    Raises:
        InputError: there is none; the message names the places looked at.
    """
    holders = [stage, "absorbing"] if stage == "vq_svae" else [stage]
    folder, file = read_path("runs", runs), read_path("ckpt", ckpt) if ckpt else None
    names = ["model.safetensors"] if stage == "classifier" else ["model.safetensors", "best.ckpt"]
    own = [folder / data / preset / holder / name for name in names for holder in holders]
    shipped = [ZOO / f"{data}-{preset}-{holder}.safetensors" for holder in holders]
    for path in [file] if file else [*own, *shipped]:
        if read_path("the model's file", path).is_file():
            return path
    if file:
        raise InputError(f"no model file at {file}")
    there = ", ".join(sorted(path.name for path in ZOO.glob("*.safetensors"))) or "none"
    train = {"classifier": "`make classifier`", "gaussian": "`make unet`"}.get(stage, "`make stage1` and `make stage2`")
    name = "classifier=" if stage == "classifier" else "CKPT="
    raise InputError(
        f"no trained {stage} model for DATA={data} PRESET={preset}: looked for {own[0]}, then among the shipped ones"
        f" ({there}). Train it with {train}, or name a file with {name}."
    )

"""Export of a latent model to ONNX or torch.export: whole networks, their T steps unrolled."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spiking_vq.checkpoint.build import LatentModel, build_on_cpu
from spiking_vq.config.schema import AbsorbingConfig
from spiking_vq.data.levels import to_unit
from spiking_vq.errors import InputError, require_one_of
from spiking_vq.export.expected import PARTS, Examples, as_arrays, examples_of, results_of
from spiking_vq.export.folder import read_description, write_description, write_expected
from spiking_vq.export.graphs.graph import Graph
from spiking_vq.export.host import without
from spiking_vq.files import atomic_write
from spiking_vq.layers.folding import fold_batch_norms
from spiking_vq.models.spike_generators import PoissonSpikeGenerator
from spiking_vq.models.token_denoiser import TokenDenoiser
from spiking_vq.runtime.running import run_with, running

SUFFIXES = {"onnx": ".onnx", "pt2": ".pt2"}
"""What a model is exported to -> suffix of the files."""

LARGEST_BATCH = 4096
OPSET = 20

Function = Callable[..., Tensor]
"""An exported network."""


class _Part(nn.Module):
    """A part of a model as a function of tensors alone, at a fixed number of steps."""

    def __init__(self, network: nn.Module, function: Function, num_steps: int) -> None:
        super().__init__()
        self.network, self.function, self.num_steps = network, function, num_steps

    def forward(self, *inputs: Tensor) -> Tensor:
        with run_with(num_steps=self.num_steps):
            return self.function(*inputs)


def export_traced(
    model: LatentModel, config: AbsorbingConfig, folder: Path, tokens: Tensor, labels: Tensor | None, to: str
) -> None:
    """Write `denoiser`, `decoder` and `encoder`, their batch size free, as `.onnx` or `.pt2` files.

    The guided samplers of some models take fewer steps for the unconditional answer: such a denoiser is written a
    second time, with these steps, as `denoiser_T2`.

    Args:
        model, config, folder, tokens, labels: see `export_latent`.
        to: key of `SUFFIXES`.

    Raises:
        InputError: spikes that are drawn at random, or a package that is not installed.
    """
    require_one_of("to", to, SUFFIXES)
    require_packages(to)
    if isinstance(model.vq_svae.spike_generator, PoissonSpikeGenerator):
        raise InputError(f"to={to} cannot hold random spikes (spike_generator=poisson): take to=nir")
    folded = fold_batch_norms(copy.deepcopy(model).float()).requires_grad_(False)
    examples = examples_of(model, tokens, labels)
    write = {"onnx": _write_onnx, "pt2": _write_pt2}[to]
    parts: dict[str, Any] = {}
    for name, (part, inputs) in traced_parts(folded, config, examples).items():
        parts[name] = {"file": f"{name}{SUFFIXES[to]}", "T": part.num_steps, "inputs": list(inputs)}
        with atomic_write(folder / parts[name]["file"]) as temporary, _quiet():
            write(part, inputs, temporary)
    write_expected(folder, as_arrays(examples, results_of(folded, examples, dict.fromkeys(PARTS, Graph((1, 1, 1))))))
    write_description(folder, model, config, parts, to=to)


def traced_parts(
    model: LatentModel, config: AbsorbingConfig, examples: Examples
) -> dict[str, tuple[_Part, dict[str, Tensor]]]:
    """Name -> a part of the model, and its inputs by name."""
    vq_svae, denoiser = model.vq_svae, model.denoiser
    by_time = {} if isinstance(denoiser, TokenDenoiser) else {"t": examples.t}
    seen = {"tokens": examples.masked} | by_time
    seen |= {} if examples.labels is None else {"labels": examples.labels}

    def logits(tokens: Tensor, *rest: Tensor) -> Tensor:
        return denoiser(tokens, *rest) if by_time else denoiser(tokens, None, *rest)

    decoding, encoding = (without(vq_svae, *names) for names in (("stem", "encoder"), ("decoder",)))

    def encode(images: Tensor) -> Tensor:
        return encoding.quantizer.nearest(encoding.encode_spikes(encoding.encode(images)))

    parts = {
        "decoder": (_Part(decoding, decoding.decode, vq_svae.T), {"tokens": examples.tokens}),
        "encoder": (_Part(encoding, encode, vq_svae.T), {"images": to_unit(examples.images)}),
        "denoiser": (_Part(denoiser, logits, denoiser.T), seen),
    }
    if config.sample.guidance_T not in (None, denoiser.T):
        parts[f"denoiser_T{config.sample.guidance_T}"] = (_Part(denoiser, logits, config.sample.guidance_T), seen)
    return parts


def load_traced(folder: Path) -> tuple[LatentModel, AbsorbingConfig]:
    """The model whose network calls go through the exported files.

    Raises:
        InputError: no whole export in the folder, or a package that is not installed.
    """
    description, config = read_description(folder)
    require_packages(description["to"])
    opened = {"onnx": _open_onnx, "pt2": _open_pt2}[description["to"]]
    functions = {name: opened(folder / part["file"], part["inputs"]) for name, part in description["parts"].items()}
    denoisers = {
        part["T"]: functions[name] for name, part in description["parts"].items() if name.startswith("denoiser")
    }
    takes, no_label = description["parts"]["denoiser"]["inputs"], (config.num_classes or 0) * config.styles
    denoiser = TracedDenoiser(config.T, denoisers, takes, no_label)
    return LatentModel(TracedVQSVAE(config, functions), denoiser).eval(), config


class TracedVQSVAE(nn.Module):
    """Stage 1 as exported, as the pipeline uses it.

    Args:
        config: of stage 2.
        functions: `encoder` and `decoder`.
    """

    def __init__(self, config: AbsorbingConfig, functions: dict[str, Function]) -> None:
        super().__init__()
        with torch.device("meta"):
            shape = build_on_cpu(config).vq_svae
        self.functions, self.T = functions, shape.T
        self.image_shape, self.grid = shape.image_shape, shape.grid
        self.code_grid, self.codebook_size = shape.code_grid, shape.codebook_size

    def tokenize(self, images: Tensor) -> Tensor:
        """See `VQSVAE.tokenize`."""
        return self.functions["encoder"](images)

    def decode(self, tokens: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """See `VQSVAE.decode`."""
        return self.functions["decoder"](tokens)


class TracedDenoiser(nn.Module):
    """The denoiser as exported, as the sampler uses it.

    Args:
        T: its number of steps.
        functions: number of steps -> denoiser.
        takes: names of its inputs.
        no_label: the label that stands for none.
    """

    def __init__(self, T: int, functions: dict[int, Function], takes: list[str], no_label: int) -> None:
        super().__init__()
        self.T, self.functions, self.takes, self.no_label = T, functions, takes, no_label

    def forward(self, tokens: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """Logits [B, K, G, h, w]; see the denoiser's own `forward`.

        Raises:
            InputError: a number of steps that was not exported.
        """
        num_steps = running().num_steps or self.T
        if num_steps not in self.functions:
            exported = " and ".join(map(str, sorted(self.functions)))
            raise InputError(f"this export holds the denoiser at T = {exported}; got {num_steps}: export it with it")
        if labels is None:
            labels = torch.full((len(tokens),), self.no_label)
        given = {"tokens": tokens, "t": t, "labels": labels}
        return self.functions[num_steps](*(given[name] for name in self.takes))


def require_packages(to: str) -> None:
    """Raise `InputError` unless what reads and writes such files is installed."""
    if to != "onnx":
        return
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if missing:
        way = "install the extra `export` (pip install 'spiking_vq[export]')"
        raise InputError(f"to=onnx needs {', '.join(missing)}: {way}")


def _dynamic(inputs: dict[str, Tensor]) -> Any:
    batch = torch.export.Dim("batch", min=1, max=LARGEST_BATCH)
    return (tuple({0: batch} for _ in inputs),)


def _write_onnx(part: _Part, inputs: dict[str, Tensor], path: Path) -> None:
    program = torch.onnx.export(
        part,
        tuple(inputs.values()),
        dynamo=True,
        dynamic_shapes=_dynamic(inputs),
        input_names=list(inputs),
        opset_version=OPSET,
        verbose=False,
    )
    program.save(str(path))


def _write_pt2(part: _Part, inputs: dict[str, Tensor], path: Path) -> None:
    torch.export.save(torch.export.export(part, tuple(inputs.values()), dynamic_shapes=_dynamic(inputs)), str(path))


def _open_onnx(path: Path, names: list[str]) -> Function:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(*inputs: Tensor) -> Tensor:
        (made,) = session.run(None, {name: value.cpu().numpy() for name, value in zip(names, inputs, strict=True)})
        return torch.from_numpy(made)

    return run


def _open_pt2(path: Path, names: list[str]) -> Function:
    return torch.export.load(str(path)).module()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters' progress and warnings about their own insides to ourselves."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)

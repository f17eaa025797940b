"""What the parts of a network compute, spike by spike: the measure of every receiver."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from spiking_vq.checkpoint.build import LatentModel, PixelModel
from spiking_vq.data.levels import to_uint8, to_unit
from spiking_vq.export.graphs.cells import to_cells
from spiking_vq.export.graphs.graph import Graph
from spiking_vq.neurons.activity import observed

PARTS = ("decoder", "encoder", "denoiser")
"""Parts of a latent model."""

VISIBLE = 0.4
"""Share of the tokens that the denoiser sees."""


class Examples(NamedTuple):
    """Inputs of the parts, of n images.

    Attributes:
        tokens: of images that the model has generated, int64 [n, G, h, w].
        labels: as the denoiser takes them, [n]; None for an unconditional one.
        masked: the tokens, some of them masked.
        images: uint8 [n, C, H, W].
    """

    tokens: Tensor
    labels: Tensor | None
    masked: Tensor
    images: Tensor

    @property
    def t(self) -> Tensor:
        """Diffusion times [n]: numbers of masked tokens."""
        return (self.masked != self.tokens).flatten(1).sum(1)


class PixelExamples(NamedTuple):
    """Inputs of a U-Net, of n images.

    Attributes:
        noisy: [n, C, H, W].
        times: diffusion times [n].
        labels: as the U-Net takes them, [n]; None for an unconditional one.
        images: that the model has generated, uint8 [n, C, H, W].
    """

    noisy: Tensor
    times: Tensor
    labels: Tensor | None
    images: Tensor


class Result(NamedTuple):
    """What a part computes.

    Attributes:
        spikes: neuron layer -> its spikes, bool `[T, n, C, H, W]`, in the layout of the graph's node.
        output: of the part after the host's read-out: images in [0, 1], tokens, or logits.
    """

    spikes: dict[str, Tensor]
    output: Tensor


@torch.no_grad()
def examples_of(model: LatentModel, tokens: Tensor, labels: Tensor | None) -> Examples:
    """Examples of the tokens of some images."""
    hidden = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(0)) > VISIBLE
    images = model.vq_svae.decode(tokens, torch.Generator().manual_seed(0))
    return Examples(tokens, labels, tokens.masked_fill(hidden, model.vq_svae.codebook_size), to_uint8(images))


@torch.no_grad()
def compute(model: LatentModel | PixelModel, examples: Examples | PixelExamples, part: str) -> Tensor:
    """The output of a part, one of `PARTS`, or `unet`; of a network, or of its exported form."""
    if part == "unet":
        return model.unet(examples.noisy.to(_dtype(model)), examples.times, examples.labels)
    if part == "decoder":
        return model.vq_svae.decode(examples.tokens, torch.Generator().manual_seed(0))
    if part == "encoder":
        return model.vq_svae.tokenize(to_unit(examples.images).to(_dtype(model)))
    labels = () if examples.labels is None else (examples.labels,)  # the SDID takes none
    return model.denoiser(examples.masked, examples.t, *labels)


def results_of(
    model: LatentModel | PixelModel, examples: Examples | PixelExamples, graphs: Mapping[str, Graph]
) -> dict[str, Result]:
    """The results of a network's parts, their spikes in the layout of these graphs."""
    results = {}
    for part, graph in graphs.items():
        spikes: dict[str, Tensor] = {}

        def keep(name: str, spk: Tensor, graph: Graph = graph, spikes: dict[str, Tensor] = spikes) -> None:
            node = name.replace(".", "_")
            parts = [part for part in (node, *(f"{node}_part{index}" for index in range(2))) if part in graph.nodes]
            sides = [spk.shape[-1] // graph.nodes[part].shape[-1] for part in parts]
            channels = [graph.nodes[part].shape[0] // side**2 for part, side in zip(parts, sides, strict=True)]
            for part, side, own in zip(parts, sides, spk.split(channels, dim=2) if parts else [], strict=True):
                spikes[part] = to_cells(own, side).bool()

        network = {"denoiser": "denoiser", "unet": "unet"}.get(part, "vq_svae")
        with observed(getattr(model, network), keep):
            output = compute(model, examples, part)
        results[part] = Result(spikes, output)
    return results


def compared(first: Mapping[str, Result], second: Mapping[str, Result]) -> dict[str, Any]:
    """Part -> number of spike slots, of those that differ, and the largest difference of the outputs."""
    return {
        part: {
            "slots": sum(spk.numel() for spk in result.spikes.values()),
            "differ": sum((spk != first[part].spikes[node]).sum().item() for node, spk in result.spikes.items()),
            "output": (result.output.double() - first[part].output.double()).abs().max().item(),
        }
        for part, result in second.items()
    }


def as_arrays(examples: Examples | PixelExamples, results: Mapping[str, Result]) -> dict[str, np.ndarray]:
    """Examples and results as arrays by name: `examples/tokens`, `decoder/output`, `decoder/spikes/NODE`..."""
    arrays = {f"examples/{name}": value for name, value in examples._asdict().items() if value is not None}
    for part, result in results.items():
        arrays[f"{part}/output"] = result.output
        arrays |= {f"{part}/spikes/{node}": spk for node, spk in result.spikes.items()}
    return {name: value.cpu().numpy() for name, value in arrays.items()}


def from_arrays(arrays: Mapping[str, np.ndarray]) -> tuple[Examples | PixelExamples, dict[str, Result]]:
    """Examples and results of `as_arrays`."""
    tensors = {name: torch.from_numpy(value) for name, value in arrays.items()}
    results: dict[str, Result] = {}
    for name, value in tensors.items():
        part, _, rest = name.partition("/")
        if part != "examples":
            result = results.setdefault(part, Result({}, value))
            if rest == "output":
                results[part] = result._replace(output=value)
            elif rest.startswith("spikes/"):
                result.spikes[rest.removeprefix("spikes/")] = value
    kind = PixelExamples if "unet" in results else Examples
    return kind(*(tensors.get(f"examples/{name}") for name in kind._fields)), results


def _dtype(model: nn.Module) -> torch.dtype:
    """Type that a model computes in; that of files which run elsewhere is float32."""
    return next(chain(model.parameters(), model.buffers()), torch.zeros(())).dtype

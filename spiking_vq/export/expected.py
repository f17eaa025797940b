"""What the parts of a network compute, spike by spike: the measure of every receiver."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from spiking_vq.checkpoint.build import LatentModel
from spiking_vq.data.levels import to_uint8, to_unit
from spiking_vq.export.cells import to_cells
from spiking_vq.export.graph import Graph
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
def compute(model: LatentModel, examples: Examples, part: str) -> Tensor:
    """The output of a part: `decoder`, `encoder` or `denoiser`; of a network, or of its exported form."""
    if part == "decoder":
        return model.vq_svae.decode(examples.tokens, torch.Generator().manual_seed(0))
    if part == "encoder":
        return model.vq_svae.tokenize(to_unit(examples.images).to(_dtype(model)))
    return model.denoiser(examples.masked, examples.t, examples.labels)


def results_of(model: LatentModel, examples: Examples, graphs: Mapping[str, Graph]) -> dict[str, Result]:
    """The results of a network's parts, their spikes in the layout of these graphs."""
    results = {}
    for part, graph in graphs.items():
        spikes: dict[str, Tensor] = {}

        def keep(name: str, spk: Tensor, graph: Graph = graph, spikes: dict[str, Tensor] = spikes) -> None:
            node = name.replace(".", "_")
            if node in graph.nodes:
                side = spk.shape[-1] // graph.nodes[node].shape[-1]
                spikes[node] = to_cells(spk, side).bool()

        network = model.denoiser if part == "denoiser" else model.vq_svae
        with observed(network, keep):
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


def as_arrays(examples: Examples, results: Mapping[str, Result]) -> dict[str, np.ndarray]:
    """Examples and results as arrays by name: `examples/tokens`, `decoder/output`, `decoder/spikes/NODE`..."""
    arrays = {f"examples/{name}": value for name, value in examples._asdict().items() if value is not None}
    for part, result in results.items():
        arrays[f"{part}/output"] = result.output
        arrays |= {f"{part}/spikes/{node}": spk for node, spk in result.spikes.items()}
    return {name: value.cpu().numpy() for name, value in arrays.items()}


def from_arrays(arrays: Mapping[str, np.ndarray]) -> tuple[Examples, dict[str, Result]]:
    """Examples and results of `as_arrays`."""
    tensors = {name: torch.from_numpy(value) for name, value in arrays.items()}
    results: dict[str, Result] = {}
    for name, value in tensors.items():
        part, _, rest = name.partition("/")
        if part != "examples":
            result = results.setdefault(part, Result({}, value))
            if rest == "output":
                results[part] = result._replace(output=value)
            else:
                result.spikes[rest.removeprefix("spikes/")] = value
    return Examples(*(tensors.get(f"examples/{name}") for name in Examples._fields)), results


def _dtype(model: LatentModel) -> torch.dtype:
    """Type that a model computes in; that of files which run elsewhere is float32."""
    return next(chain(model.parameters(), model.buffers()), torch.zeros(())).dtype

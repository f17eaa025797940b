"""The folder of an export to NIR: graphs, the host's weights, expected results."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from spiking_vq.config.schema import DenoiserConfig
from spiking_vq.export.expected import Examples, PixelExamples, as_arrays, compared, compute, results_of
from spiking_vq.export.folder import write_description, write_expected
from spiking_vq.export.graphs.graph import DT, Convolution, Graph
from spiking_vq.export.nir_file import read_nir, write_nir
from spiking_vq.export.receivers.integers import tables
from spiking_vq.export.receivers.own import Receiver
from spiking_vq.files import atomic_write

HOST, INTEGERS = "host.safetensors", "integers.safetensors"


def write_folder(
    folder: Path,
    model: nn.Module,
    folded: nn.Module,
    config: DenoiserConfig,
    host: nn.Module,
    exported: nn.Module,
    graphs: Mapping[str, Graph],
    examples: Examples | PixelExamples,
    **facts: Any,
) -> None:
    """Write a model's graphs and all that a receiver needs to be checked; of a quantised one, its integers too.

    Args:
        folder: to write to.
        model: that is exported, in fp32.
        folded: the same with folded batch norms, whose results are the expected ones, in fp64.
        config: its configuration.
        host: the part of `folded` that stays on the host.
        exported: host and graphs together, in fp64.
        graphs: part -> graph.
        examples: that the results are of.
        facts: `form`, `inputs` and `T` of each part, for the description.
    """
    weights = {key: value.contiguous() for key, value in copy.deepcopy(host).float().state_dict().items()}
    exact = copy.deepcopy(folded).double()
    results = results_of(exact, examples, graphs)
    before = results_of(copy.deepcopy(model).double(), examples, graphs)
    for name, graph in graphs.items():
        write_nir(folder / f"{name}.nir", graph)
    with atomic_write(folder / HOST) as temporary:
        save_file(weights, temporary)
    files = [HOST]
    if config.weight_bits is not None:
        files.append(INTEGERS)
        integers = {
            f"{part}/{name}": v.contiguous() for part, graph in graphs.items() for name, v in tables(graph).items()
        }
        with atomic_write(folder / INTEGERS) as temporary:
            save_file(integers, temporary)
    write_expected(folder, as_arrays(examples, results) | ends(exported, graphs, examples))
    steps = facts.pop("steps")
    write_description(
        folder,
        model,
        config,
        {name: {"file": f"{name}.nir", "T": steps[name]} | sizes(graph) for name, graph in graphs.items()},
        to="nir",
        dt=DT,
        fires="above the threshold in the file, which is the next smaller float32 where the network fires at it",
        folding=compared(before, results),
        files=files,
        **facts,
    )


def read_folder(folder: Path, host: nn.Module, parts: Mapping[str, Any]) -> dict[str, Receiver]:
    """Fill the host's weights from a folder, and return the receivers of its graphs by part."""
    host.load_state_dict(load_file(folder / HOST))
    return {name: Receiver(read_nir(folder / part["file"])) for name, part in parts.items()}


def ends(exported: nn.Module, graphs: Mapping[str, Graph], examples: Examples | PixelExamples) -> dict[str, np.ndarray]:
    """What the graphs read and give back, `PART/input` `[1 or T, n, C, h, w]` and `PART/read` `[T, n, C, h, w]`.

    With these a receiver can be checked without this package.
    """
    arrays = {}
    receivers = {id(module.graph): module for module in exported.modules() if isinstance(module, Receiver)}
    for part, graph in graphs.items():

        def keep(module: nn.Module, inputs: tuple[Any, ...], output: Tensor, part: str = part) -> None:
            arrays.update({f"{part}/input": inputs[0].numpy(), f"{part}/read": output.numpy()})

        handle = receivers[id(graph)].register_forward_hook(keep)
        compute(exported, examples, part)
        handle.remove()
    return arrays


def read_integers(folder: Path, part: str) -> dict[str, Tensor]:
    """The integers of a part's graph of a quantised model, see `integers.tables`."""
    values = load_file(folder / INTEGERS)
    return {name.removeprefix(f"{part}/"): value for name, value in values.items() if name.startswith(f"{part}/")}


def sizes(graph: Graph) -> dict[str, Any]:
    """Shapes and sizes of a graph."""
    weights = [node.weight for node in graph.nodes.values() if isinstance(node, Convolution)]
    neurons = [graph.nodes[name].shape for name in graph.neurons()]
    return {
        "input_shape": list(graph.input_shape),
        "output_shape": list(graph.output_shape()),
        "nodes": len(graph.nodes),
        "edges": len(graph.edges),
        "neurons": sum(math.prod(shape) for shape in neurons),
        "weights": sum(weight.numel() for weight in weights),
        "weights_not_0": sum(int(weight.count_nonzero()) for weight in weights),
    }

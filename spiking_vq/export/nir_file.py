"""Graphs as files of the Neuromorphic Intermediate Representation, `.nir`."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spiking_vq.errors import InputError
from spiking_vq.export.graphs.graph import DT, INPUT, OUTPUT, Convolution, Graph, Neurons, Node
from spiking_vq.files import atomic_write, read_path


def require_nir() -> None:
    """Raise `InputError` unless nir is installed."""
    if find_spec("nir") is None:
        way = "install the extra `export` (pip install 'spiking_vq[export]')"
        raise InputError(f"reading and writing .nir files needs the package nir: {way}")


def write_nir(path: str | Path, graph: Graph) -> None:
    """Write a graph to a `.nir` file, whole or not at all.

    Grouped convolutions and subtracting resets, which NIR's checks or nodes do not know, are written all the same: read
    the file with `nir.read(path, type_check=False)`. Neurons' parameters are float64, as float32 would round the step
    dt. Readers of nir 1.0.4, which knows no `v_reset`, can read the file: that of 0 is left out.

    Raises:
        InputError: nir is not installed, or the file cannot be written.
    """
    require_nir()
    import h5py
    import nir

    with atomic_write(read_path("path", path)) as temporary:
        nir.write(str(temporary), to_nir(graph))
        with h5py.File(temporary, "r+") as file:
            for node in file["node/nodes"].values():
                if "v_reset" in node:
                    del node["v_reset"]


def to_nir(graph: Graph) -> Any:
    """A graph as `nir.NIRGraph`."""
    require_nir()
    import nir

    nodes = {INPUT: nir.Input({"input": np.array(graph.input_shape)})}
    nodes |= {name: _to_node(node) for name, node in graph.nodes.items()}
    nodes[OUTPUT] = nir.Output({"output": np.array(graph.output_shape())})
    return nir.NIRGraph(nodes, list(graph.edges), metadata={"dt": DT}, type_check=False)


def read_nir(path: str | Path) -> Graph:
    """Read a graph from a `.nir` file, in float64.

    Raises:
        InputError: no such file, one of another kind, or nodes that our networks do not consist of.
    """
    require_nir()
    import nir

    path = read_path("path", path)
    if not path.is_file():
        raise InputError(f"no file at {path}: export a model with `spiking-vq export`, or name another file")
    try:
        graph = nir.read(str(path), type_check=False)
    except Exception as error:  # h5py's and nir's errors have no common base
        raise InputError(f"{path} is no .nir file, or a damaged one ({error}): export the model again") from error
    return from_nir(graph)


def from_nir(graph: Any) -> Graph:
    """A `nir.NIRGraph` as a graph.

    Raises:
        InputError: nodes or edges that our networks do not consist of.
    """
    edges = [(str(source), str(target)) for source, target in graph.edges]
    ends = {INPUT, OUTPUT} - graph.nodes.keys()
    if ends or any(end not in {name for edge in edges for name in edge} for end in (INPUT, OUTPUT)):
        raise InputError(f"expected a graph with nodes named {INPUT} and {OUTPUT}; got {sorted(graph.nodes)}")
    nodes = {name: _from_node(name, node) for name, node in graph.nodes.items() if name not in (INPUT, OUTPUT)}
    read = Graph(tuple(int(side) for side in graph.nodes[INPUT].input_type["input"]), {}, edges)
    read.nodes = {name: nodes[name] for name in _in_order(nodes, edges)}
    read.check()
    return read


def _to_node(node: Node) -> Any:
    import nir

    if isinstance(node, Convolution):
        return nir.Conv2d(
            input_shape=tuple(node.size),
            weight=_stored(node.weight),
            stride=node.stride,
            padding=node.padding,
            dilation=1,
            groups=node.groups,
            bias=_stored(node.bias),
        )

    def everywhere(value: float) -> np.ndarray:
        return np.full(node.shape, value, dtype=np.float64)

    soft = {"reset": "subtract", "reset_amount": node.amount} if node.reset == "subtract" else {}
    threshold = {"v_threshold": everywhere(node.threshold), "metadata": soft}
    if node.kind == "IF":
        return nir.IF(r=everywhere(node.r / DT), **threshold)
    leak = {"r": everywhere(node.r), "v_leak": everywhere(0.0)}
    if node.kind == "LIF":
        return nir.LIF(tau=everywhere(node.tau_mem * DT), **leak, **threshold)
    taus = {"tau_mem": everywhere(node.tau_mem * DT), "tau_syn": everywhere(node.tau_syn * DT)}
    return nir.CubaLIF(**taus, w_in=everywhere(node.w_in), **leak, **threshold)


def _from_node(name: str, node: Any) -> Node:
    kind = type(node).__name__
    if kind == "Conv2d":
        size = tuple(int(side) for side in node.input_shape)
        same = {pair: tuple(np.broadcast_to(getattr(node, pair), 2)) for pair in ("stride", "padding", "dilation")}
        if any(rows != columns for rows, columns in same.values()) or same["dilation"] != (1, 1):
            raise InputError(f"node {name}: expected one stride and padding for both sides, no dilation; got {same}")
        weight, bias = (torch.from_numpy(np.array(value, dtype=np.float64)) for value in (node.weight, node.bias))
        return Convolution(weight, bias, size, int(same["stride"][0]), int(same["padding"][0]), int(node.groups))
    if kind not in ("IF", "LIF", "CubaLIF"):
        raise InputError(f"node {name} is a {kind}, which our networks do not have")

    def value(field: str, unit: float = 1.0) -> float:
        numbers = np.asarray(getattr(node, field), dtype=np.float64)
        if (numbers != numbers.flat[0]).any():
            raise InputError(f"node {name}: neurons of a layer must be alike; {field} differs")
        return float(numbers.flat[0] / unit)

    if value("v_reset") or (kind != "IF" and value("v_leak")):
        raise InputError(f"node {name}: expected v_reset and v_leak 0")
    metadata = {key: item.decode() if isinstance(item, bytes) else item for key, item in node.metadata.items()}
    parameters: dict[str, Any] = {"shape": tuple(np.shape(node.v_threshold)), "threshold": value("v_threshold")}
    if "reset" in metadata:
        parameters |= {"reset": str(metadata["reset"]), "amount": float(metadata["reset_amount"])}
    if kind == "IF":
        return Neurons(kind, r=value("r", 1 / DT), **parameters)
    if kind == "LIF":
        return Neurons(kind, r=value("r"), tau_mem=value("tau", DT), **parameters)
    taus = {"tau_mem": value("tau_mem", DT), "tau_syn": value("tau_syn", DT)}
    return Neurons(kind, r=value("r"), w_in=value("w_in"), **taus, **parameters)


def _stored(value: Tensor) -> np.ndarray:
    """float32 where that is exact, else float64."""
    array = value.detach().cpu().numpy()
    if array.dtype == np.float32:
        return array
    short = array.astype(np.float32)
    return short if (short == array).all() else array


def _in_order(nodes: dict[str, Node], edges: list[tuple[str, str]]) -> list[str]:
    """Names of the nodes, each after those that it reads, but for a layer of neurons that reads a node it feeds.

    Raises:
        InputError: a circle of more than two nodes.
    """
    late = {(a, b) for a, b in edges if (b, a) in edges and isinstance(nodes.get(b), Neurons)}
    todo = {name: {a for a, b in edges if b == name and (a, b) not in late and a in nodes} for name in nodes}
    order: list[str] = []
    while todo:
        ready = sorted(name for name, sources in todo.items() if sources <= set(order))
        if not ready:
            raise InputError(f"the graph has a circle through {', '.join(sorted(todo))}")
        order += ready
        todo = {name: sources for name, sources in todo.items() if name not in ready}
    return order

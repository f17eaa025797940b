"""Events of an image as a file of NIR's data format, HDF5.

The root holds a graph `denoiser` and a graph `decoder`; each holds its layers, and each layer the observable `spikes`,
`nir.EventData` whose samples are the calls. An event stands in the middle of its step, at (step + 0.5) dt, because
`to_time_gridded` rounds down. Two attributes of a part's group, which NIR's readers skip, keep what the format has no
word for: `layers`, their names in the order of the network, and `steps`, the steps of each call.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spiking_vq.errors import InputError, require
from spiking_vq.export.events import DECODER, DENOISER, Events
from spiking_vq.export.graphs.graph import DT
from spiking_vq.export.nir_file import require_nir
from spiking_vq.files import atomic_write, read_path

SPIKES = "spikes"
"""Name of the observable."""


def write_events(path: str | Path, events: Iterable[Events]) -> None:
    """Write events to a file for `nir.read_data` and `read_events`, whole or not at all.

    Args:
        path: of the file, by convention `.nir`.
        events: of one image, as `LatentPipeline.stream` yields them.

    Raises:
        InputError: there are no events, nir is not installed, or the file cannot be written.
    """
    require_nir()
    import h5py
    import nir

    path, parts = read_path("path", path), {}
    for record in events:
        parts.setdefault(record.part, {}).setdefault(record.layer, []).append(record)
    require(len(parts) > 0, "events", "those of an image", "none")
    with atomic_write(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs["__type__"] = "NIRGraphData"
        nodes = file.create_group("nodes")
        for part, layers in parts.items():
            steps = _steps(next(iter(layers.values())))
            made = {name: nir.NIRNodeData({SPIKES: _to_data(records, steps)}) for name, records in layers.items()}
            with io.BytesIO() as buffer:  # nir 1.0.8 does not end when it writes graphs in a graph
                nir.write_data(buffer, nir.NIRGraphData(made))
                with h5py.File(buffer, "r") as own:
                    file.copy(own["/"], nodes, part)
            nodes[part].attrs["layers"], nodes[part].attrs["steps"] = list(layers), steps


def read_events(path: str | Path) -> list[Events]:
    """Read the events that `write_events` wrote, in the order in which they happen.

    Raises:
        InputError: no such file, a damaged one or one of another kind, or nir is not installed.
    """
    require_nir()
    import h5py
    import nir

    path = read_path("path", path)
    if not path.is_file():
        raise InputError(f"no file at {path}: write one with `spiking-vq stream`, or name another file")
    try:
        data = nir.read_data(str(path))
        with h5py.File(path, "r") as file:
            facts = {part: dict(group.attrs) for part, group in file["nodes"].items()}
        parts = sorted(data.nodes, key=(DENOISER, DECODER).index)
        return [record for part in parts for record in _from_data(part, data.nodes[part].nodes, **facts[part])]
    except Exception as error:  # h5py's and nir's errors have no common base
        raise InputError(
            f"{path} is no file of events, or a damaged one ({error}): write one with `spiking-vq stream`"
        ) from error


def _steps(records: list[Events]) -> list[int]:
    """Steps of each call of a layer."""
    steps = [0] * (1 + max(record.call for record in records))
    for record in records:
        steps[record.call] = max(steps[record.call], record.step + 1)
    return steps


def _to_data(records: list[Events], steps: list[int]) -> Any:
    """The events of a layer as `nir.EventData`, samples being calls."""
    import nir

    calls = [[record for record in records if record.call == call] for call in range(len(steps))]
    counts = [sum(len(record.indices) for record in own) for own in calls]
    addresses = np.full((len(calls), max(1, *counts)), -1, dtype=np.int64)  # HDF5 compresses no empty array
    times = np.full(addresses.shape, np.inf)
    for row, (own, count) in enumerate(zip(calls, counts, strict=True)):
        if count:
            addresses[row, :count] = np.concatenate([record.indices.numpy() for record in own])
            times[row, :count] = np.concatenate([np.full(len(r.indices), (r.step + 0.5) * DT) for r in own])
    end = np.nextafter(max(steps) * DT, np.inf)  # not below the product, so that int(end / DT) is the number of steps
    return nir.EventData(addresses, times, records[0].size, float(end))


def _from_data(
    part: str, nodes: dict[str, Any], layers: list[str], steps: list[int], **others: Any
) -> Iterator[Events]:
    """Events of a part, call by call, step by step, layer by layer."""
    require(sorted(nodes) == sorted(layers), f"layers of {part}", f"{list(layers)}, as its attribute says", list(nodes))
    spikes = {str(layer): nodes[layer].observables[SPIKES] for layer in layers}
    ends = np.array(steps)[:, None] * DT
    for layer, data in spikes.items():
        whole = len(data.idx) == len(steps) and int(data.t_max / DT) == max(steps)
        whole = whole and data.idx.dtype.kind == "i" and (data.idx < data.n_neurons).all()
        if not whole or not ((data.time > 0) & (data.time < ends))[data.idx >= 0].all():
            raise InputError(f"addresses, times or calls of {layer} are out of range")
    for call, count in enumerate(steps):
        found = {layer: np.floor(data.time[call] / DT) for layer, data in spikes.items()}  # infinite where no event
        for step in range(int(count)):
            for layer, data in spikes.items():
                indices = np.unique(data.idx[call][found[layer] == step])
                yield Events(part, call, step, layer, torch.from_numpy(indices), data.n_neurons)

"""The published networks with random weights, and their outputs: the files in `tests/golden`."""

import ast
import zlib
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from spiking_vq.config.load import load_config
from spiking_vq.neurons.lif import LIF
from spiking_vq.runtime.running import run_with

ROOT = Path(__file__).parents[1]


class Golden(NamedTuple):
    """One network: the authors' state dict, inputs and outputs."""

    weights: dict[str, Tensor]
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]


@cache
def golden(name: str) -> Golden:
    """The network of a file in `tests/golden`; nobody may change it."""
    with safe_open(ROOT / f"tests/golden/{name}.safetensors", framework="pt") as file:
        tensors, metadata = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118
    parts = ({}, {}, {})
    for key, value in tensors.items():
        part, _, key = key.partition(".")
        parts[["weights", "input", "output"].index(part)][key] = value
    made = Golden(*parts)
    if "rule" in metadata:
        made.weights.update(sdid_convolutions(ast.literal_eval(metadata["exponents"])))
    return made


def sdid_convolutions(exponents: dict[str, int]) -> dict[str, Tensor]:
    """The convolutions of `sdid.safetensors`, by the rule in its metadata."""
    widths = [2, 64, 128, 256, 512, 256]
    shapes = [*((after, before) for before, after in zip(widths, widths[1:], strict=False)), (128, 256 + 64)]
    drawn = {}
    for (key, exponent), shape in zip(exponents.items(), shapes, strict=True):
        integers = np.random.RandomState(zlib.crc32(key.encode())).randint(-8, 9, (*shape, 3, 3))
        drawn[key] = torch.from_numpy(integers / 64 * 2.0**-exponent).float()
    return drawn


def preset(stage, name, *overrides):
    """The configuration of a preset in float64."""
    return load_config(stage, ROOT / f"configs/{stage}/{name}.yaml", ["precision=fp64", *overrides])


@torch.no_grad()
def with_spike_counts(network, call, **settings):
    """The result of a call, and the number of spikes of each neuron layer of the network in the order of the pass."""
    counts = []
    layers = [module for module in network.modules() if isinstance(module, LIF)]
    observers = dict.fromkeys(layers, lambda spk: counts.append(int(spk.sum())))
    with run_with(observers=observers, **settings):
        return call(), counts

"""Parts of the tables of keys, and weights brought into our networks by such a table.

A table is a mapping from each key of the authors' state dict to ours. Its parts are layers: `linear`, `norm`,
`conv_norm`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from spiking_vq.checkpoint.file import some_of
from spiking_vq.errors import InputError, require

Table = dict[str, str]

STATISTICS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")

FIXED = ("beta", "threshold", "image_error", "data_variance")
"""Buffers of ours that follow from the configuration, or have a value before they are measured."""


def linear(theirs: str, ours: str) -> Table:
    """A layer with weight and bias: a convolution or a linear one."""
    return {f"{theirs}.{name}": f"{ours}.{name}" for name in ("weight", "bias")}


def norm(theirs: str, ours: str) -> Table:
    """A batch norm."""
    return {f"{theirs}.{name}": f"{ours}.{name}" for name in STATISTICS}


def conv_norm(conv: str, batch_norm: str, ours: str, inner: str = "0") -> Table:
    """A convolution with batch norm; ours is a `NormedSynapse`, whose norm holds the bias of the convolution.

    Args:
        conv, batch_norm: theirs.
        ours: the `NormedSynapse`.
        inner: the convolution in it.
    """
    convolution = {f"{conv}.weight": f"{ours}.{inner}.weight", f"{conv}.bias": f"{ours}.1.synapse_bias"}
    return convolution | norm(batch_norm, f"{ours}.1")


def shape_of(weights: Mapping[str, Tensor], key: str, num_axes: int = 4) -> tuple[int, ...]:
    """Shape of a weight from which sizes follow.

    Raises:
        InputError: there is no such key, or its weight has another number of axes.
    """
    if key not in weights:
        raise InputError(
            f"the checkpoint is of another network: it lacks {key}, and holds {some_of(list(weights)) or 'nothing'}"
        )
    shape = tuple(weights[key].shape)
    require(len(shape) == num_axes and min(shape) > 0, f"shape of {key}", f"one of {num_axes} axes", list(shape))
    return shape


def children_of(weights: Mapping[str, Tensor], prefix: str) -> int:
    """Number of children of a list of layers, whose keys begin with `prefix` and an index."""
    names = {key[len(prefix) :].partition(".")[0] for key in weights if key.startswith(prefix)}
    return max((int(name) + 1 for name in names if name.isdecimal()), default=0)


def multiples(widths: Sequence[int], width: int) -> list[int]:
    """The levels' widths in units of the first.

    Raises:
        InputError: one is no multiple.
    """
    require(all(one % width == 0 for one in widths), "widths of the levels", f"multiples of {width}", list(widths))
    return [one // width for one in widths]


def check_constant(weights: Mapping[str, Tensor], key: str, expected: Tensor) -> None:
    """Check a table that the authors' program stores and ours computes.

    Args:
        weights: the authors'; the table may be missing.
        key: of the table.
        expected: its values, which may be 1e-3 off, as float32 sines of large angles are.

    Raises:
        InputError: another shape, or other values.
    """
    if key not in weights:
        return
    require(weights[key].shape == expected.shape, f"shape of {key}", str(list(expected.shape)), [*weights[key].shape])
    off = (weights[key].double() - expected.double()).abs().max().item()
    require(off <= 1e-3, key, "the table that the authors' program computes", f"one that is {off:.3g} off")


def filled(model: nn.Module, weights: Mapping[str, Tensor], table: Table, dropped: Sequence[str] = ()) -> nn.Module:
    """The model in evaluation mode, with the authors' weights.

    Args:
        model: fresh, of the sizes of the weights.
        weights: the authors'.
        table: their key -> ours.
        dropped: keys of theirs that have no place in ours.

    Raises:
        InputError: unknown or missing keys, or weights of another shape; the message names the first few.
    """
    own = model.state_dict()
    unknown = [key for key in weights if key not in table and key not in dropped]
    missing = [key for key in table if key not in weights]
    shapes = [
        f"{key} is {list(weights[key].shape)} instead of {list(own[ours].shape)}"
        for key, ours in table.items()
        if key in weights and weights[key].shape != own[ours].shape
    ]
    kinds = {"unknown keys": unknown, "missing keys": missing, "other shapes": shapes}
    if faults := [f"{len(names)} {kind} ({some_of(names)})" for kind, names in kinds.items() if names]:
        raise InputError(f"the checkpoint is of another network: {'; '.join(faults)}")
    left = own.keys() - table.values()
    assert {name.split(".")[-1] for name in left} <= {*FIXED}, left
    model.load_state_dict({ours: weights[key] for key, ours in table.items()}, strict=False)
    return model.eval()


def rotated(weight: Tensor, frequencies: Tensor) -> Tensor:
    """The weight that reads the sinusoids of t as `weight` reads those of t - 1.

    A shift of time turns each pair (sine, cosine) by its frequency.

    Args:
        weight: [E', E], of a linear layer on sines and cosines in turn.
        frequencies: [E / 2], in radians a step.

    Returns:
        Float64.
    """
    sine, cosine = weight.double().unflatten(1, (-1, 2)).unbind(2)
    turn = frequencies.double()
    pairs = [sine * turn.cos() + cosine * turn.sin(), cosine * turn.cos() - sine * turn.sin()]
    return torch.stack(pairs, dim=2).flatten(1)

"""Several processes that share the work of a command which does not train: the command line runs once in each."""

from __future__ import annotations

from typing import Any

import torch
from torch import distributed

from spiking_vq.distributed import num_ranks
from spiking_vq.errors import InputError, require


def launch(device: str, devices: int) -> torch.device:
    """Start the other processes, if there are to be several, and say where this one computes.

    Raises:
        InputError: fewer than one, or several where one device is named.
    """
    require(devices >= 1, "devices", "at least 1", devices)
    place = torch.device(device)
    if devices == 1:
        return place
    if place.index is not None:
        raise InputError(f"device={device} is one device: with devices={devices} it is device={place.type}")
    from lightning.fabric import Fabric  # here, as it takes seconds and one process needs none of it

    fabric = Fabric(accelerator=place.type, devices=devices, strategy="ddp")
    fabric.launch()
    return fabric.device


def gathered(parts: dict[int, Any]) -> dict[int, Any]:
    """All ranks' entries, on every rank, in order of their keys."""
    every = [parts]
    if num_ranks() > 1:
        every = [None] * num_ranks()
        distributed.all_gather_object(every, parts)
    return dict(sorted(item for found in every for item in found.items()))

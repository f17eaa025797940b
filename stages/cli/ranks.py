"""Several processes that share the work of a command which does not train: the command line runs once in each."""

from __future__ import annotations

from typing import Any

import torch
from torch import distributed

from spiking_vq.runtime.distributed import num_ranks


def launch(device: str, devices: int) -> torch.device:
    """Start the other processes, if there are to be several, and say where this one computes.

    What can be wrong is to be found before: the others run the whole command line, up to here, once more.
    """
    place = torch.device(device)
    if devices == 1:
        return place
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

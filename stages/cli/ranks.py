"""Several processes that share the work of a command which does not train: each runs the same command line."""

from __future__ import annotations

from typing import Any

import torch
from torch import distributed

from spiking_vq.runtime.distributed import num_ranks


def launch(device: str, devices: int) -> torch.device:
    """Start the other processes, if there are to be several, and return this one's device.

    Mistakes must be reported before: the other processes run the whole command line again, up to this call.
    """
    if devices == 1:
        return torch.device(device)
    from lightning.fabric import Fabric  # takes seconds to import, and a single process does not need it

    fabric = Fabric(accelerator=torch.device(device).type, devices=devices, strategy="ddp")
    fabric.launch()
    return fabric.device


def leave() -> None:
    """End the work of several processes together: each waits for the others, and closes its connections.

    Connections that are open when Python ends may be closed in the wrong order, with a message of C++ on stderr.
    """
    if num_ranks() > 1:
        distributed.barrier()
        distributed.destroy_process_group()


def gathered(parts: dict[int, Any]) -> dict[int, Any]:
    """All ranks' entries, on every rank, in order of their keys."""
    every = [parts]
    if num_ranks() > 1:
        every = [None] * num_ranks()
        distributed.all_gather_object(every, parts)
    return dict(sorted(item for entries in every for item in entries.items()))

"""The order in which training sees its examples."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from spiking_vq.errors import InputError
from spiking_vq.randomness import mix_seed, permutation


class BatchStream:
    """The batches of a whole training run, in an order that depends on the seed and the epoch only.

    Every epoch is a fresh permutation of the rows, cut into batches; rows that do not fill a last batch are dropped.
    The stream keeps its own position: `iter` continues after the last batch handed out, however often it is called, and
    starts again at 0 after the last batch of the run. A run resumed through `load_state_dict` sees exactly the batches
    of an unbroken one.

    Args:
        tensors: one or more tensors of one length N; a batch takes the same rows of each.
        batch_size: rows a batch, 1..N.
        num_batches: batches in the whole run, over all its epochs.
        seed: decides, together with the epoch, the order of the rows.

    Raises:
        InputError: the tensors differ in length, or the batch size is not in 1..N.
    """

    def __init__(self, tensors: tuple[Tensor, ...], batch_size: int, num_batches: int, seed: int) -> None:
        lengths = [len(tensor) for tensor in tensors]
        if len(set(lengths)) != 1:
            raise InputError(f"expected tensors with one number of rows, got {lengths}")
        if not 1 <= batch_size <= lengths[0]:
            raise InputError(f"batch_size must lie in 1..{lengths[0]}, the number of rows, got {batch_size}")
        self.tensors = tensors
        self.batch_size = batch_size
        self.num_batches = num_batches
        self.seed = seed
        self._served = 0

    @property
    def batches_per_epoch(self) -> int:
        """Full batches in one pass over the rows."""
        return len(self.tensors[0]) // self.batch_size

    def __len__(self) -> int:
        """Number of batches in the whole run."""
        return self.num_batches

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        """Yield the batches not yet handed out."""
        # Nothing here runs before the first `next`, so that an iterator nobody draws from changes nothing. The position
        # is read anew for every batch, so that a state loaded meanwhile counts.
        if self._served == self.num_batches:
            self._served = 0
        drawn_epoch = None
        while self._served < self.num_batches:
            epoch, position = divmod(self._served, self.batches_per_epoch)
            if epoch != drawn_epoch:
                generator = torch.Generator().manual_seed(mix_seed(self.seed, epoch))
                order = permutation(len(self.tensors[0]), generator)
                drawn_epoch = epoch
            self._served += 1
            rows = order[position * self.batch_size :][: self.batch_size]
            yield tuple(tensor[rows] for tensor in self.tensors)

    def state_dict(self) -> dict[str, int]:
        """Number of batches handed out; one counts as soon as it is yielded."""
        return {"served": self._served}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue after the batches that `state_dict` counted in another run of the same stream.

        Raises:
            InputError: that run is already longer than this one.
        """
        if not 0 <= state["served"] <= self.num_batches:
            raise InputError(
                f"cannot resume after {state['served']} batches a run of {self.num_batches}: ask for a longer run"
            )
        self._served = state["served"]

"""The order in which training sees its examples."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from spiking_vq.data.mapped import MappedImages
from spiking_vq.errors import InputError
from spiking_vq.randomness import mix_seed, permutation


class BatchStream:
    """The batches of a whole training run, in an order that depends on the seed and the epoch only.

    Every epoch is a fresh permutation of the rows, cut into batches; rows that do not fill a last batch are dropped.
    The stream keeps its own position: `iter` continues after the last batch handed out, however often it is called, and
    starts again at 0 after the last batch of the run. A run resumed through `load_state_dict` sees exactly the batches
    of an unbroken one.

    A thread reads one batch ahead where that takes time: from images in a file, and into page-locked memory.

    Args:
        tensors: one or more tensors, or images in a file, of one length N; a batch takes the same rows of each.
        batch_size: rows a batch, 1..N.
        num_batches: batches in the whole run, over all its epochs.
        seed: decides, together with the epoch, the order of the rows.
        pinned: batches are in page-locked memory, which a GPU copies without the host waiting; default False.

    Raises:
        InputError: the tensors differ in length, or the batch size is not in 1..N.
    """

    def __init__(
        self,
        tensors: tuple[Tensor | MappedImages, ...],
        batch_size: int,
        num_batches: int,
        seed: int,
        pinned: bool = False,
    ) -> None:
        lengths = [len(tensor) for tensor in tensors]
        if len(set(lengths)) != 1:
            raise InputError(f"expected tensors with one number of rows, got {lengths}")
        if not 1 <= batch_size <= lengths[0]:
            raise InputError(f"batch_size must lie in 1..{lengths[0]}, the number of rows, got {batch_size}")
        self.tensors = tensors
        self.batch_size = batch_size
        self.num_batches = num_batches
        self.seed = seed
        self.pinned = pinned
        self._served = 0
        self._order: tuple[int | None, Tensor | None] = (None, None)

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
        reads_ahead = self.pinned or any(isinstance(tensor, MappedImages) for tensor in self.tensors)
        ahead: tuple[int, Future] | None = None
        with ThreadPoolExecutor(1, "batches") as reader:
            while self._served < self.num_batches:
                number = self._served
                batch = ahead[1].result() if ahead and ahead[0] == number else self._read(number)
                self._served += 1
                if reads_ahead and self._served < self.num_batches:
                    ahead = self._served, reader.submit(self._read, self._served)
                yield batch

    def _read(self, number: int) -> tuple[Tensor, ...]:
        """Batch `number` of the run."""
        epoch, position = divmod(number, self.batches_per_epoch)
        drawn, order = self._order
        if epoch != drawn:
            generator = torch.Generator().manual_seed(mix_seed(self.seed, epoch))
            order = permutation(len(self.tensors[0]), generator)
            self._order = epoch, order
        rows = order[position * self.batch_size :][: self.batch_size]
        batch = tuple(tensor[rows] for tensor in self.tensors)
        return tuple(tensor.pin_memory() for tensor in batch) if self.pinned else batch

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

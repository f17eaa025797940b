"""A thread reads one batch ahead: the same batches in the same order, however the run is resumed."""

import threading

import numpy as np
import pytest
import torch

from spiking_vq.data import mapped
from spiking_vq.data.stream import BatchStream

IMAGES = torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1)


@pytest.fixture
def from_file(tmp_path):
    """Function that makes a stream of ten images in a file, three a batch, seven batches: more than two epochs."""
    mapped.write_rows(tmp_path / "images.npy", [IMAGES])
    images = mapped.MappedImages(tmp_path / "images.npy", np.arange(10))
    return lambda: BatchStream((images, torch.arange(10)), 3, 7, seed=1)


def numbers(batches):
    return [[tensor.flatten().tolist() for tensor in batch] for batch in batches]


def test_batches_from_a_file_are_those_from_memory(from_file):
    in_memory = BatchStream((IMAGES, torch.arange(10)), 3, 7, seed=1)
    assert numbers(from_file()) == numbers(in_memory)


@pytest.mark.parametrize("done", [1, 2, 3, 6])
def test_a_batch_that_was_only_read_ahead_is_handed_out_after_resuming(from_file, done):
    whole, stream = numbers(from_file()), from_file()
    batches = iter(stream)
    for _ in range(done):
        next(batches)
    assert stream.state_dict() == {"served": done}
    resumed = from_file()
    resumed.load_state_dict(stream.state_dict())
    assert numbers(resumed) == whole[done:]
    batches.close()
    assert numbers(stream) == whole[done:]


def test_a_position_loaded_meanwhile_counts(from_file):
    whole, stream = numbers(from_file()), from_file()
    batches = iter(stream)
    next(batches)
    stream.load_state_dict({"served": 5})
    assert numbers(batches) == whole[5:]


def test_the_next_batch_is_read_by_a_thread_while_one_is_in_use(from_file, monkeypatch):
    reads, second, whole = [], threading.Event(), mapped.MappedImages.__getitem__

    def watched(self, rows):
        reads.append(threading.current_thread())
        if len(reads) == 2:
            second.set()
        return whole(self, rows)

    monkeypatch.setattr(mapped.MappedImages, "__getitem__", watched)
    batches = iter(from_file())
    next(batches)
    assert second.wait(10)
    batches.close()
    assert len(reads) == 2 and reads[0] is threading.main_thread() is not reads[1]


def test_an_error_of_the_thread_is_raised(from_file, tmp_path):
    batches = iter(from_file())
    next(batches), next(batches)
    (tmp_path / "images.npy").unlink()
    with pytest.raises(FileNotFoundError):
        list(batches)


def test_batches_for_a_gpu_are_pinned(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor + 100)
    pinned = BatchStream((torch.arange(10),), 3, 3, seed=1, pinned=True)
    plain = BatchStream((torch.arange(10) + 100,), 3, 3, seed=1)
    assert numbers(pinned) == numbers(plain)

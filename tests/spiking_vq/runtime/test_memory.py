"""Page faults are counted, not timed, and in processes of their own: the setting lasts as long as a process does."""

import subprocess
import sys

import pytest

from spiking_vq.runtime import memory

FAULTS = """
import resource, sys, torch
from spiking_vq.runtime.memory import keep_freed_memory
keeps = keep_freed_memory() if sys.argv[1] == "keep" else True
for round in range(24):
    if round == 8:  # by then a freed block is large enough whatever its alignment
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(16_000_000)  # 64 MB, freed at once
print(int(keeps), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode):
    done = subprocess.run([sys.executable, "-c", FAULTS, mode], capture_output=True, text=True, check=True)
    keeps, count = map(int, done.stdout.split())
    return bool(keeps), count


@pytest.mark.slow
def test_freed_memory_is_used_again_without_page_faults():
    keeps, kept = faults("keep")
    if not keeps:
        pytest.skip("not glibc")
    _, given_back = faults("default")
    assert kept < given_back / 4  # now and then a small block comes to lie in the way and the heap grows once


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    assert memory.keep_freed_memory() is False
    monkeypatch.setattr(memory.sys, "platform", "linux")
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())  # a C library without mallopt
    assert memory.keep_freed_memory() is False

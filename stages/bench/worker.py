"""One variant in a process of its own: `python -m stages.bench.worker CASE VARIANT`; a line of JSON for each it reads.

`time` answers with the seconds of a run, `peak` with the most memory that tensors held at once during one run, in MB,
beyond what was there before it.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch
from torch.profiler import ProfilerActivity, profile

from spiking_vq.compiling import compiled
from spiking_vq.memory import keep_freed_memory
from stages.bench.cases import CASES, Run, Variant

TURN = 1.0
"""Seconds of one turn at least."""


def find(case: str, variant: str) -> Variant:
    """The variant of these names."""
    (found,) = (known.variants[variant] for known in CASES if known.name == case)
    return found


def seconds(run: Run, turn: float = 0.0) -> float:
    """How long a run takes: the median of as many as fill a turn of so many seconds, at least one.

    The first run after the process has slept is slower than those that follow it.
    """
    times: list[float] = []
    while sum(times) <= turn:
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return median(times)


def peak_mb(run: Run) -> float:
    """The most that tensors held at once during one run beyond what they held before, in MB; without libraries' own."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        run()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiled.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    held = [event["args"] for event in events if event.get("name") == "[memory]"]
    levels = [args["Total Allocated"] for args in held]
    before = levels[0] - held[0]["Bytes"]
    return (max(levels) - before) / 1e6


def main(case: str, variant: str) -> None:
    """Build, run once, tell how long that took, then answer."""
    torch.manual_seed(0)
    chosen = find(case, variant)
    if chosen.ours:
        keep_freed_memory()
    with compiled(chosen.compile):
        run = chosen.build()
        print(json.dumps(seconds(run)), flush=True)
        for line in sys.stdin:
            answer = seconds(run, TURN) if line.strip() == "time" else peak_mb(run)
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

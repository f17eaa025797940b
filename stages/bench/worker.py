"""One variant in a process of its own: `python -m stages.bench.worker CASE VARIANT DEVICE [peak]`; prints `Measured`.

With `peak`, it also measures the most memory that tensors held at once during a run.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import torch
from torch.profiler import ProfilerActivity, profile

from spiking_vq.runtime.memory import keep_freed_memory
from spiking_vq.runtime.running import run_with
from stages.bench.cases import CASES, Variant
from stages.bench.work import Run

TURN = 3.0
"""Least seconds of a turn."""


@dataclass(frozen=True)
class Measured:
    """Times and memory of one variant in one process.

    Attributes:
        first_s: seconds of the first run, in which kernels are compiled or loaded.
        median_s: median seconds of the later runs.
        peak_mb: the most memory in MB that tensors held at once during a run, without what they held before it and
            without memory of libraries; None unless asked for.
    """

    first_s: float
    median_s: float
    peak_mb: float | None = None


def times(run: Run, device: torch.device, turn: float = 0.0) -> list[float]:
    """Seconds of each run; there are as many runs as fill a turn of so many seconds, at least one."""
    taken: list[float] = []
    while sum(taken) <= turn:
        started = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - started)
    return taken


def peak_mb(run: Run, device: torch.device) -> float:
    """`Measured.peak_mb` of a run."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        return (torch.cuda.max_memory_allocated(device) - before) / 1e6
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


def measure(variant: Variant, device: torch.device, peak: bool) -> Measured:
    """Build the variant, run it once, then run it for a turn."""
    torch.manual_seed(0)
    if variant.ours:
        keep_freed_memory()
    with run_with(compile=variant.compile):
        run = variant.build(device)
        (first,) = times(run, device)
        taken = times(run, device, TURN)
        return Measured(first, median(taken), peak_mb(run, device) if peak else None)


def main(case: str, variant: str, device: str, *peak: str) -> None:
    """Measure a variant and print `Measured` as JSON."""
    print(json.dumps(asdict(measure(CASES[case][variant], torch.device(device), peak == ("peak",)))))


if __name__ == "__main__":
    main(*sys.argv[1:])

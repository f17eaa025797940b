"""Compare speed and memory with the same networks written the plain way on snnTorch and SpikingJelly.

The variants of a case take turns, so that a change in the machine's speed affects all of them, and every turn is a
process of its own, as processes that do the same work differ in speed. Times are medians over the rounds, the spread is
their range, and ratios are of times per image, or per unit of work where the images of a case differ in work.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

from spiking_vq.errors import InputError, require
from spiking_vq.fields import Count
from spiking_vq.files import atomic_write, json_text
from stages.bench.cases import CASES, Case
from stages.bench.worker import Measured
from stages.cli.machine import check_device, describe_machine, emulates_bf16
from stages.cli.options import read_options, recorded_command
from stages.cli.progress import progress

EXAMPLE = "spiking-vq bench rounds=3 only=sampling"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of the benchmark.

    Attributes:
        rounds: number of turns of each variant.
        only: measure the cases whose names contain this text; all by default.
        device: where to compute.
        out: the report.
    """

    rounds: Count = 5
    only: str = ""
    device: str = "cpu"
    out: Path = Path("results/bench.json")


def main(arguments: list[str]) -> None:
    """Measure the cases, print a table of each, and write the report."""
    options = read_options(Options, arguments)
    check_device(options.device)
    cases = {name: case for name, case in CASES.items() if options.only in name}
    require(cases != {}, "only", f"a part of one of {', '.join(CASES)}", options.only)
    if emulates_bf16(options.device):
        print("bfloat16 is left out: this processor has no instructions for it")
        cases = {name: {key: v for key, v in case.items() if v.dtype != "bfloat16"} for name, case in cases.items()}
        cases = {name: case for name, case in cases.items() if case}
    if find_spec("spikingjelly") is None and not all(v.ours for case in cases.values() for v in case.values()):
        raise InputError("the plain form needs SpikingJelly: pip install 'spiking_vq[bench]' (Python 3.11 or later)")
    with atomic_write(options.out) as temporary:  # opened first, so that a folder that is not writable is found early
        rows = []
        for name, case in cases.items():
            measured = measure(name, case, options.rounds, options.device)
            print_table(measured)
            rows += measured
        report = {
            "command": recorded_command("bench", arguments),
            "machine": describe_machine(options.device),
            "rounds": options.rounds,
            "rows": rows,
        }
        temporary.write_text(json_text(report))
    print(f"wrote {options.out}")


def turn(case: str, variant: str, device: str, peak: bool) -> Measured:
    """One turn of a variant, in a process of its own."""
    command = [sys.executable, "-m", "stages.bench.worker", case, variant, device, *(["peak"] if peak else [])]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command[1:])} ended with exit code {done.returncode}:\n{done.stderr}")
    return Measured(**json.loads(done.stdout))


def measure(name: str, case: Case, rounds: int, device: str) -> list[dict[str, Any]]:
    """A row of results for each variant of a case."""
    turns: dict[str, list[Measured]] = {variant: [] for variant in case}
    with progress(title=name, total=len(turns) * rounds, unit="turn") as bar:
        for left in reversed(range(rounds)):
            for variant, taken in turns.items():
                taken.append(turn(name, variant, device, peak=left == 0))
                bar.update()
    reference, *_ = case
    times = {variant: [measured.median_s for measured in taken] for variant, taken in turns.items()}
    per_image = {variant: median(times[variant]) / case[variant].images for variant in case}
    per_work = {variant: per_image[variant] / case[variant].work for variant in case}
    peaks = {variant: taken[-1].peak_mb for variant, taken in turns.items()}
    return [
        {
            "name": name,
            "variant": variant,
            "dtype": case[variant].dtype,
            "images": case[variant].images,
            "median_s": median(times[variant]),
            "spread_s": max(times[variant]) - min(times[variant]),
            "times_s": times[variant],
            "images_per_second": 1 / per_image[variant],
            "ratio": per_work[reference] / per_work[variant],
            "target": case[variant].targets,
            "first_s": median(measured.first_s for measured in turns[variant]),
            "peak_mb": peaks[variant],
            "peak_ratio": peaks[reference] / peaks[variant],
        }
        for variant in case
    ]


def print_table(rows: list[dict[str, Any]]) -> None:
    """Print the rows of one case."""
    print(f"\n{rows[0]['name']}\n{'':32}{'images/s':>10}{'ratio':>8}{'must':>6}{'aim':>6}{'peak MB':>9}{'first s':>9}")
    for row in rows:
        must, aim = row["target"] or ("", "")
        print(
            f"  {row['variant']:30}{row['images_per_second']:10.1f}{row['ratio']:8.2f}{must:>6}{aim:>6}"
            f"{row['peak_mb']:9.0f}{row['first_s']:9.1f}"
        )

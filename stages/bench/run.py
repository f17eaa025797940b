"""Measure every case: `spiking-vq bench [rounds=5] [only=TEXT] [device=cpu] [out=results/bench.json]`.

The variants of a case take turns, so that a change in the machine's speed meets them all alike, and every turn is a
process of its own, as one process of the same work is now and then slower than another. Times are medians over the
rounds, spread is their range, ratios are of times per image, or per unit of work where an image is not the same work
for all variants.
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

from tqdm import tqdm

from spiking_vq.errors import InputError, require
from spiking_vq.files import atomic_write, json_text
from stages.bench.cases import CASES, Case
from stages.bench.worker import Measured
from stages.cli.machine import check_device, describe_machine
from stages.cli.options import parse_options, recorded_command

OPTIONS = {"rounds": 5, "only": str, "device": "cpu", "out": Path("results/bench.json")}


def main(arguments: list[str]) -> None:
    """Measure, print, write."""
    options = parse_options(arguments, OPTIONS)
    require(options["rounds"] >= 1, "rounds", "at least 1", options["rounds"])
    check_device(options["device"])
    cases = [case for case in CASES if options["only"] is None or options["only"] in case.name]
    require(cases != [], "only", f"a part of one of {', '.join(case.name for case in CASES)}", options["only"])
    others = [name for case in cases for name, variant in case.variants.items() if not variant.ours]
    if others and find_spec("spikingjelly") is None:
        raise InputError("the plain form needs SpikingJelly: pip install 'spiking_vq[bench]' (Python 3.11 or later)")
    with atomic_write(options["out"]) as temporary:  # opened first: a place that cannot be written to is found early
        rows = []
        for case in cases:
            rows += measure(case, options["rounds"], options["device"])
            print_table(rows[-len(case.variants) :])
        report = {
            "command": recorded_command("bench", arguments),
            "machine": describe_machine(options["device"]),
            "rounds": options["rounds"],
            "rows": rows,
        }
        temporary.write_text(json_text(report))
    print(f"wrote {options['out']}")


def turn(case: str, variant: str, device: str, peak: bool) -> Measured:
    """What a variant measures in a process of its own."""
    command = [sys.executable, "-m", "stages.bench.worker", case, variant, device, *(["peak"] if peak else [])]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command[1:])} ended with exit code {done.returncode}:\n{done.stderr}")
    return Measured(**json.loads(done.stdout))


def measure(case: Case, rounds: int, device: str) -> list[dict[str, Any]]:
    """A row for each variant of a case."""
    turns: dict[str, list[Measured]] = {name: [] for name in case.variants}
    with tqdm(total=len(turns) * rounds, desc=case.name) as bar:
        for left in reversed(range(rounds)):
            for name, taken in turns.items():
                taken.append(turn(case.name, name, device, peak=left == 0))
                bar.update()
    reference, *_ = case.variants
    times = {name: [measured.median_s for measured in taken] for name, taken in turns.items()}
    per_image = {name: median(times[name]) / variant.images for name, variant in case.variants.items()}
    per_work = {name: per_image[name] / variant.work for name, variant in case.variants.items()}
    peaks = {name: taken[-1].peak_mb for name, taken in turns.items()}
    return [
        {
            "name": case.name,
            "variant": name,
            "dtype": variant.dtype,
            "images": variant.images,
            "median_s": median(times[name]),
            "spread_s": max(times[name]) - min(times[name]),
            "times_s": times[name],
            "images_per_second": 1 / per_image[name],
            "ratio": per_work[reference] / per_work[name],
            "target": variant.targets,
            "first_s": median(measured.first_s for measured in turns[name]),
            "peak_mb": peaks[name],
            "peak_ratio": peaks[reference] / peaks[name],
        }
        for name, variant in case.variants.items()
    ]


def print_table(rows: list[dict[str, Any]]) -> None:
    """The rows of one case."""
    print(f"\n{rows[0]['name']}\n{'':32}{'images/s':>10}{'ratio':>8}{'must':>6}{'aim':>6}{'peak MB':>9}{'first s':>9}")
    for row in rows:
        must, aim = row["target"] or ("", "")
        print(
            f"  {row['variant']:30}{row['images_per_second']:10.1f}{row['ratio']:8.2f}{must:>6}{aim:>6}"
            f"{row['peak_mb']:9.0f}{row['first_s']:9.1f}"
        )

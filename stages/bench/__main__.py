"""Measure every case: `python -m stages.bench [rounds=5] [only=TEXT] [out=results/bench.json]`.

The variants of a case are alive at once, each in its own process, and take turns, so that a change in the machine's
speed meets them all alike. Times are medians over the rounds, spread is their range, ratios are of times per image, or
per unit of work where an image is not the same work for all variants.
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from statistics import median
from typing import Any

from tqdm import tqdm

from spiking_vq.checkpoint import atomic_write
from spiking_vq.errors import InputError, require
from stages.bench.cases import CASES, Case
from stages.command import parse_options, recorded_command, run_command
from stages.machine import describe_machine

OPTIONS = {"rounds": 5, "only": str, "out": "results/bench.json"}


class Worker:
    """A variant in a process of its own, waiting for its turn."""

    def __init__(self, case: str, variant: str) -> None:
        command = [sys.executable, "-m", "stages.bench.worker", case, variant]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.first_s = self._answer()

    def ask(self, what: str) -> float:
        """`time` or `peak` of one run."""
        print(what, file=self.process.stdin, flush=True)
        return self._answer()

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.wait()

    def _answer(self) -> float:
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{' '.join(self.process.args[1:])} died, exit code {self.process.wait()}")
        return json.loads(line)


def main(arguments: list[str]) -> None:
    """Measure, print, write."""
    options = parse_options(arguments, OPTIONS)
    require(options["rounds"] >= 1, "rounds", "at least 1", options["rounds"])
    if find_spec("spikingjelly") is None:
        raise InputError("the plain form needs SpikingJelly: pip install 'spiking_vq[bench]' (Python 3.11 or later)")
    cases = [case for case in CASES if options["only"] is None or options["only"] in case.name]
    require(cases != [], "only", f"a part of one of {', '.join(case.name for case in CASES)}", options["only"])
    with atomic_write(options["out"]) as temporary:  # opened first: a place that cannot be written to is found early
        rows = []
        for case in cases:
            rows += measure(case, options["rounds"])
            print_table(rows[-len(case.variants) :])
        report = {
            "command": recorded_command("stages.bench", arguments),
            "machine": describe_machine("cpu"),
            "rounds": options["rounds"],
            "rows": rows,
        }
        temporary.write_text(json.dumps(report, indent=2) + "\n")
    print(f"wrote {options['out']}")


def measure(case: Case, rounds: int) -> list[dict[str, Any]]:
    """A row for each variant of a case."""
    times: dict[str, list[float]] = {name: [] for name in case.variants}
    with tqdm(total=len(times) * (rounds + 2), desc=case.name) as bar:
        workers = {}
        try:
            for name in times:
                workers[name] = Worker(case.name, name)
                bar.update()
            for _ in range(rounds):
                for name, worker in workers.items():
                    times[name].append(worker.ask("time"))
                    bar.update()
            peaks = {}
            for name, worker in workers.items():
                peaks[name] = worker.ask("peak")
                bar.update()
        finally:
            for worker in workers.values():
                worker.close()
    reference, *_ = case.variants
    per_image = {name: median(times[name]) / variant.images for name, variant in case.variants.items()}
    per_work = {name: per_image[name] / variant.work for name, variant in case.variants.items()}
    return [
        {
            "name": case.name,
            "variant": name,
            "dtype": variant.dtype,
            "images": variant.images,
            "median_s": median(times[name]),
            "spread_s": max(times[name]) - min(times[name]),
            "images_per_second": 1 / per_image[name],
            "ratio": per_work[reference] / per_work[name],
            "target": variant.targets,
            "first_s": workers[name].first_s,
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


if __name__ == "__main__":
    run_command(main)

"""Write the spikes of one image being made, as address events for a chip or an event viewer.

The networks run as graphs, as `spiking-vq export` writes them. What is written: every spike that enters a graph or
leaves it, as (call, step, layer, address), in NIR's data format; see `spiking_vq.export.event_file`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Annotated

from spiking_vq.export.event_file import write_events
from spiking_vq.export.events import LAYERS, Events
from spiking_vq.export.nir_file import require_nir
from spiking_vq.fields import OneOf, Seed
from spiking_vq.pipelines.load import load
from stages.cli.options import ModelOptions, SamplerArguments, read_options, sampler_settings

EXAMPLE = "spiking-vq stream mnist seed=3"


@dataclass(frozen=True, kw_only=True)
class Options(ModelOptions, SamplerArguments):
    """Options of `stream`.

    Attributes:
        seed: of a set of images; the first of them is made.
        layers: the `ends`, which are the input and what the read-out sees, or `all`.
        out: file to write; None (default) is `<runs>/<data>/<preset>/events.nir`.
    """

    seed: Seed = 0
    layers: Annotated[str, OneOf(LAYERS)] = "ends"
    out: Path | None = None


def main(arguments: list[str]) -> None:
    """Generate, write, count."""
    options = read_options(Options, arguments)
    require_nir()
    pipeline = load(options.find())
    config = pipeline.config
    out = options.out or options.runs / config.data / config.preset / "events.nir"
    events = list(pipeline.stream(options.seed, layers=options.layers, **sampler_settings(pipeline, options)))
    write_events(out, events)
    for part, own in groupby(events, lambda record: record.part):
        print_part(part, list(own))
    print(f"wrote {out}")


def print_part(part: str, events: list[Events]) -> None:
    """Print the calls and steps of a part, and the events of its layers."""
    calls, steps = len({record.call for record in events}), len({record[1:3] for record in events})
    print(f"{part}: {calls} {'call' if calls == 1 else 'calls'}, {steps} steps")
    for layer in dict.fromkeys(record.layer for record in events):
        own = [record for record in events if record.layer == layer]
        count = sum(len(record.indices) for record in own)
        print(f"  {layer:24}{count:9,} events, {count / steps:8,.0f} a step of {own[0].size:,}")

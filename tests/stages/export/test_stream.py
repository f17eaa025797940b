"""`spiking-vq stream` writes the events of one image, and says how many there are."""

import re

import pytest
import torch

import spiking_vq
from spiking_vq.errors import InputError
from spiking_vq.export.event_file import read_events
from stages.__main__ import main

pytest.importorskip("nir")


def streamed(capsys, *arguments):
    """The events that the command wrote, and what it said."""
    main(["stream", *map(str, arguments)])
    said = capsys.readouterr().out.splitlines()
    return read_events(said[-1].removeprefix("wrote ")), said


def test_what_is_written_is_what_is_streamed(untrained_runs, capsys):
    events, said = streamed(capsys, "data=digits", f"runs={untrained_runs}", "seed=4", "sample_steps=3")
    assert said[-1] == f"wrote {untrained_runs}/digits/base/events.nir"
    pipeline = spiking_vq.load(untrained_runs / "digits/base/absorbing")
    expected = list(pipeline.stream(4, sample_steps=3))
    assert [record[:4] for record in events] == [record[:4] for record in expected]
    assert all(torch.equal(one.indices, other.indices) for one, other in zip(events, expected, strict=True))
    assert torch.equal(pipeline.image_of(events), pipeline.sample(1, 4, sample_steps=3).images)


def test_counts_are_those_of_the_file(untrained_runs, tmp_path, capsys):
    out = tmp_path / "all.nir"
    where = ("data=digits", f"runs={untrained_runs}")
    events, said = streamed(capsys, *where, "layers=all", "sample_steps=3", f"out={out}")
    assert said[0] == "denoiser: 3 calls, 6 steps"
    assert "decoder: 1 call, 2 steps" in said
    counts = {}
    for record in events:
        counts.setdefault((record.part, record.layer), []).append(len(record.indices))
    part = None
    for line in said[:-1]:
        if found := re.fullmatch(r"(\w+): .*", line):
            part = found[1]
            continue
        told = re.fullmatch(r"  (\w+) +([\d,]+) events, +([\d,]+) a step of ([\d,]+)", line).groups()
        layer, count, rate, size = told[0], *(int(number.replace(",", "")) for number in told[1:])
        own = counts.pop((part, layer))
        assert count == sum(own)
        assert rate == pytest.approx(sum(own) / len(own), abs=0.51)
        assert {size} == {record.size for record in events if (record.part, record.layer) == (part, layer)}
    assert counts == {}


def test_an_export_is_streamed(untrained_runs, tmp_path, capsys):
    main(["export", "data=digits", f"runs={untrained_runs}", f"out={tmp_path / 'export'}", "inputs=spikes"])
    capsys.readouterr()
    events, _ = streamed(capsys, tmp_path / "export", f"out={tmp_path / 'events.nir'}")
    assert {record.part for record in events if record.layer == "input"} == {"denoiser", "decoder"}


def test_models_that_have_no_events(untrained_runs, tmp_path):
    where, out = ("data=digits", f"runs={untrained_runs}"), tmp_path / "events.nir"
    with pytest.raises(InputError, match="a continuous model has no events to stream"):
        main(["stream", *where, "stage=gaussian", f"out={out}"])
    with pytest.raises(InputError, match="vq_svae model, which cannot generate"):
        main(["stream", *where, "stage=vq_svae", f"out={out}"])
    with pytest.raises(InputError, match="layers must be one of ends, all; got 'none'"):
        main(["stream", *where, "layers=none"])
    assert not out.exists()


def test_without_nir(untrained_runs, monkeypatch):
    monkeypatch.setattr("spiking_vq.export.nir_file.find_spec", lambda name: None)
    with pytest.raises(InputError, match="needs the package nir: install the extra `export`"):
        main(["stream", "data=digits", f"runs={untrained_runs}"])

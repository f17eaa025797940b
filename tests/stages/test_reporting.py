"""Reports as files: what is read from them, and mean and deviation as text."""

import json
from dataclasses import asdict

import pytest

from spiking_vq.errors import InputError
from stages.cli.options import SAMPLER
from stages.reporting.markdown import table
from stages.reporting.report import NAMED, Report, evaluation_name, inspected
from stages.reporting.spread import Spread


@pytest.fixture
def report(tmp_path):
    contents = {
        "calls": 16,
        "rate": 0.25,
        "none": None,
        "flag": True,
        "metrics": {"fid": {"mean": 4.0, "std": 0.5, "per_seed": [3.5, 4.5]}, "inception_score": "not available"},
        "floor": {"fid": 1.5},
    }
    (tmp_path / "report.json").write_text(json.dumps(contents))
    return Report.read(tmp_path / "report.json")


def test_values_have_the_type_that_is_asked_for(report):
    assert (report.get(int, "calls"), report.get(float, "calls"), report.get(float, "rate")) == (16, 16, 0.25)
    assert report.get(float, "metrics", "fid", "mean") == 4
    assert report.part("metrics", "fid").get(list, "per_seed") == [3.5, 4.5]
    for keys in (("none",), ("missing",), ("missing", "deeper")):
        assert report.get(str, *keys, default="default") == "default"


@pytest.mark.parametrize(
    ("kind", "keys", "message"),
    [
        (float, ("metrics", "kid"), "metrics.kid must be a number; got nothing"),
        (float, ("none",), "none must be a number; got nothing"),
        (int, ("rate",), "rate must be an integer; got the float '0.25'"),
        (int, ("flag",), "flag must be an integer; got the bool 'True'"),
        (dict, ("calls", "deeper"), "calls must be an object; got the int '16'"),
        (str, ("metrics",), "metrics must be text; got the dict"),
    ],
)
def test_errors_name_file_and_key(report, kind, keys, message):
    with pytest.raises(InputError, match=rf"report\.json: {message}.*of another version, or was changed by hand"):
        report.get(kind, *keys)
    with pytest.raises(InputError, match=r"report\.json: metrics\.fid\.deeper must be a number"):
        report.part("metrics", "fid").get(float, "deeper")


@pytest.mark.parametrize(
    ("text", "message"), [("{", "not a whole report"), ("[]", "must be a JSON object; got a list")]
)
def test_a_file_that_is_no_report(tmp_path, text, message):
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(InputError, match=message):
        Report.read(tmp_path / "report.json")


def test_spread_over_seeds(report):
    assert Spread.over([3.5, 4.5]) == Spread(4.0, pytest.approx(0.5**0.5), [3.5, 4.5])
    assert Spread.over([3.0]) == Spread(3.0, None, [3.0])
    assert asdict(Spread.over([1.0, None])) == {"mean": None, "std": None, "per_seed": [1.0, None]}
    assert report.spread("metrics", "fid") == Spread(4.0, 0.5, [3.5, 4.5])
    assert report.spread("floor", "fid") == Spread(1.5)
    assert report.spread("metrics", "inception_score") == report.spread("metrics", "kid") == Spread()


def test_spread_as_text():
    assert Spread(14.432, 0.352).text() == "14.4 ± 0.35"
    assert Spread(14.432, 0.352).text("+.2f", ".1g") == "+14.43 ± 0.4"
    assert Spread(0.0123, 0.004).scaled(1000).text() == "12.3 ± 4"
    assert Spread(2.5).scaled(2).text() == "5"
    assert Spread().scaled(2).text() == "not measured"


def test_markdown_table():
    assert table([{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]) == ["| a | b |", "|---|---|", "| 1 | 2 |", "| 3 | 4 |"]


def test_an_inspection_is_read_from_one_file_or_from_those_of_older_versions(tmp_path):
    def write(name, sha256, **contents):
        (tmp_path / name).write_text(json.dumps({"checkpoint": {"sha256": sha256}} | contents))

    assert inspected(tmp_path, "energy") is None
    write("energy.json", "a", spiking={"calls": 8})
    write("firing_rates.json", "a", firing_rate={"absorbing": {"all": 0.1}})
    write("spiking_report.json", "a", synapses=15)
    assert inspected(tmp_path, "energy", "a").get(int, "spiking", "calls") == 8
    assert inspected(tmp_path, "firing_rate").get(float, "absorbing", "all") == 0.1
    assert inspected(tmp_path, "purity").get(int, "synapses") == 15
    assert inspected(tmp_path, "purity", "b") is None
    write("inspection.json", "b", energy={"spiking": {"calls": 4}}, purity={"synapses": 3})
    assert inspected(tmp_path, "energy").get(int, "spiking", "calls") == 4
    assert inspected(tmp_path, "energy", "a").get(int, "spiking", "calls") == 8
    assert inspected(tmp_path, "energy", "b").get(int, "spiking", "calls") == 4
    assert inspected(tmp_path, "firing_rate").get(float, "absorbing", "all") == 0.1  # not in the new one
    with pytest.raises(InputError, match=r"inspection\.json: energy\.spiking\.image must be an object"):
        inspected(tmp_path, "energy").part("spiking", "image")


def test_names_of_evaluations_tell_what_is_unusual_in_one_order():
    assert set(NAMED) == {"n", *SAMPLER}
    assert evaluation_name({"protocol": "val", "seed": 0, "only": "all", "order": None}) == "val.json"
    options = {"guidance": 2.0, "label": "1", "seed": 3, "sample_steps": 8, "only": "samples", "features": "classifier"}
    name = "val-samples-classifier-sample_steps=8-label=1-guidance=2.0-seed=3.json"
    assert evaluation_name(options | {"protocol": "val"}) == name

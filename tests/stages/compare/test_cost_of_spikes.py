"""The table and the sentences on what spikes cost, of invented reports."""

import json

import pytest

from stages.compare.twins import SPEED, twins, verdicts


def evaluation(fid, std):
    metrics = {"fid": (fid, std), "classifier_distance": (0.4, 0.1), "precision": (0.8, 0.01), "recall": (0.6, 0.02)}
    return {
        "metrics": {name: {"mean": mean, "std": std, "per_seed": []} for name, (mean, std) in metrics.items()},
        "floor": dict.fromkeys(metrics, 11.0),
        "reconstruction": {"fid": 9.5},
    }


def energy(arithmetic, reused, stationary):
    values = {"arithmetic": arithmetic * 1e6, "none_reused": reused * 1e6, "weight_stationary": stationary * 1e6}
    return {"energy_pj": {"image": {"fp32": values}}}


@pytest.fixture
def results(tmp_path):
    """Reports of MNIST's base network and of its ReLU twin."""

    def write(name, content):
        path = tmp_path / "mnist" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))

    write("base/n1280-test.json", evaluation(14.0, 0.5))
    write("base-relu/n1280-test.json", evaluation(12.5, 0.25))
    sides = {
        "spiking": energy(200, 3000, 1000),
        "relu": energy(4000, 12000, 8000),
        "quantised": energy(2000, 7000, 6000),
    }
    write("base/inspection.json", {"energy": sides})
    write(f"base-relu/{SPEED}", {"images_per_second": 80.0})
    return tmp_path


def test_networks_of_a_data_set_stand_side_by_side(results):
    spikes, bits, relu = twins(results)[:3]
    assert (spikes["network"], bits["network"], relu["network"]) == ("spikes", "3 bits", "ReLU")
    assert spikes["FID (floor)"] == "14 ± 0.5 (11)"
    assert relu["FID (floor)"] == "12.5 ± 0.2 (11)"
    assert relu["FID of reconstructions"] == "9.5"
    assert bits["FID (floor)"] == bits["recall"] == spikes["images / s"] == "not run"
    assert bits["uJ, arithmetic alone"] == "2,000"
    assert relu["uJ, weight-stationary"] == "8,000"
    assert relu["images / s"] == "80"


def test_a_sentence_says_what_spikes_cost_and_save(results):
    (sentence,) = verdicts(results)
    assert "MNIST, against ReLU: FID 14 ± 0.5 in place of 12.5 ± 0.25 (+1.5), for 5% of the energy" in sentence
    assert "25% where nothing is reused, 12% weight-stationary" in sentence


def test_nothing_is_said_of_what_was_not_run(tmp_path):
    assert verdicts(tmp_path) == ["- not run"]
    assert {row["FID (floor)"] for row in twins(tmp_path)} == {"not run"}

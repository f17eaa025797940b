"""Tables of energy and latency, from invented reports."""

import json

import pytest

from stages.compare import energy as tables

HARDWARE = [
    (bits, memory) for bits in ("fp32", "int8") for memory in ("arithmetic", "none_reused", "weight_stationary")
]


def by_hardware(values):
    """Arithmetic -> memory -> value, of six values."""
    found = {"fp32": {}, "int8": {}}
    for (bits, memory), value in zip(HARDWARE, values, strict=True):
        found[bits][memory] = value
    return found


def side(*microjoules, **counts):
    none = dict.fromkeys(("effective_acs", "effective_macs", "neuron_updates"), 0.0)
    cost = {"firing_rate": 0.0625, "arithmetic_pj": 1.0, "memory_pj": 1.0}
    pj = by_hardware([1e6 * value for value in microjoules])
    return {"operations": none | counts, "energy_pj": {"image": pj}, "image": cost}


@pytest.fixture
def results(tmp_path, monkeypatch):
    """Reports on a model, on one that an older version inspected, and on none."""
    models = [("absorbing", "mnist", "base"), ("gaussian", "mnist", "base"), ("absorbing", "fmnist", "large")]
    monkeypatch.setattr(tables, "shipped_models", lambda: models)
    parts = {"steps": 20.0, "path": 8, "spikes": 4587.4, "waits": 156.0}
    new = {
        "spiking": side(1, 2, 3, 4, 5, 6, effective_acs=45e6, effective_macs=12e3, neuron_updates=1.54e6),
        "relu": side(2048, 1, 6, 8, 10, 12, effective_macs=445e6),
        "quantised": side(10, 20, 30, 40, 50, 60, effective_macs=445e6),
        "turning_rates": {
            "relu": by_hardware([None, None, 0.96, 0.5, 0.4, 0.3]),
            "quantised": by_hardware([0.1, 0.2, 0.3, 0.4, 0.5, None]),
        },
        "latency": {"absorbing": parts | {"steps": 16.0}, "image": parts},
    }
    old = {name: {"image": new[name]["image"]} for name in ("spiking", "relu", "quantised")}
    for folder, name, report in (
        ("mnist/base", "inspection.json", {"energy": new}),
        ("mnist/gaussian-base", "energy.json", old | {"verdict": {"relu": "so"}}),
    ):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / name).write_text(json.dumps(report))
    return tmp_path


def test_energy(results):
    rows = tables.energy(results)
    assert [list(row.values()) for row in rows[:3]] == [
        ["MNIST, `base`", "spikes", "45", "0.012", "1.5", "1", "2", "3", "4", "5", "6"],
        ["MNIST, `base`", "ReLU", "0", "445", "0", "2,048", "1", "6", "8", "10", "12"],
        ["MNIST, `base`", "quantised", "0", "445", "0", "10", "20", "30", "40", "50", "60"],
    ]
    assert list(rows[0])[5:7] == ["32-bit floats, arithmetic alone", "32-bit floats, nothing reused"]
    assert [list(row.values()) for row in rows[3:5]] == [
        ["MNIST, U-Net", "spikes", *["not run"] * 9],
        ["MNIST, U-Net", "ReLU", *["not run"] * 9],
    ]
    assert {row["model"] for row in rows[6:]} == {"FashionMNIST, `large`"}
    assert {row["8-bit integers, weight-stationary"] for row in rows[6:]} == {"not run"}


def test_turning_rates(results):
    rows = tables.turning_rates(results)
    assert list(rows[0].values()) == [
        *("MNIST, `base`", "0.06"),
        *("always, 0.10", "never, 0.20", "0.96, 0.30"),  # against the ReLU twin: 1 to 2048 uJ, then 2 to 1
        *("0.50, 0.40", "0.40, 0.50", "0.30, always"),
    ]
    assert [set(row.values()) for row in rows[1:]] == [
        {"MNIST, U-Net", "not run"},
        {"FashionMNIST, `large`", "not run"},
    ]


def test_latency(results):
    rows = tables.latency(results)
    assert list(rows[0].values()) == ["MNIST, `base`", "20", "8", "4,587", "156"]
    assert [set(row.values()) for row in rows[1:]] == [
        {"MNIST, U-Net", "not run"},
        {"FashionMNIST, `large`", "not run"},
    ]

"""The check of a GPU: every part runs without one, at tiny sizes."""

import json

import pytest

from spiking_vq.errors import InputError
from stages.bench import gpu_check


def test_without_a_gpu_it_says_so(tmp_path):
    with pytest.raises(InputError, match="gpu-check measures a GPU; got device=cpu"):
        gpu_check.main(["device=cpu", f"out={tmp_path / 'report.json'}"])
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_all_parts_run_in_a_dry_run(tmp_path):
    out = tmp_path / "report.json"
    gpu_check.main(["device=cpu", "dry_run=true", f"out={out}"])
    parts = json.loads(out.read_text())["parts"]
    assert "skipped" in parts["tests"]["said"] or "passed" in parts["tests"]["said"]
    for stage, preset in gpu_check.NETWORKS:
        assert parts[f"outputs {preset} {stage}"] == {"difference": 0, "relative": 0}
    for stage, preset in gpu_check.STEPS:
        measured = parts[f"steps {preset} {stage}"]
        assert measured["tflop"] > 0
        assert measured["eager"]["tflops"] * measured["images"] == pytest.approx(
            measured["tflop"] * measured["eager"]["images_per_second"]
        )
    assert parts["neurons"]["ours"]["median_s"] > 0


def test_a_part_that_fails_fails_the_check(tmp_path, monkeypatch):
    for name in ("tests", "neurons", "steps", "compared"):
        monkeypatch.setattr(gpu_check, name, lambda *_: {})
    monkeypatch.setattr(gpu_check, "neurons", lambda *_: {"ours": {"error": "no kernel"}})
    with pytest.raises(SystemExit) as ended:
        gpu_check.main(["device=cpu", "dry_run=true", f"out={tmp_path / 'report.json'}"])
    assert ended.value.code == 1
    assert json.loads((tmp_path / "report.json").read_text())["parts"]["neurons"]["ours"] == {"error": "no kernel"}


def test_a_part_that_fails_is_reported_and_costs_no_other(capsys):
    def fails():
        raise ValueError("no kernel\nand more")

    assert gpu_check.reported("a part", fails) == {"error": "ValueError: no kernel"}
    assert "a part" in capsys.readouterr().out

"""The line that says what a run will take."""

import re

from small_runs import STAGE1

from stages import train


def test_a_forecast_after_the_first_steps(tmp_path, capsys):
    train.main([*STAGE1, "train.max_steps=60", "train.val_every=60", f"runs={tmp_path}"])
    forecast = r"^vq_svae digits base: 30 more steps of \S+ s take about \d+ s; \d\.\d GB of memory so far$"
    assert len(re.findall(forecast, capsys.readouterr().err, re.MULTILINE)) == 1


def test_a_short_run_has_no_forecast(tmp_path, capsys):
    train.main([*STAGE1, f"runs={tmp_path}"])
    assert "more steps" not in capsys.readouterr().err

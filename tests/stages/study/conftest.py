"""Commands that studies run, with invented measurements in place of trainings and evaluations."""

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from stages.cli.options import recorded_command
from stages.reporting.report import evaluation_name
from stages.study import runner, steps


class Commands(list):
    """Arguments of all commands that were run, the verb first.

    `measured(given)` is the report of an evaluation with these options.
    """

    def measured(self, given):
        return {}

    def run(self, command, env=None, stdout=None, stderr=None):
        """In place of `subprocess.run`."""
        verb, *arguments = command[3:]
        self.append([verb, *arguments])
        given = dict(text.split("=", 1) for text in arguments if "=" in text)
        if verb == "evaluate":
            report = {"command": recorded_command(verb, arguments)} | self.measured(given)
            report["checkpoint"] = {"sha256": hashlib.sha256(Path(given["ckpt"]).read_bytes()).hexdigest()}
            leaves = Path(given["results"], given["data"], given["preset"], evaluation_name(given))
        else:
            leaves = Path(given["runs"], given["data"], given["preset"], arguments[0], "model.safetensors")
            report = {"seconds": 120.0, "parameters": 1000, "machine": {"threads": 3}}
        leaves.parent.mkdir(parents=True, exist_ok=True)
        leaves.write_text(json.dumps(report))
        leaves.with_name("training.json").write_text(json.dumps(report))
        if stdout:
            stdout.write(f"on {env['OMP_NUM_THREADS']} threads")
        return SimpleNamespace(returncode=0)


@pytest.fixture
def commands(monkeypatch):
    ran = Commands()
    monkeypatch.setattr(steps.subprocess, "run", ran.run)
    monkeypatch.setattr(runner, "check_inception", lambda data_dir: None)
    return ran


@pytest.fixture
def folders(tmp_path):
    """The options that keep a study inside the test's folder."""
    return [f"runs={tmp_path / 'runs'}", f"results={tmp_path / 'results'}"]

"""A thousand bad inputs to all commands and to the library, each drawn from a seed of its own by `fuzzing.py`.

Whatever comes of a case is an error of ours, exit code 2 of a command, or a call that works: never a traceback or a
hang. It changes none of the user's files, and leaves no half of a file. `FUZZ=137 pytest tests/stages/test_fuzz.py`
runs case 137 alone.

Nothing leaves the process: there is no network, and a call that would start another process has come far enough.
"""

import io
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import traceback
from collections import Counter
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fuzzing import TINY, TRAININGS, World, drawn, foreign_contents, noise
from PIL import Image
from safetensors.torch import load

from spiking_vq.errors import InputError
from spiking_vq.metrics.inception import WEIGHTS, Inception
from spiking_vq.pipelines import zoo as shipped
from spiking_vq.pipelines.load import load as load_pipeline
from stages import train
from stages.cli import machine
from stages.evaluate import measures
from stages.evaluate import report as evaluate
from stages.evaluate.protocols import PROTOCOLS
from stages.inspect import report as inspect
from stages.publish import weights as publish
from stages.study import analytic, labels, steps, thresholds
from stages.training.stage import Stage

pytestmark = pytest.mark.slow

CASES, BATCH = 1000, 50
LIMIT = 60
"""Seconds that a case may take; it takes a fraction of one."""

CHOSEN = [int(os.environ["FUZZ"])] if "FUZZ" in os.environ else range(CASES)
BATCHES = [CHOSEN[first : first + BATCH] for first in range(0, len(CHOSEN), BATCH)]

OWN = {"train": "*.c[ks][pv]*", "publish": "digits-base-*"}
"""Verb -> files that it may have written before it met what is wrong: until training diverged; of other models."""


class Hang(BaseException):
    """A case took too long."""


class OtherProcess(BaseException):
    """A case came as far as starting another process."""


class StandIn(torch.nn.Module):
    """In the Inception's place: some pixels."""

    classifier = torch.full((3, 16), float("nan"))

    def forward(self, images):
        return images[:, 0, 0:8:2, 0:8:2].flatten(1).float() / 64


@contextmanager
def fence(place, zoo):
    """Run inside a folder, without network, other processes and compilers, and leave the process as it was."""

    def no_process(*arguments, **options):
        raise OtherProcess

    def no_network(*arguments, **options):
        raise OSError("no network")

    def inception(path, *settings):
        return StandIn() if Path(path).name == WEIGHTS.name else Inception(path, *settings)

    (place / "data" / WEIGHTS).parent.mkdir(parents=True)
    (place / "data" / WEIGHTS).touch()
    environment, arguments = dict(os.environ), sys.argv
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("HOME", str(place / "home"))
        patch.setattr(subprocess, "Popen", no_process)
        patch.setattr(socket, "getaddrinfo", no_network)
        patch.setattr(socket.socket, "connect", no_network)
        patch.setattr(measures, "Inception", inception)
        for module in (train, machine):
            patch.setattr(module, "can_compile", lambda: False)
        for module in (shipped, analytic, steps):
            patch.setattr(module, "ZOO", zoo)
        defaults = {
            publish: {"zoo": zoo},
            labels: {"n": 1},
            thresholds: {"n": 10},
            analytic: {"n": 10},
            inspect: {"n": 1},
        }
        for module, others in defaults.items():
            for name, value in others.items():
                patch.setitem(module.Options.__init__.__kwdefaults__, name, value)
        for name, protocol in list(PROTOCOLS.items()):
            patch.setitem(PROTOCOLS, name, replace(protocol, generated=12, num_seeds=2))
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(environment)
            sys.argv = arguments


def ending(case):
    """How a case ends: `refused`, `works`, or the fault."""

    def too_long(*_):
        raise Hang(f"longer than {LIMIT} s")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.setitimer(signal.ITIMER_REAL, LIMIT)
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", errors) for errors in ("strict", "backslashreplace"))
    code, fault = 0, None
    try:
        with redirect_stdout(out), redirect_stderr(err):
            case.call()
    except KeyboardInterrupt:
        raise
    except OtherProcess:
        pass
    except InputError as error:
        code, fault = 2, None if str(error).strip() else "an error without words"
    except SystemExit as stop:
        code = stop.code or 0
    except BaseException:
        fault = "".join(traceback.format_exc().splitlines(keepends=True)[-16:])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    if code == 130:
        raise KeyboardInterrupt
    for stream in (out, err):
        stream.flush()
        said = stream.buffer.getvalue().decode(errors="replace")
        if "Traceback" in said:
            fault = fault or said[-1500:]
    return fault or {0: "works", 2: "refused"}.get(code, f"exit code {code}")


def stamps(folder):
    """Path -> what tells that a file was written to."""
    found = {path: path.lstat() for path in folder.rglob("*")}
    return {path: (stat.st_mtime_ns, stat.st_size, stat.st_ino) for path, stat in found.items() if not path.is_dir()}


class Guard:
    """Watches over a folder of files, puts back what changes, and removes what is added.

    Args:
        folder: of the files.
    """

    def __init__(self, folder):
        self.folder, self.stamps = folder, stamps(folder)
        self.contents = {path: path.read_bytes() for path in self.stamps}
        self.folders = {path for path in folder.rglob("*") if path.is_dir()}

    def changed(self):
        """The files that are gone or hold something else."""
        now = stamps(self.folder)
        touched = [path for path, stamp in self.stamps.items() if now.get(path) != stamp]
        changed = [path for path in touched if path not in now or path.read_bytes() != self.contents[path]]
        for path in now.keys() - self.stamps:
            path.unlink()
        for path in sorted(self.folder.rglob("*"), reverse=True):
            if path.is_dir() and path not in self.folders:
                path.rmdir()
        for path in changed:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.contents[path])
        if touched:
            self.stamps = stamps(self.folder)
        return changed


def contents(folder):
    """File -> what it holds."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def is_finite(path):
    """Whether all numbers in a report, and all weights that were measured, are finite."""
    if path.suffix == ".json":
        return not re.search(r": -?(NaN|Infinity)", path.read_text())
    weights = load(path.read_bytes()) if path.suffix == ".safetensors" else {}
    return all(value.isfinite().all() for name, value in weights.items() if not name.endswith("image_error"))


def tried(index, world, guard, place):
    """Draw and run a case.

    Returns:
        Its verb, how it ends, and what is wrong with that, told with the call; nothing if all is well.
    """
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    with fence(place, shutil.copytree(world.zoo, place / "zoo")):
        case = drawn(index, world, place)
        before = contents(place)
        found = ending(case)
    faults = [] if found in ("works", "refused") else [found]
    faults += [f"left {path}" for folder in (place, world.theirs) for path in folder.rglob(".*.part")]
    after, own = contents(place), OWN.get(case.verb)
    written = [place / path for path in after if after[path] != before.get(path)]
    written += [path for path in world.theirs.rglob("*.*") if path not in guard.stamps]
    faults += [f"wrote {path}, which holds what is not finite" for path in written if not is_finite(path)]
    faults += [f"changed {path}" for path in guard.changed()]
    if found == "refused":
        changed = [path for path in before if before[path] != after.get(path) and not (own and path.match(own))]
        faults += [f"changed {path}, though refused" for path in changed]
    if (place / "~").exists():
        faults.append("made a folder called ~")
    if not faults:
        return case.verb, found, ""
    told = re.sub(r"(..?)\1{40,}", r"\1...", f"case {index}: {case.told}\n{'; '.join(faults)}")
    told = told.replace(str(world.theirs), "THEIRS").replace(str(place), "PLACE")
    return case.verb, found, told.encode(errors="backslashreplace").decode()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Tiny trained models of all stages, reports on them, and a user's other files."""
    root = tmp_path_factory.mktemp("fuzz")
    theirs, place, zoo = root / "theirs", root / "making", root / "zoo"
    for folder in (theirs, place, zoo):
        folder.mkdir()
    runs, unfinished, results, photos = (theirs / name for name in ("runs", "unfinished", "results", "photos"))
    with fence(place, zoo):
        for stage, own in TRAININGS.items():
            stage1 = [f"stage1={runs / 'digits/base/vq_svae/model.safetensors'}"] if stage == "absorbing" else []
            train.main([stage, *TINY, *own, *stage1, f"runs={runs}"])
            with pytest.MonkeyPatch.context() as patch, pytest.raises(RuntimeError, match="killed"):
                die_in_step_2(patch)
                train.main([stage, *TINY, *own, *stage1, f"runs={unfinished}"])
        for stage in publish.TRAINED:
            publish.main(["data=digits", f"stage={stage}", f"runs={runs}"])
        measure(runs, zoo, results)
    write_photos(photos)
    latent, pixel = (load_pipeline(runs / f"digits/base/{name}") for name in ("absorbing", "gaussian"))
    models = sorted(runs.rglob("model.safetensors"))
    foreign = foreign_contents([*models, *sorted(runs.rglob("*.ckpt")), *sorted(runs.rglob("*.yaml"))])
    return World(theirs, runs, unfinished, results, photos, zoo, models, foreign, latent, pixel)


def die_in_step_2(patch):
    """Make training die as a kill would have it."""
    whole = Stage.training_step

    def dying(self, batch, batch_idx):
        if self.global_step == 1:
            raise RuntimeError("killed")
        return whole(self, batch, batch_idx)

    patch.setattr(Stage, "training_step", dying)


def measure(runs, zoo, results):
    """Reports on the digits, and the same as if they were on MNIST, as digits are not compared."""
    ours = [f"ckpt={zoo / 'digits-base-absorbing.safetensors'}", "data=digits", f"results={results}", f"runs={runs}"]
    evaluate.main([*ours, "protocol=test-10k", f"data_dir={runs.parent.with_name('making') / 'data'}"])
    inspect.main([*ours, "n=1"])
    (results / "mnist/base").mkdir(parents=True)
    for path in (results / "digits/base").glob("*.json"):
        (results / "mnist/base" / path.name).write_text(path.read_text().replace('"digits"', '"mnist"'))


def write_photos(folder):
    """A user's pictures and a letter, some of them where samples of ours would go."""
    draw = random.Random(0)
    (folder / "images").mkdir(parents=True)
    names = [f"IMG_{index:04}.png" for index in range(1, 13)] + [f"images/{index:06}.png" for index in range(1, 4)]
    for name in [*names, "grid.png"]:
        Image.fromarray(noise(draw, 8, 8)).save(folder / name)
    (folder / "letter.txt").write_text("Dear reader,\n")


@pytest.fixture(scope="module")
def guard(world):
    """Watches over the user's files."""
    return Guard(world.theirs)


@pytest.fixture(scope="module")
def endings():
    """Case -> its verb and how it ended, of all batches so far."""
    return {}


@pytest.mark.parametrize("batch", BATCHES, ids=lambda batch: f"{batch[0]:03}-{batch[-1]:03}")
def test_bad_input_is_refused_or_works(batch, world, guard, endings, tmp_path):
    faults = []
    for index in batch:
        verb, found, fault = tried(index, world, guard, tmp_path / "a/b/place")
        endings[index] = verb, found
        faults += [fault] if fault else []
    if faults:
        pytest.fail("\n\n".join([f"{len(faults)} of {len(batch)}", *faults]), pytrace=False)


def test_cases_are_of_both_kinds(endings):
    """Many are refused and many work, of all together and of whatever is called often."""
    if len(endings) < CASES:
        pytest.skip("tells of all cases together")
    verbs, counts = Counter(verb for verb, _ in endings.values()), Counter(endings.values())
    for found in ("works", "refused"):
        assert sum(counts[verb, found] for verb in verbs) >= 200
        assert not [verb for verb, times in verbs.items() if times >= 25 and not counts[verb, found]]


def test_pipelines_are_as_they_were(world):
    for name, pipeline in {"absorbing": world.latent, "gaussian": world.pixel}.items():
        again = load_pipeline(world.runs / f"digits/base/{name}")
        assert torch.equal(pipeline.sample(2).images, again.sample(2).images)

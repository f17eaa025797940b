"""A thousand bad inputs to all commands and to the library, each drawn from a seed of its own.

A case takes a call that works and spoils it in one to three places: an option, a file, a folder. Whatever comes of it
is an error of ours, exit code 2 of a command, or a call that works: never a traceback or a hang. It changes none of the
user's files, and leaves no half of a file. `FUZZ=137 pytest tests/test_fuzz.py` draws and runs case 137 alone.

Nothing leaves the process: there is no network, and a call that would start another process has come far enough.
"""

import io
import json
import os
import pickle
import random
import re
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import traceback
import zlib
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load, save

from spiking_vq import generators
from spiking_vq.checkpoint import load_model
from spiking_vq.config import STAGES, config_from_dict, load_config, read_config
from spiking_vq.data import load_dataset
from spiking_vq.errors import InputError
from spiking_vq.generators import LatentGenerator, PixelGenerator, load_generator
from spiking_vq.metrics.inception import WEIGHTS, Inception
from stages import (
    ablation,
    all_runs,
    analytic,
    candidates,
    cards,
    decompose,
    energy,
    firing_rates,
    labels,
    portrait,
    publish,
    recognise,
    sample,
    spiking_report,
    steps,
    threshold_sweep,
    train,
)
from stages import command as command_line
from stages.evaluate import examiner
from stages.bench import __main__ as bench
from stages.command import CONFIGS, run_command
from stages.compare import __main__ as compare
from stages.evaluate import __main__ as evaluate
from stages.evaluate.protocols import PROTOCOLS
from stages.stage import Stage

pytestmark = pytest.mark.slow

CASES, BATCH = 1000, 50
LIMIT = 60
"""Seconds that a case may take; it takes a fraction of one."""

CHOSEN = [int(os.environ["FUZZ"])] if "FUZZ" in os.environ else range(CASES)
BATCHES = [CHOSEN[first : first + BATCH] for first in range(0, len(CHOSEN), BATCH)]


class Hang(BaseException):
    """A case took too long."""


class OtherProcess(BaseException):
    """A case came as far as starting another process."""


class Case(NamedTuple):
    """A call.

    Attributes:
        verb: what is called.
        told: the call, for the message.
        call: does it.
    """

    verb: str
    told: str
    call: Callable[[], Any]


class World(NamedTuple):
    """What the cases are drawn from, made once.

    Attributes:
        theirs: the user's files, none of which may change.
        runs, unfinished: among them, the run folders of all stages on the digits; before and after they finished.
        results, photos: among them, reports, and a folder of the user's pictures.
        zoo: in place of the weights that ship; every case has its own copy.
        models: files of the finished runs.
        foreign: contents of files that no option expects.
        latent, pixel: generators.
    """

    theirs: Path
    runs: Path
    unfinished: Path
    results: Path
    photos: Path
    zoo: Path
    models: list[Path]
    foreign: list[bytes]
    latent: LatentGenerator
    pixel: PixelGenerator


class Draw(random.Random):
    """What one case is drawn from: a seed, the world, and an empty folder of its own."""

    def __init__(self, index, world, place):
        super().__init__(index)
        self.world, self.place = world, place

    def happens(self, probability):
        return self.random() < probability

    def path(self):
        """A new path in the case's folder."""
        return self.place / f"{len(list(self.place.iterdir()))}{self.choice(NAMES)}"


# ----------------------------------------------------------------------------------------------------------------------
# Values


TEXTS = ("null", "true", "[]", "{}", "é", "数", "a b", "a=b", "..", "../..", "*", "'", '"', "$HOME", "%s", "{0}", "\n")
TEXTS += ("\t", "\0", "x" * 300, "\udce9", "~", "~/x", "~nosuchuser/x", "-n", "#", "a #1", "2026_11_28", "1:30", " ")
NAMES = ("", " b", "é", "数", "'", "=1", "%d", "\udce9", "[1]", "x" * 200, ".png", ".ckpt", ".safetensors", "\n", "~")
COUNTS, FEW = ("1", "2", "3", "10", "16", "010", "+2", "64"), ("0", "-1", "-16")
LARGE = ("4294967295", "4294967296", "4611686018427387904", "9223372036854775807", "-9223372036854775808")
NUMBERS = ("0", "1", "0.5", "0.999", "1e-3", "-0.0", "2", "10", "-1", "1e308", "1e-400", "-1e-9")
LISTS = ("[4]", "[4,8]", "[2,2,2]", "[8,4]", "[1]", "[]", "[0]", "[-1]", "[4,8,8,8,8,8]")
UNREADABLE = {
    bool: ("yes", "1", "0", "null", "[]", "tru"),
    int: ("1.5", "1e3", "0x10", "1_000", "true", "null", "½", "٣", "nan", " 4", "9223372036854775808", "1" + 40 * "0"),
    float: ("nan", "inf", "-inf", "1e999", "0,5", "0.5.1", "1e", "½", "٣.٥", "true", "null", "1" + 400 * "0"),
    list: ("[1.5]", "[a]", "[[4]]", "[4", "4,8", "[4,]", "[4;8]", "null", "[nan]", "4"),
}
"""Type -> texts that are no value of it."""

CHOICES = {
    "stage": ("absorbing", "gaussian", "vq_svae", "classifier", "sampler"),
    "data": ("digits", "digits", "mnist", "letters", "cifar10", "svhn", "digits mnist"),
    "preset": ("base", "paper", "base-relu", "base-quantised", "sddpm", "fsddim", "perceptual", "Base"),
    "presets": ("base", "base-relu", "gaussian-base", "gaussian-", "base base", "gaussian-paper", "classifier"),
    "device": ("cpu", "cpu", "cuda", "cuda:99", "meta", "mps", "cpu:0", "cpu:1", "xla", "cuda:-1", "gpu"),
    "precision": ("fp32", "bf16", "fp64", "fp16"),
    "protocol": (*PROTOCOLS, "mine"),
    "protocols": (*PROTOCOLS, "val val", "val mine", ",", "val,test-10k"),
    "only": ("all", "reconstruction", "samples", "base", "base elbo", "plain", "neuron", "base base"),
    "features": ("all", "classifier", "inception"),
    "order": ("random", "halton", "bernoulli", "sideways"),
    "schedule": ("linear", "cosine", "constant", "sideways"),
    "sampler": ("ddpm_large", "ddpm_small", "ddim", "analytic", "dpm_solver", "euler"),
    "background": ("black", "white", "grey"),
    "strengths": ("1", "1 1.5", "0", "-1", "1,5", "nan", "1 1 1", "x", "1e308", "1" + 400 * "0"),
    "shifts": ("0.01", "-0.01 0.01", "0", "-5", "1e308", "nan", "0.01,0.02", "-1e308 1"),
    "calls": ("1", "2 1", "0", "-1", "1.5", "99", "٣", "x", "1 1", "16 8"),
    "length": ("1", "0.1", "0", "-1", "1e-9", "1e308", "nan", "2"),
    "neuron": ("lif", "relu", "quantised", "tanh"),
    "reset": ("zero", "subtract", "delayed_subtract", "none"),
    "surrogate": ("atan", "fast_sigmoid", "triangle", "rectangle", "sine"),
    "encoding": ("rate", "psp", "both", "none"),
    "psp": ("decay", "trace", "both"),
    "spike_generator": ("adaptive", "poisson", "repeat", "none"),
    "output": ("tanh", "sigmoid", "relu"),
    "denoiser": ("sdid", "token", "unet"),
    "mixer": ("grid", "attention", "none"),
    "unet": ("sddpm", "fsddim", "token"),
    "prediction": ("noise", "v", "images", "x"),
    "loss": ("elbo", "reweighted", "masked_ce", "mse", "synaptic_current", "l1"),
    "strategy": ("auto", "ddp", "fsdp"),
}
"""Option or last part of a field's name -> values, right and wrong."""

REPEATED = {
    "n",
    "T",
    "early_T",
    "num_blocks",
    "num_residual_blocks",
    "max_steps",
    "max_epochs",
    "seeds",
    "moved_copies",
}
REPEATED |= {
    "times",
    "epochs",
    "rounds",
    "jobs",
    "diffusion_steps",
    "styles",
    "remask_calls",
    "channels",
    "multipliers",
}
"""Counts of what is done over and over: a large one is no mistake, and takes as long as it says."""


def text_for(draw, name, usual):
    """A value of an option or a configuration field, often a right one.

    Args:
        name: of the option; of a field with its groups, as in `train.lr`.
        usual: its default, or its type.
    """
    leaf, kind = name.split(".")[-1], usual if isinstance(usual, type) else type(usual)
    if draw.happens(0.05):
        return draw.choice(TEXTS)
    if name in FILES:
        return str(FILES[name](draw))
    if leaf in CHOICES:
        return draw.choice(CHOICES[leaf])
    if kind in UNREADABLE and draw.happens(0.15):
        return draw.choice(UNREADABLE[kind])
    whole = COUNTS + FEW + (() if leaf in REPEATED else LARGE)
    known = {bool: ("true", "false"), int: whole, float: NUMBERS, list: LISTS, type(None): (*whole, *NUMBERS, "null")}
    return draw.choice(known.get(kind, TEXTS))


ODD = (
    None,
    True,
    -1,
    0,
    1.5,
    float("nan"),
    float("inf"),
    1e308,
    "",
    "x",
    "3",
    "nan",
    "null",
    "\0",
    "\ud800",
    "x" * 300,
)
ODD += ("~nosuchuser", [], [1], [None], [[]], {}, {"a": 1}, {"": {}}, [1, "a"], 2**63, 10**30)
"""What JSON, and most of it YAML, can hold."""

OBJECTS = (
    None,
    True,
    1.0,
    0.5,
    float("nan"),
    float("-inf"),
    10**30,
    "1",
    "x",
    "",
    b"1",
    [],
    (),
    {},
    np.bool_(True),
    1j,
)
OBJECTS += (
    np.float64("nan"),
    np.array([1, 2]),
    torch.tensor(1),
    torch.tensor(0.5),
    torch.ones(2),
    object,
    Decimal("0.5"),
)
"""What a Python caller may pass in place of a number."""


def like(draw, name, value):
    """Another value of a field of a file, of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return draw.choice(
            (0, 1, 2, 3, 8, -1, -value, 2 * value, *(() if name in REPEATED else (2**32, 2**62, 2**63 - 1)))
        )
    if isinstance(value, float):
        return draw.choice((0.0, 1.0, 0.5, 2 * value, -value, 1e308, -1e-9))
    if isinstance(value, str):
        return draw.choice(CHOICES.get(name, TEXTS))
    if isinstance(value, list):
        return draw.choice((value[::-1], value * 2, value[:1], [*value, 1]))
    return draw.choice(ODD)


def spoil_tree(draw, tree):
    """Change, drop, rename or add something, somewhere in nested dicts and lists."""
    holders, found = [tree], []
    while holders:
        holder = holders.pop()
        found.append(holder)
        holders += [value for value in _values(holder) if isinstance(value, dict | list)]
    holder = draw.choice(found)
    name = draw.choice([*(holder if isinstance(holder, dict) else range(len(holder))), None])
    way = draw.random()
    if name is None or way < 0.05:
        if isinstance(holder, dict):
            holder[draw.choice(("unknown", "", "T", "stage", "a.b", "é"))] = draw.choice(ODD)
        else:
            holder.append(draw.choice(ODD))
    elif way < 0.15:
        del holder[name]
    elif way < 0.2 and isinstance(holder, dict):
        holder[misspelt(draw, name)] = holder.pop(name)
    else:
        holder[name] = like(draw, name, holder[name]) if way < 0.65 else draw.choice(ODD)


def _values(holder):
    return holder.values() if isinstance(holder, dict) else holder


def misspelt(draw, name):
    """A name that is nearly right."""
    place = draw.randrange(len(name) + 1)
    ways = (name[:place] + name[place + 1 :], name[:place] + "x" + name[place:], name.upper(), f"--{name}", f"{name} ")
    return draw.choice((*ways, name.replace("_", "-"), name.partition(".")[2], f"model.{name}"))


# ----------------------------------------------------------------------------------------------------------------------
# Files


def spoil_file(draw, path):
    """Damage a file, put something else in its place, or take it away."""
    content = path.read_bytes()
    cut = draw.randrange(len(content) + 1)
    flipped = bytearray(content)
    for _ in range(draw.choice((1, 3, 30)) if content else 0):
        flipped[draw.randrange(min(len(content), draw.choice((16, 2000, len(content)))))] ^= draw.randrange(1, 256)
    damaged = [
        content[:cut],
        content[:cut],
        bytes(flipped),
        bytes(flipped),
        content + b"more",
        b"",
        bytes(len(content)),
    ]
    way = draw.random()
    if way < 0.55:
        path.write_bytes(draw.choice(damaged))
    elif way < 0.85:
        path.write_bytes(draw.choice(draw.world.foreign))
    else:
        path.unlink()
        if way > 0.97:
            path.symlink_to(path)
        elif way > 0.94:
            path.symlink_to(path.with_name("nowhere"))
        elif way > 0.90:
            path.mkdir()


def spoil_model(draw, path):
    """Write a `model.safetensors` anew, of which something is amiss; any other file is damaged."""
    if draw.happens(0.4) or not path.name.endswith(".safetensors"):
        spoil_file(draw, path)
        return
    content = path.read_bytes()
    metadata = json.loads(content[8 : 8 + struct.unpack("<Q", content[:8])[0]])["__metadata__"]
    weights = load(content)
    name = draw.choice([*weights])
    way = draw.randrange(10)
    if way == 0:
        del weights[name]
    elif way == 1:
        weights[draw.choice(("unknown", "", name + ".x"))] = torch.zeros(draw.choice((0, 3)))
    elif way == 2:
        weights[name] = torch.full_like(weights[name].float(), draw.choice((float("nan"), float("inf"), 0, 1e38)))
    elif way == 3:
        weights[name] = weights[name].to(draw.choice((torch.int8, torch.bool, torch.float64, torch.bfloat16)))
    elif way == 4:
        weights[name] = weights[name].flatten()[1:].clone()
    elif way == 5:
        metadata = draw.choice((None, {}, {"format": "pt"}, metadata | {"format": "spiking_vq/2"}))
    elif way == 6:
        metadata["config"] = draw.choice(
            ("", "{", "[]", "null", "3", '"x"', "{}", '{"stage": "unet"}', '{"stage": []}')
        )
    else:
        config = json.loads(metadata["config"])
        for _ in range(draw.choice((1, 1, 2))):
            spoil_tree(draw, config)
        metadata["config"] = json.dumps(config)
    path.write_bytes(save(weights, metadata))


def spoil_yaml(draw, path):
    """Make a configuration file wrong, as text or in what it says."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    row = draw.randrange(len(lines)) if lines else 0
    name = lines[row].partition(":")[0] if lines else "T"
    way = draw.randrange(8)
    if way < 4:
        values = yaml.safe_load(text)
        for _ in range(draw.choice((1, 1, 2))):
            spoil_tree(draw, values)
        path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8", errors="surrogatepass")
    elif way == 4:
        spoil_file(draw, path)
    elif way == 5:
        path.write_bytes(draw.choice((b"\xff\xfe", b"\xef\xbb\xbf", b"\0", b"%YAML 9\n", b"- ")) + text.encode())
    elif way == 6:
        encoding = draw.choice(("utf-16", "latin-1", "utf-8"))
        path.write_bytes(f"# Größe\n{text}".encode(encoding))
    else:
        lines[row : row + 1] = draw.choice(
            ([], [lines[row]] * 2, [f"{name}: {draw.choice(YAML)}"], [f"  {lines[row]}"])
        )
        path.write_text("\n".join(lines), encoding="utf-8")


YAML = (
    "!!python/object:os.system x",
    "&a [*a]",
    "*b",
    "[",
    "{",
    "}",
    "'",
    "\t",
    "yes",
    ".nan",
    ".inf",
    "2026-11-28",
    "|",
)
YAML += (
    "0o17",
    "1e-3",
    "- x",
    "? x",
    "~",
    "<<: {}",
    "!!binary x",
    "!!set {a}",
    "@",
    "%",
    "[" * 200,
    "[" * 5000,
    "1" * 5000,
)


def spoil_report(draw, path):
    """Make a report wrong, as a file or in what it says."""
    if draw.happens(0.5):
        spoil_file(draw, path)
        return
    report = json.loads(path.read_text())
    spoil_tree(draw, report)
    path.write_text(json.dumps(report))


def odd_path(draw):
    """A path that is nothing to any option: missing, a file or a folder of another kind, or a strange text."""
    theirs = draw.world.photos
    paths = [theirs, theirs / "IMG_0001.png", theirs / "letter.txt", theirs / "none", theirs / "letter.txt/none"]
    return draw.choice([*paths, "none", "/dev/null", "/dev/null/x", "", ".", "a/" * 3000, *TEXTS])


def spoil_some(draw, files, *counts):
    """Make so many of the files wrong, each in a way of its kind; the number is drawn."""
    ways = {".yaml": spoil_yaml, ".json": spoil_report, ".safetensors": spoil_model}
    for path in draw.sample(sorted(files), min(draw.choice(counts), len(files))):
        ways.get(path.suffix, spoil_file)(draw, path)


def copied_runs(draw, *counts):
    """The case's own copy of run folders, finished or not, in which so many files are wrong."""
    source, target = draw.choice((draw.world.runs, draw.world.unfinished)), draw.path()
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("tb"))
    files = [path for path in target.rglob("*.*") if path.suffix not in (".png", ".csv") or draw.happens(0.1)]
    spoil_some(draw, [path for path in files if path.is_file()], *counts)
    return target


def own_runs(draw):
    """A runs folder in which a command may change files."""
    return odd_path(draw) if draw.happens(0.3) else copied_runs(draw, 0, 1, 2)


def runs_folder(draw):
    """A runs folder, the user's own among them."""
    return draw.world.runs if draw.happens(0.3) else own_runs(draw)


def model_file(draw):
    """A model of any stage, as its run folder holds it; or something else."""
    if draw.happens(0.2):
        return odd_path(draw)
    if draw.happens(0.3):
        kinds = (".safetensors", ".ckpt", ".yaml")
        folder = copied_runs(draw, 0, 1, 2)
        return draw.choice([*sorted(path for path in folder.rglob("*.*") if path.suffix in kinds), folder])
    path = draw.path().with_suffix(draw.choice((".safetensors", ".safetensors", ".ckpt", ".pt", "")))
    shutil.copy(draw.choice(draw.world.models), path)
    if draw.happens(0.7):
        spoil_model(draw, path)
    return path


def noise(draw, *shape):
    return np.frombuffer(draw.randbytes(int(np.prod(shape))), np.uint8).reshape(shape)


def image_folder(draw, *sizes):
    """A folder of PNG files, some of which may be damaged, of another kind or size, or something else."""
    if draw.happens(0.15):
        return odd_path(draw)
    folder, size = draw.path(), draw.choice(sizes or ((8, 8), (28, 28), (12, 10)))
    count = draw.choice((12, 12, 12, 10, 9, 1, 0))
    folder.mkdir()
    for index in range(count):
        Image.fromarray(noise(draw, *size)).save(folder / f"{index:03}{draw.choice(('.png', '.png', '.PNG'))}")
    files = sorted(folder.iterdir())
    for path in draw.sample(files, min(draw.choice((0, 1, 1, 2)), count)):
        if draw.happens(0.4):
            spoil_file(draw, path)
        else:
            spoil_image(draw, path, size)
    return folder


def spoil_image(draw, path, size):
    """Put another image in the place of a grey one, or something beside it."""
    grey = Image.fromarray(noise(draw, *size))
    colour = Image.fromarray(noise(draw, *size, 3))
    deep = Image.fromarray(noise(draw, *size).astype(np.uint16) * 257)
    clear = grey.convert("LA")
    clear.putalpha(Image.fromarray(noise(draw, *size)))
    huge = b"IHDR" + struct.pack(">IIBBBBB", draw.choice((0, 60_000, 2**31 - 1)), 60_000, 8, 0, 0, 0, 0)
    header = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + huge + struct.pack(">I", zlib.crc32(huge))
    ways = {
        "colour": lambda: colour.save(path),
        "grey as colour": lambda: grey.convert("RGB").save(path),
        "16 bits": lambda: deep.save(path),
        "alpha": lambda: clear.save(path),
        "colour and alpha": lambda: colour.convert("RGBA").save(path),
        "palette": lambda: grey.convert("P").save(path, transparency=draw.randrange(256)),
        "black and white": lambda: grey.convert("1").save(path),
        "another size": lambda: grey.resize((5, 7)).save(path),
        "several frames": lambda: grey.save(path, save_all=True, append_images=[Image.fromarray(noise(draw, *size))]),
        "another format": lambda: grey.save(path, draw.choice(("JPEG", "GIF", "BMP", "TIFF"))),
        "huge": lambda: path.write_bytes(header),
        "hidden": lambda: path.with_name(f"._{path.name}").write_bytes(b"none"),
        "a folder": lambda: path.with_name(f"x{path.name}").mkdir(),
        "beside others": lambda: path.with_name("Thumbs.db").write_bytes(b"none"),
        "a strange name": lambda: path.rename(path.with_name(draw.choice(NAMES) + ".png")),
    }
    ways[draw.choice([*ways])]()


def data_folder(draw):
    """A folder of data sets: none, or a small MNIST whose files may be wrong."""
    if draw.happens(0.3):
        return odd_path(draw)
    folder = draw.path()
    raw = folder / "MNIST/raw"
    raw.mkdir(parents=True)
    size = draw.choice((28, 28, 8, 1))
    for half, count in {"train": draw.choice((50, 50, 5, 1)), "t10k": 20}.items():
        marks = np.frombuffer(draw.randbytes(count), np.uint8) % draw.choice((10, 10, 1, 11))
        for kind, content in {"images-idx3": noise(draw, count, size, size), "labels-idx1": marks}.items():
            header = struct.pack(f">HBB{content.ndim}I", 0, 8, content.ndim, *content.shape)
            (raw / f"{half}-{kind}-ubyte").write_bytes(header + content.tobytes())
    if draw.happens(0.6):
        spoil_file(draw, draw.choice(sorted(raw.iterdir())))
    return folder


def results_folder(draw):
    """A folder of reports: none yet, the user's own, a copy in which some are wrong, or another."""
    if draw.happens(0.4):
        return draw.choice((draw.place / "reports", draw.world.results, odd_path(draw)))
    target = draw.path()
    shutil.copytree(draw.world.results, target)
    spoil_some(draw, [*target.rglob("*.json")], 0, 1, 2)
    return target


def zoo_folder(draw):
    """A copy of the weights that ship, of which some may be wrong; or another folder."""
    if draw.happens(0.4):
        return odd_path(draw)
    target = draw.path()
    shutil.copytree(draw.world.zoo, target)
    spoil_some(draw, [*target.iterdir()], 0, 1, 1, 2)
    return target


def some_folder(draw):
    """A folder to write to: new, or one that holds something else."""
    return draw.path() if draw.happens(0.3) else odd_path(draw)


FILES = {
    "ckpt": model_file,
    "classifier": model_file,
    "stage1": model_file,
    "train.start_from": model_file,
    "perceptual.classifier": model_file,
    "inception": model_file,
    "images": image_folder,
    "runs": runs_folder,
    "data_dir": data_folder,
    "results": results_folder,
    "zoo": zoo_folder,
    "out": some_folder,
    "tokens_dir": some_folder,
}
"""Option that names files -> what draws them."""


# ----------------------------------------------------------------------------------------------------------------------
# Commands


def spoil_arguments(draw, arguments, options, kept=()):
    """The arguments, one of them changed, dropped or added.

    Args:
        arguments: `key=value` texts.
        options: all options of the command -> default or type.
        kept: those without which the command would work long.
    """
    arguments, free = list(arguments), [text for text in arguments if text.partition("=")[0] not in kept]
    way = draw.random()
    if way < 0.7 or not free:
        name = draw.choice([*options])
        given = f"{name}={text_for(draw, name, options[name])}"
        rest = arguments if draw.happens(0.1) else [text for text in arguments if text.partition("=")[0] != name]
        return [given, *rest] if draw.happens(0.2) and name not in kept else [*rest, given]
    one = draw.choice(free)
    name, _, value = one.partition("=")
    if way < 0.93:
        changed = f"{name}={text_for(draw, name, options.get(name, str))}"
    else:
        garbled = (f"{misspelt(draw, name)}={value}", name, f"{name}:{value}", f"={value}", f"{name}=", "", value)
        changed = draw.choice((*garbled, f"{name} = {value}", f"{one} ", f"{name}=={value}", draw.choice(TEXTS), None))
    place = arguments.index(one)
    return arguments[:place] + ([] if changed is None else [changed]) + arguments[place + 1 :]


def commanded(draw, module, arguments, least=1):
    """A call of a command, of whose arguments at least so many are spoilt."""
    for _ in range(least + draw.choice((0, 0, 1, 2))):
        arguments = spoil_arguments(draw, arguments, module.OPTIONS)
    return called_command(module.__name__, module.main, arguments)


def called_command(name, main, arguments):
    """The case of one command line."""
    verb = name.removesuffix(".__main__")

    def call():
        sys.argv = [verb, *arguments]
        run_command(main)

    return Case(verb, shlex.join([verb, *arguments]), call)


def runs_argument(draw):
    """Where the models are: mostly the user's own runs; else a copy in which something may be wrong, and how many
    arguments have to be spoilt then.
    """
    if draw.happens(0.6):
        return f"runs={draw.world.runs}", 1
    return f"runs={copied_runs(draw, 1, 1, 2, 4)}", 0


def of_model(module, *arguments, stages=("absorbing", "gaussian")):
    """Draws calls of a command that takes a trained model."""

    def draw_case(draw):
        runs, least = runs_argument(draw)
        named = [f"ckpt={model_file(draw)}"] if draw.happens(0.25) else []
        subject = ["data=digits", f"stage={draw.choice(stages)}", runs, *named]
        return commanded(draw, module, [*subject, *arguments], 0 if named else least)

    return draw_case


def draw_evaluation_of_images(draw):
    """A folder of pictures that anyone made."""
    arguments = ["data=digits", f"images={image_folder(draw)}", "features=classifier", f"runs={draw.world.runs}"]
    return commanded(draw, evaluate, [*arguments, "protocol=val", "n=10", "results=reports"], draw.choice((0, 1)))


def draw_analytic(draw):
    """It writes into the model's file, which therefore is a copy."""
    path = draw.path().with_suffix(".safetensors")
    shutil.copy(draw.world.runs / "digits/base/gaussian/model.safetensors", path)
    if draw.happens(0.4):
        spoil_model(draw, path)
    draw.world = draw.world._replace(runs=copied_runs(draw, 0, 1))
    return commanded(draw, analytic, ["data=digits", f"ckpt={path}", "n=10", "times=2"], draw.choice((0, 1)))


def draw_publish(draw):
    """From a copy of the runs, of which something may be wrong."""
    arguments = ["data=digits", f"runs={copied_runs(draw, 0, 1, 2)}", f"stage={draw.choice([*publish.TRAINED])}"]
    return commanded(draw, publish, arguments, draw.choice((0, 1)))


def draw_cards(draw):
    """Of weights that ship, and reports on them."""
    arguments = [f"zoo={zoo_folder(draw)}", f"results={results_folder(draw)}"]
    return commanded(draw, cards, arguments, draw.choice((0, 0, 1)))


def draw_compare(draw):
    """Of reports, of which some may be wrong."""
    results = draw.path()
    shutil.copytree(draw.world.results, results)
    spoil_some(draw, [*(results / "mnist").rglob("*.json")], 0, 1, 1, 2)
    return commanded(draw, compare, [f"results={results}", "presets=base base-relu"], draw.choice((0, 0, 1)))


def draw_recognise(draw):
    """Of a folder of samples, in which some pictures may be others."""
    runs = draw.place / "recognised"
    folder = runs / "digits/base/samples/images"
    folder.parent.mkdir(parents=True)
    made = Path(image_folder(draw, (28, 28)))
    if made.is_dir() and made.is_relative_to(draw.place):
        made.rename(folder)
    return commanded(draw, recognise, [f"runs={runs}"], draw.choice((0, 1)))


TINY = ("preset=base", "data=digits", "image_size=8", "precision=fp32", "train.compile=false", "train.batch_size=32")
TINY += ("train.max_steps=2", "train.max_epochs=1", "train.warmup_steps=0", "train.val_every=2", "train.save_every=1")
TRAININGS = {
    "vq_svae": (
        *("T=2", "early_T=null", "model.channels=[4,8]", "model.embedding_dim=4", "model.codebook_size=8"),
        *("perceptual.weight=0", "adversary.weight=0", "rate.weight=0"),
    ),
    "absorbing": ("T=2", "early_T=null", "model.width=8", "model.num_blocks=1", "styles=1", "rate.weight=0"),
    "gaussian": (
        *("T=2", "early_T=null", "model.width=4", "model.multipliers=[1]", "model.patch_size=1", "conditional=true"),
        *("diffusion.diffusion_steps=10", "sample.sample_steps=2"),
    ),
    "classifier": ("model.channels=[4,8]",),
}
"""Stage -> arguments that make its training one of moments, after `TINY`."""

KEPT = ("train.compile", "train.max_steps", "train.max_epochs", "model.width", "model.multipliers", "perceptual.weight")
KEPT += ("perceptual.classifier", "train.batch_size")


def leaves(values, prefix=""):
    """Dotted name -> value of nested dicts."""
    flat = {}
    for name, value in values.items():
        flat |= leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


FIELDS = {stage: leaves(asdict(kind())) for stage, kind in STAGES.items()}


def training(stage):
    """Draws calls that train a stage, from the beginning or in a run folder that exists, which may be damaged."""

    def draw_case(draw):
        arguments = [*TINY, *TRAININGS[stage]]
        runs = (
            draw.path()
            if draw.happens(0.5)
            else draw.world.runs
            if draw.happens(0.2)
            else copied_runs(draw, 0, 1, 1, 2)
        )
        arguments.append(f"runs={runs}")
        models = draw.world.runs / "digits/base"
        if stage == "absorbing":
            arguments.append(f"stage1={models / 'vq_svae/model.safetensors'}")
        if stage == "vq_svae":
            arguments.append(f"perceptual.classifier={models / 'classifier/model.safetensors'}")
        if draw.happens(0.1):
            arguments += ["data=mnist", f"data_dir={data_folder(draw)}"]
        if draw.happens(0.1):
            arguments.append(f"train.start_from={model_file(draw)}")
        for _ in range(draw.choice((0, 1, 1, 2, 3)) if runs.exists() else draw.choice((1, 1, 2, 3))):
            arguments = spoil_arguments(draw, arguments, FIELDS[stage], KEPT)
        name = draw.choice((*STAGES, *TEXTS, None)) if draw.happens(0.05) else stage
        return called_command("stages.train", train.main, [*([] if name is None else [name]), *arguments])

    return draw_case


# ----------------------------------------------------------------------------------------------------------------------
# The library


def called(function, *arguments, **options):
    """The case of one call in Python."""
    parts = [*map(shown, arguments), *(f"{name}={shown(value)}" for name, value in options.items())]
    verb = function.__qualname__
    return Case(verb, f"{verb}({', '.join(parts)})", lambda: function(*arguments, **options))


def shown(value):
    """A value in short."""
    if hasattr(value, "dtype") and getattr(value, "ndim", 0):
        return f"{type(value).__module__}.{value.dtype} {list(value.shape)}"
    text = repr(value)
    return text if len(text) <= 2000 else f"{text[:2000]}..."


def draw_settings(draw, generator):
    """Settings of a sampler, mostly of its own, some with values of any type."""
    names = [*asdict(generator.config.sample), "label"] if draw.happens(0.9) else [*command_line.SAMPLER, "samplesteps"]
    wholes = (0, 1, 2, 3, 4, 64, -1, 2**40, np.int64(2), 2**63)
    reals = (0.0, 0.5, 1, 2, 1.5, 1e308, -1.0, np.float32(0.3), 1e-300, -0.0)
    settings = {}
    for name in draw.sample(names, draw.choice((0, 1, 2, 3))):
        usual = CHOICES.get(name) or (wholes if command_line.SAMPLER.get(name) is int else reals)
        settings[name] = draw.choice(OBJECTS if draw.happens(0.2) else usual)
    return settings


def draw_sampling(draw):
    """Images from a generator."""
    generator = draw.choice((draw.world.latent, draw.world.pixel))
    options = {"sample_steps": 2} | draw_settings(draw, generator)
    if draw.happens(0.2):
        options["seed"] = draw.choice((*OBJECTS, 0, 1, -1, np.int64(2), 2**32 - 1, 2**32))
    if draw.happens(0.1):
        options["first"] = draw.choice((*OBJECTS, 1024, 1025, 2**62, -1024))
    return called(generator.sample, draw.choice((*OBJECTS, 0, -1)) if draw.happens(0.15) else 1, **options)


def draw_setting(draw):
    """The settings alone."""
    generator = draw.choice((draw.world.latent, draw.world.pixel))
    return called(generator.sampling, **draw_settings(draw, generator))


def draw_images(draw, shape):
    """Images of all types, shapes and ranges."""
    levels = noise(draw, *shape)
    unit = torch.from_numpy(levels.copy()) / 255
    grey = Image.fromarray(levels.reshape(-1, shape[-1]))
    signed, holes = 2 * unit - 1, unit.clone()
    holes.flatten()[0] = draw.choice((float("nan"), float("inf"), -0.1, 1.1, 255))
    pictures = [
        grey,
        grey.convert("RGB"),
        grey.convert("CMYK"),
        grey.convert("F"),
        grey.convert("1"),
        grey.convert("P"),
    ]
    return draw.choice(
        (
            *(unit, unit, unit[None], unit[0], unit.double(), unit.half(), unit.requires_grad_(), unit.flip(-1)),
            *(
                torch.from_numpy(levels.copy()),
                levels,
                levels[None],
                levels[..., ::-1],
                levels.astype(np.float64) / 255,
            ),
            *(
                levels.astype(np.int64),
                levels.astype(np.uint16),
                levels > 9,
                levels.astype(complex),
                levels.astype("U3"),
            ),
            *(
                signed,
                holes,
                unit[None].expand(3, *shape),
                torch.zeros(0, *shape),
                torch.zeros(()),
                unit * 255,
                unit.mT,
            ),
            *(torch.zeros(1, 3, 5, 7), torch.zeros(2, 2, 8, 8), torch.zeros(1, 1, 8, 8, 8), levels.astype(object)),
            *(
                draw.choice(pictures),
                [grey, grey],
                [unit, levels],
                [],
                [[]],
                [None],
                levels.tolist(),
                draw.choice(OBJECTS),
            ),
            *(grey.convert("RGBA"), Image.fromarray(noise(draw, 8, 8).astype(np.uint16)), grey.resize((5, 7)), "x.png"),
        )
    )


def draw_inpainting(draw):
    """Completing images."""
    generator = draw.world.latent
    grid = generator.model.vq_svae.grid
    keep = torch.rand(grid, generator=torch.Generator().manual_seed(draw.randrange(99))) > 0.5
    keeps = [
        keep,
        keep,
        keep.numpy(),
        keep.tolist(),
        keep[None],
        keep.float(),
        keep.numpy().astype(int),
        keep[:1],
        None,
    ]
    keeps += [keep.expand(2, *grid), [[True], [True, False]], "x", [], torch.zeros(9, 9).bool(), True, keep | True]
    images = draw_images(draw, (1, 8, 8)) if draw.happens(0.7) else torch.rand(1, 1, 8, 8)
    options = {"sample_steps": 2} | (draw_settings(draw, generator) if draw.happens(0.3) else {})
    return called(generator.inpaint, images, draw.choice(keeps), **options)


def draw_tokenizing(draw):
    """Images to tokens."""
    images = draw_images(draw, (1, 8, 8))
    if isinstance(images, torch.Tensor) and draw.happens(0.7):
        images = images[None]
    return called(draw.world.latent.model.vq_svae.tokenize, images)


def draw_loading(draw):
    """A model's file."""
    path = model_file(draw)
    if isinstance(path, Path) and draw.happens(0.5):
        path = str(path)
    if draw.happens(0.1):
        path = draw.choice(("digits", "digits-base", "digits-base-gaussian", "digits-base-classifier", "imagenet"))
    how = draw.choice((load_model, load_generator, LatentGenerator.from_pretrained, PixelGenerator.from_pretrained))
    options = {}
    if how != load_model and draw.happens(0.3):
        options["precision"] = draw.choice((*CHOICES["precision"], None, 32))
    return called(how, path, **options)


def draw_data(draw):
    """A data set, and its splits."""
    name, size = draw.choice(("mnist", "mnist", *CHOICES["data"])), draw.choice((None, None, None, 8, 1, 0))
    path, split = data_folder(draw), draw.choice(("train", "val", "test", "variance", "stand_in", "image_shape"))

    def split_of(name, path, image_size):
        return getattr(load_dataset(name, path, image_size), split)

    return called(split_of, name, path, size)._replace(verb="load_dataset")


def config_file(draw):
    """A whole configuration of a stage, as a run folder holds it: its file, and the stage."""
    stage, path = draw.choice([*STAGES]), draw.path().with_suffix(".yaml")
    shutil.copy(draw.world.runs / f"digits/base/{stage}/config.yaml", path)
    return stage, path


def draw_reading(draw):
    """A configuration file of a run."""
    _, path = config_file(draw)
    for _ in range(draw.choice((1, 1, 2))):
        if path.is_file() and not path.is_symlink():
            with_text = path.read_bytes().strip()
            (spoil_yaml if with_text and draw.happens(0.9) and is_utf8_mapping(path) else spoil_file)(draw, path)
    return called(read_config, odd_path(draw) if draw.happens(0.1) else path)


def is_utf8_mapping(path):
    """Whether a file still is YAML that can be changed as such."""
    try:
        return isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), dict)
    except (ValueError, RecursionError, yaml.YAMLError):
        return False


def draw_building(draw):
    """A configuration from nested values, as a model's file holds them."""
    stage = draw.choice([*STAGES])
    values = asdict(read_config(draw.world.runs / f"digits/base/{stage}/config.yaml"))
    for _ in range(draw.choice((1, 1, 2, 3))):
        spoil_tree(draw, values)
    return called(config_from_dict, values)


def draw_configuring(draw):
    """A preset and overrides."""
    stage = draw.choice([*STAGES])
    path = draw.path().with_suffix(".yaml")
    shutil.copy(draw.choice(sorted((CONFIGS / stage).glob("*.yaml"))), path)
    shutil.copy(CONFIGS / stage / "base.yaml", path.with_name("base.yaml"))
    if draw.happens(0.2):
        path.write_text(f"extends: {draw.choice((path.stem, 'none', '../x', '5', '[]', '~', 'a: b', *TEXTS[:20]))}\n")
    elif draw.happens(0.6):
        spoil_yaml(draw, path)
    overrides = []
    for _ in range(draw.choice((0, 0, 1, 2))):
        overrides = spoil_arguments(draw, overrides, FIELDS[stage])
    return called(load_config, "unet" if draw.happens(0.03) else stage, path, overrides)


VERBS = {
    **{training(stage): 55 for stage in STAGES},
    of_model(sample, "n=1", "sample_steps=2", "out=made"): 120,
    of_model(
        *(evaluate, "n=10", "sample_steps=2", "protocol=val", "features=classifier", "results=reports"),
        stages=("absorbing", "gaussian", "vq_svae"),
    ): 90,
    draw_evaluation_of_images: 70,
    of_model(energy, "n=1", "sample_steps=2", "results=reports"): 30,
    of_model(firing_rates, "n=64", "results=reports"): 25,
    of_model(spiking_report, "n=1", "results=reports", stages=("absorbing", "gaussian", "vq_svae")): 35,
    of_model(portrait, "n=1", "sample_steps=2", "results=reports"): 15,
    of_model(labels, "n=1", "sample_steps=2", "strengths=1", "results=reports"): 25,
    of_model(threshold_sweep, "n=10", "seeds=2", "shifts=0.01", "results=reports", stages=("gaussian",)): 25,
    of_model(decompose, "calls=1", "results=reports", stages=("absorbing",)): 25,
    draw_analytic: 30,
    draw_publish: 35,
    draw_cards: 35,
    draw_compare: 35,
    draw_recognise: 12,
    lambda draw: commanded(draw, ablation, ["data=digits", "seeds=1", "runs=trials"]): 20,
    lambda draw: commanded(draw, all_runs, ["data=digits", "presets=base", "runs=trials"]): 20,
    lambda draw: commanded(draw, candidates, ["data=digits", "seeds=1", f"runs={copied_runs(draw, 0, 1)}"]): 25,
    lambda draw: commanded(draw, bench, ["rounds=1", "only=scan", "out=bench.json"]): 15,
    draw_sampling: 60,
    draw_setting: 30,
    draw_inpainting: 60,
    draw_tokenizing: 30,
    draw_loading: 80,
    draw_data: 30,
    draw_reading: 50,
    draw_building: 40,
    draw_configuring: 50,
}
"""What draws a case -> how often."""


def drawn(index, world, place):
    """Case `index`, which depends on its number alone."""
    draw = Draw(index, world, place)
    (verb,) = draw.choices([*VERBS], [*VERBS.values()])
    return verb(draw)


# ----------------------------------------------------------------------------------------------------------------------
# Running


STAND_IN = b"in place of the Inception's weights"


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
        return StandIn() if Path(path).read_bytes() == STAND_IN else Inception(path, *settings)

    (place / "data" / WEIGHTS).parent.mkdir(parents=True)
    (place / "data" / WEIGHTS).write_bytes(STAND_IN)
    few = {name: replace(protocol, generated=12, num_seeds=2) for name, protocol in PROTOCOLS.items()}
    environment, arguments = dict(os.environ), sys.argv
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("HOME", str(place / "home"))
        patch.setattr(subprocess, "Popen", no_process)
        patch.setattr(socket, "getaddrinfo", no_network)
        patch.setattr(socket.socket, "connect", no_network)
        patch.setattr(examiner, "Inception", inception)
        for module in (train, command_line):
            patch.setattr(module, "can_compile", lambda: False)
        for module in (generators, analytic, steps):
            patch.setattr(module, "ZOO", zoo)
        for module in (publish, cards):
            patch.setitem(module.OPTIONS, "zoo", zoo)
        for module, count in {labels: 1, threshold_sweep: 10, analytic: 10, energy: 1}.items():
            patch.setitem(module.OPTIONS, "n", count)
        for name, protocol in few.items():
            patch.setitem(PROTOCOLS, name, protocol)
        yield
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
            out.flush()
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
        if fault is None and b"Traceback" in stream.buffer.getvalue():
            fault = stream.buffer.getvalue().decode(errors="replace")[-1500:]
    if fault is None and code not in (0, 2):
        fault = f"exit code {code}"
    return fault or {0: "works", 2: "refused"}[code]


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
        self.folder, self.contents = folder, {path: path.read_bytes() for path in stamps(folder)}
        self.folders, self.stamps = {path for path in folder.rglob("*") if path.is_dir()}, stamps(folder)

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


OWN = {"stages.train": "*.c[ks][pv]*", "stages.cards": "digits-base-*"}
"""Verb -> files that it may have written before it met what is wrong: until training diverged, of other models."""


def tried(index, world, guard, place):
    """Draw and run a case: its verb, how it ends, and the fault, told with the call; None without one."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    zoo = shutil.copytree(world.zoo, place / "zoo")
    with fence(place, zoo):
        case = drawn(index, world, place)
        before = {path: path.read_bytes() for path in stamps(place) if path.is_file()}
        found = ending(case)
    wrong = [] if found in ("works", "refused") else [found]
    wrong += [f"changed {path.relative_to(world.theirs)}" for path in guard.changed()]
    if found == "refused":
        after = {path: path.read_bytes() for path in stamps(place) if path.is_file()}
        changed = [
            path for path in before if before[path] != after.get(path) and not path.match(OWN.get(case.verb, "/"))
        ]
        wrong += [f"changed {path.relative_to(place)}, though refused" for path in changed]
    left = [path.relative_to(place) for path in place.rglob(".*.part")]
    wrong += [f"left {path}" for path in left]
    if (place / "~").exists():
        wrong.append("made a folder called ~")
    told = (
        re.sub(r"(..?)\1{40,}", r"\1...", case.told).replace(str(world.theirs), "THEIRS").replace(str(place), "PLACE")
    )
    return case.verb, found, f"case {index}: {told}\n{'; '.join(wrong)}" if wrong else None


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Tiny trained models of all stages, reports on them, and a user's other files."""
    root = tmp_path_factory.mktemp("fuzz")
    theirs, place, zoo = root / "theirs", root / "making", root / "zoo"
    for folder in (theirs, place, zoo):
        folder.mkdir()
    runs, unfinished, results, photos = (theirs / name for name in ("runs", "unfinished", "results", "photos"))
    with fence(place, zoo):
        for folder in (runs, unfinished):
            for stage, own in TRAININGS.items():
                stop_at = 1 if folder == unfinished else None
                trained_until(stop_at, [stage, *TINY, *own, f"runs={folder}"], runs)
        for stage in publish.TRAINED:
            publish.main(["data=digits", f"stage={stage}", f"runs={runs}"])
        measure(runs, zoo, results)
    write_photos(photos)
    names = ["absorbing", "gaussian"]
    latent, pixel = (load_generator(runs / f"digits/base/{name}/model.safetensors") for name in names)
    models = sorted(runs.rglob("model.safetensors"))
    foreign = foreign_contents([*runs.rglob("*.safetensors"), *runs.rglob("*.ckpt"), *runs.rglob("*.yaml")])
    return World(theirs, runs, unfinished, results, photos, zoo, models, foreign, latent, pixel)


def trained_until(step, arguments, runs):
    """Train; where `step` is one, stop there as a kill would."""
    if arguments[0] == "absorbing":
        arguments = [*arguments, f"stage1={runs / 'digits/base/vq_svae/model.safetensors'}"]
    whole = Stage.training_step

    def dying(self, batch, batch_idx):
        if self.global_step == step:
            raise RuntimeError("killed")
        return whole(self, batch, batch_idx)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Stage, "training_step", dying)
        if step is None:
            train.main(arguments)
        else:
            with pytest.raises(RuntimeError, match="killed"):
                train.main(arguments)


def measure(runs, zoo, results):
    """Reports on the digits, and the same as if they were on MNIST, which alone are compared."""
    shipped = [f"ckpt={zoo / 'digits-base-absorbing.safetensors'}", "data=digits", f"results={results}", f"runs={runs}"]
    evaluate.main([*shipped, "protocol=test-10k", "features=classifier", "sample_steps=2"])
    energy.main([*shipped[:-1], "n=1", "sample_steps=2"])
    folder = results / "digits/base"
    (made,) = folder.glob("test-10k*.json")
    report = json.loads(made.read_text())
    for name in ("fid", "kid", "precision", "recall"):
        report["metrics"][name], report["floor"][name] = report["metrics"]["classifier_distance"], 1.5
    (folder / "test-10k.json").write_text(json.dumps(report))
    (results / "mnist/base").mkdir(parents=True)
    for path in folder.glob("*.json"):
        (results / "mnist/base" / path.name).write_text(path.read_text().replace('"digits"', '"mnist"'))


def write_photos(folder):
    """A user's pictures and a letter, some of them where samples of ours would go."""
    draw = random.Random(0)
    (folder / "images").mkdir(parents=True)
    names = [f"IMG_{index:04}.png" for index in range(1, 13)] + [f"images/{index:06}.png" for index in range(1, 4)]
    for name in [*names, "grid.png"]:
        Image.fromarray(noise(draw, 8, 8)).save(folder / name)
    (folder / "letter.txt").write_text("Dear reader,\n")


def foreign_contents(ours):
    """Contents of files of all kinds."""
    streams = [io.BytesIO() for _ in range(4)]
    torch.save({"state_dict": {}, "epoch": 1}, streams[0])
    torch.save(torch.nn.Linear(2, 2), streams[1])
    np.savez(streams[2], a=np.ones(3))
    Image.new("L", (8, 8)).save(streams[3], "PNG")
    keys = ("callbacks", "global_step", "loops", "pytorch-lightning_version", "state_dict")
    for value in ({}, [], None, {"KeepRun": {}}, {"a": torch.ones(1)}):
        streams.append(io.BytesIO())
        torch.save(dict.fromkeys(keys, value), streams[-1])
    plain = [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"NaN",
        b"3",
        b"\xff\xfe\0",
        b"text\n",
        b"T: 4\n",
        b"step,loss\n1,x\n",
        b"\0" * 64,
    ]
    weights = [
        save({"weight": torch.ones(2)}),
        save({}, {"format": "spiking_vq/1", "config": "{}"}),
        b"PK\3\4" + b"x" * 99,
    ]
    pickled = [pickle.dumps({"a": 1}), pickle.dumps(Hang)]
    return [
        *plain,
        *weights,
        *pickled,
        *(stream.getvalue() for stream in streams),
        *(path.read_bytes() for path in ours),
    ]


@pytest.fixture(scope="module")
def guard(world):
    """Watches over the user's files."""
    return Guard(world.theirs)


@pytest.fixture(scope="module")
def endings():
    """Case -> its verb and how it ended, of all batches."""
    return {}


@pytest.mark.parametrize("batch", BATCHES, ids=lambda batch: f"{batch[0]:03}-{batch[-1]:03}")
def test_bad_input_is_refused_or_works(batch, world, guard, endings, tmp_path):
    faults = []
    for index in batch:
        verb, found, fault = tried(index, world, guard, tmp_path / "a/b/place")
        endings[index] = verb, found
        faults += [fault] if fault else []
    assert not faults, "\n\n".join([f"{len(faults)} of {len(batch)}", *faults])


def test_cases_are_of_all_kinds(endings):
    """Many are refused and many work, so that neither is missed; and so it is with most verbs."""
    if len(endings) < CASES:
        pytest.skip("tells of all cases together")
    counts = Counter(found for _, found in endings.values())
    assert min(counts["works"], counts["refused"]) >= 200, counts
    both = {"works", "refused"}
    one_sided = {verb for verb, _ in endings.values()} - {
        verb for verb in dict(endings.values()) if both <= {found for name, found in endings.values() if name == verb}
    }
    assert not one_sided


def test_generators_are_as_they_were(world):
    for name, generator in {"absorbing": world.latent, "gaussian": world.pixel}.items():
        again = load_generator(world.runs / f"digits/base/{name}/model.safetensors")
        assert torch.equal(generator.sample(2).images, again.sample(2).images)

"""What `test_fuzz.py` draws its cases from: values, files and folders, right and wrong, and the calls that take them.

A case takes a call that works and spoils it in some places. All of it is a function of one seed.
"""

import io
import json
import pickle
import random
import shlex
import shutil
import struct
import sys
import zlib
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict
from decimal import Decimal
from importlib import import_module
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

import numpy as np
import torch
import yaml
from PIL import Image
from safetensors.torch import load, save

from spiking_vq.checkpoint.file import load_model
from spiking_vq.config.load import config_from_dict, leaves, load_config, read_config
from spiking_vq.config.schema import STAGES
from spiking_vq.data.datasets import load_dataset
from spiking_vq.pipelines.latent import LatentPipeline
from spiking_vq.pipelines.load import load as load_pipeline
from spiking_vq.pipelines.pixel import PixelPipeline
from stages.__main__ import COMMANDS, main
from stages.cli.options import SAMPLER, SamplerArguments, preset_file
from stages.cli.run import run_command
from stages.evaluate.protocols import PROTOCOLS
from stages.publish.weights import TRAINED


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
    """What all cases share.

    Attributes:
        theirs: the user's files, none of which may change.
        runs, unfinished: among them, run folders of all stages on the digits, of finished runs and of stopped ones.
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
    latent: LatentPipeline
    pixel: PixelPipeline


class Draw(random.Random):
    """What one case is drawn from: a seed, the world, and a folder of its own.

    Args:
        index: the seed.
        world: is only read.
        place: the folder.
    """

    def __init__(self, index, world, place):
        super().__init__(index)
        self.world, self.place = world, place

    def happens(self, probability):
        return self.random() < probability

    def path(self, suffix=None):
        """A new path in the case's folder, of a strange name where no suffix is asked for."""
        number = len(list(self.place.iterdir()))
        return self.place / f"{number}{self.choice(NAMES) if suffix is None else suffix}"


# ----------------------------------------------------------------------------------------------------------------------
# Values


def words(text):
    """The words of a text."""
    return text.split()


LATIN_1 = ["\udce9"] if sys.platform == "linux" else []  # an é of other bytes than UTF-8's; other systems refuse it
NAMES = [*words("' [1] =1 %d é 数 ~ .png .ckpt .safetensors"), "", " b", "\n", "x" * 200, *LATIN_1]
TEXTS = [*words("null true [] {} é 数 a=b .. ../.. * ' \" $HOME %s {0} ~ ~/x ~nosuchuser/x -n # 2026_11_28 1:30"), " "]
TEXTS += ["a b", "a #1", "\n", "\t", "\0", "x" * 300, *LATIN_1]

COUNTS = words("1 2 3 10 16 010 +2 64 0 -1 -16")
LARGE = words(
    "1152921504606846976 4611686018427387904 9223372036854775807 -9223372036854775808"
)  # no machine has the memory for these
SEEDS = words("4294967295 4294967296")
NUMBERS = words("0 1 0.5 0.999 1e-3 -0.0 2 10 -1 1e6 1e30 1e308 1e-400 -1e-9")
LISTS = words("[4] [4,8] [2,2,2] [8,4] [1] [] [0] [-1] [4,8,8,8,8,8]")
UNREADABLE = {
    bool: words("yes 1 0 null [] tru"),
    int: [*words(f"1.5 1e3 0x10 1_000 true null ½ ٣ nan 9223372036854775808 1{40 * '0'}"), " 4"],
    float: words(f"nan inf -inf 1e999 0,5 0.5.1 1e ½ ٣.٥ true null 1{400 * '0'}"),
    list: words("[1.5] [a] [[4]] [4 4,8 [4,] [4;8] null [nan] 4"),
}
"""Type -> texts that are no value of it."""

CHOICES = {
    "stage": words("absorbing gaussian vq_svae classifier sampler"),
    "data": [*words("digits digits mnist letters cifar10 svhn"), "digits mnist"],
    "preset": words("base paper base-relu base-quantised sddpm fsddim perceptual Base"),
    "presets": [*words("base base-relu gaussian-base gaussian- gaussian-paper classifier"), "base base"],
    "device": words("cpu cpu cuda cuda:99 meta mps cpu:0 cpu:1 xla cuda:-1 gpu"),
    "precision": words("fp32 bf16 fp64 fp16"),
    "protocol": [*PROTOCOLS, "mine"],
    "protocols": [*PROTOCOLS, "val val", "val mine", ",", "val,test-10k"],
    "only": [
        *words("all reconstruction samples report portrait animation cards base plain neuron"),
        "base elbo",
        "base base",
    ],
    "features": words("all classifier inception"),
    "order": words("random halton bernoulli positions levels sideways"),
    "schedule": words("linear cosine constant sideways"),
    "sampler": words("ddpm_large ddpm_small ddim analytic dpm_solver euler"),
    "background": words("black white grey"),
    "strengths": ["1", "1 1.5", "0", "-1", "1,5", "nan", "1 1 1", "x", "1e308", "1" + 400 * "0"],
    "layers": words("ends all all none"),
    "shifts": ["0.01", "-0.01 0.01", "0", "-5", "1e308", "nan", "0.01,0.02", "-1e308 1"],
    "calls": ["1", "2 1", "0", "-1", "1.5", "99", "٣", "x", "1 1", "16 8"],
    "length": words("1 0.1 0 -1 1e-9 1e308 nan 2"),
    "neuron": words("lif relu quantised tanh"),
    "reset": words("zero subtract delayed_subtract none"),
    "surrogate": words("atan fast_sigmoid triangle rectangle sine"),
    "encoding": words("rate psp both none"),
    "psp": words("decay trace both"),
    "quantizer": words("vq product residual count none"),
    "spike_generator": words("adaptive direct poisson repeat none"),
    "output": words("tanh sigmoid relu"),
    "denoiser": words("sdid token unet"),
    "mixer": words("grid attention none"),
    "unet": words("sddpm fsddim token"),
    "prediction": words("noise v images x"),
    "loss": words("elbo reweighted masked_ce mse synaptic_current l1"),
    "strategy": words("auto ddp fsdp"),
}
"""Option, or last part of a field's name -> values, right and wrong."""

REPEATED = set(words("n T early_T num_blocks num_residual_blocks max_steps max_epochs seeds moved_copies times epochs"))
REPEATED |= set(words("rounds jobs diffusion_steps styles channels multipliers"))
"""Counts of what is done over and over: a large one is no mistake, and takes as long as it says."""

ODD = [None, True, -1, 0, 1.5, float("nan"), float("inf"), 1e308, "", "x", "3", "nan", "null", "\0", "\ud800"]
ODD += ["x" * 300, "~nosuchuser", [], [1], [None], [[]], {}, {"a": 1}, {"": {}}, [1, "a"], 2**63, 10**30]
"""What JSON, and most of it YAML, can hold."""

OBJECTS = [None, True, 1.0, 0.5, float("nan"), float("-inf"), 10**30, "1", "x", "", b"1", [], (), {}, np.bool_(True)]
OBJECTS += [1j, np.float64("nan"), np.array([1, 2]), torch.tensor(1), torch.tensor(0.5), torch.ones(2), Decimal("0.5")]
"""What a Python caller may pass in place of a number."""


def kind_of(hint):
    """The type behind an annotation: int, float, bool, str, list or Path."""
    if hasattr(hint, "__metadata__"):
        return kind_of(hint.__origin__)
    parts = [part for part in get_args(hint) if part is not NoneType]
    return get_origin(hint) if get_origin(hint) is list else kind_of(parts[0]) if parts else hint


def text_for(draw, name, kind):
    """A value of an option or a configuration field, often a right one.

    Args:
        draw: from which.
        name: of the option; of a field with its groups, as in `train.lr`.
        kind: its type.
    """
    leaf = name.split(".")[-1]
    if draw.happens(0.05):
        return draw.choice(TEXTS)
    if name in FILES:
        return str(FILES[name](draw))
    if leaf in CHOICES:
        return draw.choice(CHOICES[leaf])
    if kind in UNREADABLE and draw.happens(0.15):
        return draw.choice(UNREADABLE[kind])
    whole = COUNTS + ([] if leaf in REPEATED else SEEDS if leaf == "seed" else LARGE)
    known = {bool: ["true", "false"], int: whole, float: NUMBERS, list: LISTS}
    return draw.choice([*known.get(kind, TEXTS), *(["null"] if draw.happens(0.05) else [])])


def odd(draw):
    """One of `ODD`, of its own."""
    return deepcopy(draw.choice(ODD))


def like(draw, name, value):
    """Another value of a field of a file, mostly of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        large = [] if name in REPEATED else [2**32] if name == "seed" else [2**62, 2**63 - 1]
        return draw.choice([0, 1, 2, 3, 8, -1, 2 * value, *large])
    if isinstance(value, float):
        return draw.choice([0.0, 1.0, 0.5, 2 * value, -value, 1e308, -1e-9])
    if isinstance(value, str):
        return draw.choice(CHOICES.get(name, TEXTS))
    if isinstance(value, list):
        return draw.choice([value[::-1], value * 2, value[:1], [*value, 1]])
    return odd(draw)


def spoil_tree(draw, tree):
    """Change, drop, rename or add something, somewhere in nested dicts and lists."""
    holders, found = [tree], []
    while holders:
        holder = holders.pop()
        found.append(holder)
        values = holder.values() if isinstance(holder, dict) else holder
        holders += [value for value in values if isinstance(value, dict | list)]
    holder = draw.choice(found)
    name = draw.choice([*(holder if isinstance(holder, dict) else range(len(holder))), None])
    way = draw.random()
    if name is None or way < 0.05:
        if isinstance(holder, dict):
            holder[draw.choice(["unknown", "", "T", "stage", "a.b", "é"])] = odd(draw)
        else:
            holder.append(odd(draw))
    elif way < 0.15:
        del holder[name]
    elif way < 0.2 and isinstance(holder, dict):
        holder[misspelt(draw, name)] = holder.pop(name)
    else:
        holder[name] = like(draw, name, holder[name]) if way < 0.65 else odd(draw)


def misspelt(draw, name):
    """A name that is nearly right."""
    place = draw.randrange(len(name) + 1)
    ways = [name[:place] + name[place + 1 :], f"{name[:place]}x{name[place:]}", name.upper(), f"--{name}", f"{name} "]
    return draw.choice([*ways, name.replace("_", "-"), name.partition(".")[2], f"model.{name}"])


# ----------------------------------------------------------------------------------------------------------------------
# Files


def spoil_file(draw, path):
    """Damage a file, put something else in its place, or take it away."""
    content = path.read_bytes()
    cut, flipped = draw.randrange(len(content) + 1), bytearray(content)
    for _ in range(draw.choice([1, 3, 30]) if content else 0):
        flipped[draw.randrange(min(len(content), draw.choice([16, 2000, len(content)])))] ^= draw.randrange(1, 256)
    damaged = [*[content[:cut], bytes(flipped)] * 2, content + b"more", bytes(len(content)), b""]
    way = draw.random()
    if way < 0.85:
        path.write_bytes(draw.choice(damaged if way < 0.55 else draw.world.foreign))
        return
    path.unlink()
    if way > 0.97:
        path.symlink_to(path)
    elif way > 0.94:
        path.symlink_to(path.with_name("nowhere"))
    elif way > 0.9:
        path.mkdir()


def spoil_model(draw, path):
    """Damage a `model.safetensors`, or write it anew with something amiss in it."""
    content = path.read_bytes()
    metadata = json.loads(content[8 : 8 + struct.unpack("<Q", content[:8])[0]])["__metadata__"]
    weights = load(content)
    name = draw.choice([*weights])
    way = draw.randrange(16)
    if way < 6:
        spoil_file(draw, path)
        return
    if way == 6:
        del weights[name]
    elif way == 7:
        weights[draw.choice(["unknown", "", f"{name}.x"])] = torch.zeros(draw.choice([0, 3]))
    elif way == 8:
        weights[name] = torch.full_like(weights[name].float(), draw.choice([float("nan"), float("inf"), 0, 1e38]))
    elif way == 9:
        weights[name] = weights[name].to(draw.choice([torch.int8, torch.bool, torch.float64, torch.bfloat16]))
    elif way == 10:
        weights[name] = weights[name].flatten()[1:].clone()
    elif way == 11:
        metadata = draw.choice([None, {}, {"format": "pt"}, metadata | {"format": "spiking_vq/2"}])
    elif way == 12:
        metadata["config"] = draw.choice(["", "{", "[]", "null", "3", '"x"', "{}", '{"stage": "x"}', '{"stage": []}'])
    else:
        config = json.loads(metadata["config"])
        spoil_tree(draw, config)
        metadata["config"] = json.dumps(config)
    path.write_bytes(save(weights, metadata))


YAML = [*words("*b [ { } ' yes .nan .inf 2026-11-28 | 0o17 1e-3 ~ @ %"), "\t", "[" * 200, "[" * 5000, "1" * 5000]
YAML += ["!!python/object:os.system x", "&a [*a]", "- x", "? x", "<<: {}", "!!binary x", "!!set {a}"]
"""Values of YAML, of which we take few."""


def spoil_yaml(draw, path):
    """Make a configuration file wrong, as text or in what it says."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    row = draw.randrange(len(lines))
    name = lines[row].partition(":")[0]
    way = draw.randrange(8)
    if way < 4:
        values = yaml.safe_load(text)
        for _ in range(draw.choice([1, 1, 2])):
            spoil_tree(draw, values)
        path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8", errors="surrogatepass")
    elif way == 4:
        spoil_file(draw, path)
    elif way == 5:
        path.write_bytes(draw.choice([b"\xff\xfe", b"\xef\xbb\xbf", b"\0", b"%YAML 9\n", b"- "]) + text.encode())
    elif way == 6:
        path.write_bytes(f"# Größe\n{text}".encode(draw.choice(["utf-16", "latin-1", "utf-8"])))
    else:
        lines[row : row + 1] = draw.choice(
            [[], [lines[row]] * 2, [f"{name}: {draw.choice(YAML)}"], [f"  {lines[row]}"]]
        )
        path.write_text("\n".join(lines), encoding="utf-8")


def spoil_report(draw, path):
    """Make a report wrong, as a file or in what it says."""
    if draw.happens(0.5):
        spoil_file(draw, path)
        return
    report = json.loads(path.read_text())
    spoil_tree(draw, report)
    path.write_text(json.dumps(report))


def spoil_some(draw, files, *counts):
    """Make so many of the files wrong, each in a way of its kind; the number is drawn."""
    ways = {".yaml": spoil_yaml, ".json": spoil_report, ".safetensors": spoil_model}
    for path in draw.sample(sorted(files), min(draw.choice(counts), len(files))):
        ways.get(path.suffix, spoil_file)(draw, path)


def odd_path(draw):
    """A path that is nothing to an option: missing, a file or a folder of another kind, or a strange text."""
    photos = draw.world.photos
    theirs = [photos, photos, *(photos / name for name in ("IMG_0001.png", "letter.txt", "letter.txt/none", "none"))]
    return draw.choice([*theirs, *theirs, "none", "/dev/null", "/dev/null/x", "", ".", "a/" * 3000, *TEXTS])


def copied_runs(draw, *counts):
    """The case's own copy of run folders, of finished or of stopped runs, in which so many files are wrong."""
    source, target = draw.choice([draw.world.runs, draw.world.unfinished]), draw.path()
    shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns("tb"))
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
    """A model of any stage, alone or in its run folder; or something else."""
    if draw.happens(0.2):
        return odd_path(draw)
    if draw.happens(0.3):
        folder, kinds = copied_runs(draw, 0, 1, 2), (".safetensors", ".ckpt", ".yaml")
        return draw.choice([*sorted(path for path in folder.rglob("*.*") if path.suffix in kinds), folder])
    path = draw.path(draw.choice([".safetensors", ".safetensors", ".ckpt", ".pt", ""]))
    shutil.copy(draw.choice(draw.world.models), path)
    if draw.happens(0.6):
        spoil_model(draw, path)
    return path


def model_word(draw):
    """A model as one word: a name of what ships, a run folder or a file."""
    words_of = words("digits digits-base digits-base-gaussian digits-base-absorbing mnist digit ../digits")
    return draw.choice([*words_of, Path(runs_folder(draw)) / "digits/base", model_file(draw)])


def noise(draw, *shape):
    """Random levels, uint8."""
    return np.frombuffer(draw.randbytes(int(np.prod(shape))), np.uint8).reshape(shape)


def image_folder(draw, *sizes):
    """A folder of PNG files, some of which may be damaged, of another kind or size; or something else."""
    if draw.happens(0.15):
        return odd_path(draw)
    folder, size = draw.path(), draw.choice(sizes or [(8, 8), (28, 28), (12, 10)])
    folder.mkdir()
    for index in range(draw.choice([12, 12, 12, 10, 9, 1, 0])):
        Image.fromarray(noise(draw, *size)).save(folder / f"{index:03}{draw.choice(['.png', '.png', '.PNG'])}")
    files = sorted(folder.iterdir())
    for path in draw.sample(files, min(draw.choice([0, 1, 1, 2]), len(files))):
        if draw.happens(0.4):
            spoil_file(draw, path)
        else:
            spoil_image(draw, path, size)
    return folder


def spoil_image(draw, path, size):
    """Put another image in the place of a grey one, or something beside it."""
    grey, other = (Image.fromarray(noise(draw, *size)) for _ in range(2))
    colour, clear = Image.fromarray(noise(draw, *size, 3)), grey.convert("LA")
    clear.putalpha(other)
    huge = b"IHDR" + struct.pack(">IIBBBBB", draw.choice([0, 60_000, 2**31 - 1]), 60_000, 8, 0, 0, 0, 0)
    header = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + huge + struct.pack(">I", zlib.crc32(huge))
    ways = [
        lambda: colour.save(path),
        lambda: grey.convert("RGB").save(path),
        lambda: Image.fromarray(noise(draw, *size).astype(np.uint16) * 257).save(path),
        lambda: clear.save(path),
        lambda: colour.convert("RGBA").save(path),
        lambda: grey.convert("P").save(path, transparency=draw.randrange(256)),
        lambda: grey.convert("1").save(path),
        lambda: grey.resize((5, 7)).save(path),
        lambda: grey.save(path, save_all=True, append_images=[other]),
        lambda: grey.save(path, draw.choice(["JPEG", "GIF", "BMP", "TIFF"])),
        lambda: path.write_bytes(header),
        lambda: path.with_name(f"._{path.name}").write_bytes(b"none"),
        lambda: path.with_name(f"x{path.name}").mkdir(),
        lambda: path.with_name("Thumbs.db").write_bytes(b"none"),
        lambda: path.rename(path.with_name(f"{draw.choice(NAMES)}.png")),
    ]
    draw.choice(ways)()


def data_folder(draw):
    """A folder of data sets: a small MNIST whose files may be wrong; or something else."""
    if draw.happens(0.2):
        return odd_path(draw)
    folder, size = draw.path(), draw.choice([28, 28, 8, 1])
    raw = folder / "MNIST/raw"
    raw.mkdir(parents=True)
    for half, count in {"train": draw.choice([50, 50, 5, 1]), "t10k": 20}.items():
        marks = noise(draw, count) % draw.choice([10, 10, 1, 11])
        for kind, content in {"images-idx3": noise(draw, count, size, size), "labels-idx1": marks}.items():
            header = struct.pack(f">HBB{content.ndim}I", 0, 8, content.ndim, *content.shape)
            (raw / f"{half}-{kind}-ubyte").write_bytes(header + content.tobytes())
    spoil_some(draw, [*raw.iterdir()], 0, 1, 1)
    return folder


def results_folder(draw):
    """A folder of reports: none yet, the user's own, a copy in which some are wrong, or something else."""
    if draw.happens(0.4):
        return draw.choice([draw.place / "reports", draw.world.results, odd_path(draw)])
    target = draw.path()
    shutil.copytree(draw.world.results, target)
    spoil_some(draw, [*target.rglob("*.json")], 0, 1, 2)
    return target


def zoo_folder(draw):
    """A copy of the weights that ship, of which some may be wrong; or something else."""
    if draw.happens(0.4):
        return odd_path(draw)
    target = draw.path()
    shutil.copytree(draw.world.zoo, target)
    spoil_some(draw, [*target.iterdir()], 0, 1, 1, 2)
    return target


def some_folder(draw):
    """A folder to write to: new, or of something else."""
    return draw.choice([draw.path(), draw.world.photos, odd_path(draw)])


FILES = {
    "model": model_word,
    "documents": odd_path,
    **dict.fromkeys(
        ["ckpt", "classifier", "stage1", "train.start_from", "perceptual.classifier", "inception"], model_file
    ),
    **dict.fromkeys(["out", "tokens_dir"], some_folder),
    "images": image_folder,
    "runs": runs_folder,
    "data_dir": data_folder,
    "results": results_folder,
    "zoo": zoo_folder,
}
"""Option that names files -> what draws them."""


# ----------------------------------------------------------------------------------------------------------------------
# Commands


def kinds_of(options):
    """Field of a dataclass -> its type."""
    return {name: kind_of(hint) for name, hint in get_type_hints(options, include_extras=True).items()}


OPTIONS = {verb: kinds_of(import_module(module).Options) for verb, module in COMMANDS.items() if verb != "train"}
"""Command -> its options and their types."""


def spoil_arguments(draw, arguments, options, kept=()):
    """The arguments, one of them changed, dropped or added.

    Args:
        draw: from which.
        arguments: `key=value` texts.
        options: all options of the command -> type.
        kept: those without which the command would work long.
    """
    free = [text for text in arguments if text.partition("=")[0] not in kept]
    way = draw.random()
    if way < 0.7 or not free:
        name = draw.choice([*options])
        given = f"{name}={text_for(draw, name, options[name])}"
        rest = arguments if draw.happens(0.1) else [text for text in arguments if text.partition("=")[0] != name]
        return [*rest, given]
    one = draw.choice(free)
    name, _, value = one.partition("=")
    if way < 0.93:
        changed = [f"{name}={text_for(draw, name, options.get(name, str))}"]
    else:
        garbled = [f"{misspelt(draw, name)}={value}", name, f"{name}:{value}", f"={value}", f"{name}=", "", value]
        changed = draw.choice(
            [*([text] for text in garbled), [f"{name} = {value}"], [f"{one} "], draw.sample(TEXTS, 1), []]
        )
    place = arguments.index(one)
    return [*arguments[:place], *changed, *arguments[place + 1 :]]


def command_line(verb, arguments):
    """The case of one command line."""

    def call():
        sys.argv = ["spiking-vq", *verb.split(), *arguments]
        run_command(main)

    return Case(verb, shlex.join(["spiking-vq", *verb.split(), *arguments]), call)


def commanded(draw, verb, arguments, least=1):
    """A call of a command, of whose arguments at least so many are spoilt."""
    for _ in range(least + draw.choice([0, 0, 1, 2])):
        arguments = spoil_arguments(draw, arguments, OPTIONS[verb])
    return command_line(verb, arguments)


def of_model(verb, *arguments, stages=("absorbing", "gaussian")):
    """Draws calls of a command that takes a trained model, of the user's own runs or of a copy with mistakes."""

    def draw_case(draw):
        theirs = draw.happens(0.6)
        subject = [f"runs={draw.world.runs if theirs else copied_runs(draw, 1, 1, 2, 4)}"]
        if draw.happens(0.25):
            theirs = False
            subject.append(draw.choice([f"ckpt={model_file(draw)}", str(model_word(draw))]))
        subject += ["data=digits", f"stage={draw.choice(stages)}"]
        return commanded(draw, verb, [*subject, *arguments], 1 if theirs else 0)

    return draw_case


def draw_evaluation_of_images(draw):
    """A folder of pictures that anyone made."""
    arguments = ["data=digits", f"images={image_folder(draw)}", "features=classifier", f"runs={draw.world.runs}"]
    return commanded(draw, "evaluate", [*arguments, "protocol=val", "n=10", "results=reports"], draw.choice([0, 1]))


def draw_analytic(draw):
    """It writes into the model's file, which therefore is a copy."""
    draw.world = draw.world._replace(runs=copied_runs(draw, 0, 1))
    path = draw.path(".safetensors")
    shutil.copy(next(file for file in draw.world.models if file.parent.name == "gaussian"), path)
    if draw.happens(0.4):
        spoil_model(draw, path)
    return commanded(draw, "study analytic", ["data=digits", f"ckpt={path}", "n=10", "times=2"], draw.choice([0, 1]))


def draw_publish(draw):
    """From a copy of the runs, in which something may be wrong."""
    arguments = ["data=digits", f"runs={copied_runs(draw, 0, 1, 2)}", f"stage={draw.choice([*TRAINED])}"]
    return commanded(draw, "publish", arguments, draw.choice([0, 1]))


def draw_cards(draw):
    """Of weights that ship, and reports on them."""
    arguments = ["only=cards", f"zoo={zoo_folder(draw)}", f"results={results_folder(draw)}"]
    return commanded(draw, "publish", arguments, draw.choice([0, 0, 1]))


def draw_compare(draw):
    """Of reports, of which some may be wrong."""
    results = draw.path()
    shutil.copytree(draw.world.results, results)
    spoil_some(draw, [*(results / "mnist").rglob("*.json")], 0, 1, 1, 2)
    return commanded(draw, "compare", [f"results={results}", "presets=base base-relu"], draw.choice([0, 0, 1]))


def draw_recognise(draw):
    """Of a folder of samples, in which some pictures may be others."""
    folder, made = draw.place / "made/digits/base/samples/images", Path(image_folder(draw, (28, 28)))
    folder.parent.mkdir(parents=True)
    if draw.place in made.parents:
        made.rename(folder)
    return commanded(draw, "study recognition", ["runs=made"], draw.choice([0, 1]))


TINY = words("preset=base data=digits image_size=8 precision=fp32 train.compile=false train.batch_size=32")
TINY += words("train.max_steps=2 train.max_epochs=1 train.warmup_steps=0 train.val_every=2 train.save_every=1")
TRAININGS = {
    "vq_svae": [
        *words("T=2 early_T=null model.channels=[4,8] model.embedding_dim=4 model.codebook_size=8"),
        *words("perceptual.weight=0 adversary.weight=0 rate.weight=0"),
    ],
    "absorbing": words("T=2 early_T=null model.width=8 model.num_blocks=1 styles=1 rate.weight=0"),
    "gaussian": [
        *words("T=2 early_T=null model.width=4 model.multipliers=[1] model.patch_size=1 conditional=true"),
        *words("diffusion.diffusion_steps=10 sample.sample_steps=2"),
    ],
    "classifier": ["model.channels=[4,8]"],
}
"""Stage -> arguments that, after `TINY`, make its training one of moments."""

KEPT = words("train.compile train.max_steps train.max_epochs train.batch_size model.width model.multipliers")
KEPT += ["perceptual.weight", "perceptual.classifier"]


FIELDS = {stage: {name: kind_of(hint) for name, hint in leaves(config).items()} for stage, config in STAGES.items()}


def training(stage):
    """Draws calls that train a stage, from the beginning or in a run folder that exists, which may be damaged."""

    def draw_case(draw):
        way, models = draw.random(), draw.world.runs / "digits/base"
        runs = draw.path() if way < 0.5 else draw.world.runs if way < 0.6 else copied_runs(draw, 0, 1, 1, 2)
        arguments = [*TINY, *TRAININGS[stage], f"runs={runs}"]
        arguments += {
            "absorbing": [f"stage1={models / 'vq_svae/model.safetensors'}"],
            "vq_svae": [f"perceptual.classifier={models / 'classifier/model.safetensors'}"],
        }.get(stage, [])
        if draw.happens(0.1):
            arguments += ["data=mnist", f"data_dir={data_folder(draw)}"]
        if draw.happens(0.1):
            arguments.append(f"train.start_from={model_file(draw)}")
        if draw.happens(0.3):
            numbers = [name for name, kind in FIELDS[stage].items() if kind is float]
            arguments.append(f"{draw.choice(numbers)}={draw.choice(words('1e6 1e30 1e308'))}")
        for _ in range(draw.choice([1, 1, 2, 3]) - (1 if runs.exists() else 0)):
            arguments = spoil_arguments(draw, arguments, FIELDS[stage], KEPT)
        named = draw.choice([[], *([text] for text in [*STAGES, *TEXTS])]) if draw.happens(0.03) else [stage]
        return command_line("train", [*named, *arguments])

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
    return repr(value)


KINDS = kinds_of(SamplerArguments)


def draw_settings(draw, generator):
    """Settings of a sampler, mostly of its own, some with values of other types."""
    names = [*asdict(generator.config.sample), "label"] if draw.happens(0.9) else [*SAMPLER, "samplesteps"]
    wholes = [0, 1, 2, 3, 4, 64, -1, 2**40, np.int64(2), 2**63]
    reals = [0.0, 0.5, 1, 2, 1.5, 1e308, -1.0, np.float32(0.3), 1e-300, -0.0]
    settings = {}
    for name in draw.sample(names, draw.choice([0, 1, 2, 3])):
        usual = CHOICES.get(name) or (wholes if KINDS.get(name) is int else reals)
        settings[name] = draw.choice(OBJECTS if draw.happens(0.2) else usual)
    return settings


def draw_sampling(draw):
    """Images from a generator."""
    generator = draw.choice([draw.world.latent, draw.world.pixel])
    options = {"sample_steps": 2} | draw_settings(draw, generator)
    if draw.happens(0.2):
        options["seed"] = draw.choice([*OBJECTS, 0, 1, -1, np.int64(2), 2**32 - 1, 2**32])
    if draw.happens(0.1):
        options["first"] = draw.choice([*OBJECTS, 1024, 1025, 2**62, -1024])
    return called(generator.sample, draw.choice([*OBJECTS, 0, -1]) if draw.happens(0.15) else 1, **options)


def draw_setting(draw):
    """The settings alone."""
    generator = draw.choice([draw.world.latent, draw.world.pixel])
    return called(generator.sampling, **draw_settings(draw, generator))


def draw_images(draw, shape):
    """Images of all types, shapes and ranges, one or several."""
    levels, picture = noise(draw, *shape), Image.fromarray(noise(draw, *shape[1:]))
    unit = torch.from_numpy(levels.copy()) / 255
    holes = unit.clone()
    holes.flatten()[0] = draw.choice([float("nan"), float("inf"), -0.1, 1.1, 255])
    tensors = [unit, unit, unit[0], unit.double(), unit.half(), unit.clone().requires_grad_(), unit.flip(-1), unit.mT]
    tensors += [(255 * unit).byte(), 255 * unit, 2 * unit - 1, holes, unit > 0.5, (255 * unit).long()]
    shapes = [(0, *shape), (), (1, 3, 5, 7), (2, 2, 8, 8), (1, 1, 1, 8, 8)]
    tensors += [image[None].expand(3, *image.shape) for image in tensors] + [torch.zeros(some) for some in shapes]
    arrays = [levels, levels, levels[..., ::-1], levels / 255, np.moveaxis(levels, 0, -1), levels > 9]
    arrays += [levels.astype(kind) for kind in ("int64", "uint16", ">f4", "complex", "U3", "object")]
    pictures = [picture, picture.resize((5, 7)), Image.fromarray(noise(draw, 8, 8).astype(np.uint16))]
    pictures += [picture.convert(mode) for mode in ("RGB", "CMYK", "F", "1", "P", "RGBA", "LA", "I")]
    others = [[picture, picture], [unit, levels], [], [[]], [None], levels.tolist(), "x.png", draw.choice(OBJECTS)]
    return draw.choice(draw.choice([tensors, tensors, arrays, pictures, others]))


def draw_inpainting(draw):
    """Completing images."""
    generator = draw.world.latent
    grid = generator.model.vq_svae.grid
    keep = torch.from_numpy(noise(draw, *grid) > 128)
    keeps = [keep, keep, keep.numpy(), keep.tolist(), keep[None], keep.float(), keep.numpy().astype(int), keep[:1]]
    keeps += [
        keep.expand(2, *grid),
        torch.zeros(9, 9).bool(),
        keep | True,
        [[True], [True, False]],
        True,
        "x",
        [],
        None,
    ]
    images = draw_images(draw, (1, 8, 8)) if draw.happens(0.7) else torch.rand(1, 1, 8, 8)
    options = {"sample_steps": 2} | (draw_settings(draw, generator) if draw.happens(0.3) else {})
    return called(generator.inpaint, images, draw.choice(keeps), **options)


def draw_tokenizing(draw):
    """Images to tokens."""
    return called(draw.world.latent.model.vq_svae.tokenize, draw_images(draw, (1, 8, 8)))


def draw_loading(draw):
    """A model's file, or the name of weights that ship."""
    path = model_file(draw)
    if draw.happens(0.15):
        path = draw.choice(words("digits digits-base digits-base-gaussian digits-base-classifier imagenet"))
    how = draw.choice([load_model, load_pipeline])
    options = {}
    if how != load_model and draw.happens(0.2):
        options["precision"] = draw.choice([*CHOICES["precision"], None, 32])
    return called(how, str(path) if draw.happens(0.5) else path, **options)


def draw_data(draw):
    """A data set, and something of it."""
    name, size = draw.choice(["mnist", "mnist", *CHOICES["data"]]), draw.choice([None, None, None, 8, 1, 0])
    part = draw.choice(words("train val test variance stand_in image_shape"))

    def part_of(name, path, image_size):
        return getattr(load_dataset(name, path, image_size), part)

    return called(part_of, name, data_folder(draw), size)._replace(verb="load_dataset")


def draw_reading(draw):
    """A configuration as a run folder holds it."""
    path = draw.path(".yaml")
    shutil.copy(draw.world.runs / f"digits/base/{draw.choice([*STAGES])}/config.yaml", path)
    spoil_yaml(draw, path)
    return called(read_config, odd_path(draw) if draw.happens(0.1) else path)


def draw_building(draw):
    """A configuration from nested values, as a model's file holds them."""
    values = asdict(read_config(draw.world.runs / f"digits/base/{draw.choice([*STAGES])}/config.yaml"))
    for _ in range(draw.choice([1, 1, 2, 3])):
        spoil_tree(draw, values)
    return called(config_from_dict, values)


def draw_configuring(draw):
    """A preset and overrides."""
    stage, path, overrides = draw.choice([*STAGES]), draw.path(".yaml"), []
    base = preset_file(stage, "base")
    shutil.copy(draw.choice(sorted(base.parent.glob("*.yaml"))), path)
    shutil.copy(base, path.with_name("base.yaml"))
    if draw.happens(0.2):
        path.write_text(f"extends: {draw.choice([path.stem, 'none', '../x', '5', 'a: b', *TEXTS[:20]])}\n")
    elif draw.happens(0.6):
        spoil_yaml(draw, path)
    for _ in range(draw.choice([0, 0, 1, 2])):
        overrides = spoil_arguments(draw, overrides, FIELDS[stage])
    return called(load_config, "unet" if draw.happens(0.03) else stage, path, overrides)


ALL = ("absorbing", "gaussian", "vq_svae")
FEW = ("n=1", "sample_steps=2", "results=reports")
QUICK = ("n=10", "sample_steps=2", "protocol=val", "features=classifier", "results=reports")
VERBS = {
    **{training(stage): 55 for stage in STAGES},
    of_model("sample", "n=1", "sample_steps=2", "out=made"): 120,
    of_model("evaluate", *QUICK, stages=ALL): 90,
    draw_evaluation_of_images: 70,
    of_model("inspect", *FEW, "only=report", stages=ALL): 90,
    of_model("inspect", *FEW, "only=portrait"): 15,
    of_model("quantise", "out=made.safetensors", stages=ALL): 40,
    of_model("stream", "sample_steps=2", "out=made.nir"): 20,
    of_model("study labels", *FEW, "strengths=1"): 25,
    of_model("study thresholds", "n=10", "seeds=2", "shifts=0.01", "results=reports", stages=("gaussian",)): 25,
    of_model("study decomposition", "calls=1", "results=reports", stages=("absorbing",)): 25,
    draw_analytic: 30,
    draw_publish: 35,
    draw_cards: 35,
    draw_compare: 35,
    draw_recognise: 12,
    lambda draw: commanded(draw, "study encodings", ["data=digits", "seeds=1", "runs=trials"]): 20,
    lambda draw: commanded(draw, "study grid", ["data=digits", "presets=base", "runs=trials"]): 20,
    lambda draw: commanded(draw, "study candidates", ["data=digits", "seeds=1", f"runs={copied_runs(draw, 0, 1)}"]): 25,
    lambda draw: commanded(draw, "bench", ["rounds=1", "only=neuron", "out=bench.json"]): 15,
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


def foreign_contents(ours):
    """Contents of files of all kinds, those of ours among them."""
    streams = [io.BytesIO() for _ in range(4)]
    torch.save({"state_dict": {}, "epoch": 1}, streams[0])
    torch.save(torch.nn.Linear(2, 2), streams[1])
    np.savez(streams[2], a=np.ones(3))
    Image.new("L", (8, 8)).save(streams[3], "PNG")
    keys = ("callbacks", "global_step", "loops", "pytorch-lightning_version", "state_dict")
    for value in ({}, [], None, {"KeepRun": {}}, {"a": torch.ones(1)}):
        streams.append(io.BytesIO())
        torch.save(dict.fromkeys(keys, value), streams[-1])
    texts = [b"", b"{}", b"[]", b"null", b"NaN", b"3", b"text\n", b"T: 4\n", b"step,loss\n1,x\n"]
    weights = [save({"weight": torch.ones(2)}), save({}, {"format": "spiking_vq/1", "config": "{}"})]
    binary = [b"\xff\xfe\0", b"\0" * 64, b"PK\3\4" + b"x" * 99, pickle.dumps({"a": 1}), pickle.dumps(Decimal)]
    files = [*(stream.getvalue() for stream in streams), *(path.read_bytes() for path in ours)]
    return [*texts, *weights, *binary, *files]

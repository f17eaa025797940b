"""Imports go one way: a folder imports only folders below it, and the library never imports a trainer."""

import ast
import sys
from functools import cache
from pathlib import Path

import pytest

from stages.__main__ import COMMANDS

ROOT = Path(__file__).parent.parent

LIBRARY = [
    {"errors"},
    {"files", "randomness"},
    {"fields"},
    {"runtime"},
    {"neurons", "diffusion", "data", "metrics"},
    {"layers"},
    {"models", "energy"},
    {"config"},
    {"checkpoint"},
    {"quantisation"},
    {"export"},
    {"pipelines"},
]
"""Modules and folders of the library, from below; those of one level do not know each other."""

STAGES = [
    {"cli"},
    {"reporting", "training", "sample", "bench"},
    {"evaluate", "vq_svae", "absorbing", "gaussian", "classifier"},
    {"inspect", "train", "compare", "quantise", "export", "importing"},
    {"study", "publish", "app"},
    {"__main__"},
]
"""The same of the commands, above the library."""

MODULES = {
    "spiking_vq": {"errors", "fields", "files", "randomness"},
    "stages": {"__main__", "vq_svae", "absorbing", "gaussian", "classifier", "train", "sample", "quantise"},
}
"""Package -> the modules that stand in it directly, outside of any folder."""

LONG = {}
"""File of more than 300 lines -> why it is one."""

DEPENDENCIES = {
    "torch",
    "torchvision",
    "torchmetrics",
    "snntorch",
    "numpy",
    "safetensors",
    "sklearn",
    "PIL",
    "omegaconf",
}
EXTRAS = {"torch_fidelity", "diffusers", "nir", "h5py", "onnxruntime", "huggingface_hub"}
TRAINER = {"lightning", "pytorch_lightning", "tensorboard"}
TRAINING_COMMANDS = {"train", "study candidates", "study encodings", "study grid"}

FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in MODULES
    for path in sorted((ROOT / package).rglob("*.py"))
}
"""Module -> its file."""


@cache
def imported(module, when="ever"):
    """Full names of all modules that a module imports: ever, annotations and functions included, or when `loaded`."""
    tree, names = ast.parse(FILES[module].read_text()), set()
    for node in tree.body if when == "loaded" else ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            full = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in FILES else node.module for name in full}
    return names


def reached(module, when="ever"):
    """All modules that importing a module imports in the end; those of other packages are not followed."""
    seen, todo = set(), [module]
    while todo:
        for name in imported(todo.pop(), when) - seen:
            seen.add(name)
            todo += [name] if name in FILES else []
    return seen


def packages(names):
    """The packages of modules, without Python's own."""
    return {name.split(".")[0] for name in names} - sys.stdlib_module_names


LEVELS = {f"spiking_vq.{unit}": level for level, units in enumerate(LIBRARY) for unit in units}
LEVELS |= {f"stages.{unit}": level + len(LIBRARY) for level, units in enumerate(STAGES) for unit in units}
UNITS = {name: ".".join(name.split(".")[:2]) for name in FILES if "." in name}


@pytest.mark.parametrize("module", UNITS)
def test_imports_go_downwards(module):
    for name in imported(module) & UNITS.keys():
        below = LEVELS[UNITS[name]] < LEVELS[UNITS[module]]
        assert below or UNITS[name] == UNITS[module], f"{module} imports {name}"


def test_there_is_no_circle():
    for module in FILES:
        assert module not in reached(module), f"{module} imports itself in the end"


def test_the_library_imports_only_what_it_may():
    for module in (name for name in FILES if name.startswith("spiking_vq")):
        assert packages(imported(module)) <= DEPENDENCIES | EXTRAS | {"spiking_vq"}, module
        assert not EXTRAS & packages(imported(module, "loaded")), module


def test_diffusion_knows_torch_only():
    for module in (name for name in FILES if name.startswith("spiking_vq.diffusion")):
        assert packages(reached(module, "loaded")) <= {"spiking_vq", "torch", "safetensors"}, module
        assert packages(reached(module)) <= {"spiking_vq", "torch", "safetensors", "diffusers"}, module


@pytest.mark.parametrize("command", sorted(COMMANDS.keys() - TRAINING_COMMANDS))
def test_commands_that_use_a_model_need_no_trainer(command):
    assert not TRAINER & packages(reached(COMMANDS[command], "loaded"))


@pytest.mark.parametrize("package", MODULES)
def test_modules_live_in_folders(package):
    direct = {path.stem for path in (ROOT / package).glob("*.py")} - {"__init__"}
    assert direct <= MODULES[package]


def test_files_can_be_read_in_one_sitting():
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in FILES.values()}
    assert {name for name, length in lengths.items() if length > 300} == LONG.keys()
    assert len(LONG) <= 2


def test_no_two_test_files_have_one_name():
    """pytest tells test files of folders without `__init__.py` apart by their names alone."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted({name for name in names if names.count(name) > 1}) == []

"""Imports go one way: a lower level never imports a higher one, and the library never imports a trainer."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LEVELS = {
    "errors": 0,
    "randomness": 0,
    "files": 1,
    "values": 0.25,
    "yaml_files": 0.5,
    "augment": 1,
    "distributed": 0,
    "precision": 0,
    "config": 1,
    "memory": 0,
    "compiling": 0,
    "running": 0,
    "winograd": 0.5,
    "surrogates": 0.25,
    "dynamics": 0.5,
    "scan": 0.75,
    "neurons": 1,
    "data": 1,
    "images": 2,
    "diffusion": 1,
    "metrics": 1,
    "layers": 2,
    "attention": 3,
    "styles": 2,
    "quantize": 3,
    "models": 4,
    "checkpoint": 5,
    "activity": 5,
    "energy": 5,
    "generators": 6,
}
LIBRARIES = {
    "torch",
    "torchvision",
    "torchmetrics",
    "snntorch",
    "numpy",
    "safetensors",
    "sklearn",
    "tqdm",
    "PIL",
    "torch_fidelity",
    "diffusers",
}


def imported(path: Path) -> set[str]:
    """Full names of all modules a file imports, wherever in the file."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module)
    return names


def unit(path: Path) -> str:
    """The level a file belongs to: its top-level module or package inside spiking_vq."""
    return path.relative_to(ROOT / "spiking_vq").parts[0].removesuffix(".py")


LIBRARY_FILES = [path for path in sorted((ROOT / "spiking_vq").rglob("*.py")) if unit(path) != "__init__"]


@pytest.mark.parametrize("path", LIBRARY_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_library_imports_only_downwards(path):
    for name in imported(path):
        parts = name.split(".")
        if parts[0] == "spiking_vq":
            other = parts[1]
            assert other == unit(path) or LEVELS[other] < LEVELS[unit(path)], f"{path.name} imports {name}"


@pytest.mark.parametrize("path", LIBRARY_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_library_imports_only_what_it_may(path):
    import sys

    allowed = LIBRARIES | {"spiking_vq"} | set(sys.stdlib_module_names)
    if unit(path) == "yaml_files":
        allowed |= {"omegaconf"}
    assert {name.split(".")[0] for name in imported(path)} <= allowed


def test_diffusion_knows_torch_only():
    for path in (ROOT / "spiking_vq/diffusion").glob("*.py"):
        known = {"torch", "spiking_vq"} | ({"diffusers"} if path.stem == "dpm_solver" else set())
        assert {name.split(".")[0] for name in imported(path)} & (LIBRARIES | {"spiking_vq"}) <= known


COMMANDS = (
    "sample",
    "evaluate/__main__",
    "energy",
    "firing_rates",
    "spiking_report",
    "portrait",
    "analytic",
    "threshold_sweep",
    "labels",
    "recognise",
    "publish",
)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_that_use_a_model_need_no_trainer(command):
    seen, todo = set(), [ROOT / f"stages/{command}.py"]
    while todo:
        for name in imported(todo.pop()):
            if name == "stages.ranks":  # starts further processes with Lightning, and imports it only then
                continue
            assert name.split(".")[0] not in {"lightning", "pytorch_lightning", "tensorboard"}
            path = ROOT / (name.replace(".", "/") + ".py")
            if name.startswith("stages.") and path not in seen:
                seen.add(path)
                todo.append(path)

"""Check a GPU: tests on it, its numbers against the CPU's, and the speed of training steps on it.

Every part is run and reported by itself: what fails is in the report as `error`, and the command goes on.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from spiking_vq.checkpoint.build import build_denoiser, build_unet, build_vq_svae
from spiking_vq.config.load import load_config
from spiking_vq.config.schema import Config
from spiking_vq.diffusion.absorbing import AbsorbingDiffusion
from spiking_vq.diffusion.gaussian import GaussianDiffusion
from spiking_vq.errors import InputError
from spiking_vq.files import atomic_write, json_text
from spiking_vq.models.vq_svae import token_grid
from spiking_vq.runtime.running import run_with
from stages.bench.work import (
    STAGES,
    Run,
    configured,
    half_precision,
    neuron_pass,
    our_neuron,
    spikingjelly_neuron,
    stage1_loss,
)
from stages.bench.worker import times
from stages.cli.machine import check_device, describe_machine
from stages.cli.options import preset_file, read_options, recorded_command

EXAMPLE = "spiking-vq gpu-check device=cuda"

TESTS = Path(__file__).parents[2] / "tests/stages/training/test_on_a_gpu.py"
"""Tests that need a GPU; a wheel does not hold them."""

STEPS = (("gaussian", "sddpm"), ("vq_svae", "paper"), ("absorbing", "paper"))
"""Stages and presets whose training steps are measured."""

NETWORKS = (
    *(("vq_svae", preset) for preset in ("base", "counts", "paper")),
    *(("absorbing", preset) for preset in ("base", "counts", "paper")),
    *(("gaussian", preset) for preset in ("base", "sddpm", "fsddim")),
)
"""Stages and presets whose outputs are compared."""

CLOSE = 1e-6
"""Relative difference of outputs in fp64 from which on they differ; a spike more or less makes a larger one."""

NEURONS = (16, 32, 64, 14, 14)
TURN = 3.0
"""Least seconds of a measurement."""


def tiny(stage: str, preset: str) -> tuple[str, ...]:
    """Overrides that make a network and its batch small; `counts` keeps its T, which its codebook follows from."""
    few = ("train.batch_size=2", *(("T=2",) if preset != "counts" else ()))
    return (*few, "image_size=16", "model.width=8", "model.multipliers=[1,2]") if stage == "gaussian" else few


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of the check.

    Attributes:
        device: the GPU.
        dry_run: run the parts once at tiny sizes, without compiling; the only way without a GPU.
        out: the report.
    """

    device: str = "cuda"
    dry_run: bool = False
    out: Path = Path("results/gpu-check.json")


def main(arguments: list[str]) -> None:
    """Run all parts, print a line for each, and write the report; the exit code is 1 if a part failed."""
    options = read_options(Options, arguments)
    check_device(options.device)
    device = torch.device(options.device)
    if device.type != "cuda" and not options.dry_run:
        raise InputError(f"gpu-check measures a GPU; got device={options.device}: name one, or add dry_run=true")
    parts: dict[str, Callable[[], dict[str, Any]]] = {"tests": tests}
    for stage, preset in NETWORKS:
        parts[f"outputs {preset} {stage}"] = lambda stage=stage, preset=preset: compared(stage, preset, device)
    parts["neurons"] = lambda: neurons(device, options.dry_run)
    for stage, preset in STEPS:
        parts[f"steps {preset} {stage}"] = lambda stage=stage, preset=preset: steps(
            stage, preset, device, options.dry_run
        )
    with atomic_write(options.out) as temporary:  # opened first, so that a folder that is not writable is found early
        report = {
            "command": recorded_command("gpu-check", arguments),
            "machine": describe_machine(options.device),
            "dry_run": options.dry_run,
            "parts": {name: reported(name, part) for name, part in parts.items()},
        }
        temporary.write_text(json_text(report))
    print(f"wrote {options.out}")
    if failed := [name for name, found in report["parts"].items() if has_error(found)]:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
        sys.exit(1)


def has_error(found: dict[str, Any]) -> bool:
    """Whether a part, or a part of it, ended with an error."""
    return "error" in found or any(has_error(part) for part in found.values() if isinstance(part, dict))


def reported(name: str, part: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The results of a part, or the `error` it ended with; printed too."""
    try:
        found = part()
    except Exception as error:  # a part that fails must not cost the others
        found = {"error": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}
    print(f"{name}: {found}")
    return found


def tests() -> dict[str, Any]:
    """How many of the tests that need a GPU passed."""
    if not TESTS.exists():
        return {"skipped": "the tests are in the repository, not in a wheel"}
    command = [sys.executable, "-m", "pytest", "-m", "", "-o", "addopts=", str(TESTS)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=TESTS.parents[3])
    said = (done.stdout.strip().splitlines() or [""])[-1].strip("= ")
    return {"said": said} if done.returncode == 0 else {"error": said}


def compared(stage: str, preset: str, device: torch.device) -> dict[str, Any]:
    """Largest difference between the outputs on CPU and device in fp64, absolute and relative to the largest output."""
    config = complete(stage, preset, *tiny(stage, preset))
    torch.manual_seed(0)
    network, inputs = network_of(config).double().train(), inputs_of(config, torch.device("cpu"))
    outputs = []
    for where in ("cpu", device):
        network.to(where)
        given = [x.to(where, torch.float64 if x.is_floating_point() else None) for x in inputs]
        with torch.no_grad():
            made = network(*given)
        outputs.append((made.potential if stage == "vq_svae" else made).cpu())
    difference = (outputs[0] - outputs[1]).abs().max().item()
    found = {"difference": difference, "relative": difference / outputs[0].abs().max().item()}
    return found if found["relative"] < CLOSE else found | {"error": f"the relative difference is not below {CLOSE}"}


def neurons(device: torch.device, dry_run: bool) -> dict[str, Any]:
    """Seconds of a forward and backward pass of the neurons: ours, and SpikingJelly's backends where installed."""
    shape = (2, 2, 4, 4, 4) if dry_run else NEURONS
    runs = {"ours": our_neuron(device)}
    if find_spec("spikingjelly"):
        for backend in ("torch", "cupy", "triton"):
            if backend == "torch" or (device.type == "cuda" and find_spec(backend)):
                runs[f"spikingjelly {backend}"] = spikingjelly_neuron(device, backend)
    found = {}
    for name, run in runs.items():
        with run_with(compile=name == "ours" and not dry_run):
            found[name] = reported(
                f"  {name}", lambda run=run: {"median_s": timed(neuron_pass(run, shape, True, device), device, dry_run)}
            )
    return found


def steps(stage: str, preset: str, device: torch.device, dry_run: bool) -> dict[str, Any]:
    """Images/s and TFLOP/s of training steps in bf16, with and without compiled kernels and a CUDA graph."""
    config = complete(stage, preset, *(tiny(stage, preset) if dry_run else ()))
    images = config.train.batch_size
    with FlopCounterMode(display=False) as counter:
        training_step(config, device)()
    found: dict[str, Any] = {"images": images, "tflop": counter.get_total_flops() / 1e12}
    for compile in (False, True):
        for graph in (False, True):
            if (compile and dry_run) or (graph and device.type != "cuda"):
                continue
            name = f"{'compiled' if compile else 'eager'}{', CUDA graph' if graph else ''}"

            def measured(compile: bool = compile, graph: bool = graph) -> dict[str, float]:
                with run_with(compile=compile):
                    step = training_step(config, device)
                    seconds = timed(captured(step) if graph else step, device, dry_run)
                return {"images_per_second": images / seconds, "tflops": found["tflop"] / seconds}

            found[name] = reported(f"  {name}", measured)
    return found


def timed(run: Run, device: torch.device, dry_run: bool) -> float:
    """Median seconds of a run, after two to warm up."""
    times(run, device)
    times(run, device)
    return median(times(run, device, 0.0 if dry_run else TURN))


def captured(step: Run) -> Run:
    """A step as a CUDA graph, recorded after three steps on a stream of their own, as PyTorch asks."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def training_step(config: Config, device: torch.device) -> Run:
    """A step of AdamW in bf16 on one batch of noise."""
    network = network_of(config).train().to(device)
    batch, loss = inputs_of(config, device), loss_of(config, network)
    capturable = device.type == "cuda"
    optimizer = torch.optim.AdamW(network.parameters(), 1e-4, fused=True, capturable=capturable)

    def step() -> None:
        optimizer.zero_grad()
        with half_precision(network, "bfloat16"):
            value = loss(*batch)
        value.backward()
        optimizer.step()

    return step


def complete(stage: str, preset: str, *overrides: str) -> Config:
    """The configuration of a preset for grey images of 28 x 28, or as it resizes them, without labels."""
    if stage != "gaussian":
        return configured(preset, *overrides)[STAGES.index(stage)]
    config = load_config(stage, preset_file(stage, preset), overrides)
    size = config.image_size or 28
    config.image_shape = [1, size, size]
    return config


def network_of(config: Config) -> nn.Module:
    """The network that a stage trains."""
    return {"vq_svae": build_vq_svae, "absorbing": build_denoiser, "gaussian": build_unet}[config.stage](config)


def inputs_of(config: Config, device: torch.device) -> list[Tensor]:
    """A batch of noise and, for a denoiser, diffusion times, as the network takes them."""
    n = config.train.batch_size
    if config.stage == "absorbing":
        codes = config.vq_svae.model
        grid = codes.num_codes, *token_grid(config.vq_svae.image_shape, codes.channels)
        return [torch.randint(codes.codebook_size, (n, *grid), device=device), torch.ones(n, device=device).long()]
    images = torch.rand(n, *config.image_shape, device=device)
    if config.stage == "vq_svae":
        return [images]
    times = torch.ones(n, device=device).long()
    return [images.unsqueeze(0) if config.diffusion.loss == "synaptic_current" else images, times]


def loss_of(config: Config, network: nn.Module) -> Callable[..., Tensor]:
    """The training loss of a stage, of the inputs of `inputs_of`; it draws the times itself."""
    if config.stage == "vq_svae":
        return lambda images: stage1_loss(network, images)
    if config.stage == "absorbing":
        size = config.vq_svae.model.codebook_size
        return lambda tokens, _: AbsorbingDiffusion(tokens.shape[1:], size, config.loss).loss(network, tokens)["loss"]
    diffusion = GaussianDiffusion(**asdict(config.diffusion))
    return lambda images, _: diffusion.loss(network, images)["loss"]

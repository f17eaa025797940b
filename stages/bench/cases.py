"""Cases of the benchmark: tables of variants that do the same work, each with a function to time.

A variant is built in a process of its own (`worker.py`), so that neither memory nor allocator settings are shared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from spiking_vq.pipelines.base import CHUNK
from stages.bench.work import (
    BATCH,
    STAGES,
    Device,
    Layer,
    Run,
    configured,
    copying,
    neuron_pass,
    our_neuron,
    our_sampling,
    our_task,
    plain_sampling,
    plain_task,
    snntorch_neuron,
    spikingjelly_neuron,
    synapses,
    training,
    unet_task,
)

DTYPES = ("float32", "bfloat16")
PLAIN = {"plain": "stepwise_lif", "plain, fused neurons": "fused_lif"}
"""Variant -> its neurons in `stages.bench.plain`."""
PAPER_TARGETS = {
    "vq_svae": {"float32": (5.0, 6.0), "bfloat16": (8.0, 10.0)},
    "absorbing": {"float32": (2.8, 2.8), "bfloat16": (4.5, 4.5)},
}
"""Stage -> type -> (must, aim) of a training step compared with the plain form."""
UNET_TARGETS = {"float32": (1.5, 2.0), "bfloat16": (2.5, 4.0)}
"""Type -> (must, aim) of a training step of a published U-Net compared with the plain form."""
SAMPLING_TARGETS = {"float32": (1.5, 1.5), "bfloat16": (2.5, 2.5)}


@dataclass(frozen=True)
class Variant:
    """One way of doing a case's work.

    Attributes:
        build: called with a device, returns the function to time.
        images: number of images it handles; times are compared per image.
        dtype: `float32`, or `bfloat16` by autocast.
        compile: compile the kernels, and use Winograd's filtering.
        ours: use the package's allocator settings.
        targets: (must, aim) of the ratio to the case's first variant.
        work: of one image, relative to the other variants; times are compared per unit of work.
    """

    build: Callable[[Device], Run]
    images: int = BATCH
    dtype: str = "float32"
    compile: bool = False
    ours: bool = True
    targets: tuple[float, float] | None = None
    work: float = 1.0


Case = dict[str, Variant]
"""Name -> variant; the first is the reference of the ratios."""


def neuron_case(shape: tuple[int, ...], backward: bool) -> Case:
    """The neuron alone on one shape."""

    def variant(build: Callable[[Device], Layer], **options: Any) -> Variant:
        return Variant(lambda device: neuron_pass(build(device), shape, backward, device), shape[1], **options)

    return {
        "snntorch loop": variant(snntorch_neuron, ours=False),
        "spikingjelly": variant(spikingjelly_neuron, ours=False),
        "ours, not compiled": variant(our_neuron),
        "ours": variant(our_neuron, compile=True, targets=(6.0, 8.0) if backward else None),
    }


def training_case(preset: str, stage: str) -> Case:
    """A whole training step; that of the paper's network is compared with the plain form."""
    images = configured(preset)[STAGES.index(stage)].train.batch_size
    targets = PAPER_TARGETS[stage] if preset == "paper" else {}

    def ours(run: Callable[..., Run], *arguments: str, **options: Any) -> Variant:
        return Variant(lambda device: run(*our_task(stage, preset, device), *arguments), images, *arguments, **options)

    def plain(neurons: str) -> Variant:
        return Variant(lambda device: training(*plain_task(stage, neurons, device), fused=False), images, ours=False)

    case = {name: plain(neurons) for name, neurons in PLAIN.items()} if preset == "paper" else {}
    for dtype in DTYPES:
        case[f"ours {dtype}"] = ours(training, dtype, compile=True, targets=targets.get(dtype))
        case[f"synapses alone {dtype}"] = ours(synapses, dtype)
    return case | {"ours float32, not compiled": ours(training), "spikes copied once": ours(copying)}


def unet_case(preset: str, n: int) -> Case:
    """A training step of a published U-Net at full size, on `n` images of 3x32x32."""

    def variant(plain: bool = False, dtype: str = "float32", **options: Any) -> Variant:
        return Variant(
            lambda device: training(*unet_task(preset, n, plain, device), dtype, fused=not plain), n, dtype, **options
        )

    ours = {
        f"ours {dtype}": variant(dtype=dtype, compile=True, targets=targets) for dtype, targets in UNET_TARGETS.items()
    }
    return {"plain": variant(plain=True, ours=False), **ours, "ours float32, not compiled": variant()}


def scaling_case(stage: str) -> Case:
    """A training step of `base` in bf16 at other batch sizes, T and image sizes: a ratio of 1 is linear."""
    config = configured("base")[STAGES.index(stage)]
    n, T, side = usual = config.train.batch_size, config.T, 28

    def variant(n: int, T: int, side: int) -> Variant:
        overrides = f"train.batch_size={n}", f"T={T}", f"image_size={side}"
        return Variant(
            lambda device: training(*our_task(stage, "base", device, *overrides), "bfloat16"),
            n,
            "bfloat16",
            compile=True,
            work=T / usual[1] * (side / usual[2]) ** 2,
        )

    batches, steps = (
        [(other, T, side) for other in (8, 16, 32, 128, 256)],
        [(n, other, side) for other in (1, 2, 8, 16)],
    )
    sizes = [(n, T, other) for other in (32, 64)]
    return {f"batch {n}, T {T}, {side}x{side}": variant(n, T, side) for n, T, side in [usual, *batches, *steps, *sizes]}


def sampling_case() -> Case:
    """From plain sampling with the paper's denoiser to ours."""

    def ours(preset: str, n: int, batch_size: int, dtype: str, targets: Any, steps: int | None = None) -> Variant:
        return Variant(
            lambda device: our_sampling(preset, n, batch_size, dtype, steps, device),
            n,
            dtype,
            compile=True,
            targets=targets,
        )

    plain = {
        name: Variant(lambda device, neurons=neurons: plain_sampling(neurons, device), ours=False)
        for name, neurons in PLAIN.items()
    }
    paper = {
        f"paper's denoiser {dtype}": ours("paper", 2 * BATCH, BATCH, dtype, SAMPLING_TARGETS[dtype]) for dtype in DTYPES
    }
    base = {
        f"base, {steps} calls, {dtype}": ours("base", 4 * CHUNK, CHUNK, dtype, (50.0, 100.0), steps)
        for steps in (8, 16, 32)
        for dtype in DTYPES
    }
    return plain | paper | base


CASES: dict[str, Case] = {
    **{
        f"neuron {'forward + backward' if backward else 'forward'} {list(shape)}": neuron_case(shape, backward)
        for shape in ((16, 32, 64, 14, 14), (4, 128, 128, 7, 7))
        for backward in (False, True)
    },
    **{
        f"{preset} {stage} training step": training_case(preset, stage)
        for preset in ("paper", "base")
        for stage in STAGES
    },
    **{f"{preset} training step, batch {n}": unet_case(preset, n) for preset in ("sddpm", "fsddim") for n in (2, 8)},
    "sampling": sampling_case(),
    **{f"{stage} scaling": scaling_case(stage) for stage in STAGES},
}

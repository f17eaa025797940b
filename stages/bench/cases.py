"""What is measured: each case a table of variants, each variant a function to be timed and how many images it handles.

A variant is built in a process of its own (`worker.py`), so that neither memory nor allocator settings are shared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from spiking_vq.activity import observed
from spiking_vq.checkpoint.build import build_denoiser, build_vq_svae
from spiking_vq.config.load import load_config
from spiking_vq.config.schema import Config
from spiking_vq.diffusion.absorbing import AbsorbingDiffusion
from spiking_vq.layers.mixing import PlaceLinear
from spiking_vq.neurons.lif import LIF
from spiking_vq.pipelines.base import CHUNK
from stages.cli.options import CONFIGS

BATCH = 32
PAPER_TARGETS = {
    "vq_svae": {"float32": (5.0, 6.0), "bfloat16": (8.0, 10.0)},
    "absorbing": {"float32": (2.8, 2.8), "bfloat16": (4.5, 4.5)},
}
"""Stage -> type -> (must, aim) of a training step against the plain form."""

Run = Callable[[], Any]
Layer = Callable[[Tensor], Tensor]
Device = torch.device


@dataclass(frozen=True)
class Variant:
    """One way of doing a case's work.

    Attributes:
        build: called with a device, gives the function to time.
        images: how many it handles; times are compared by image.
        dtype: float32, or bfloat16 by autocast.
        compile: compile the kernels, and use Winograd's filtering.
        ours: uses the package, with its allocator settings.
        targets: (must, aim) of the ratio to the case's first variant.
        work: of one image, where it is not the same for all variants: times are compared by it.
    """

    build: Callable[[Device], Run]
    images: int = BATCH
    dtype: str = "float32"
    compile: bool = False
    ours: bool = True
    targets: tuple[float, float] | None = None
    work: float = 1.0


@dataclass(frozen=True)
class Case:
    """Variants of the same work; the first is what the others are measured against."""

    name: str
    variants: dict[str, Variant] = field(default_factory=dict)


# ---------------------------------------------------------------------------------------------------------------------
# The neuron alone

NEURON = {"beta": 0.5, "scale_input": True, "fire_at_threshold": True}


def neuron_pass(run: Layer, shape: tuple[int, ...], backward: bool, device: Device) -> Run:
    """Forward, or forward and backward, of `[T, B, C, H, W]`; about a fifth of the neurons fire."""
    x = torch.randn(shape, device=device).requires_grad_()
    grad = torch.ones(shape, device=device)

    def timed() -> None:
        if not backward:
            with torch.no_grad():
                run(x)
            return
        run(x).backward(grad)
        x.grad = None

    return timed


def our_neuron(device: Device) -> Layer:
    """One scan over all steps."""
    return LIF(**NEURON).to(device)


def snntorch_neuron(device: Device) -> Layer:
    """A loop over the steps of `snntorch.Leaky`."""
    leaky = LIF(**NEURON).to_snntorch().to(device)

    def run(x: Tensor) -> Tensor:
        mem, spikes = torch.zeros_like(x[0]), []
        for current in x:
            spk, mem = leaky(current, mem)
            spikes.append(spk)
        return torch.stack(spikes)

    return run


def spikingjelly_neuron(device: Device) -> Layer:
    """SpikingJelly's multi-step LIF, by what it takes for the fastest way on the device."""
    from spikingjelly.activation_based import functional

    from stages.bench.plain import fused_lif

    lif = fused_lif().to(device)

    def run(x: Tensor) -> Tensor:
        functional.reset_net(lif)
        return lif(x)

    return run


def neuron_case(shape: tuple[int, ...], backward: bool) -> Case:
    """The neuron alone on one shape."""

    def variant(build: Callable[[Device], Layer], **options: Any) -> Variant:
        return Variant(lambda device: neuron_pass(build(device), shape, backward, device), shape[1], **options)

    return Case(
        f"neuron {'forward + backward' if backward else 'forward'} {list(shape)}",
        {
            "snntorch loop": variant(snntorch_neuron, ours=False),
            "spikingjelly": variant(spikingjelly_neuron, ours=False),
            "ours, not compiled": variant(our_neuron),
            "ours": variant(our_neuron, compile=True, targets=(6.0, 8.0) if backward else None),
        },
    )


# ---------------------------------------------------------------------------------------------------------------------
# Training steps


def configured(preset: str, *overrides: str) -> tuple[Config, Config]:
    """Both stages' configurations for grey images, 28x28 unless an override says so."""
    stage1, stage2 = (
        load_config(stage, CONFIGS / stage / f"{preset}.yaml", overrides) for stage in ("vq_svae", "absorbing")
    )
    size = stage1.image_size or 28
    stage1.image_shape = stage2.image_shape = [1, size, size]
    stage2.vq_svae = stage1
    return stage1, stage2


def network(stage: str, preset: str, *overrides: str, device: Device) -> tuple[nn.Module, Callable[[], Tensor]]:
    """Our network of a stage, in training mode, and its loss on a batch of noise: pictures cost what noise costs."""
    config1, config2 = configured(preset, *overrides)
    vq_svae = build_vq_svae(config1).train().to(device)
    if stage == "vq_svae":
        images = torch.rand(config1.train.batch_size, *config1.image_shape, device=device)
        return vq_svae, lambda: vq_svae.loss(images)["loss"]
    model = build_denoiser(config2).train().to(device)
    batch = config2.train.batch_size, *vq_svae.grid
    return model, denoising_loss(model, vq_svae.codebook_size, batch, config2.loss, device)


def plain_network(stage: str, fused: bool, device: Device) -> tuple[nn.Module, Callable[[], Tensor]]:
    """The paper's network of a stage on SpikingJelly, likewise; `fused` takes its scan instead of single steps."""
    from stages.bench.plain import GRID, K, PlainSDID, PlainVQSVAE, fused_lif, stepwise_lif

    lif = fused_lif if fused else stepwise_lif
    if stage == "vq_svae":
        model, images = PlainVQSVAE(lif).to(device), torch.rand(BATCH, 1, 28, 28, device=device)
        return model, lambda: model.loss(images)
    model = PlainSDID(lif).to(device)
    return model, denoising_loss(model, K, (BATCH, *GRID), "reweighted", device)


def denoising_loss(
    model: nn.Module, codebook_size: int, shape: tuple[int, int, int], objective: str, device: Device
) -> Callable[[], Tensor]:
    """The diffusion's loss on token grids [B, h, w] at random."""
    diffusion = AbsorbingDiffusion(shape[1:], codebook_size, objective)
    batch = torch.randint(codebook_size, shape, device=device)
    return lambda: diffusion.loss(model, batch)["loss"]


def training(model: nn.Module, loss: Callable[[], Tensor], dtype: str = "float32", fused: bool = True) -> Run:
    """A step of AdamW on `loss()`."""
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=1e-3, fused=fused)

    def step() -> None:
        with half_precision(model, dtype):
            value = loss()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()

    return step


def half_precision(model: nn.Module, dtype: str) -> torch.autocast:
    """Autocast where the model is, if bfloat16 is what is asked for."""
    return torch.autocast(next(model.parameters()).device.type, torch.bfloat16, enabled=dtype == "bfloat16")


def synapses(model: nn.Module, loss: Callable[[], Tensor], dtype: str) -> Run:
    """Forward and backward of the model's synapses alone, on the inputs they have in `loss()`, convolved directly.

    The floor of a step, but for layers that go through Winograd's filtering.
    """
    work: list[tuple[nn.Module, Tensor]] = []

    def record(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        work.append((module, inputs[0].detach().requires_grad_(inputs[0].requires_grad)))

    kinds = (nn.Conv2d, nn.ConvTranspose2d, PlaceLinear)
    hooks = [module.register_forward_hook(record) for module in model.modules() if isinstance(module, kinds)]
    with half_precision(model, dtype):
        loss()
    for hook in hooks:
        hook.remove()

    def timed() -> None:
        with half_precision(model, dtype):
            outputs = [module(x) for module, x in work]
        for output in outputs:
            output.backward(torch.ones_like(output))
        for module, x in work:
            module.zero_grad()
            x.grad = None

    return timed


def copying(model: nn.Module, loss: Callable[[], Tensor]) -> Run:
    """Every neuron layer's spikes copied once, in fp32."""
    spikes: list[Tensor] = []
    with torch.no_grad(), observed(model, lambda _, spk: spikes.append(spk)):
        loss()
    return lambda: [spk.clone() for spk in spikes]


def training_case(preset: str, stage: str) -> Case:
    """A whole training step: of the paper's network against the plain form, of ours against nothing."""
    config1, config2 = configured(preset)
    n = (config1 if stage == "vq_svae" else config2).train.batch_size
    targets: dict[str, tuple[float, float]] = {}
    variants: dict[str, Variant] = {}
    ours, plain = partial(network, stage, preset), partial(plain_network, stage)
    if preset == "paper":
        targets = PAPER_TARGETS[stage]
        for name, fused in {"plain": False, "plain, fused neurons": True}.items():
            variants[name] = Variant(
                lambda device, fused=fused: training(*plain(fused, device), fused=False), n, ours=False
            )
    for dtype in ("float32", "bfloat16"):
        variants[f"ours {dtype}"] = Variant(
            lambda device, dtype=dtype: training(*ours(device=device), dtype),
            n,
            dtype,
            compile=True,
            targets=targets.get(dtype),
        )
        variants[f"synapses alone {dtype}"] = Variant(
            lambda device, dtype=dtype: synapses(*ours(device=device), dtype), n, dtype
        )
    variants["ours float32, not compiled"] = Variant(lambda device: training(*ours(device=device)), n)
    variants["spikes copied once"] = Variant(lambda device: copying(*ours(device=device)), n)
    return Case(f"{preset} {stage} training step", variants)


def scaling_case(stage: str) -> Case:
    """A training step of `base` in bf16 at other batch sizes, T and image sizes: a ratio of 1 is linear."""
    config = configured("base")[stage == "absorbing"]
    batch_size, num_steps, size = config.train.batch_size, config.T, 28

    def variant(n: int = batch_size, T: int = num_steps, side: int = size) -> tuple[str, Variant]:
        overrides = f"train.batch_size={n}", f"T={T}", f"image_size={side}"
        return f"batch {n}, T {T}, {side}x{side}", Variant(
            lambda device: training(*network(stage, "base", *overrides, device=device), "bfloat16"),
            n,
            work=T / num_steps * (side / size) ** 2,
            dtype="bfloat16",
            compile=True,
        )

    return Case(
        f"{stage} scaling",
        dict(
            [
                variant(),
                *(variant(n=n) for n in (8, 16, 32, 128, 256)),
                *(variant(T=T) for T in (1, 2, 8, 16)),
                *(variant(side=side) for side in (32, 64)),
            ]
        ),
    )


# ---------------------------------------------------------------------------------------------------------------------
# Sampling


def plain_sampling(fused: bool, device: Device) -> Run:
    """49 Bernoulli calls of the paper's denoiser on SpikingJelly."""
    from stages.bench.plain import PlainSDID, fused_lif, stepwise_lif

    model = awake(PlainSDID(fused_lif if fused else stepwise_lif), device)
    return lambda: model.sample(BATCH)


def sampling(preset: str, n: int, batch_size: int, dtype: str, sample_steps: int | None, device: Device) -> Run:
    """Token grids from our sampler, `batch_size` in each call; the number of calls is the preset's by default."""
    config1, config = configured(preset)
    model = awake(build_denoiser(config), device)
    diffusion = AbsorbingDiffusion((7, 7), config1.model.codebook_size)
    options = {"sample_steps": sample_steps or config.sample.sample_steps, "order": config.sample.order}

    def run() -> None:
        with torch.inference_mode(), half_precision(model, dtype):
            diffusion.sample(model, list(range(n)), batch_size=batch_size, device=device, **options)

    return run


def awake(model: nn.Module, device: Device) -> nn.Module:
    """Batch norm that has seen a batch, so that neurons fire in evaluation."""
    model.train().to(device)
    with torch.no_grad():
        for _ in range(20):
            model(torch.randint(96, (8, 7, 7), device=device), torch.arange(1, 9, device=device))
    return model.eval()


def sampling_case() -> Case:
    """From plain sampling with the paper's denoiser to ours."""
    plain = {
        name: Variant(partial(plain_sampling, fused), ours=False)
        for name, fused in {"plain": False, "plain, fused neurons": True}.items()
    }
    paper = {
        f"paper's denoiser {dtype}": Variant(
            partial(sampling, "paper", 2 * BATCH, BATCH, dtype, None), 2 * BATCH, dtype, compile=True, targets=target
        )
        for dtype, target in (("float32", (1.5, 1.5)), ("bfloat16", (2.5, 2.5)))
    }
    base = {
        f"base, {steps} calls, {dtype}": Variant(
            partial(sampling, "base", 4 * CHUNK, CHUNK, dtype, steps),
            4 * CHUNK,
            dtype,
            compile=True,
            targets=(50.0, 100.0),
        )
        for steps in (8, 16, 32)
        for dtype in ("float32", "bfloat16")
    }
    return Case("sampling", {**plain, **paper, **base})


CASES = [
    *(
        neuron_case(shape, backward)
        for shape in ((16, 32, 64, 14, 14), (4, 128, 128, 7, 7))
        for backward in (False, True)
    ),
    *(training_case(preset, stage) for preset in ("paper", "base") for stage in ("vq_svae", "absorbing")),
    sampling_case(),
    *(scaling_case(stage) for stage in ("vq_svae", "absorbing")),
]

"""What is measured: each case a table of variants, each variant a function to be timed and how many images it handles.

A variant is built in a process of its own (`worker.py`), so that neither memory nor allocator settings are shared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spiking_vq.checkpoint import build_denoiser, build_vq_svae
from spiking_vq.config import Config, load_config
from spiking_vq.diffusion.absorbing import AbsorbingDiffusion
from spiking_vq.generators import CHUNK
from spiking_vq.layers import PlaceLinear
from spiking_vq.neurons import LIF

CONFIGS = Path(__file__).parents[2] / "configs"
BATCH = 32
PAPER_TARGETS = {
    "vq_svae": {"float32": (5.0, 6.0), "bfloat16": (8.0, 10.0)},
    "absorbing": {"float32": (2.8, 2.8), "bfloat16": (4.5, 4.5)},
}
"""Stage -> type -> (must, aim) of a training step against the plain form."""

Run = Callable[[], Any]


@dataclass(frozen=True)
class Variant:
    """One way of doing a case's work.

    Attributes:
        build: gives the function to time.
        images: how many it handles; times are compared by image.
        dtype: float32, or bfloat16 by autocast.
        compile: compile the kernels, and use Winograd's filtering.
        ours: uses the package, with its allocator settings.
        targets: (must, aim) of the ratio to the case's first variant.
        work: of one image, where it is not the same for all variants: times are compared by it.
    """

    build: Callable[[], Run]
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


def neuron_input(shape: tuple[int, ...]) -> Tensor:
    """Currents that make about a fifth of the neurons fire."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).requires_grad_()


def neuron_pass(run: Callable[[Tensor], Tensor], shape: tuple[int, ...], backward: bool) -> Run:
    """Forward, or forward and backward, of `[T, B, C, H, W]`."""
    x = neuron_input(shape)
    grad = torch.ones(shape)

    def timed() -> None:
        if not backward:
            with torch.no_grad():
                run(x)
            return
        run(x).backward(grad)
        x.grad = None

    return timed


def ours_neuron(shape: tuple[int, ...], backward: bool) -> Run:
    """One scan over all steps."""
    return neuron_pass(LIF(**NEURON), shape, backward)


def snntorch_neuron(shape: tuple[int, ...], backward: bool) -> Run:
    """A loop over the steps of `snntorch.Leaky`."""
    leaky = LIF(**NEURON).to_snntorch()

    def run(x: Tensor) -> Tensor:
        mem, spikes = torch.zeros_like(x[0]), []
        for current in x:
            spk, mem = leaky(current, mem)
            spikes.append(spk)
        return torch.stack(spikes)

    return neuron_pass(run, shape, backward)


def spikingjelly_neuron(shape: tuple[int, ...], backward: bool) -> Run:
    """SpikingJelly's multi-step LIF."""
    from spikingjelly.activation_based import functional

    from stages.bench.plain import fused_lif

    layer = fused_lif()

    def run(x: Tensor) -> Tensor:
        functional.reset_net(layer)
        return layer(x)

    return neuron_pass(run, shape, backward)


def neuron_case(shape: tuple[int, ...], backward: bool) -> Case:
    """The neuron alone on one shape."""
    targets = (6.0, 8.0) if backward else None
    arguments = (shape, backward)
    return Case(
        f"neuron {'forward + backward' if backward else 'forward'} {list(shape)}",
        {
            "snntorch loop": Variant(lambda: snntorch_neuron(*arguments), shape[1], ours=False),
            "spikingjelly": Variant(lambda: spikingjelly_neuron(*arguments), shape[1], ours=False),
            "ours, not compiled": Variant(lambda: ours_neuron(*arguments), shape[1]),
            "ours": Variant(lambda: ours_neuron(*arguments), shape[1], compile=True, targets=targets),
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


def tokens(codebook_size: int, n: int, grid: tuple[int, int] = (7, 7)) -> Tensor:
    """Token grids at random."""
    return torch.randint(codebook_size, (n, *grid), generator=torch.Generator().manual_seed(0))


def network(preset: str, stage: str, *overrides: str) -> tuple[nn.Module, Callable[[], Tensor]]:
    """Our network of a stage, in training mode, and its loss on a batch of noise: pictures cost what noise costs."""
    config1, config2 = configured(preset, *overrides)
    vq_svae = build_vq_svae(config1).train()
    if stage == "vq_svae":
        images = torch.rand(config1.train.batch_size, *config1.image_shape)
        return vq_svae, lambda: vq_svae.loss(images)["loss"]
    batch = tokens(config1.model.codebook_size, config2.train.batch_size, vq_svae.grid)
    model = build_denoiser(config2).train()
    return model, denoising_loss(model, vq_svae.codebook_size, batch, config2.loss)


def plain_network(stage: str, fused: bool = False) -> tuple[nn.Module, Callable[[], Tensor]]:
    """The paper's network of a stage on SpikingJelly, likewise; `fused` takes its scan instead of single steps."""
    from stages.bench.plain import K, PlainSDID, PlainVQSVAE, fused_lif, stepwise_lif

    lif = fused_lif if fused else stepwise_lif
    if stage == "vq_svae":
        model, images = PlainVQSVAE(lif), torch.rand(BATCH, 1, 28, 28)
        return model, lambda: model.loss(images)
    model = PlainSDID(lif)
    return model, denoising_loss(model, K, tokens(K, BATCH), "reweighted")


def denoising_loss(model: nn.Module, codebook_size: int, batch: Tensor, objective: str) -> Callable[[], Tensor]:
    """The diffusion's loss on token grids [B, h, w]."""
    diffusion = AbsorbingDiffusion(tuple(batch.shape[1:]), codebook_size, objective)
    return lambda: diffusion.loss(model, batch)["loss"]


def training(model: nn.Module, loss: Callable[[], Tensor], dtype: str = "float32", fused: bool = True) -> Run:
    """A step of AdamW on `loss()`."""
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=1e-3, fused=fused)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            value = loss()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()

    return step


def synapses(model: nn.Module, loss: Callable[[], Tensor], dtype: str) -> Run:
    """Forward and backward of the model's synapses alone, on the inputs they have in `loss()`, convolved directly.

    The floor of a step, but for layers that go through Winograd's filtering.
    """
    work: list[tuple[nn.Module, Tensor]] = []

    def record(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        work.append((module, inputs[0].detach().requires_grad_(inputs[0].requires_grad)))

    kinds = (nn.Conv2d, nn.ConvTranspose2d, PlaceLinear)
    hooks = [module.register_forward_hook(record) for module in model.modules() if isinstance(module, kinds)]
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
        loss()
    for hook in hooks:
        hook.remove()

    def timed() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
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
    for module in model.modules():
        if isinstance(module, LIF):
            module.observer = spikes.append
    with torch.no_grad():
        loss()
    return lambda: [spk.clone() for spk in spikes]


def training_case(preset: str, stage: str) -> Case:
    """A whole training step: of the paper's network against the plain form, of ours against nothing."""
    config1, config2 = configured(preset)
    n = (config1 if stage == "vq_svae" else config2).train.batch_size
    targets: dict[str, tuple[float, float]] = {}
    variants: dict[str, Variant] = {}
    if preset == "paper":
        targets = PAPER_TARGETS[stage]
        for name, fused in {"plain": False, "plain, fused neurons": True}.items():
            variants[name] = Variant(
                lambda fused=fused: training(*plain_network(stage, fused), fused=False), n, ours=False
            )
    for dtype in ("float32", "bfloat16"):
        variants[f"ours {dtype}"] = Variant(
            lambda dtype=dtype: training(*network(preset, stage), dtype),
            n,
            dtype,
            compile=True,
            targets=targets.get(dtype),
        )
        variants[f"synapses alone {dtype}"] = Variant(
            lambda dtype=dtype: synapses(*network(preset, stage), dtype), n, dtype
        )
    variants["ours float32, not compiled"] = Variant(lambda: training(*network(preset, stage)), n)
    variants["spikes copied once"] = Variant(lambda: copying(*network(preset, stage)), n)
    return Case(f"{preset} {stage} training step", variants)


def scaling_case(stage: str) -> Case:
    """A training step of `base` in bf16 at other batch sizes, T and image sizes: a ratio of 1 is linear."""
    config = configured("base")[stage == "absorbing"]
    batch_size, num_steps, size = config.train.batch_size, config.T, 28

    def variant(n: int = batch_size, T: int = num_steps, side: int = size) -> tuple[str, Variant]:
        overrides = f"train.batch_size={n}", f"T={T}", f"image_size={side}"
        return f"batch {n}, T {T}, {side}x{side}", Variant(
            lambda: training(*network("base", stage, *overrides), "bfloat16"),
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


def plain_sampling() -> Run:
    """49 Bernoulli calls of the paper's denoiser on SpikingJelly."""
    from stages.bench.plain import PlainSDID

    model = awake(PlainSDID())
    return lambda: model.sample(BATCH)


def sampling(preset: str, n: int, batch_size: int, dtype: str, sample_steps: int | None = None) -> Run:
    """Token grids from our sampler, `batch_size` in each call; the number of calls is the preset's by default."""
    config1, config = configured(preset)
    model = awake(build_denoiser(config))
    diffusion = AbsorbingDiffusion((7, 7), config1.model.codebook_size)
    options = {"sample_steps": sample_steps or config.sample.sample_steps, "order": config.sample.order}

    def run() -> None:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            diffusion.sample(model, list(range(n)), batch_size=batch_size, **options)

    return run


def awake(model: nn.Module) -> nn.Module:
    """Batch norm that has seen a batch, so that neurons fire in evaluation."""
    model.train()
    with torch.no_grad():
        for _ in range(20):
            model(tokens(96, 8), torch.arange(1, 9))
    return model.eval()


def sampling_case() -> Case:
    """From plain sampling with the paper's denoiser to ours."""
    paper = {
        f"paper's denoiser {dtype}": Variant(
            lambda dtype=dtype: sampling("paper", 2 * BATCH, BATCH, dtype),
            2 * BATCH,
            dtype,
            compile=True,
            targets=target,
        )
        for dtype, target in (("float32", (1.5, 1.5)), ("bfloat16", (2.5, 2.5)))
    }
    base = {
        f"base, {steps} calls, {dtype}": Variant(
            lambda dtype=dtype, steps=steps: sampling("base", 4 * CHUNK, CHUNK, dtype, steps),
            4 * CHUNK,
            dtype,
            compile=True,
            targets=(50.0, 100.0),
        )
        for steps in (8, 16, 32)
        for dtype in ("float32", "bfloat16")
    }
    return Case("sampling", {"plain": Variant(plain_sampling, ours=False), **paper, **base})


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

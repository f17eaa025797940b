"""The work of the variants: functions that build a run, or a part of one, on a device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from spiking_vq.checkpoint.build import build_denoiser, build_unet, build_vq_svae
from spiking_vq.config.load import load_config
from spiking_vq.config.schema import Config
from spiking_vq.diffusion.absorbing import AbsorbingDiffusion
from spiking_vq.diffusion.absorbing_sampler import AbsorbingSampler, AbsorbingSamplerOptions
from spiking_vq.diffusion.gaussian import GaussianDiffusion
from spiking_vq.diffusion.guidance import Denoiser, with_labels
from spiking_vq.layers.mixing import PositionLinear
from spiking_vq.models.vq_svae import VQSVAE, token_grid
from spiking_vq.neurons.activity import observed
from spiking_vq.neurons.lif import LIF
from spiking_vq.neurons.snntorch_exchange import to_snntorch
from stages.cli.options import preset_file

BATCH = 32
STAGES = ("vq_svae", "absorbing")
NEURON = {"beta": 0.5, "scale_input": True, "fire_at_threshold": True}

Run = Callable[[], Any]
Layer = Callable[[Tensor], Tensor]
Device = torch.device
Task = tuple[nn.Module, Callable[[], Tensor]]
"""A network in training mode, and its loss on a batch of noise: noise costs as much as pictures."""


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
    leaky = to_snntorch(LIF(**NEURON)).to(device)

    def run(x: Tensor) -> Tensor:
        mem, spikes = torch.zeros_like(x[0]), []
        for current in x:
            spk, mem = leaky(current, mem)
            spikes.append(spk)
        return torch.stack(spikes)

    return run


def spikingjelly_neuron(device: Device, backend: str | None = None) -> Layer:
    """SpikingJelly's multi-step LIF with one of its backends, or the one it chooses on the device."""
    from spikingjelly.activation_based import functional

    from stages.bench.plain import fused_lif

    lif = fused_lif().to(device)
    if backend:
        lif.backend = backend

    def run(x: Tensor) -> Tensor:
        functional.reset_net(lif)
        return lif(x)

    return run


def configured(preset: str, *overrides: str) -> tuple[Config, Config]:
    """Configurations of both stages for grey images, 28x28 unless an override says otherwise."""
    stage1 = load_config("vq_svae", preset_file("vq_svae", preset), overrides)
    free = *overrides, "sample.guidance_T=null"  # at most T otherwise
    stage2 = load_config("absorbing", preset_file("absorbing", preset), free)
    size = stage1.image_size or 28
    stage1.image_shape = stage2.image_shape = [1, size, size]
    stage2.vq_svae, stage2.num_classes = stage1, 10 if stage2.conditional else None
    return stage1, stage2


def our_task(stage: str, preset: str, device: Device, *overrides: str) -> Task:
    """Our network of a stage."""
    config1, config2 = configured(preset, *overrides)
    vq_svae = build_vq_svae(config1).train().to(device)
    if stage == "vq_svae":
        images = torch.rand(config1.train.batch_size, *config1.image_shape, device=device)
        return vq_svae, lambda: stage1_loss(vq_svae, images)
    model, n = build_denoiser(config2).train().to(device), config2.train.batch_size
    labels = torch.randint(10 * config2.styles, (n,), device=device) if config2.conditional else None
    shape = n, *vq_svae.code_grid
    return model, denoising_loss(with_labels(model, labels), vq_svae.codebook_size, shape, config2.loss, device)


def stage1_loss(vq_svae: VQSVAE, images: Tensor) -> Tensor:
    """Stage 1's loss of images [B, C, H, W] in [0, 1], and a step of an EMA codebook."""
    terms = vq_svae.loss_terms(images)
    vq_svae.quantizer.update(terms.vectors, terms.tokens)
    return terms.total


def plain_task(stage: str, neurons: str, device: Device) -> Task:
    """The paper's network of a stage on SpikingJelly; `neurons` is a function of `stages.bench.plain`."""
    from stages.bench import plain

    lif = getattr(plain, neurons)
    if stage == "vq_svae":
        model, images = plain.PlainVQSVAE(lif).to(device), torch.rand(BATCH, 1, 28, 28, device=device)
        return model, lambda: model.loss(images)
    model = plain.PlainSDID(lif).to(device)
    return model, denoising_loss(model, plain.K, (BATCH, 1, *plain.GRID), "reweighted", device)


def unet_task(preset: str, n: int, plain: bool, device: Device) -> Task:
    """A published U-Net at full size and its loss of `n` images of 3x32x32, ours or the plain form."""
    config = load_config("gaussian", preset_file("gaussian", preset))
    config.image_shape = [3, 32, 32]
    if plain:
        from stages.bench import plain_unets

        model = {"sddpm": plain_unets.PlainSDDPM, "fsddim": plain_unets.PlainFSDDIM}[preset]()
    else:
        model = build_unet(config)
    model.train().to(device)
    images = 2 * torch.rand(n, *config.image_shape, device=device) - 1
    diffusion = GaussianDiffusion(**asdict(config.diffusion))
    return model, lambda: diffusion.loss(model, images)["loss"]


def denoising_loss(
    denoiser: Denoiser, codebook_size: int, shape: tuple[int, ...], objective: str, device: Device
) -> Callable[[], Tensor]:
    """The diffusion's loss on random token grids [B, G, h, w]."""
    diffusion = AbsorbingDiffusion(shape[1:], codebook_size, objective)
    tokens = torch.randint(codebook_size, shape, device=device)
    return lambda: diffusion.loss(denoiser, tokens)["loss"]


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
    """Autocast on the model's device; enabled for bfloat16 only."""
    return torch.autocast(next(model.parameters()).device.type, torch.bfloat16, enabled=dtype == "bfloat16")


def synapses(model: nn.Module, loss: Callable[[], Tensor], dtype: str) -> Run:
    """Forward and backward of the model's synapses alone, on their inputs in `loss()`, convolved directly.

    The floor of a training step, except for layers that use Winograd's filtering.
    """
    work: list[tuple[nn.Module, Tensor]] = []

    def record(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        work.append((module, inputs[0].detach().requires_grad_(inputs[0].requires_grad)))

    kinds = (nn.Conv2d, nn.ConvTranspose2d, PositionLinear)
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
    """One fp32 copy of the spikes of every neuron layer."""
    spikes: list[Tensor] = []
    with torch.no_grad(), observed(model, lambda _, spk: spikes.append(spk)):
        loss()
    return lambda: [spk.clone() for spk in spikes]


def plain_sampling(neurons: str, device: Device) -> Run:
    """49 Bernoulli calls of the paper's denoiser on SpikingJelly."""
    from stages.bench import plain

    model = awake(plain.PlainSDID(getattr(plain, neurons)), (1, *plain.GRID), plain.K, device)
    return lambda: model.sample(BATCH)


def our_sampling(preset: str, n: int, batch_size: int, dtype: str, sample_steps: int | None, device: Device) -> Run:
    """Token grids from our sampler, `batch_size` in each call, in so many calls; None: as many as the preset says."""
    config1, config = configured(preset)
    codes, K = config1.model, config1.model.codebook_size
    grid = codes.num_codes, *token_grid(config1.image_shape, codes.channels)
    model = awake(build_denoiser(config), grid, K, device)
    options = AbsorbingSamplerOptions(sample_steps or config.sample.sample_steps, config.sample.order)
    sampler = AbsorbingSampler(AbsorbingDiffusion(grid, K), options)

    def run() -> None:
        with torch.inference_mode(), half_precision(model, dtype):
            sampler.sample(model, range(n), batch_size=batch_size, device=device)

    return run


def awake(model: nn.Module, grid: tuple[int, int, int], codebook_size: int, device: Device) -> nn.Module:
    """The denoiser of such tokens after batch norm has seen batches, so that neurons fire in evaluation."""
    model.train().to(device)
    with torch.no_grad():
        for _ in range(20):
            model(torch.randint(codebook_size, (8, *grid), device=device), torch.arange(1, 9, device=device))
    return model.eval()

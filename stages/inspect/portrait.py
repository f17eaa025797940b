"""Watch a generator at work: `spiking-vq inspect portrait data=mnist preset=base` (or `ckpt=FILE`).

Writes into `<results>/<data>/<preset>`: `filmstrip.png`, how images emerge call by call, what is still masked in grey,
or the noise as it goes; and, of a network that spikes, `raster.png`, the spikes of some neurons of every layer while
one image is made.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from matplotlib import pyplot as plt
from torch import Tensor

from spiking_vq.activity import observed
from spiking_vq.data.levels import to_uint8
from spiking_vq.errors import require
from spiking_vq.files import atomic_write, require_writable
from spiking_vq.neurons.lif import LIF
from spiking_vq.pipelines.base import Pipeline
from spiking_vq.pipelines.latent import LatentPipeline
from spiking_vq.pipelines.load import load
from spiking_vq.pipelines.pixel import PixelPipeline, as_images
from spiking_vq.randomness import mix_seed
from stages.cli.machine import check_device
from stages.cli.options import MODEL, SAMPLER, model_file, parse_options, sampler_settings
from stages.evaluate.pictures import write_picture
from stages.reporting.report import report_folder

OPTIONS = {
    **MODEL,
    **SAMPLER,
    "n": 8,
    "seed": 0,
    "device": "cpu",
    "results": Path("results"),
}

FRAMES = 12

NEURONS = 24

GREY = 0.5

PARTS = {"denoiser": "denoiser", "unet": "U-Net", "vq_svae": "decoder"}
"""Part of a model -> its title; the one that is called again and again first."""


def main(arguments: list[str]) -> None:
    """Find the model, watch it, write."""
    options = parse_options(arguments, OPTIONS)
    check_device(options["device"])
    require(options["n"] >= 1, "n, the number of images,", "at least 1", options["n"])
    generator = load(model_file(options), options["device"])
    settings = sampler_settings(generator, options)
    config = generator.config
    folder = report_folder(options["results"], config.stage, config.data, config.preset)
    require_writable(folder)
    film = token_film if isinstance(generator, LatentPipeline) else pixel_film
    films = [film(generator, mix_seed(options["seed"], index), settings) for index in range(options["n"])]
    write_picture(folder / "filmstrip.png", torch.cat(films), FRAMES)
    print(f"wrote {folder / 'filmstrip.png'}")
    if generator.config.neuron == "lif":
        spikes = raster(generator, mix_seed(options["seed"], 0), settings)
        draw_raster(folder / "raster.png", spikes)
        print(f"wrote {folder / 'raster.png'}")


@torch.no_grad()
def pixel_film(generator: PixelPipeline, seed: int, settings: dict[str, Any]) -> Tensor:
    """One image being made: uint8 [FRAMES, C, H, W], from noise to the end."""
    start = generator.diffusion.prior([torch.Generator().manual_seed(seed)], generator.model.image_shape)
    states = [as_images(start), *(images.cpu() for images in generator.trajectory([seed], **settings))]
    return to_uint8(torch.cat(evenly(states)))


@torch.no_grad()
def token_film(generator: LatentPipeline, seed: int, settings: dict[str, Any]) -> Tensor:
    """One image being made: uint8 [FRAMES, C, H, W], from nothing to the end."""
    states: list[Tensor] = []
    final = generator.tokens([seed], watch=lambda tokens: states.append(tokens.clone()), **settings)
    grids = torch.cat(evenly([*states, final]))
    masked = grids == generator.diffusion.mask_id
    images = generator.model.vq_svae.decode(torch.where(masked, final, grids), torch.Generator().manual_seed(seed))
    size = [side // cells for side, cells in zip(images.shape[2:], masked.shape[1:], strict=True)]
    hidden = masked.repeat_interleave(size[0], 1).repeat_interleave(size[1], 2).unsqueeze(1)
    return to_uint8(images.masked_fill(hidden, GREY).cpu())


def evenly(states: list[Tensor]) -> list[Tensor]:
    """`FRAMES` of them, from the first to the last."""
    return [states[round(position)] for position in torch.linspace(0, len(states) - 1, FRAMES).tolist()]


def raster(generator: Pipeline, seed: int, settings: dict[str, Any]) -> dict[str, Tensor]:
    """Layer -> spikes [neurons, steps] of some of its neurons while an image is made, steps counted over all calls."""
    names = [name for name, module in generator.model.named_modules() if isinstance(module, LIF)]
    spikes: dict[str, list[Tensor]] = {name: [] for name in names}
    with observed(generator.model, lambda name, spk: spikes[name].append(some_neurons(spk))):
        generator.make_alone(seed, **settings)
    return {name: torch.cat(parts, dim=1) for name, parts in spikes.items() if parts}


def some_neurons(spk: Tensor) -> Tensor:
    """Spikes [NEURONS, T] of neurons spread evenly over a layer's `[T, 1, ...]`."""
    neurons = spk.flatten(1).T
    return neurons[torch.linspace(0, len(neurons) - 1, NEURONS).long()].cpu()


def draw_raster(path: Path, spikes: dict[str, Tensor]) -> None:
    """One row a neuron, one column a step, a dot a spike; layers from the first at the top."""
    parts: dict[str, dict[str, Tensor]] = {}
    for name, spk in spikes.items():
        part, _, layer = name.partition(".")
        parts.setdefault(part, {})[layer] = spk
    parts = {name: parts[name] for name in PARTS if name in parts}
    with mpl.rc_context({"font.size": 8}):
        figure, axes = plt.subplots(
            1,
            len(parts),
            figsize=(12, 0.55 * max(map(len, parts.values())) + 1),
            width_ratios=[4, 1][: len(parts)],
            layout="constrained",
            squeeze=False,
        )
        for axis, (name, part) in zip(axes[0], parts.items(), strict=True):
            width = next(iter(part.values())).shape[1]
            rows, steps = torch.cat(list(part.values())).nonzero().T.tolist()
            axis.scatter(steps, rows, s=2, marker="|" if width > 16 else "s", color="black", linewidths=0.6)
            edges = [NEURONS * layer - 0.5 for layer in range(len(part) + 1)]
            axis.hlines(edges, -0.5, width - 0.5, color="0.8", linewidth=0.5)
            axis.set_yticks([edge + NEURONS / 2 for edge in edges[:-1]], list(part))
            axis.set(title=PARTS[name], xlabel="spiking step", xlim=(-0.5, width - 0.5), ylim=(edges[-1], edges[0]))
        with atomic_write(path) as temporary:
            figure.savefig(temporary, format="png", dpi=110)
        plt.close(figure)

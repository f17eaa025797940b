"""Quantise a trained model to integer weights of 8 bits or fewer, as a neuromorphic chip holds them.

Batch norms are folded, and the weights rounded after training: those of stage 1 with feedback, for images that the
model itself generates; see `spiking_vq.quantisation`. Writes a model file like any other, of the preset
`<preset>-int<bits>`, and prints what rounding changed: the weights of each synapse, and the spikes of each neuron layer
on other such images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from spiking_vq.checkpoint.build import LatentModel
from spiking_vq.checkpoint.file import load_model, save_model
from spiking_vq.config.schema import SpikingConfig
from spiking_vq.errors import InputError
from spiking_vq.fields import WeightBits
from spiking_vq.files import read_path
from spiking_vq.models.vq_svae import VQSVAE
from spiking_vq.pipelines.latent import LatentPipeline
from spiking_vq.quantisation.compare import roundings, spike_differences
from spiking_vq.quantisation.model import check_quantisable, folded, quantise_model
from stages.cli.options import ModelOptions, read_options
from stages.reporting.markdown import table

EXAMPLE = "spiking-vq quantise mnist bits=8"

NUM_IMAGES = 64
"""Images that are generated for rounding, and as many others on which spikes are compared."""


@dataclass(frozen=True, kw_only=True)
class Options(ModelOptions):
    """Options of `quantise`.

    Attributes:
        bits: of a weight.
        out: file to write; None (default) is `<runs>/<data>/<preset>-int<bits>/<stage>/model.safetensors`.
    """

    bits: WeightBits = 8
    out: Path | None = None


class Samples(NamedTuple):
    """Inputs of the networks, of images that a model generates; of a stage 1 alone, those of random tokens.

    Attributes:
        tokens: int64 [n, G, h, w].
        images: decoded from them, [n, C, H, W] in [0, 1].
        unfinished: tokens of the same images halfway through their generation; None of a stage 1 alone.
        labels: int64 [n]; None of an unconditional model.
    """

    tokens: Tensor
    images: Tensor
    unfinished: Tensor | None = None
    labels: Tensor | None = None

    @classmethod
    @torch.no_grad()
    def draw(cls, model: LatentModel | VQSVAE, config: SpikingConfig, seeds: Sequence[int]) -> Samples:
        """Generate an image for each seed."""
        generator = torch.Generator().manual_seed(seeds[0])
        if not isinstance(model, LatentModel):
            tokens = torch.randint(model.codebook_size, (len(seeds), *model.code_grid), generator=generator)
            return cls(tokens, model.decode(tokens, generator))
        pipeline = LatentPipeline(model, config)
        states = [state.x for state in pipeline.states(seeds)]
        images = model.vq_svae.decode(states[-1], generator)
        return cls(states[-1], images, states[len(states) // 2], pipeline.labels(seeds))

    def through_stage1(self, network: LatentModel | VQSVAE) -> None:
        """Decode the tokens, and encode the images."""
        vq_svae = network.vq_svae if isinstance(network, LatentModel) else network
        vq_svae.decode(self.tokens, torch.Generator().manual_seed(0))
        vq_svae.encode(self.images)

    def through(self, network: LatentModel | VQSVAE) -> None:
        """Run every part of a model once."""
        if self.unfinished is not None:
            labels = {} if self.labels is None else {"labels": self.labels}
            network.denoiser(self.unfinished, torch.ones(len(self.tokens), dtype=torch.long), **labels)
        self.through_stage1(network)


def claim(out: Path) -> None:
    """Raise `InputError` if a file stands there that `quantise` did not write."""
    if not read_path("out", out).exists():
        return
    try:
        own = getattr(load_model(out)[1], "weight_bits", None) is not None
    except InputError:
        own = False
    if not own:
        raise InputError(f"{out} is no quantised model, and would be replaced: name another file with out=")


def main(arguments: list[str]) -> None:
    """Find the model, quantise, write, print."""
    options = read_options(Options, arguments)
    path, bits = options.find(), options.bits
    model, config = load_model(path)
    check_quantisable(config)
    preset = f"{config.preset}-int{bits}"
    out = options.out or options.runs / config.data / preset / config.stage / "model.safetensors"
    claim(out)
    first, second = (Samples.draw(model, config, range(start, start + NUM_IMAGES)) for start in (0, NUM_IMAGES))
    quantised, made = quantise_model(model, config, bits, first.through_stage1)
    save_model(out, quantised, replace(made, preset=preset), torch.bfloat16)
    rows = [
        {
            "weights": name,
            "exponents": " to ".join(dict.fromkeys(map(str, rounding.exponents))),
            "clipped": f"{rounding.clipped:.2%}",
            "zero": f"{rounding.zero:.1%}",
            "error": f"{rounding.error:.1%}",
        }
        for name, rounding in roundings(folded(model), quantised, bits).items()
    ]
    print("\n".join([*table(rows), ""]))
    rows = [
        {"neurons": name, "firing rate": f"{rate:.1%}", "spikes that differ": f"{share:.2%} of the steps"}
        for name, (share, rate) in spike_differences(model, quantised, second.through).items()
    ]
    print("\n".join([*table(rows), ""]))
    print(f"wrote {out} ({out.stat().st_size / 1e6:.1f} MB)")

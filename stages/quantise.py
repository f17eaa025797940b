"""Quantise a trained model to integer weights of 8 bits or fewer, as a neuromorphic chip holds them.

Batch norms are folded, and the weights rounded after training; see `spiking_vq.quantisation`. Writes a model file like
any other, of the preset `<preset>-int<bits>`, and prints what rounding changed: the weights of each synapse, and the
spikes of each neuron layer on images that the model itself generates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from spiking_vq.checkpoint.build import LatentModel
from spiking_vq.checkpoint.file import load_model, save_model
from spiking_vq.config.schema import SpikingConfig
from spiking_vq.errors import InputError
from spiking_vq.fields import WeightBits
from spiking_vq.files import read_path
from spiking_vq.models.vq_svae import VQSVAE
from spiking_vq.pipelines.latent import LatentPipeline
from spiking_vq.quantisation.compare import roundings, spike_differences
from spiking_vq.quantisation.model import folded, quantise_model
from stages.cli.options import ModelOptions, read_options
from stages.reporting.markdown import table

EXAMPLE = "spiking-vq quantise mnist bits=8"

COMPARED = 64
"""Images on which spikes are compared."""


@dataclass(frozen=True, kw_only=True)
class Options(ModelOptions):
    """Options of `quantise`.

    Attributes:
        bits: of a weight.
        out: file to write; None (default) is `<runs>/<data>/<preset>-int<bits>/<stage>/model.safetensors`.
    """

    bits: WeightBits = 8
    out: Path | None = None


def main(arguments: list[str]) -> None:
    """Find the model, quantise, write, print."""
    options = read_options(Options, arguments)
    path, bits = options.find(), options.bits
    model, config = load_model(path)
    quantised, made = quantise_model(model, config, bits)
    made = replace(made, preset=f"{config.preset}-int{bits}")
    out = options.out or options.runs / made.data / made.preset / made.stage / "model.safetensors"
    if read_path("out", out).resolve() == path.resolve():
        raise InputError(f"out={out} is the model itself: name another file")
    save_model(out, quantised, made, torch.bfloat16)
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
        for name, (share, rate) in spike_differences(model, quantised, on_samples(model, config)).items()
    ]
    print("\n".join([*table(rows), ""]))
    print(f"wrote {out} ({out.stat().st_size / 1e6:.1f} MB)")


def on_samples(model: LatentModel | VQSVAE, config: SpikingConfig) -> Callable[[nn.Module], None]:
    """Function that runs a network like this one on images that it generates: half generated, decoded, encoded again.

    The images of a stage 1 alone are those of random tokens.
    """
    vq_svae = model.vq_svae if isinstance(model, LatentModel) else model
    with torch.no_grad():
        if isinstance(model, LatentModel):
            pipeline, seeds = LatentPipeline(model, config), range(COMPARED)
            states = [state.x for state in pipeline.states(seeds)]
            tokens, half, labels = states[-1], states[len(states) // 2], pipeline.labels(seeds)
        else:
            generator = torch.Generator().manual_seed(0)
            tokens = torch.randint(vq_svae.codebook_size, (COMPARED, *vq_svae.code_grid), generator=generator)
        images = vq_svae.decode(tokens, torch.Generator().manual_seed(0))

    def run(network: LatentModel | VQSVAE) -> None:
        stage1 = network
        if isinstance(network, LatentModel):
            stage1 = network.vq_svae
            times = torch.ones(COMPARED, dtype=torch.long)
            network.denoiser(half, times, **({} if labels is None else {"labels": labels}))
        stage1.decode(tokens, torch.Generator().manual_seed(0))
        stage1.encode(images)

    return run

"""Export a model to NIR, for neuromorphic tool chains, or to ONNX or torch.export.

Writes a folder: the networks (`denoiser`, `decoder`, `encoder`), what stays on the host (`host.safetensors`), what
everything is (`export.json`), and the spikes and outputs of two images, to check any receiver against (`expected.npz`).
`spiking-vq verify FOLDER` does that; `spiking_vq.load(FOLDER)` samples through the exported networks.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from spiking_vq.errors import require
from spiking_vq.export.folder import FORMATS, read_description
from spiking_vq.export.graphs.neurons import FORMS
from spiking_vq.export.host import INPUTS
from spiking_vq.fields import OneOf
from spiking_vq.pipelines.latent import LatentPipeline
from spiking_vq.pipelines.load import load
from stages.cli.options import ModelOptions, read_options

EXAMPLE = "spiking-vq export mnist to=nir"


@dataclass(frozen=True, kw_only=True)
class Options(ModelOptions):
    """Options of `export`.

    Attributes:
        to: `nir`, `onnx`, or `pt2` of torch.export.
        form: of the neurons in NIR. `standard` writes a subtracting reset into the nodes' metadata. `feedback` is made
            of standard nodes only, for snnTorch, Norse and SpikingJelly.
        inputs: of the networks in NIR: currents that the `host` looks up, or one-hot `spikes` that synapses look up.
        out: folder to write to; None (default) is `<runs>/<data>/<preset>/export/<to>`.
    """

    to: Annotated[str, OneOf(FORMATS)] = "nir"
    form: Annotated[str, OneOf(FORMS)] = "standard"
    inputs: Annotated[str, OneOf(INPUTS)] = "host"
    out: Path | None = None


def main(arguments: list[str]) -> None:
    """Load, export, say what was written."""
    options = read_options(Options, arguments)
    pipeline = load(options.find())
    config = pipeline.config
    out = options.out or options.runs / config.data / config.preset / "export" / options.to
    if isinstance(pipeline, LatentPipeline):
        pipeline.export(out, options.to, options.form, options.inputs)
    else:
        require(options.inputs == "host", "inputs", "host for a continuous model", options.inputs)
        pipeline.export(out, options.to, options.form)
    description, _ = read_description(out)
    for name, part in description["parts"].items():
        size = (out / part["file"]).stat().st_size / 1e6
        facts = f", {part['neurons']:,} neurons, {part['weights_not_0']:,} weights" if "neurons" in part else ""
        print(f"  {name:12} T = {part['T']}, {size:.2f} MB{facts}")
    print(f"wrote {out}: check it with `spiking-vq verify {out}`")

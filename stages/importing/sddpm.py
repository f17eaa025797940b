"""Import SDDPM's network from its authors' checkpoint (arXiv:2306.17046).

Sizes follow from the weights. The authors count diffusion times from 0, we from 1: the file holds weights that make up
for it. SDM's checkpoints are taken too if the scales of all steps are 1.
"""

from __future__ import annotations

from dataclasses import dataclass

from spiking_vq.checkpoint.authors import sddpm
from stages.cli.options import read_options
from stages.importing.model_file import ImportOptions, import_unet

EXAMPLE = "spiking-vq import sddpm sddpm-cifar10.pt T=4 data=cifar10"


@dataclass(frozen=True, kw_only=True)
class Options(ImportOptions):
    """Options of `import sddpm`."""


def main(arguments: list[str]) -> None:
    """Read, convert, write, print."""
    options = read_options(Options, arguments)
    weights = options.read("sddpm", "4")
    channels, _ = sddpm.sizes(weights)
    config = options.config("gaussian", "sddpm", channels)
    import_unet(sddpm.convert, weights, config, options)

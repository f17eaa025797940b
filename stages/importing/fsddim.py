"""Import FSDDIM's network from its authors' checkpoint (arXiv:2312.01742).

Sizes follow from the weights. The authors' trainer replaces threshold-dependent batch norm (tdBN) by plain batch norm;
`trained_with=tdbn` is for weights that were trained by the network as it is written.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from spiking_vq.checkpoint.authors import fsddim
from spiking_vq.fields import OneOf
from stages.cli.options import read_options
from stages.importing.model_file import ImportOptions, import_unet

EXAMPLE = "spiking-vq import fsddim best_model_checkpoint.pth T=4 data=mnist"


@dataclass(frozen=True, kw_only=True)
class Options(ImportOptions):
    """Options of `import fsddim`.

    Attributes:
        trained_with: batch norm of the training: `sync_batch_norm`, as by the authors' trainer, or `tdbn`.
    """

    trained_with: Annotated[str, OneOf(fsddim.TRAINERS)] = "sync_batch_norm"


def main(arguments: list[str]) -> None:
    """Read, convert, write, print."""
    options = read_options(Options, arguments)
    weights = options.read("fsddim", "4 or 8")
    channels, _ = fsddim.sizes(weights)
    config = options.config("gaussian", "fsddim", channels)
    import_unet(fsddim.convert, weights, config, options, trained_with=options.trained_with)

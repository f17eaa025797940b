"""Export of a continuous model to NIR: the small U-Net's graph, and its time embedding and head on the host."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spiking_vq.checkpoint.build import PixelModel, build_on_cpu
from spiking_vq.config.schema import GaussianConfig
from spiking_vq.errors import InputError, require_one_of
from spiking_vq.export.expected import PixelExamples
from spiking_vq.export.folder import read_description
from spiking_vq.export.graphs.cells import to_cells, to_pixels
from spiking_vq.export.graphs.neurons import FORMS
from spiking_vq.export.graphs.unet import blocks_of, unet_graph
from spiking_vq.export.host import without
from spiking_vq.export.nir_file import require_nir
from spiking_vq.export.nir_folder import read_folder, write_folder
from spiking_vq.export.receivers.own import Receiver
from spiking_vq.layers.folding import fold_batch_norms
from spiking_vq.models.sddpm import PreSpikeBlock, SDDPMUNet
from spiking_vq.neurons.fused import as_current
from spiking_vq.runtime.running import steps_of


def export_pixel(
    model: PixelModel,
    config: GaussianConfig,
    folder: Path,
    images: Tensor,
    labels: Tensor | None,
    form: str = "standard",
) -> None:
    """Write `unet.nir`, and with it what a receiver needs to be checked.

    Args:
        model: in evaluation mode on the CPU.
        config: its configuration.
        folder: to write to.
        images: that the model has generated, uint8 [n, C, H, W]: the expected results are of these with noise.
        labels: as the U-Net takes them, [n]; None for an unconditional one.
        form: see `spiking_vq.export.graphs.neurons`.

    Raises:
        InputError: the fully spiking DDIM's network, another network that NIR cannot hold, or nir is not installed.
    """
    require_nir()
    require_one_of("form", form, FORMS)
    if not isinstance(model.unet, SDDPMUNet):
        raise InputError(
            f"{type(model.unet).__name__} cannot be exported: its time embedding spikes without a place in the map, and"
            " its levels are joined by real-valued averages. Export a model with model.unet=sddpm."
        )
    folded = fold_batch_norms(copy.deepcopy(model).float())
    host, graph = host_of(folded), unet_graph(folded.unet, form)
    exported = copy.deepcopy(host).double()
    exported.unet = GraphUNet(exported.unet, Receiver(graph))
    write_folder(
        folder,
        model,
        folded,
        config,
        host,
        exported,
        {"unet": graph},
        noisy_examples(images, labels, config.diffusion.diffusion_steps),
        form=form,
        inputs="host",
        steps={"unet": model.unet.T},
        read_out={"unet": "swish(norm(output[t])), two convolutions, sum_t 0.8^(T-1-t): see SDDPMUNet.read_out"},
    )


def load_pixel(folder: Path) -> tuple[PixelModel, GaussianConfig]:
    """The model whose U-Net runs as the graph of a folder, in float32.

    Raises:
        InputError: no whole export to NIR in the folder.
    """
    description, config = read_description(folder)
    host = host_of(fold_batch_norms(build_on_cpu(config).eval()))
    graphs = read_folder(folder, host, description["parts"])
    host.unet = GraphUNet(host.unet, graphs["unet"])
    return host.float().eval(), config


def host_of(model: PixelModel) -> PixelModel:
    """A copy of a model without what its graph computes."""
    host = copy.deepcopy(model)
    host.unet = without(host.unet, "stem", "entry")
    for layers in (host.unet.down, host.unet.middle, host.unet.up):
        for index, layer in enumerate(layers):
            own = ("first_neuron", "first", "second_neuron", "second", "shortcut")
            layers[index] = without(layer, *own) if isinstance(layer, PreSpikeBlock) else nn.Identity()
    return host


def noisy_examples(images: Tensor, labels: Tensor | None, diffusion_steps: int) -> PixelExamples:
    """Images with as much noise as image, early and late in the diffusion."""
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    noisy = (images / 127.5 - 1 + noise) / 2**0.5
    times = torch.linspace(1, diffusion_steps, len(images) + 2)[1:-1].round().long()
    return PixelExamples(noisy, times, labels, images)


class GraphUNet(nn.Module):
    """A U-Net whose spiking part runs as a graph.

    Args:
        host: the U-Net without it, see `host_of`.
        graph: of the spiking part.
    """

    def __init__(self, host: SDDPMUNet, graph: Receiver) -> None:
        super().__init__()
        self.host, self.graph, self.T = host, graph, host.T
        levels = [layer for layer in host.down if isinstance(layer, nn.Identity)]
        self.side, self.image_shape = 2 ** len(levels), host.image_shape

    def forward(self, noisy: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """The prediction [B, C, H, W]; arguments of the U-Net's own `forward`."""
        return self.prediction(self.graph(self.graph_input(noisy, t, labels), steps_of(self)))

    def graph_input(self, noisy: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """What the graph reads, `[1, B, C', h, w]`: patches and the blocks' time currents."""
        patches = to_cells(F.pixel_unshuffle(noisy.to(self.host.head.weight.dtype), self.host.patch_size), self.side)
        embedding = self.host.embed_time(t, labels)
        times = torch.cat([block.time(embedding) for block in blocks_of(self.host)], dim=1)
        times = times[..., None, None].expand(-1, -1, *patches.shape[2:])
        return torch.cat([patches, times], dim=1).unsqueeze(0)

    def prediction(self, currents: Tensor) -> Tensor:
        """The prediction of the last block's currents `[T, B, f^2 C, h, w]`."""
        return self.host.read_out(as_current(torch.stack([to_pixels(step, self.side) for step in currents])))

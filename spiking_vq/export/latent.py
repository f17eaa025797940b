"""Export of a latent model to NIR: its three graphs, what stays on the host, and expected results."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from spiking_vq.checkpoint.build import LatentModel, build_on_cpu
from spiking_vq.config.schema import AbsorbingConfig
from spiking_vq.errors import require_one_of
from spiking_vq.export.expected import examples_of
from spiking_vq.export.folder import read_description
from spiking_vq.export.graphs.graph import Graph
from spiking_vq.export.graphs.networks import decoder_graph, denoiser_graph, encoder_graph
from spiking_vq.export.graphs.neurons import FORMS
from spiking_vq.export.host import INPUTS, GraphDenoiser, GraphVQSVAE, code_table, denoiser_table, host_of
from spiking_vq.export.nir_file import require_nir
from spiking_vq.export.nir_folder import read_folder, write_folder
from spiking_vq.export.receivers.own import Receiver
from spiking_vq.layers.folding import fold_batch_norms


def export_latent(
    model: LatentModel,
    config: AbsorbingConfig,
    folder: Path,
    tokens: Tensor,
    labels: Tensor | None,
    form: str = "standard",
    inputs: str = "host",
) -> None:
    """Write `denoiser.nir`, `decoder.nir`, `encoder.nir`, and with them what a receiver needs to be checked.

    Args:
        model: of stage 2, in evaluation mode on the CPU.
        config: its configuration.
        folder: to write to.
        tokens: of images that the model has generated, int64 [n, G, h, w]: the expected results are of these.
        labels: as the denoiser takes them, [n]; None for an unconditional one.
        form: see `spiking_vq.export.graphs.neurons`.
        inputs: see `spiking_vq.export.host`.

    Raises:
        InputError: a network that NIR cannot hold, or nir is not installed.
    """
    require_nir()
    require_one_of("form", form, FORMS)
    require_one_of("inputs", inputs, INPUTS)
    folded = fold_batch_norms(copy.deepcopy(model).float())
    host, graphs = host_of(folded), latent_graphs(folded, form, inputs)
    receivers = {name: Receiver(graph) for name, graph in graphs.items()}
    write_folder(
        folder,
        model,
        folded,
        config,
        host,
        as_model(copy.deepcopy(host), receivers, inputs).double(),
        graphs,
        examples_of(model, tokens, labels),
        form=form,
        inputs=inputs,
        steps={"denoiser": model.denoiser.T, "decoder": model.vq_svae.T, "encoder": model.vq_svae.T},
        read_out={"decoder": "sum_t 0.8^(T-1-t) output[t]", "denoiser": "mean_t output[t]"},
    )


def load_latent(folder: Path) -> tuple[LatentModel, AbsorbingConfig]:
    """The model whose network calls go through the graphs of a folder, in float32.

    Raises:
        InputError: no whole export to NIR in the folder.
    """
    description, config = read_description(folder)
    host = host_of(fold_batch_norms(build_on_cpu(config).eval()))
    graphs = read_folder(folder, host, description["parts"])
    return as_model(host, graphs, description["inputs"]).float().eval(), config


def latent_graphs(model: LatentModel, form: str, inputs: str) -> dict[str, Graph]:
    """The graphs of a model with folded batch norms, by the name of the part."""
    vq_svae, spikes = model.vq_svae, inputs == "spikes"
    tables = {"decoder": code_table(vq_svae), "denoiser": denoiser_table(model.denoiser)} if spikes else {}
    return {
        "decoder": decoder_graph(vq_svae, form, tables.get("decoder")),
        "encoder": encoder_graph(vq_svae, form),
        "denoiser": denoiser_graph(model.denoiser, form, vq_svae.grid, tables.get("denoiser")),
    }


def as_model(host: LatentModel, graphs: Mapping[str, Receiver], inputs: str) -> LatentModel:
    """The host's part and the graphs together, as the pipeline uses a model."""
    stage1 = {name: graphs[name] for name in ("decoder", "encoder")}
    return LatentModel(
        GraphVQSVAE(host.vq_svae, stage1, inputs), GraphDenoiser(host.denoiser, graphs["denoiser"], inputs)
    )

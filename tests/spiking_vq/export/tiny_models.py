"""Latent models small enough to export in a moment, and awake; and what their export is checked by."""

import torch
from awake import wake
from torch import nn

from spiking_vq.checkpoint.build import LatentModel, build_denoiser, build_vq_svae
from spiking_vq.config.options import DenoiserOptions, LIFOptions, TrainOptions, VQSVAEOptions
from spiking_vq.config.schema import AbsorbingConfig, VQSVAEConfig
from spiking_vq.diffusion.absorbing_sampler import AbsorbingSamplerOptions
from spiking_vq.export.check import faults, own_agreement
from spiking_vq.export.expected import from_arrays
from spiking_vq.export.folder import read_description, read_expected
from spiking_vq.layers.synapses import BatchNorm
from spiking_vq.models.quantizers.vector import VectorQuantizer
from spiking_vq.neurons.lif import LIF
from spiking_vq.pipelines.latent import LatentPipeline

BASE = {"beta": 1.0, "reset": "subtract", "fire_at_threshold": True}
"""Neurons of the base presets' stage 1."""

LEAKY = {"beta": 0.5, "fire_at_threshold": True}
"""Neurons of the base presets' stage 2."""

PAPER = {"beta": 0.5, "scale_input": True, "fire_at_threshold": True}
"""Neurons of the paper presets."""

T = 3

STAGE1 = {
    "vq": {},
    "product": {"quantizer": "product", "num_codes": 2},
    "residual": {"quantizer": "residual", "num_codes": 2},
    "count": {
        "quantizer": "count",
        "num_codes": 2,
        "codebook_size": (T + 1) ** 2,
        "encoding": "rate",
        "spike_generator": "direct",
    },
    "poisson": {"spike_generator": "poisson"},
    "repeat": {"spike_generator": "repeat"},
    "deep": {"channels": [2, 3, 4], "decoder_blocks": [1, 1], "num_residual_blocks": 1, "output": "sigmoid"},
}
"""Kind of stage 1 -> its options. `deep` halves three times, and has residual blocks of pixels in cells."""


MODELS = {
    "vq": {},
    "product": {"stage1": "product"},
    "residual": {"stage1": "residual", "conditional": True},
    "count": {"stage1": "count", "conditional": True},
    "deep": {"stage1": "deep", "denoiser_lif": {"beta": 1.0, "reset": "subtract"}},
    "paper": {"lif": PAPER, "denoiser": "sdid", "denoiser_lif": PAPER},
    "poisson": {"stage1": "poisson", "lif": LEAKY},
}
"""Name -> arguments of `tiny`, of the models that export and events are tested with."""


def tiny(stage1="vq", lif=None, denoiser="token", denoiser_lif=None, conditional=False, steps=T, **config):
    """A pipeline of 2x2 tokens.

    Args:
        stage1: key of `STAGE1`.
        lif: options of the neurons of stage 1; None is `BASE`.
        denoiser: `token` or `sdid`.
        denoiser_lif: options of the neurons of stage 2; None is `LEAKY`.
        conditional: of three labels with two styles each.
        steps: T of both networks.
        config: further fields of the configuration of stage 2.
    """
    torch.manual_seed(0)
    options = {"channels": [4, 6], "embedding_dim": 4, "codebook_size": 6} | STAGE1[stage1]
    shape = [1] + 2 * [2 * 2 ** len(options["channels"])]
    train = TrainOptions(max_steps=1)
    vq_svae_config = VQSVAEConfig(
        image_shape=shape, T=steps, lif=LIFOptions(**(lif or BASE)), train=train, model=VQSVAEOptions(**options)
    )
    labels = {"conditional": True, "num_classes": 3, "styles": 2} if conditional else {}
    width = {"width": 2} if denoiser == "sdid" else {"width": 6, "num_blocks": 1}
    sampler = {"guidance": 1.5 if conditional else 0.0, "sample_steps": 3}
    config = AbsorbingConfig(
        image_shape=shape,
        T=steps,
        lif=LIFOptions(**(denoiser_lif or LEAKY)),
        train=train,
        model=DenoiserOptions(denoiser, **width),
        vq_svae=vq_svae_config,
        sample=AbsorbingSamplerOptions(**sampler | config.pop("sample", {})),
        **labels | config,
    )
    vq_svae, network = build_vq_svae(vq_svae_config), build_denoiser(config)
    if conditional:
        network.labels.weight.data *= 50  # so that labels make a difference
    for name, value in vq_svae.quantizer.named_parameters():
        if name.endswith("codebook"):
            nn.init.uniform_(value, 0, 1)
    images = torch.rand(16, *shape)
    wake(_unlike(vq_svae), images)
    if isinstance(vq_svae.quantizer, VectorQuantizer):
        codes = vq_svae.quantizer.codebook.data
        vectors = vq_svae.encode_spikes(vq_svae.encode(images)).detach().movedim(1, -1).flatten(0, -2).unique(dim=0)
        codes[: len(vectors)] = vectors[torch.randperm(len(vectors))[: len(codes)]]  # so that codes are in use
        wake(vq_svae, images)
    tokens = torch.randint(options["codebook_size"] + 1, (16, *vq_svae.code_grid))
    times = torch.arange(16) % tokens[0].numel() + 1
    wake(_unlike(network), tokens, times, *([torch.arange(16) % 7] if conditional else []))
    network.readout.weight.data *= 10  # so that what is drawn at one place depends on the others
    return LatentPipeline(LatentModel(vq_svae, network), config)


def _unlike(network):
    """Give every batch norm a scale and biases of its own; neurons that scale their input need more of it to fire."""
    highest = (
        1.2 if any(module.dynamics.scale_input for module in network.modules() if isinstance(module, LIF)) else 0.8
    )
    for module in network.modules():
        if isinstance(module, BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.2)
            nn.init.uniform_(module.bias, -0.2, highest)
            if module.synapse_bias is not None:
                nn.init.uniform_(module.synapse_bias, -0.5, 0.5)
    return network


def results_in(folder):
    """Examples and results of the network itself, of a folder."""
    return from_arrays(read_expected(folder))


def agreements(pipeline, folder):
    """Part -> how far the graphs of an exported fp64 pipeline agree; checks that its neurons fire, and not always."""
    examples, expected = results_in(folder)
    for part, result in expected.items():
        for name, spk in result.spikes.items():
            assert 0 < spk.double().mean() < 1, f"all neurons of {part}, {name} do the same"
    return {part: own_agreement(pipeline.model, part, examples, result) for part, result in expected.items()}


def assert_exact(pipeline, folder, least):
    """Check that the graphs of an exported fp64 pipeline give every spike, of at least so many slots a part."""
    rows = agreements(pipeline, folder)
    assert rows.keys() == {"decoder", "encoder", "denoiser"}
    for row in rows.values():
        assert row.slots > least
        assert row.differ == 0
        assert row.output < 1e-9
    assert faults_of(pipeline, folder) == []


def faults_of(pipeline, folder):
    """What of an exported pipeline's graphs is not as its configuration asks."""
    description, config = read_description(folder)
    return list(faults(pipeline.model, config, description["form"], description["inputs"]))

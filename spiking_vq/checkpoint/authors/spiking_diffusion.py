"""Spiking-Diffusion's checkpoints: `model.pth` of stage 1, `diff_model.pth` of the denoiser."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from spiking_vq.checkpoint.authors.tables import Table, check_constant, conv_norm, filled, linear, shape_of
from spiking_vq.checkpoint.build import LatentModel, build_on_cpu
from spiking_vq.checkpoint.file import fingerprint
from spiking_vq.config.schema import AbsorbingConfig, VQSVAEConfig
from spiking_vq.errors import InputError, require
from spiking_vq.models.vq_svae import VQSVAE
from spiking_vq.neurons.readouts import decay_weights

STEP_WEIGHTS = ("memout.coef", "vq_layer.memout.coef")
"""Their tables of the weights of the T steps in a membrane potential, [T, 1, 1, 1, 1]."""

CODEBOOK, LOGITS = "vq_layer.embeddings.weight", "conv6.0.weight"
"""Weights that only stage 1, or only the denoiser has."""

FIRST_LAYER = "encoder.snn_convs.0.weight"

STAGE1: Table = (
    conv_norm("encoder.snn_convs.0", "encoder.snn_convs.1", "stem")
    | conv_norm("encoder.snn_convs.3", "encoder.snn_convs.4", "encoder.1")
    | conv_norm("encoder.snn_convs.6", "encoder.snn_convs.7", "encoder.3")
    | {"vq_layer.alpha": "encode_spikes.mix", CODEBOOK: "quantizer.codebook"}
    | conv_norm("vq_layer.poisson.0", "vq_layer.poisson.1", "spike_generator.current")
    | conv_norm("decoder.snn_convs.0", "decoder.snn_convs.1", "decoder.0")
    | conv_norm("decoder.snn_convs.3", "decoder.snn_convs.4", "decoder.2")
    | linear("decoder.snn_convs.6", "readout.synapse")
)
"""Their keys of stage 1 -> ours."""

DENOISER: Table = (
    conv_norm("conv1.0", "conv1.1", "stem")
    | conv_norm("conv2.0", "conv2.1", "blocks.0")
    | conv_norm("conv3.0", "conv3.1", "blocks.2")
    | conv_norm("conv4.0", "conv4.1", "blocks.4")
    | conv_norm("conv5.0", "conv5.1", "blocks.6")
    | linear("conv6.0", "readout")
)
"""Their keys of the denoiser -> ours."""


def is_stage1(weights: Mapping[str, Tensor]) -> bool:
    """Whether weights are of stage 1, not of the denoiser.

    Raises:
        InputError: of neither.
    """
    require(CODEBOOK in weights or LOGITS in weights, "the checkpoint", f"one with {CODEBOOK} or {LOGITS}", "neither")
    return CODEBOOK in weights


def image_channels(weights: Mapping[str, Tensor]) -> int:
    """Number of channels of the images of stage 1.

    Raises:
        InputError: the key from which it follows is missing.
    """
    return shape_of(weights, FIRST_LAYER)[1]


def convert_stage1(
    weights: Mapping[str, Tensor], config: VQSVAEConfig, image_size: int = 28, data_variance: float | None = None
) -> tuple[VQSVAE, VQSVAEConfig]:
    """The authors' VQ-SVAE as a model of this package.

    Args:
        weights: state dict of the authors' `model.pth`, see `state_dict_of`.
        config: of the preset `paper` of stage 1, with T.
        image_size: side of the square images in pixels, which the weights do not tell.
        data_variance: variance of the training images' pixels in [0, 1], which the file does not hold; only training
            needs it. None (default) keeps 1.

    Returns:
        The model in evaluation mode, on the CPU, of the precision of `config`; and the configuration with its sizes.

    Raises:
        InputError: weights of another network, or of another T; an image size that does not divide.

    Reference: Liu et al., arXiv:2308.10187, and the authors' program.
    """
    for key in STEP_WEIGHTS:
        if key in weights:
            num_steps, *_ = shape_of(weights, key, 5)
            require(num_steps == config.T, "T", f"{num_steps}, the number of steps in {key}", config.T)
            check_constant(weights, key, torch.tensor(decay_weights(config.T, 0.8)).view(-1, 1, 1, 1, 1))
    outer = shape_of(weights, FIRST_LAYER)[0]
    inner, embedding_dim = (shape_of(weights, f"encoder.snn_convs.{index}.weight")[0] for index in (3, 6))
    codebook_size, _ = shape_of(weights, CODEBOOK, 2)
    sizes = {"channels": [outer, inner], "embedding_dim": embedding_dim, "codebook_size": codebook_size}
    shape = [image_channels(weights), image_size, image_size]
    config = replace(config, image_shape=shape, model=replace(config.model, **sizes))
    model = build_on_cpu(config)
    filled(model, weights, STAGE1, dropped=STEP_WEIGHTS)
    if data_variance is not None:
        model.data_variance.fill_(data_variance)
    return model, config


def convert_denoiser(
    weights: Mapping[str, Tensor], config: AbsorbingConfig, vq_svae: VQSVAE, stage1: VQSVAEConfig
) -> tuple[LatentModel, AbsorbingConfig]:
    """The authors' denoiser, with the stage 1 that it was trained on, as a model of this package.

    The authors' program has masks other than K, the number of codes (`--mask max` or `min`); the weights do not tell
    them. Such a denoiser has no equal here.

    Args:
        weights: state dict of the authors' `diff_model.pth`, see `state_dict_of`, trained with the mask K.
        config: of the preset `paper` of stage 2, with T.
        vq_svae, stage1: the converted stage 1 and its configuration.

    Returns:
        Both networks in evaluation mode, on the CPU; and the configuration with its sizes.

    Raises:
        InputError: weights of another network, or of a denoiser of other tokens.

    Reference: Liu et al., arXiv:2308.10187, and the authors' program.
    """
    known = {"vq_svae": stage1, "stage1_sha256": fingerprint(vq_svae), "image_shape": stage1.image_shape}
    (codes, *_), (width, *_) = shape_of(weights, LOGITS), shape_of(weights, "conv1.0.weight")
    if codes != vq_svae.codebook_size:
        raise InputError(
            f"the denoiser predicts {codes} codes, stage 1 has {vq_svae.codebook_size}: its mask would be code {codes}"
            f" instead of {vq_svae.codebook_size}. Name the stage 1 that it was trained on"
        )
    config = replace(config, model=replace(config.model, denoiser="sdid", width=width), **known)
    model = build_on_cpu(config)
    filled(model.denoiser, weights, DENOISER)
    model.vq_svae.load_state_dict(vq_svae.state_dict())
    return model.eval(), config

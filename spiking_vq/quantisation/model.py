"""Quantising a trained model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import replace

from torch import nn

from spiking_vq.checkpoint.build import LatentModel
from spiking_vq.checkpoint.file import fingerprint
from spiking_vq.config.schema import AbsorbingConfig, Config, GaussianConfig, SpikingConfig, VQSVAEConfig
from spiking_vq.errors import InputError
from spiking_vq.layers.folding import fold_batch_norms, separate_connections
from spiking_vq.models.vq_svae import VQSVAE
from spiking_vq.quantisation.bounds import EXACT_BITS, accumulator_bits
from spiking_vq.quantisation.feedback import Moments, input_moments
from spiking_vq.quantisation.grid import require_bits
from spiking_vq.quantisation.parts import rounded_weights

FINEST = 16
"""Largest exponent of a weight; smaller where accumulators would not be exact otherwise."""


def quantise_model(
    model: nn.Module, config: Config, bits: int = 8, run: Callable[[nn.Module], None] | None = None
) -> tuple[VQSVAE | LatentModel, Config]:
    """Quantise a trained model after its training: fold its batch norms, and round its weights.

    Args:
        model: a `VQSVAE`, or a `LatentModel`, both of whose networks are quantised; it stays as it is.
        config: its configuration.
        bits: of the weights, in 2..8; default 8. Weights at the edges (`quantisation.parts.EDGE_BITS`) take 8, and
            biases and thresholds as many as they need.
        run: runs a model like this one on typical inputs; the synapses that it reaches are rounded with feedback, see
            `spiking_vq.quantisation.feedback`. None (default): all are rounded to the nearest.

    Returns:
        The quantised model, in evaluation mode, and its configuration: what `save_model` takes.

    Raises:
        InputError: a network whose neurons or synapses are no integer arithmetic; the message names what is not.
    """
    require_bits(bits)
    check_quantisable(config)
    real = folded(model)
    moments = input_moments(real, run) if run else {}
    if not isinstance(real, LatentModel):
        return _quantised(real, config, bits, moments), replace(config, weight_bits=bits)
    vq_svae = _quantised(real.vq_svae, config.vq_svae, bits, _below("vq_svae.", moments))
    denoiser = _quantised(real.denoiser, config, bits, _below("denoiser.", moments))
    stage1 = replace(config.vq_svae, weight_bits=bits)
    made = replace(config, weight_bits=bits, vq_svae=stage1, stage1_sha256=fingerprint(vq_svae))
    return LatentModel(vq_svae, denoiser).eval(), made


def folded(model: nn.Module) -> nn.Module:
    """A copy of a trained network as a chip holds it, but with real weights; in fp32 and evaluation mode."""
    return separate_connections(fold_batch_norms(deepcopy(model).float().eval()))


def check_quantisable(config: Config) -> None:
    """Check that the networks of a configuration are integer arithmetic once their weights are integers.

    Raises:
        InputError: they are not; the message says why.
    """
    if isinstance(config, AbsorbingConfig):
        _check_neurons(config)
        model = config.model
        _refuse(model.denoiser != "token", f"model.denoiser={model.denoiser}", "its first synapse reads real numbers")
        _refuse(model.mixer == "attention", "model.mixer=attention", "products of spikes are no synapses")
        check_quantisable(config.vq_svae)
    elif isinstance(config, VQSVAEConfig):
        _check_neurons(config)
        generator, quantizer = config.model.spike_generator, config.model.quantizer
        _refuse(generator == "repeat", "model.spike_generator=repeat", "the decoder's first synapse reads real numbers")
        rates = quantizer == "count" and generator == "adaptive"
        _refuse(rates, "model.quantizer=count with spike_generator=adaptive", "its synapse reads rates k / T")
    elif isinstance(config, GaussianConfig):
        layers = REAL_NUMBERS[config.model.unet]
        _refuse(True, f"model.unet={config.model.unet}", f"these of its layers read real numbers: {layers}")
    else:
        raise InputError(f"a {config.stage} has no spikes: quantise a model of stage absorbing or vq_svae")


REAL_NUMBERS = {
    "sddpm": "stem, time, the blocks' time and shortcut, head, smooth",
    "fsddim": "stem, time_in, shrink, grow, head, and the synapses behind stem, shrink and grow",
}
"""U-Net -> its layers that no spikes feed."""


def _check_neurons(config: SpikingConfig) -> None:
    lif = config.lif
    _refuse(config.weight_bits is not None, f"weight_bits={config.weight_bits}", "it is quantised: take the fp32 model")
    _refuse(config.neuron != "lif", f"neuron={config.neuron}", "its activations are real numbers")
    _refuse(config.tsm, "tsm=true", "the scales of the steps are real numbers")
    _refuse(lif.learn_beta, "lif.learn_beta=true", "a learnt decay is no power of two")
    halves = lif.beta == 0 or math.log2(lif.beta) == int(math.log2(lif.beta))
    _refuse(not halves, f"lif.beta={lif.beta}", "a decay must be a power of two, such as 0.5 or 1, which is a shift")
    _refuse(lif.scale_input, "lif.scale_input=true", "it multiplies currents by 1 - beta")


def _refuse(wrong: bool, found: str, reason: str) -> None:
    """Raise `InputError` if what was found makes quantising impossible."""
    if wrong:
        raise InputError(f"a model with {found} cannot be quantised: {reason}")


def _below(prefix: str, moments: Mapping[str, Moments]) -> dict[str, Moments]:
    """The moments of one network, by the names within it."""
    return {name.removeprefix(prefix): value for name, value in moments.items() if name.startswith(prefix)}


def _quantised(real: nn.Module, config: SpikingConfig, bits: int, moments: Mapping[str, Moments]) -> nn.Module:
    """The folded network, rounded, its exponents as large as float32 computes exactly."""
    network = deepcopy(real)
    for most in range(FINEST, -1, -1):
        network.load_state_dict(rounded_weights(real, bits, most, moments), strict=False)
        needed = accumulator_bits(network)
        layer = max(needed, key=needed.get)
        if needed[layer] <= EXACT_BITS:
            return network
    raise InputError(
        f"{layer} of the {config.stage} has currents too large to be quantised: its accumulators take {needed[layer]}"
        f" bits, and {EXACT_BITS} are exact in float32"
    )

"""Stage 1, the vector-quantised spiking variational autoencoder (VQ-SVAE).

image -> encoder -> spikes -> rate + PSP -> nearest code -> spike generator -> decoder -> membrane read-out -> image
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spiking_vq.errors import InputError, require, require_multiples, require_one_of, require_unit_range
from spiking_vq.layers.readout import MembraneReadout
from spiking_vq.layers.synapses import NeuronFactory, SpikingResidual, conv_norm, direct_coding, up_conv_norm
from spiking_vq.models.quantizers import build_quantizer
from spiking_vq.models.quantizers.vector import Quantized
from spiking_vq.models.spike_encoding import SpikeEncoding
from spiking_vq.models.spike_generators import SPIKE_GENERATORS
from spiking_vq.neurons.readouts import psp_trace
from spiking_vq.runtime.running import steps_of

STRETCH = 0.05


def token_grid(image_shape: Sequence[int], channels: Sequence[int]) -> tuple[int, int]:
    """(h, w) of the tokens of images (C, H, W): each stride-2 convolution, one per entry of `channels`, halves H and W.

    Raises:
        InputError: H or W does not divide, or there is no convolution.
    """
    require(len(channels) > 0 and min(channels) > 0, "channels", "one width or more, such as [32, 64]", list(channels))
    _, height, width = image_shape
    factor = 2 ** len(channels)
    require_multiples(height, width, factor, f"{len(channels)} convolutions halve them", "model.channels")
    return height // factor, width // factor


def stretched_sigmoid(potential: Tensor) -> Tensor:
    """A sigmoid stretched to (-0.05, 1.05), clamped to [0, 1], minus 0.5: black and white are reached exactly."""
    return ((1 + 2 * STRETCH) * potential.sigmoid() - STRETCH).clamp(0, 1) - 0.5


OUTPUTS = {"tanh": torch.tanh, "sigmoid": stretched_sigmoid}
"""Output functions: the read-out's membrane potential to images minus 0.5."""


class Autoencoded(NamedTuple):
    """Results of one pass through the bottleneck and back.

    Attributes:
        potential: the read-out's membrane potential [B, C, H, W], which `VQSVAE.reconstruct` turns into images.
        quantized: the codes nearest to `vectors`.
        encoded, generated: spikes `[T, B, D, h, w]` of the encoder and of the spike generator.
        vectors: the encoder's spikes as vectors [B, D, h, w].
    """

    potential: Tensor
    quantized: Quantized
    encoded: Tensor
    generated: Tensor
    vectors: Tensor


class LossTerms(NamedTuple):
    """Terms of the loss of stage 1, scalars with gradient, and further results that a training step uses.

    Attributes:
        reconstruction: `MSE(x', x) / Var(train)`.
        cross_entropy: the binary cross-entropy of the pixels times its weight; 0 without a weight.
        quantizer: `MSE(q, sg z) + c MSE(z, sg q)`, the first term only where gradients train the codes.
        psp: `mean((PSP(s_q) - PSP(sg s_z))^2) + c mean((PSP(sg s_q) - PSP(s_z))^2)`.
        mse: `MSE(x', x)`, images in [0, 1].
        made: reconstructions minus 0.5, [B, C, H, W].
        vectors, tokens: the encoder's vectors [B, D, h, w] and their codes [B, G, h, w], for `Quantizer.update`.
    """

    reconstruction: Tensor
    cross_entropy: Tensor
    quantizer: Tensor
    psp: Tensor
    mse: Tensor
    made: Tensor
    vectors: Tensor
    tokens: Tensor

    @property
    def total(self) -> Tensor:
        """Sum of the four terms: the paper's loss, plus the cross-entropy."""
        return self.reconstruction + self.cross_entropy + self.quantizer + self.psp


class VQSVAE(nn.Module):
    """The autoencoder. Each of its stride-2 convolutions halves the image's height and width, see `token_grid`.

    Args:
        image_shape: (C, H, W); H and W multiples of 2 to the number of `channels`.
        T: number of spiking steps.
        neuron: builds the neuron layers.
        channels: widths after the stride-2 convolutions.
        num_residual_blocks: pre-spike residual blocks at the grid's resolution, in the encoder and in the decoder each.
        decoder_channels: widths of the decoder after its stride-2 convolutions, from the image to the grid; None
            (default) mirrors `channels`.
        decoder_blocks: residual blocks of the decoder at each resolution, from the grid to the image; None (default) is
            `num_residual_blocks` at the grid's.
        quantizer: `vq`, `product`, `residual` or `count`; see `spiking_vq.models.quantizers`.
        num_codes: G, number of codes a position.
        embedding_dim: D.
        codebook_size: K, number of classes of each code.
        encoding, psp: see `SpikeEncoding`.
        spike_generator: `adaptive`, `direct`, `poisson` or `repeat`; see `spiking_vq.models.spike_generators`.
        output: last function of the read-out. The published `tanh` is still steep at the images' black and white, -0.5
            and 0.5, so that flat background comes out slightly noisy. `sigmoid` (`stretched_sigmoid`) is flat there.
        cross_entropy: weight in the loss of the binary cross-entropy between pixels and the sigmoid of the potential,
            nats a pixel; needs `output="sigmoid"`. It still sees differences that the squared error no longer does.
        commitment_cost, ema_decay, restart_below: see `VectorQuantizer`. The first weighs the PSP term too.
            `count` has no use for them.
        data_variance: variance of the training images' pixels; scales the reconstruction error. Saved with the weights.

    Raises:
        InputError: a size that does not divide, T < 1, an unknown name.

    Reference: Liu et al., arXiv:2308.10187, section 3; the defaults are the published network (50,658 parameters on
        1x28x28 images), except for a narrower initialisation of the read-out.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        T: int,
        neuron: NeuronFactory,
        *,
        channels: Sequence[int] = (32, 64),
        num_residual_blocks: int = 0,
        decoder_channels: Sequence[int] | None = None,
        decoder_blocks: Sequence[int] | None = None,
        quantizer: str = "vq",
        num_codes: int = 1,
        embedding_dim: int = 16,
        codebook_size: int = 128,
        encoding: str = "both",
        psp: str = "decay",
        spike_generator: str = "adaptive",
        output: str = "tanh",
        cross_entropy: float = 0.0,
        commitment_cost: float = 0.25,
        ema_decay: float = 0.0,
        restart_below: float = 0.0,
        data_variance: float = 1.0,
    ) -> None:
        super().__init__()
        self.image_shape, self.grid = tuple(image_shape), token_grid(image_shape, channels)
        require(T >= 1, "T, the number of spiking steps,", "at least 1", T)
        require(num_residual_blocks >= 0, "num_residual_blocks", "at least 0", num_residual_blocks)
        require_one_of("spike_generator", spike_generator, SPIKE_GENERATORS)
        require_one_of("output", output, OUTPUTS)
        require(cross_entropy >= 0, "cross_entropy", "at least 0", cross_entropy)
        require(not cross_entropy or output == "sigmoid", "output", "sigmoid with a cross_entropy", repr(output))
        self.T, self.output, self.cross_entropy = T, output, cross_entropy
        self.register_buffer("data_variance", torch.tensor(float(data_variance)))
        outer, inner = channels[0], channels[-1]
        self.stem = conv_norm(image_shape[0], outer, stride=2)
        self.encoder = nn.Sequential(
            *(layer for pair in pairwise(channels) for layer in (neuron(), conv_norm(*pair, stride=2))),
            *_residual_blocks(num_residual_blocks, inner, neuron),
            neuron(),
            conv_norm(inner, embedding_dim, kernel_size=1),
            neuron(),
        )
        self.encode_spikes = SpikeEncoding(encoding, psp)
        averages = {"commitment_cost": commitment_cost, "ema_decay": ema_decay, "restart_below": restart_below}
        self.quantizer = build_quantizer(quantizer, num_codes, codebook_size, embedding_dim, **averages)
        self.spike_generator = SPIKE_GENERATORS[spike_generator](embedding_dim, neuron)
        widths = list(channels if decoder_channels is None else decoder_channels)[::-1]
        depths = [num_residual_blocks] if decoder_blocks is None else list(decoder_blocks)
        halvings = len(channels)
        require(len(widths) == halvings, "decoder_channels", f"{halvings} widths, as many as channels", widths[::-1])
        require(len(depths) <= halvings + 1, "decoder_blocks", f"at most {halvings + 1} numbers", depths)
        self.decoder = _decoder(embedding_dim, widths, [*depths, *[0] * (halvings + 1 - len(depths))], neuron)
        self.readout = MembraneReadout(neuron(), _last_synapse(widths[-1], image_shape[0]))
        self.to(memory_format=torch.channels_last)

    @property
    def codebook_size(self) -> int:
        """K, number of classes of each code."""
        return self.quantizer.codebook_size

    @property
    def code_grid(self) -> tuple[int, int, int]:
        """(G, h, w), the shape of an image's tokens."""
        return self.quantizer.num_codes, *self.grid

    def encode(self, images: Tensor) -> Tensor:
        """The encoder's spikes `[T, B, D, h, w]` of `images` [B, C, H, W] in [0, 1].

        Raises:
            InputError: another shape or type.
        """
        if not images.is_floating_point() or images.dim() != 4 or tuple(images.shape[1:]) != self.image_shape:
            raise InputError(
                f"expected images in [0, 1], [B, {', '.join(map(str, self.image_shape))}]; got {images.dtype}"
                f" {list(images.shape)}. Scale and resize them, or train a model for that size."
            )
        images = images.to(self.readout.synapse.weight.dtype)
        current = self.stem((images - 0.5).unsqueeze(0))
        return self.encoder(direct_coding(current, steps_of(self)))

    def tokenize(self, images: Tensor) -> Tensor:
        """Tokens [B, G, h, w] of `images` [B, C, H, W] in [0, 1].

        Raises:
            InputError: another shape or type, or values that are not finite and in [0, 1].
        """
        require_unit_range("images", images)
        return self.quantizer.nearest(self.encode_spikes(self.encode(images)))

    def decode_spikes(self, spk: Tensor) -> Tensor:
        """The read-out's potential [B, C, H, W], float32 at least, of the spike generator's `spk` `[T, B, D, h, w]`."""
        return self.readout(self.decoder(spk))

    def reconstruct(self, potential: Tensor) -> Tensor:
        """Images minus 0.5 of a potential [B, C, H, W]: in (-1, 1) with `tanh`, in [-0.5, 0.5] with `sigmoid`."""
        return OUTPUTS[self.output](potential)

    def decode(self, tokens: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Images [B, C, H, W] in [0, 1] of `tokens` [B, G, h, w]; the Poisson spikes come from `generator`."""
        vectors = self.quantizer.lookup(tokens).to(self.readout.synapse.weight.dtype)
        spk = self.spike_generator(vectors, steps_of(self), generator)
        return (self.reconstruct(self.decode_spikes(spk)) + 0.5).clamp(0, 1)

    def forward(self, images: Tensor, generator: torch.Generator | None = None) -> Autoencoded:
        """Encode, quantise and reconstruct `images` [B, C, H, W] in [0, 1]; Poisson spikes come from `generator`."""
        encoded = self.encode(images)
        vectors = self.encode_spikes(encoded)
        quantized = self.quantizer(vectors)
        generated = self.spike_generator(quantized.vectors, steps_of(self), generator)
        return Autoencoded(self.decode_spikes(generated), quantized, encoded, generated, vectors)

    def loss_terms(self, images: Tensor, generator: torch.Generator | None = None) -> LossTerms:
        """Terms of the paper's loss; an EMA codebook is left as it is.

        c is the commitment cost, s_z are the encoder's and s_q the generator's spikes, PSP is the trace with tau = 2.

        Args:
            images: [B, C, H, W] in [0, 1].
            generator: draws the Poisson spikes, on CPU.
        """
        potential, quantized, encoded, generated, vectors = self(images, generator)
        images, made = images.to(potential.dtype), self.reconstruct(potential)
        mse = F.mse_loss(made, images - 0.5)
        cross_entropy = mse.new_zeros(())
        if self.cross_entropy:
            cross_entropy = self.cross_entropy * F.binary_cross_entropy_with_logits(potential, images)
        psp_z, psp_q = psp_trace(encoded), psp_trace(generated)
        psp = F.mse_loss(psp_q, psp_z.detach()) + self.quantizer.commitment_cost * F.mse_loss(psp_z, psp_q.detach())
        reconstruction = mse / self.data_variance
        return LossTerms(reconstruction, cross_entropy, quantized.loss, psp, mse, made, vectors, quantized.tokens)


def _residual_blocks(number: int, width: int, neuron: NeuronFactory, entry: int | None = None) -> list[nn.Module]:
    """Pre-spike residual blocks; `entry` channels of spikes add a synapse before them and a neuron behind them."""
    first = [conv_norm(entry, width)] if number and entry else []
    blocks = [SpikingResidual(neuron, conv_norm(width, width), conv_norm(width, width)) for _ in range(number)]
    return [*first, *blocks, *([neuron()] if first else [])]


def _decoder(entry: int, widths: Sequence[int], depths: Sequence[int], neuron: NeuronFactory) -> nn.Sequential:
    """From `entry` channels of spikes to the current of the last neurons, doubling the resolution with each width.

    Args:
        entry: number of channels.
        widths: of each resolution, the grid's first; that of the image is the last one again.
        depths: number of residual blocks at each resolution, one more than widths.
        neuron: builds the neuron layers.
    """
    layers = _residual_blocks(depths[0], widths[0], neuron, entry)
    for index, (before, after) in enumerate(pairwise([widths[0] if layers else entry, *widths])):
        layers += [*([neuron()] if index else []), up_conv_norm(before, after)]
        layers += _residual_blocks(depths[index + 1], after, neuron)
    return nn.Sequential(*layers)


def _last_synapse(in_channels: int, out_channels: int) -> nn.ConvTranspose2d:
    """The read-out's synapse, initialised with its true fan-in and without bias.

    PyTorch takes a transposed convolution's fan-in from its output channels: six times too wide a start here, all of it
    in the flat part of the tanh; and the membrane sums the bias up over time.
    """
    synapse = nn.ConvTranspose2d(in_channels, out_channels, 3, padding=1)
    bound = (in_channels * 3 * 3) ** -0.5
    nn.init.uniform_(synapse.weight, -bound, bound)
    nn.init.zeros_(synapse.bias)
    return synapse

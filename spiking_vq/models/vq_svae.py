"""Stage 1: the vector-quantised spiking variational autoencoder (VQ-SVAE).

image -> spiking encoder -> spikes z[t] -> rate + postsynaptic potential -> nearest code -> spike generator -> spiking
decoder -> membrane read-out -> image
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spiking_vq.errors import InputError, require, require_unit_range
from spiking_vq.layers.readout import MembraneReadout
from spiking_vq.layers.synapses import NeuronFactory, SpikingResidual, conv_norm, direct_coding, up_conv_norm
from spiking_vq.metrics.codebook import perplexity
from spiking_vq.models.critics import PatchAdversary, PerceptualDistance
from spiking_vq.models.quantizers import Quantized, VectorQuantizer
from spiking_vq.models.spike_generators import SPIKE_GENERATORS
from spiking_vq.neurons.readouts import decayed_sum, firing_rate, psp_trace
from spiking_vq.runtime.running import steps_of

ENCODINGS = ("rate", "psp", "both")
PSPS = ("decay", "trace")
STRETCH = 0.05


def token_grid(image_shape: Sequence[int], channels: Sequence[int]) -> tuple[int, int]:
    """(h, w) of the tokens of images (C, H, W): each of the strided convolutions, `channels` wide, halves H and W.

    Raises:
        InputError: it does not divide, or there is no convolution.
    """
    require(len(channels) > 0 and min(channels) > 0, "channels", "one width or more, such as [32, 64]", list(channels))
    _, height, width = image_shape
    factor = 2 ** len(channels)
    if height % factor or width % factor:
        raise InputError(
            f"image height and width must be multiples of {factor}, as {len(channels)} convolutions halve them;"
            f" got {height}x{width}. Set image_size to one that divides, or another number of model.channels."
        )
    return height // factor, width // factor


def stretched_sigmoid(potential: Tensor) -> Tensor:
    """A sigmoid stretched to (-0.05, 1.05), clamped to [0, 1], minus 0.5: black and white are reached exactly."""
    return ((1 + 2 * STRETCH) * potential.sigmoid() - STRETCH).clamp(0, 1) - 0.5


OUTPUTS = {"tanh": torch.tanh, "sigmoid": stretched_sigmoid}
"""What makes an image minus 0.5 of the read-out's membrane potential."""


class SpikeEncoding(nn.Module):
    """A spike train as one vector: firing rate, postsynaptic potential, or a learnt mix of the two.

    `(1 - a) * PSP(z) + a * SFR(z)`, `SFR(z) = mean_t z[t]`, `a` a learnable scalar that starts at 0.5.

    Args:
        encoding: `rate` (SFR alone), `psp` (PSP alone) or `both`.
        psp: `decay`, `PSP = sum_t 0.8^(T-1-t) z[t]`, as in the authors' program; or `trace`, the last value of the
            paper's `PSP[t] = PSP[t-1] / 2 + z[t] / 2`.

    Reference: Liu et al., arXiv:2308.10187, encoding by firing rate and postsynaptic potential.
    """

    def __init__(self, encoding: str = "both", psp: str = "decay") -> None:
        super().__init__()
        require(encoding in ENCODINGS, "encoding", f"one of {', '.join(ENCODINGS)}", repr(encoding))
        require(psp in PSPS, "psp", f"one of {', '.join(PSPS)}", repr(psp))
        self.encoding, self.psp = encoding, psp
        if encoding == "both":
            self.mix = nn.Parameter(torch.tensor(0.5))

    def forward(self, spk: Tensor) -> Tensor:
        """Spikes `[T, B, D, h, w]` to vectors [B, D, h, w]."""
        if self.encoding == "rate":
            return firing_rate(spk)
        psp = decayed_sum(spk) if self.psp == "decay" else psp_trace(spk)[-1]
        if self.encoding == "psp":
            return psp
        return (1 - self.mix) * psp + self.mix * firing_rate(spk)


class VQSVAE(nn.Module):
    """The autoencoder. Each of its stride-2 convolutions halves the image's height and width: see `token_grid`.

    Args:
        image_shape: (C, H, W); H and W multiples of 2 to the number of `channels`.
        T: number of spiking steps.
        neuron: builds the neuron layers.
        channels: widths after the stride-2 convolutions, one for each; two as published.
        num_residual_blocks: pre-spike residual blocks at the grid's resolution, in the encoder and in the decoder each.
        embedding_dim: D.
        codebook_size: K.
        encoding, psp: see `SpikeEncoding`.
        spike_generator: `adaptive`, `poisson` or `repeat`; see `spiking_vq.quantize`.
        output: the read-out's last function. `tanh` is the published one; at the images' black and white, -0.5 and 0.5,
            it is still steep, so that flat background comes out slightly noisy. `sigmoid` (`stretched_sigmoid`) is flat
            there.
        cross_entropy: weight in the loss of the binary cross-entropy between pixels and the sigmoid of the potential,
            nats a pixel; needs `output="sigmoid"`. Where the squared error no longer sees a difference, it does.
        commitment_cost, ema_decay, restart_below, normalise_codes: see `VectorQuantizer`. The first weighs the PSP term
            too.
        data_variance: variance of the training images' pixels; scales the reconstruction error. Saved with the weights.

    Raises:
        InputError: a size that does not divide, T < 1, an unknown name.

    Reference: Liu et al., arXiv:2308.10187, section 3; the defaults are the published network (50,658 parameters on
        1x28x28 images), but for a narrower start of the read-out.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        T: int,
        neuron: NeuronFactory,
        *,
        channels: Sequence[int] = (32, 64),
        num_residual_blocks: int = 0,
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
        normalise_codes: bool = False,
        data_variance: float = 1.0,
    ) -> None:
        super().__init__()
        self.image_shape, self.grid = tuple(image_shape), token_grid(image_shape, channels)
        require(T >= 1, "T, the number of spiking steps,", "at least 1", T)
        require(num_residual_blocks >= 0, "num_residual_blocks", "at least 0", num_residual_blocks)
        generators = ", ".join(SPIKE_GENERATORS)
        require(spike_generator in SPIKE_GENERATORS, "spike_generator", f"one of {generators}", repr(spike_generator))
        require(output in OUTPUTS, "output", f"one of {', '.join(OUTPUTS)}", repr(output))
        require(cross_entropy >= 0, "cross_entropy", "at least 0", cross_entropy)
        needed = cross_entropy == 0 or output == "sigmoid"
        require(needed, "output", "sigmoid where the loss has a cross_entropy", repr(output))
        self.T = T
        self.output, self.cross_entropy = output, cross_entropy
        self.register_buffer("data_variance", torch.tensor(float(data_variance)))
        in_channels, outer, inner = image_shape[0], channels[0], channels[-1]

        def residual_blocks() -> list[nn.Module]:
            return [
                SpikingResidual(neuron, conv_norm(inner, inner), conv_norm(inner, inner))
                for _ in range(num_residual_blocks)
            ]

        self.stem = conv_norm(in_channels, outer, stride=2)
        self.encoder = nn.Sequential(
            *(layer for pair in pairwise(channels) for layer in (neuron(), conv_norm(*pair, stride=2))),
            *residual_blocks(),
            neuron(),
            conv_norm(inner, embedding_dim, kernel_size=1),
            neuron(),
        )
        self.encode_spikes = SpikeEncoding(encoding, psp)
        self.quantizer = VectorQuantizer(
            codebook_size, embedding_dim, commitment_cost, ema_decay, restart_below, normalise_codes
        )
        self.spike_generator = SPIKE_GENERATORS[spike_generator](embedding_dim, neuron)
        entry = [conv_norm(embedding_dim, inner), *residual_blocks(), neuron()] if num_residual_blocks else []
        self.decoder = nn.Sequential(
            *entry,
            up_conv_norm(inner if entry else embedding_dim, inner),
            *(layer for pair in pairwise(channels[::-1]) for layer in (neuron(), up_conv_norm(*pair))),
        )
        self.readout = MembraneReadout(neuron(), nn.ConvTranspose2d(outer, in_channels, 3, padding=1))
        # PyTorch takes a transposed convolution's fan-in from its output channels: six times too wide a start here, all
        # of it in the flat part of the tanh; and the membrane sums the bias up over time.
        fan_in = outer * 3 * 3
        nn.init.uniform_(self.readout.synapse.weight, -(fan_in**-0.5), fan_in**-0.5)
        nn.init.zeros_(self.readout.synapse.bias)
        self.to(memory_format=torch.channels_last)

    @property
    def codebook_size(self) -> int:
        """K."""
        return self.quantizer.codebook.shape[0]

    def encode(self, images: Tensor) -> Tensor:
        """The encoder's spikes `[T, B, D, h, w]` of `images` [B, C, H, W] in [0, 1]."""
        if not images.is_floating_point() or images.dim() != 4 or tuple(images.shape[1:]) != self.image_shape:
            raise InputError(
                f"expected images in [0, 1], [B, {', '.join(map(str, self.image_shape))}]; got {images.dtype}"
                f" {list(images.shape)}. Scale and resize them, or train a model for that size."
            )
        images = images.to(self.readout.synapse.weight.dtype)
        current = self.stem((images - 0.5).unsqueeze(0))
        return self.encoder(direct_coding(current, steps_of(self)))

    def tokenize(self, images: Tensor) -> Tensor:
        """Code ids [B, h, w] of `images` [B, C, H, W] in [0, 1].

        Raises:
            InputError: another shape or type, or values that are not finite and in [0, 1].
        """
        require_unit_range("images", images)
        return self.quantizer.nearest(self.encode_spikes(self.encode(images)))

    def decode_spikes(self, spk: Tensor) -> Tensor:
        """The read-out's membrane potential [B, C, H, W] of the generator's spikes `[T, B, D, h, w]`, float32 at least.

        `sum_t 0.8^(T-1-t) y[t]`, y the un-thresholded output of the last layer.
        """
        return self.readout(self.decoder(spk))

    def reconstruct(self, potential: Tensor) -> Tensor:
        """Images minus 0.5 of the read-out's potential, both [B, C, H, W].

        In (-1, 1) with the published `tanh`, in [-0.5, 0.5] with `sigmoid`.
        """
        return OUTPUTS[self.output](potential)

    def decode(self, tokens: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Images [B, C, H, W] in [0, 1] of `tokens` [B, h, w]; `generator` feeds the Poisson spike generator alone."""
        spk = self.spike_generator(self.quantizer.lookup(tokens), steps_of(self), generator)
        return (self.reconstruct(self.decode_spikes(spk)) + 0.5).clamp(0, 1)

    def forward(
        self, images: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Quantized, Tensor, Tensor]:
        """Through the bottleneck and back.

        Returns:
            The read-out's membrane potential [B, C, H, W], of which `reconstruct` makes images; what the quantiser
            gave; the encoder's and the generator's spikes `[T, B, D, h, w]`.
        """
        encoded = self.encode(images)
        quantized = self.quantizer(self.encode_spikes(encoded))
        generated = self.spike_generator(quantized.vectors, steps_of(self), generator)
        return self.decode_spikes(generated), quantized, encoded, generated

    def loss(
        self,
        images: Tensor,
        generator: torch.Generator | None = None,
        perceptual: PerceptualDistance | None = None,
        adversary: PatchAdversary | None = None,
        judge_every: int = 1,
    ) -> dict[str, Tensor]:
        """The paper's loss; while training, also one step of the codebook's moving averages.

        `MSE(x', x) / Var(train) + [MSE(q, sg z) + c MSE(z, sg q)] + [mean((PSP(s_q) - PSP(sg s_z))^2) +
        c mean((PSP(sg s_q) - PSP(s_z))^2)]`, c the commitment cost, s_z the encoder's and s_q the generator's spikes,
        PSP the trace with tau = 2. An EMA codebook has no first term in the first bracket. `cross_entropy` adds
        a term of its own, and so do `perceptual` and `adversary`.

        Args:
            images: [B, C, H, W] in [0, 1].
            generator: source of what is random (Poisson spikes, code restarts), on CPU.
            perceptual: a distance of another kind, to be trained by too.
            adversary: to be trained against, and trained by the same loss.
            judge_every: these two see one of so many images.

        Returns:
            `loss` (scalar, with gradient), and detached: `mse` in units of [0, 1] images, `quantizer`, `psp`,
            `perplexity` of the batch's tokens (1..K), `restarts`; where they are, the distance as
            `perceptual`, and the adversary's own loss as `adversary`.
        """
        potential, quantized, encoded, generated = self(images, generator)
        images = images.to(potential.dtype)
        made, real = self.reconstruct(potential), images - 0.5
        mse = F.mse_loss(made, real)
        error = mse / self.data_variance
        if self.cross_entropy:
            error = error + self.cross_entropy * F.binary_cross_entropy_with_logits(potential, images)
        others, seen = {}, made[::judge_every]
        if perceptual is not None:
            others["perceptual"] = perceptual(seen + 0.5, images[::judge_every])
            error = error + perceptual.weight * others["perceptual"]
        if adversary is not None:
            others["adversary"] = adversary(seen, real[::judge_every])
            error = error + adversary.pull(seen) + others["adversary"]
        psp_z, psp_q = psp_trace(encoded), psp_trace(generated)
        psp = F.mse_loss(psp_q, psp_z.detach()) + self.quantizer.commitment_cost * F.mse_loss(psp_z, psp_q.detach())
        restarts = 0
        if self.training and self.quantizer.ema_decay:
            with torch.no_grad():
                vectors = self.encode_spikes(encoded)
            restarts = self.quantizer.update(vectors, quantized.tokens, generator)
        return {
            "loss": error + quantized.loss + psp,
            "mse": mse.detach(),
            "quantizer": quantized.loss.detach(),
            "psp": psp.detach(),
            "perplexity": perplexity(quantized.tokens, self.codebook_size),
            "restarts": mse.new_tensor(float(restarts)),
            **{name: value.detach() for name, value in others.items()},
        }

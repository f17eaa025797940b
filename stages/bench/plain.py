"""The paper's two networks written the plain way on SpikingJelly: the reference of the benchmark.

The neurons step one by one, or by SpikingJelly 2's own scan. The image is repeated T times through every layer, every
layer is a module of its own, the read-out is applied at every step, and sampling calls the denoiser once for each of
the 49 diffusion times, whether or not it unmasks anything. This is the structure of the authors' program, written anew
from the paper; the arithmetic is that of the preset `paper`.

Reference: Liu et al., arXiv:2308.10187.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import Tensor, nn

T, K, D, GRID = 16, 128, 16, (7, 7)


def fused_lif() -> nn.Module:
    """The paper's neuron over all steps: tau 2, threshold 1, hard reset, atan surrogate; SpikingJelly 2's own scan."""
    return neuron.LIFNode(tau=2.0, surrogate_function=surrogate.ATan(alpha=2.0), step_mode="m")


def stepwise_lif() -> nn.Module:
    """The same neuron step by step, as in SpikingJelly releases of the time of the paper."""
    return layer.MultiStepContainer(
        neuron.LIFNode(tau=2.0, surrogate_function=surrogate.ATan(alpha=2.0), step_mode="s")
    )


def spiking(synapse: nn.Module, channels: int, lif: Callable[[], nn.Module]) -> list[nn.Module]:
    """Synapse and batch norm at every step, then neurons."""
    return [layer.SeqToANNContainer(synapse, nn.BatchNorm2d(channels)), lif()]


def decayed_sum(x: Tensor) -> Tensor:
    """`sum_t 0.8^(T-1-t) x[t]`, step by step."""
    total = torch.zeros_like(x[0])
    for step in x:
        total = 0.8 * total + step
    return total


def psp(spk: Tensor) -> Tensor:
    """The loss's postsynaptic potential, tau = 2, step by step."""
    trace, potential = [], torch.zeros_like(spk[0])
    for step in spk:
        potential = potential / 2 + step / 2
        trace.append(potential)
    return torch.stack(trace)


class PlainVQSVAE(nn.Module):
    """Stage 1 for 1x28x28 images.

    Args:
        lif: builds the neurons.
    """

    def __init__(self, lif: Callable[[], nn.Module] = stepwise_lif) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            *spiking(nn.Conv2d(1, 32, 3, 2, 1), 32, lif),
            *spiking(nn.Conv2d(32, 64, 3, 2, 1), 64, lif),
            *spiking(nn.Conv2d(64, D, 1), D, lif),
        )
        self.mix = nn.Parameter(torch.tensor(0.5))
        self.codebook = nn.Embedding(K, D)
        self.spike_generator = nn.Sequential(*spiking(nn.Conv2d(D, D, 1), D, lif))
        self.decoder = nn.Sequential(
            *spiking(nn.ConvTranspose2d(D, 64, 3, 2, 1, 1), 64, lif),
            *spiking(nn.ConvTranspose2d(64, 32, 3, 2, 1, 1), 32, lif),
            layer.SeqToANNContainer(nn.ConvTranspose2d(32, 1, 3, 1, 1)),
        )

    def loss(self, images: Tensor, variance: float = 0.1) -> Tensor:
        """The paper's loss of images [B, 1, 28, 28] in [0, 1]."""
        functional.reset_net(self)
        z_spk = self.encoder((images - 0.5).unsqueeze(0).repeat(T, 1, 1, 1, 1))
        z = (1 - self.mix) * decayed_sum(z_spk) + self.mix * z_spk.mean(0)
        rows = z.permute(0, 2, 3, 1).reshape(-1, D)
        distances = rows.square().sum(1, keepdim=True) + self.codebook.weight.square().sum(1)
        ids = (distances - 2 * rows @ self.codebook.weight.T).argmin(1)
        codes = self.codebook(ids).view(len(z), *GRID, D).permute(0, 3, 1, 2)
        quantizer = F.mse_loss(codes, z.detach()) + 0.25 * F.mse_loss(z, codes.detach())
        codes = z + (codes - z).detach()
        q_spk = self.spike_generator(codes.unsqueeze(0).repeat(T, 1, 1, 1, 1))
        image = torch.tanh(decayed_sum(self.decoder(q_spk)))
        psp_q, psp_z = psp(q_spk), psp(z_spk)
        spikes = F.mse_loss(psp_q, psp_z.detach()) + 0.25 * F.mse_loss(psp_q.detach(), psp_z)
        return F.mse_loss(image, images - 0.5) / variance + quantizer + spikes


class PlainSDID(nn.Module):
    """Stage 2's denoiser.

    Args:
        lif: builds the neurons.
    """

    def __init__(self, lif: Callable[[], nn.Module] = stepwise_lif) -> None:
        super().__init__()
        self.first = nn.Sequential(*spiking(nn.Conv2d(2, 64, 3, 1, 1), 64, lif))
        self.blocks = nn.Sequential(
            *(
                module
                for before, after in pairwise((64, 128, 256, 512, 256))
                for module in spiking(nn.Conv2d(before, after, 3, 1, 1), after, lif)
            )
        )
        self.readout = layer.SeqToANNContainer(nn.Conv2d(256 + 64, K, 3, 1, 1))

    def forward(self, tokens: Tensor, t: Tensor) -> Tensor:
        """Logits [B, K, 1, 7, 7] of tokens [B, 1, 7, 7] at times t [B]."""
        functional.reset_net(self)
        planes = torch.cat([tokens.float(), t.view(-1, 1, 1, 1).expand(tokens.shape).float()], dim=1)
        first = self.first(planes.unsqueeze(0).repeat(T, 1, 1, 1, 1))
        last = self.blocks(first)
        return self.readout(torch.cat([last, first], dim=2)).mean(0).unsqueeze(2)

    @torch.no_grad()
    def sample(self, n: int, temperature: float = 1.0) -> Tensor:
        """Token grids [n, 1, 7, 7] from 49 calls."""
        tokens = torch.full((n, 1, *GRID), K, device=self.readout[0].weight.device)
        for t in range(GRID[0] * GRID[1], 0, -1):
            chosen = (tokens == K) & (torch.rand(tokens.shape, device=tokens.device) < 1 / t)
            logits = self(tokens, tokens.new_full((n,), t)) / temperature
            drawn = torch.distributions.Categorical(logits=logits.movedim(1, -1)).sample()
            tokens = torch.where(chosen, drawn, tokens)
        return tokens

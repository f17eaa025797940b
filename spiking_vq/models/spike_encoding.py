"""Spike encoding: the encoder's spike trains `[T, B, D, h, w]` to vectors [B, D, h, w]."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spiking_vq.errors import require_one_of
from spiking_vq.neurons.readouts import decayed_sum, firing_rate, psp_trace

ENCODINGS = ("rate", "psp", "both")
PSPS = ("decay", "trace")


class SpikeEncoding(nn.Module):
    """A spike train as one vector: firing rate, postsynaptic potential, or a learnt mix of the two.

    `(1 - a) * PSP(z) + a * SFR(z)`, `SFR(z) = mean_t z[t]`, `a` a learnable scalar that starts at 0.5.

    Args:
        encoding: `rate` (SFR alone), `psp` (PSP alone) or `both`.
        psp: `decay`, `PSP = sum_t 0.8^(T-1-t) z[t]`, as in the authors' program; or `trace`, the last value of the
            paper's `PSP[t] = PSP[t-1] / 2 + z[t] / 2`.

    Raises:
        InputError: another name.

    Reference: Liu et al., arXiv:2308.10187, encoding by firing rate and postsynaptic potential.
    """

    def __init__(self, encoding: str = "both", psp: str = "decay") -> None:
        super().__init__()
        require_one_of("encoding", encoding, ENCODINGS)
        require_one_of("psp", psp, PSPS)
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

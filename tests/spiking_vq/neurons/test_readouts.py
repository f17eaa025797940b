"""Read-outs by hand, and their precision."""

import pytest
import torch
from time_courses import noise, train_of

from spiking_vq.neurons.readouts import decayed_sum, firing_rate, psp_trace


def test_readouts_by_hand():
    spk = train_of(1, 0, 1, 1)
    assert firing_rate(spk).item() == 0.75
    assert decayed_sum(spk, 0.5).item() == 0.125 + 0.5 + 1
    assert decayed_sum(spk).item() == pytest.approx(0.8**3 + 0.8 + 1, abs=1e-15)
    assert psp_trace(spk).squeeze(1).tolist() == [0.5, 0.25, 0.625, 0.8125]
    assert psp_trace(spk, tau=4.0)[1].item() == 0.75 * 0.25


@pytest.mark.parametrize("readout", [firing_rate, decayed_sum, psp_trace])
def test_readouts_of_bf16_are_in_fp32(readout):
    x = noise(16, 3, 5).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(readout(x), readout(x.double()).float())

"""Training steps on a real GPU, where there is one: torch itself raises where the host waits."""

import pytest
import torch
from noise_stages import noise_stage

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

CASES = [
    ("vq_svae", "base"),
    ("vq_svae", "paper"),
    ("absorbing", "base"),
    ("absorbing", "large"),
    ("gaussian", "base"),
    ("gaussian", "fsddim"),
    ("classifier", "augmented"),
]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_a_training_step_does_not_wait_for_the_gpu(monkeypatch, case, precision):
    stage = noise_stage(monkeypatch, *case, f"precision={precision}").to("cuda")
    stage.on_fit_start()
    optimizer = stage.configure_optimizers()["optimizer"]
    batches = [tuple(rows.cuda() for rows in batch) for batch in stage.stream][:3]
    try:
        for number, batch in enumerate(batches):
            optimizer.zero_grad()
            torch.cuda.set_sync_debug_mode("error" if number else "default")  # the first step fills caches
            stage.training_step(batch, number).backward()
            optimizer.step()
            if stage.ema is not None:
                stage.ema.update(stage.model)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(value.isfinite() for value in stage.metrics.values())

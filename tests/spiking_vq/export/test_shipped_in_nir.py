"""Every discrete model that ships goes to NIR exactly, and small enough to attach to a letter."""

import pytest
from tiny_models import assert_exact

import spiking_vq
from spiking_vq.pipelines.zoo import ZOO

pytest.importorskip("nir")

LARGEST = 12_000_000
"""Bytes of decoder and denoiser together."""


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(ZOO.glob("*-absorbing.safetensors")), ids=lambda path: path.stem)
def test_a_model_that_ships(path, tmp_path):
    pipeline = spiking_vq.load(path)
    pipeline.export(tmp_path)
    assert sum((tmp_path / f"{part}.nir").stat().st_size for part in ("decoder", "denoiser")) <= LARGEST
    assert_exact(spiking_vq.load(tmp_path, precision="fp64"), tmp_path, least=10_000)

"""The command line called within the test, and an untrained model for it."""

import sys

import pytest
import torch

from spiking_vq.checkpoint.build import build_model
from spiking_vq.checkpoint.file import save_model
from spiking_vq.config.options import DenoiserOptions, VQSVAEOptions
from spiking_vq.config.schema import AbsorbingConfig, VQSVAEConfig
from spiking_vq.diffusion.absorbing_sampler import AbsorbingSamplerOptions
from stages.__main__ import main
from stages.cli.run import run_command


@pytest.fixture
def command(monkeypatch, capsys):
    """Call `spiking-vq`: `command(*arguments) -> (exit code, stdout, stderr)`."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["spiking-vq", *map(str, arguments)])
        code = 0
        try:
            run_command(main)
        except SystemExit as stop:
            code = stop.code
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """A runs folder with untrained models of both discrete stages for the digits."""
    torch.manual_seed(0)
    runs = tmp_path_factory.mktemp("runs")
    vq_svae = VQSVAEConfig(
        data="digits",
        preset="base",
        image_shape=[1, 28, 28],
        T=2,
        model=VQSVAEOptions(channels=[4, 8], embedding_dim=4, codebook_size=16),
    )
    config = AbsorbingConfig(
        data="digits",
        preset="base",
        image_shape=[1, 28, 28],
        T=2,
        model=DenoiserOptions("token", width=8, num_blocks=1),
        sample=AbsorbingSamplerOptions(sample_steps=4),
        vq_svae=vq_svae,
    )
    for part in (vq_svae, config):
        save_model(runs / "digits/base" / part.stage / "model.safetensors", build_model(part), part)
    return runs

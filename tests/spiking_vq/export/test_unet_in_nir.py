"""The small U-Net as a graph: three levels on one grid, concatenations, time and labels from the host."""

from dataclasses import replace

import pytest
import torch
from awake import wake
from tiny_models import agreements, faults_of, results_in

import spiking_vq
from spiking_vq.checkpoint.build import build_model
from spiking_vq.config.options import LIFOptions, UNetOptions
from spiking_vq.errors import InputError
from spiking_vq.export.receivers.stock import RECEIVERS, run_stock
from spiking_vq.pipelines.pixel import PixelPipeline
from spiking_vq.runtime.running import run_with

pytest.importorskip("nir")

SOFT = {"beta": 1.0, "reset": "subtract", "fire_at_threshold": True}
"""Neurons of the base preset."""


@pytest.fixture
def pipeline(gaussian_config):
    """A class-conditional U-Net of three levels on patches."""
    torch.manual_seed(0)
    model = UNetOptions(width=4, multipliers=[1, 2, 2], num_blocks=1)
    config = replace(
        gaussian_config, image_shape=[1, 16, 16], model=replace(model, patch_size=2), lif=LIFOptions(**SOFT)
    )
    network = build_model(config).eval()
    wake(network.unet, torch.randn(16, 1, 16, 16), torch.arange(16) % 10 + 1)
    network.unet.labels.weight.data *= 50
    return PixelPipeline(network.eval(), config)


@pytest.mark.parametrize("form", ["standard", "feedback"])
def test_spikes_and_images_are_the_networks_own(pipeline, tmp_path, form):
    loaded = spiking_vq.load(pipeline.export(tmp_path, form=form), precision="fp64")
    (row,) = agreements(loaded, tmp_path).values()
    assert (row.differ, row.output < 1e-9) == (0, True)
    assert row.slots > 10_000
    assert faults_of(loaded, tmp_path) == []
    settings = {"label": 3, "sample_steps": 4}
    exact = PixelPipeline(pipeline.model, pipeline.config, precision="fp64").sample(2, **settings).images
    assert (loaded.sample(2, **settings).images.int() - exact.int()).abs().max() <= 1  # batch norms are folded


def test_labels_make_a_difference(pipeline, tmp_path):
    loaded = spiking_vq.load(pipeline.export(tmp_path))
    first, second = (loaded.sample(1, label=label, sample_steps=4).images for label in (0, 1))
    assert not torch.equal(first, second)


def test_stock_snntorch_runs_it(pipeline, tmp_path):
    pytest.importorskip("nirtorch")
    loaded = spiking_vq.load(pipeline.export(tmp_path, form="feedback"))
    examples, expected = results_in(tmp_path)
    unet = loaded.model.unet
    x = unet.graph_input(examples.noisy, examples.times, examples.labels).detach()
    run = run_stock(RECEIVERS["snnTorch"], unet.graph.graph, x, unet.T)
    for name, spk in expected["unet"].spikes.items():
        assert torch.equal(run.spikes[name].bool(), spk), name


def test_thresholds_are_part_of_the_graph(pipeline, tmp_path):
    loaded = spiking_vq.load(pipeline.export(tmp_path))
    with (
        pytest.raises(InputError, match="threshold_shift must be 0 in an exported network"),
        run_with(threshold_shift=0.1),
    ):
        loaded.network(torch.zeros(1, 1, 16, 16), torch.ones(1))


def test_the_fully_spiking_network_is_refused(gaussian_config, tmp_path):
    lif = LIFOptions(**SOFT)
    diffusion = replace(gaussian_config.diffusion, loss="synaptic_current", prediction="noise")
    model = UNetOptions(unet="fsddim", width=4, multipliers=[1, 2], num_blocks=1)
    config = replace(gaussian_config, model=model, lif=lif, diffusion=diffusion, conditional=False, num_classes=None)
    pipeline = PixelPipeline(build_model(config), config)
    with pytest.raises(InputError, match=r"FSDDIMUNet cannot be exported: its time embedding spikes"):
        pipeline.export(tmp_path)


def test_other_formats_are_refused(pipeline, tmp_path):
    with pytest.raises(InputError, match="to must be nir for a continuous model; got 'onnx'"):
        pipeline.export(tmp_path, to="onnx")

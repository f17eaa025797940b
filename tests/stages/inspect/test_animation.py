"""The animated raster: what appears stays, every step has its time, and the image stands at the end."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from spiking_vq.checkpoint.build import build_model
from spiking_vq.checkpoint.file import save_model
from spiking_vq.data.levels import to_uint8
from spiking_vq.errors import InputError
from spiking_vq.neurons.lif import LIF
from spiking_vq.pipelines.load import pipeline_of
from stages.inspect import report as inspect
from stages.inspect.animation import CURSOR, DECODING, HELD, PAUSE, SECONDS, decoded_steps
from stages.inspect.portrait import SLOT


@pytest.fixture
def animated(tmp_path, models):
    """Function that animates the model of a stage: the pictures uint8 [H, W, 3], and their milliseconds."""

    def run(stage, *arguments):
        path = tmp_path / f"{stage}.safetensors"
        save_model(path, *models[stage])
        inspect.main([str(path), "only=animation", f"results={tmp_path / 'results'}", *map(str, arguments)])
        (out,) = (file for file in (tmp_path / "results").rglob("*") if file.is_file())
        assert out.name == "raster.gif"
        assert out.stat().st_size < 2.5e6
        pictures, durations = [], []
        with Image.open(out) as file:
            assert file.info["loop"] == 0  # without end
            for index in range(file.n_frames):
                file.seek(index)
                durations.append(file.info["duration"])
                pictures.append(np.asarray(file.convert("RGB")))
        return pictures, durations

    return run


def colored(picture):
    """Whether a pixel is of a dash, bool [H, W]: nothing else has a colour, of grey images."""
    return np.ptp(picture.astype(int), axis=2) > 40


def share(picture, grey):
    """Share of the pixels of exactly this grey."""
    return (picture == round(255 * float(grey))).all(2).mean()


def test_every_step_has_its_time(animated):
    """Three calls of T = 2 steps, then T = 2 steps of the decoder."""
    pictures, durations = animated("absorbing", "sample_steps=3")
    step = round(SECONDS * 100 / 6) * 10
    assert durations == [PAUSE, *[step] * 6, *[DECODING] * 2, HELD]
    assert 10_000 <= sum(durations) <= 14_000
    assert HELD >= 2000
    assert {picture.shape for picture in pictures} == {(462, 882, 3)}


@pytest.mark.parametrize("stage", ["absorbing", "gaussian"])
def test_what_has_appeared_stays(animated, stage):
    pictures, _ = animated(stage, "sample_steps=3")
    dashes = [colored(picture) for picture in pictures]
    assert dashes[0].sum() == 0
    for before, after in zip(dashes, dashes[1:], strict=False):
        assert not (before & ~after).any()
    assert (np.diff([drawn.sum() for drawn in dashes])[:6] > 0).sum() >= 3
    ends = np.argwhere(dashes[-1]).max(0)[1]
    middle = np.argwhere(dashes[3]).max(0)[1]
    assert middle < 0.6 * ends  # from left to right
    assert (pictures[-1] == 255).all(2).mean() > 0.5
    empty = [share(picture, SLOT) for picture in pictures]
    assert empty[0] > empty[3] > empty[-1]  # places of frames that are to come
    assert share(pictures[2], CURSOR) > share(pictures[-1], CURSOR)


def test_the_decoder_ends_with_the_image(models):
    pipeline = pipeline_of(*models["absorbing"])
    *_, last = pipeline.states([7], sample_steps=3)
    images = decoded_steps(pipeline, last.x, 2)
    assert torch.equal(images[-1:], to_uint8(pipeline.make_alone(7, sample_steps=3)))
    assert not torch.equal(images[0], images[1])


def test_of_many_steps_several_appear_at_once(animated, monkeypatch):
    monkeypatch.setattr("stages.inspect.animation.MOST", 4)
    pictures, durations = animated("absorbing", "sample_steps=9")
    assert durations == [PAUSE, *[round(SECONDS * 100 / 4) * 10] * 4, *[DECODING] * 2, HELD]
    widths = [np.argwhere(colored(picture)).max(0)[1] for picture in pictures[1:5]]
    assert widths == sorted(widths)


def test_a_network_that_never_spikes(animated, models):
    for module in models["absorbing"][0].modules():
        if isinstance(module, LIF):
            module.threshold.fill_(1e6)
    pictures, _ = animated("absorbing", "sample_steps=2")
    assert not any(colored(picture).any() for picture in pictures)


def test_models_that_have_no_raster(animated, models):
    with pytest.raises(InputError, match="only must be all or report of stage 1 alone; got animation"):
        animated("vq_svae")
    _, config = models["absorbing"]
    plain = {"neuron": "relu", "T": 1}
    config = replace(config, **plain, vq_svae=replace(config.vq_svae, **plain))
    models["absorbing"] = build_model(config).eval(), config
    with pytest.raises(InputError, match="only must be all, report or portrait without spikes; got animation"):
        animated("absorbing")

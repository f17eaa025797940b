"""The page around its functions: spikes, HTML, messages, and the command that serves it."""

import re
import socket
from threading import Event

import pytest

from spiking_vq.checkpoint.build import build_model
from spiking_vq.checkpoint.file import save_model
from spiking_vq.errors import InputError
from stages.app import run, show
from stages.app.models import Models
from stages.app.spikes import explanation, spikes_of
from stages.inspect.energy import twin_config

gr = pytest.importorskip("gradio", reason="gradio is not installed: pip install 'spiking_vq[app]'")
pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install 'spiking_vq[app]'")


@pytest.mark.parametrize("kind", ["latents", "pixels"])
def test_spikes_of_an_image(request, generated, kind):
    models = request.getfixturevalue(kind)
    made = generated(models, sample_steps=2)[-1]
    measured = spikes_of(models.pipeline(models.first), made, 3)
    assert measured.raster.startswith(b"\x89PNG")
    assert list(measured.rates) == (["denoiser", "decoder"] if kind == "latents" else ["U-Net"])
    assert all(0 < rate < 1 for rate in measured.rates.values())
    assert len(measured.energies) == 6
    assert all(len(values) == 3 and min(values) > 0 for values in measured.energies.values())
    assert measured.is_same
    page = show.spikes(measured, made.settings, 3)
    assert "weight-stationary" in page
    assert "twin without spikes" in page
    other = measured._replace(is_same=False)
    assert "by rounding" in explanation(other, made.settings)


def test_spikes_that_are_not_there(generated, latents, tmp_path):
    made = generated(latents)[-1]
    pipeline = latents.pipeline(latents.first)
    for index in (-1, 5, None):
        with pytest.raises(InputError, match="the number of the image must be"):
            spikes_of(pipeline, made, index)
    config = twin_config(pipeline.config, "relu")
    save_model(tmp_path / "twin.safetensors", build_model(config), config)
    models = Models(tmp_path / "twin.safetensors")
    with pytest.raises(InputError, match="no spikes"):
        spikes_of(models.pipeline(models.first), made, 0)


def test_results_hold_all_they_need(latents, generated):
    made = generated(latents)[-1]
    page = show.downloads(made) + show.grid(made.samples.images, "five <images>")
    assert re.findall(r'download="([^"]+)"', page) == [
        f"tiny.safetensors-1-{name}" for name in ("grid.png", "images.zip", "tokens.npy")
    ]
    assert "http" not in page
    assert "&lt;images&gt;" in page
    assert 'data-columns="2" data-count="5"' in page


def test_mistakes_are_messages():
    from stages.app.events import messages

    @messages
    def wrong(value):
        raise InputError(f"{value} is wrong <b>")

    @messages
    def later(value):
        yield value
        raise InputError(f"{value} is wrong <b>")

    with pytest.raises(gr.Error, match="1 is wrong &lt;b&gt;"):
        wrong(1)
    steps = later(2)
    assert next(steps) == 2
    with pytest.raises(gr.Error, match="2 is wrong &lt;b&gt;"):
        next(steps)


@pytest.fixture
def handler(latents):
    """Function that calls a handler of the page by its name: what it returns, by the components' names."""
    from stages.app.events import build

    page = build(latents, Event())

    def call(name, *values):
        (event,) = (event for event in page.fns.values() if event.name == name)
        return event.fn(*values)

    return call


def named(changes):
    return {component.elem_id: change for component, change in changes.items() if component.elem_id}


def test_a_set_replaces_the_one_before(handler, latents):
    first, *frames, last = map(named, handler("make", 5, latents.first, 1, 3, 2, 1.0, None, 1.0))
    assert (first["downloads"], first["spikes"], first["line"]["visible"]) == ("", "", False)
    assert [frame["status"] for frame in frames[:3]] == [f"Call {calls} of 2" for calls in range(3)]
    assert frames[-1]["status"] == f"5 images by {latents.first}, seed 1. Click one to see its spikes."
    assert "label=3" in last["line"]["value"]
    with pytest.raises(gr.Error, match="images must be in 1..256"):
        list(handler("make", 257, latents.first, 1, 3, 2, 1.0, None, 1.0))


def test_another_model_begins_anew(handler):
    changes = handler("choose", "mnist-base-gaussian")
    assert "Press Generate" in named(changes)["grid"]
    assert named(changes)["label"].visible is False
    hidden = [component for component, change in changes.items() if isinstance(component, gr.Column)]
    assert [changes[component]["visible"] for component in hidden] == [False]
    with pytest.raises(gr.Error, match="model must be one of"):
        handler("choose", "/etc/passwd")


def test_one_computation_at_a_time_and_nothing_from_elsewhere(latents, monkeypatch):
    from stages.app.events import build

    page = build(latents, Event())
    computing = [event for event in page.fns.values() if event.concurrency_id == "computing"]
    assert len(computing) == 5
    assert all(event.concurrency_limit == 1 for event in computing)
    assert not page.analytics_enabled


def test_a_port_that_is_taken(latents):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(InputError, match=f"port {port} of 127.0.0.1 is in use: choose another, such as port="):
            run.main([str(latents.path), f"port={port}"])
    assert run.free_port("127.0.0.1", port) == port
    assert run.free_port("127.0.0.1", 0) > 0


@pytest.mark.parametrize("host", ["nowhere.invalid", "192.0.2.1", "é" * 99])
def test_a_host_that_is_not_this_machine(host):
    with pytest.raises(InputError, match=f"host={host} is no address of this machine"):
        run.free_port(host, 0)


def test_gradio_is_an_extra(latents, monkeypatch):
    monkeypatch.setattr(run, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs gradio and matplotlib: pip install 'spiking_vq\[app\]'"):
        run.main([str(latents.path)])


def test_models_that_cannot_generate(tmp_path, vq_svae, vq_svae_config, labelled_latents):
    save_model(tmp_path / "stage1.safetensors", vq_svae, vq_svae_config)
    with pytest.raises(InputError, match="cannot generate"):
        run.main([str(tmp_path / "stage1.safetensors")])
    (tmp_path / "export").mkdir()
    (tmp_path / "export/export.json").write_text("{}")
    with pytest.raises(InputError, match="is an export"):
        run.main([str(tmp_path / "export")])
    with pytest.raises(InputError, match="no model file at"):
        run.main([str(tmp_path / "nothing")])

"""Events are the network's spikes, the image can be made of them alone, and a file gives them back."""

import copy
import re
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import BASE, LEAKY, MODELS, T, tiny

import spiking_vq
from spiking_vq.checkpoint.build import build_model
from spiking_vq.errors import InputError
from spiking_vq.export.event_file import read_events, write_events
from spiking_vq.export.events import Events, on_graphs, read_layers
from spiking_vq.export.expected import Examples, results_of
from spiking_vq.export.graphs.graph import DT
from spiking_vq.export.nir_file import write_nir
from spiking_vq.layers.folding import fold_batch_norms
from spiking_vq.pipelines import base
from spiking_vq.pipelines.latent import LatentPipeline
from spiking_vq.pipelines.pixel import PixelPipeline

nir = pytest.importorskip("nir")
h5py = pytest.importorskip("h5py")

MODELS = MODELS | {"delayed": {"lif": BASE | {"reset": "delayed_subtract"}}}
"""Name -> arguments of `tiny`."""

CURRENTS = {"paper": {"denoiser", "decoder"}, "poisson": {"denoiser"}}
"""Model -> its parts that a current enters, as their look-ups cannot be synapses. Poisson spikes enter the decoder."""


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(base, "CHUNK", 3)


def exact(**model):
    """A tiny pipeline in fp64, of folded batch norms, as graphs hold them."""
    pipeline = tiny(**model)
    return LatentPipeline(fold_batch_norms(pipeline.model), pipeline.config, precision="fp64")


def dense(events, part, layer):
    """Spikes of a layer, bool [steps of all calls, neurons]."""
    own = [record for record in events if (record.part, record.layer) == (part, layer)]
    spk = torch.zeros(len(own), own[0].size, dtype=torch.bool)
    for row, record in zip(spk, own, strict=True):
        row[record.indices] = True
    return spk


def same(events, others):
    """Whether two lists of events are equal."""
    pairs = zip(events, others, strict=True)
    return all(a[:4] == b[:4] and a.size == b.size and torch.equal(a.indices, b.indices) for a, b in pairs)


@pytest.mark.parametrize("name", MODELS)
def test_the_image_can_be_made_of_the_events_alone(name):
    pipeline = exact(**MODELS[name])
    images = set()
    for seed in (0, 8):
        events = list(pipeline.stream(seed))
        image = pipeline.image_of(events)
        whole = pipeline.sample(1, seed)
        assert torch.equal(image, whole.images)
        assert image.dtype == torch.uint8
        entered = {record.part for record in events if record.layer == "input"}
        assert entered == {"denoiser", "decoder"} - CURRENTS.get(name, set())
        images.add(image.numpy().tobytes())
        last = next(record for record in reversed(events) if len(record.indices))
        assert (last.part, last.layer) == ("decoder", "readout_neuron")
        fewer = [record for record in events if record is not last]
        assert not torch.equal(pipeline.image_of(fewer), image)
    assert len(images) == 2


@pytest.mark.parametrize("name", ["vq", "residual", "deep", "paper"])
def test_events_are_the_spikes_of_the_network_itself(name):
    """Of its last call with the labels, and of the decoder; with a call for each token, t counts those masked."""
    pipeline, seed = exact(**MODELS[name]), base.mix_seed(3, 0)
    calls = pipeline.diffusion.diffusion_steps
    events = list(pipeline.stream(3, layers="all", sample_steps=calls))
    *_, before, last = (state.x.clone() for state in pipeline.states([seed], sample_steps=calls))
    own = on_graphs(pipeline.model)
    graphs = {"decoder": own.vq_svae.graphs["decoder"].graph, "denoiser": own.denoiser.graph.graph}
    results = results_of(pipeline.model, Examples(last, pipeline.labels([seed]), before, None), graphs)
    first = {
        "decoder": 0,
        "denoiser": (calls - 1) * (2 if pipeline.config.conditional else 1),
    }  # the label's comes first
    for part, graph in graphs.items():
        assert results[part].spikes.keys() == set(graph.neurons())
        assert any(spk.any() and not spk.all() for spk in results[part].spikes.values())
        for layer, spk in results[part].spikes.items():
            assert torch.equal(dense(events, part, layer)[first[part] * T :][:T], spk.flatten(1))


@pytest.mark.parametrize("name", ["vq", "product", "residual", "count"])
def test_tokens_enter_as_spikes(name):
    pipeline = exact(**MODELS[name])
    events, tokens = list(pipeline.stream(5)), pipeline.sample(1, 5).tokens
    num_codes, size = tokens.shape[1], pipeline.model.vq_svae.codebook_size
    planes = dense(events, "decoder", "input").view(T, num_codes, size, 2, 2)
    assert (planes.sum(2) == 1).all()
    assert torch.equal(planes.long().argmax(2), tokens.expand(T, -1, -1, -1))
    count = num_codes * (size + 1)
    planes = dense(events, "denoiser", "input").view(-1, events[0].size // 4, 2, 2)
    first = planes[:T, :count].unflatten(1, (num_codes, -1))
    assert first[:, :, size].all()  # all tokens masked
    assert not first[:, :, :size].any()
    assert torch.equal(planes[:, count : count + 4].flatten(2), torch.eye(4).bool().expand(len(planes), -1, -1))


def test_events_come_in_the_order_in_which_they_happen():
    pipeline = tiny(conditional=True, sample={"guidance_T": 1})
    events = list(pipeline.stream(layers="all"))
    layers = {part: [r.layer for r in own if not r.call and not r.step] for part, own in parted(events)}
    assert list(layers) == ["denoiser", "decoder"]
    assert [len(names) for names in layers.values()] == [5, 4]
    steps = [("denoiser", call, step) for call in range(6) for step in range(1 if call % 2 else T)]
    steps += [("decoder", 0, step) for step in range(T)]
    assert [record[:4] for record in events] == [(*step, layer) for step in steps for layer in layers[step[0]]]
    ends = list(pipeline.stream())
    assert {(record.part, record.layer) for record in ends} == {
        ("denoiser", "input"),
        ("denoiser", "last_neuron"),
        ("decoder", "input"),
        ("decoder", "readout_neuron"),
    }
    assert same(ends, [record for record in events if record.layer in ("input", "last_neuron", "readout_neuron")])
    for record in events:
        assert record.indices.dtype == torch.int64
        assert torch.equal(record.indices, record.indices.unique())


def parted(events):
    """Part -> its events."""
    return [(part, list(own)) for part, own in groupby(events, lambda record: record.part)]


def test_labels_and_settings_are_those_of_sample():
    pipeline = exact(conditional=True)
    for settings in ({"label": 2}, {"label": 0, "sample_steps": 2}, {"guidance": 0}):
        image = pipeline.image_of(pipeline.stream(1, **settings))
        assert torch.equal(image, pipeline.sample(1, 1, **settings).images)
    assert len({record.call for record in pipeline.stream(sample_steps=2, guidance=1.0)}) == 2


@pytest.mark.parametrize(("form", "inputs"), [("standard", "host"), ("feedback", "host"), ("feedback", "spikes")])
def test_an_export_streams_its_own_graphs(form, inputs, tmp_path):
    pipeline = tiny()
    pipeline.export(tmp_path, form=form, inputs=inputs)
    loaded = spiking_vq.load(tmp_path, precision="fp64")
    events = list(loaded.stream(4, layers="all"))
    assert ("input" in {record.layer for record in events}) == (inputs == "spikes")
    assert torch.equal(loaded.image_of(events), loaded.sample(1, 4).images)
    graph = loaded.model.denoiser.graph.graph
    assert {record.layer for record in events if record.part == "denoiser"} - {"input"} == set(graph.neurons())
    assert same(events, exact().stream(4, layers="all")) == (inputs == "spikes")


def test_streams_do_not_meet(tmp_path):
    tiny().export(tmp_path, inputs="spikes")
    pipeline = spiking_vq.load(tmp_path)
    alone = list(pipeline.stream(0)), list(pipeline.stream(1))
    first, second = pipeline.stream(0), pipeline.stream(1)
    mixed = [(next(first), pipeline.sample(1).images, next(second)) for _ in alone[0]]
    for index, events in zip((0, 2), alone, strict=True):
        assert same([row[index] for row in mixed], events)
    assert not same(*alone)
    assert pipeline.model.denoiser.graph.observers == []


def test_streaming_leaves_the_model_and_the_global_generator_alone():
    pipeline = tiny(stage1="poisson", lif=LEAKY)
    before, state = copy.deepcopy(pipeline.model.state_dict()), torch.get_rng_state()
    list(pipeline.stream())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in pipeline.model.state_dict().items())


def test_a_read_out_that_sees_two_layers():
    graph = on_graphs(tiny(**MODELS["paper"]).model).denoiser.graph.graph
    assert read_layers(graph) == ["first_neuron", "last_neuron"]


def test_the_model_that_ships():
    """In fp32: its own spikes and those of its graphs differ by rounding at most."""
    pipeline = spiking_vq.load("mnist")
    image = pipeline.image_of(pipeline.stream(2)).int()
    difference = (image - pipeline.sample(1, 2).images.int()).abs()
    assert difference.max() <= 1
    assert difference.count_nonzero() <= 4
    assert image.max() > 200


def test_the_example_of_the_documentation(tmp_path, monkeypatch):
    text = (Path(__file__).parents[3] / "docs/neuromorphic.md").read_text()
    (block,) = (block for block in re.findall(r"^```python\n(.*?)^```", text, re.S | re.M) if "pipe.stream(" in block)
    monkeypatch.chdir(tmp_path)
    exec(block, made := {})
    assert torch.equal(made["image"], made["pipe"].image_of(made["events"]))
    assert (made["part"], made["call"], made["step"], made["layer"]) == ("denoiser", 0, 0, "input")
    assert tuple(made["image"].shape) == (1, 1, 28, 28)


# ---------------------------------------------------------------- what cannot be


def test_models_and_arguments_that_do_not_fit(pixel_model, gaussian_config):
    pipeline = tiny()
    for arguments, told in (
        ({"seed": -1}, "seed must be in 0"),
        ({"seed": 0.5}, "seed must be an integer"),
        ({"layers": "last"}, "layers must be one of ends, all; got 'last'"),
        ({"sample_steps": 5}, r"sample_steps must be in 1\.\.4; got 5"),
        ({"eta": 1}, "has no eta"),
    ):
        with pytest.raises(InputError, match=told):
            pipeline.stream(**arguments)
    with pytest.raises(InputError, match="a scale for each step"):
        tiny(tsm=True).stream()
    with pytest.raises(InputError, match="a continuous model has no events to stream: .* a noisy image"):
        PixelPipeline(pixel_model, gaussian_config).stream(0)


def test_a_model_without_spikes():
    config = copy.deepcopy(tiny().config)
    config.neuron = config.vq_svae.neuron = "relu"
    config.T = config.vq_svae.T = 1
    with pytest.raises(InputError, match="cannot be exported"):
        LatentPipeline(build_model(config).eval(), config).stream()


def test_events_that_do_not_fit_the_decoder():
    pipeline = tiny()
    events = list(pipeline.stream())
    last = events[-1]
    for spoilt in (
        [],
        [record for record in events if record.part == "denoiser"],
        list(tiny(stage1="deep").stream()),
        [*events, last._replace(step=T)],
        [*events, last._replace(call=1)],
        [*events, last._replace(indices=torch.tensor([last.size]))],
        [*events, last._replace(indices=torch.tensor([-1]))],
    ):
        with pytest.raises(InputError, match="layer readout_neuron"):
            pipeline.image_of(spoilt)


# ---------------------------------------------------------------- files


def silent(part, call, step, layer, size=5, indices=()):
    """Events of a made-up layer, none by default."""
    return Events(part, call, step, layer, torch.tensor(indices, dtype=torch.int64), size)


@pytest.mark.parametrize("name", ["residual", "paper"])
@pytest.mark.parametrize("layers", ["ends", "all"])
def test_a_file_gives_the_events_back(name, layers, tmp_path):
    pipeline = exact(**MODELS[name])
    settings = {"guidance_T": 1} if pipeline.config.conditional else {}
    events = list(pipeline.stream(6, layers=layers, **settings))
    write_events(tmp_path / "events.nir", iter(events))
    again = read_events(tmp_path / "events.nir")
    assert same(again, events)
    assert torch.equal(pipeline.image_of(again), pipeline.image_of(events))
    assert [path.name for path in tmp_path.iterdir()] == ["events.nir"]


def test_silent_layers_calls_and_steps_are_kept(tmp_path):
    """Calls of 2, 1 and 3 steps; layer z, which stands before a, never spikes; in call 1 nothing does."""
    events = [
        silent("denoiser", call, step, layer, 5 + (layer == "a"), (2, 5) if (call, step, layer) == (0, 1, "a") else ())
        for call, steps in enumerate((2, 1, 3))
        for step in range(steps)
        for layer in ("z", "a")
    ]
    events += [silent("decoder", 0, 0, "a")]
    write_events(tmp_path / "events.nir", events)
    assert same(read_events(tmp_path / "events.nir"), events)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7, 16, 29, 57, 58, 113, 1000])
def test_nir_puts_the_events_into_the_same_steps(steps, tmp_path):
    """Steps whose products with dt, divided by dt, are below the step are among these."""
    events = [silent("decoder", 0, step, "a", steps, (step,)) for step in range(steps)]
    write_events(tmp_path / "events.nir", events)
    data = nir.read_data(str(tmp_path / "events.nir")).nodes["decoder"].nodes["a"].observables["spikes"]
    gridded = data.to_time_gridded(DT)
    assert gridded.shape == (1, steps, steps)
    assert (gridded.data[0] == np.eye(steps, dtype=bool)).all()
    assert data.t_max == pytest.approx(steps * DT)


def test_nir_reads_parts_layers_and_calls(tmp_path):
    pipeline = tiny(conditional=True)
    events = list(pipeline.stream())
    write_events(tmp_path / "events.nir", events)
    data = nir.read_data(str(tmp_path / "events.nir"))
    for part, calls in (("denoiser", 6), ("decoder", 1)):
        layers = {record.layer for record in events if record.part == part}
        assert data.nodes[part].nodes.keys() == layers
        for layer in layers:
            gridded = data.nodes[part].nodes[layer].observables["spikes"].to_time_gridded(DT)
            assert gridded.shape[:2] == (calls, T)
            assert (gridded.data.reshape(calls * T, -1) == dense(events, part, layer).numpy()).all()


def test_there_is_something_to_write(tmp_path):
    with pytest.raises(InputError, match="events must be those of an image; got none"):
        write_events(tmp_path / "events.nir", [])
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write"):
        write_events(tmp_path / "file/events.nir", [silent("decoder", 0, 0, "a")])
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def spoil(path, change):
    """Change the HDF5 file."""
    with h5py.File(path, "r+") as file:
        change(file["nodes/decoder"], file["nodes/decoder/nodes/a/observables/spikes"])


def put(group, name, value):
    """Other contents of a data set."""
    del group[name]
    group[name] = value


SPOILT = {
    "an address too large": lambda part, spikes: put(spikes, "idx", np.array([[0, 5]])),
    "a real address": lambda part, spikes: put(spikes, "idx", np.array([[0.0, 1.5]])),
    "a time after the end": lambda part, spikes: put(spikes, "time", np.array([[0.5, 2.5]]) * DT),
    "no time": lambda part, spikes: put(spikes, "time", np.array([[0.5, np.nan]]) * DT),
    "another time of the end": lambda part, spikes: spikes.attrs.__setitem__("t_max", 1.0),
    "more calls": lambda part, spikes: part.attrs.__setitem__("steps", [2, 2]),
    "a billion steps": lambda part, spikes: part.attrs.__setitem__("steps", [10**9]),
    "no steps": lambda part, spikes: part.attrs.__delitem__("steps"),
    "other layers": lambda part, spikes: part.attrs.__setitem__("layers", ["b"]),
    "another observable": lambda part, spikes: part["nodes/a/observables"].move("spikes", "v"),
    "another part": lambda part, spikes: part.parent.move("decoder", "encoder"),
    "no type": lambda part, spikes: part.attrs.__delitem__("__type__"),
}


@pytest.mark.parametrize("fault", SPOILT)
def test_spoilt_files(fault, tmp_path):
    path = tmp_path / "events.nir"
    write_events(path, [silent("decoder", 0, step, "a", indices=(step,)) for step in range(2)])
    assert len(read_events(path)) == 2
    spoil(path, SPOILT[fault])
    with pytest.raises(InputError, match="events.nir is no file of events, or a damaged one"):
        read_events(path)


def test_files_of_other_kinds(tmp_path):
    pipeline = tiny()
    write_nir(tmp_path / "graph.nir", on_graphs(pipeline.model).denoiser.graph.graph)
    write_events(tmp_path / "events.nir", pipeline.stream())
    whole = (tmp_path / "events.nir").read_bytes()
    (tmp_path / "half.nir").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.nir").write_text("a letter")
    (tmp_path / "empty.nir").touch()
    nir.write_data(str(tmp_path / "foreign.nir"), nir.NIRGraphData({"a": nir.NIRNodeData({})}))
    for name in ("graph", "half", "text", "empty", "foreign"):
        with pytest.raises(InputError, match=f"{name}.nir is no file of events, or a damaged one"):
            read_events(tmp_path / f"{name}.nir")
    with pytest.raises(InputError, match="no file at .*none.nir: write one with `spiking-vq stream`"):
        read_events(tmp_path / "none.nir")

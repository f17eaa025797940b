"""Whole models go to NIR and come back spike for spike, image for image."""

import copy
import json

import pytest
import torch
from tiny_models import LEAKY, MODELS, assert_exact, faults_of, results_in, tiny

import spiking_vq
from spiking_vq.data.levels import to_uint8
from spiking_vq.errors import InputError
from spiking_vq.export.expected import compute
from spiking_vq.pipelines import base
from spiking_vq.pipelines.latent import LatentPipeline

pytest.importorskip("nir")

CHUNK = 3

DELAYED = {"beta": 0.75, "reset": "delayed_subtract"}

MODELS = MODELS | {
    "repeat": {"stage1": "repeat", "lif": LEAKY | {"threshold": 0.7}},
    "delayed": {"lif": DELAYED, "denoiser_lif": DELAYED, "conditional": True},
}
"""Name -> arguments of `tiny`."""

WAYS = [("standard", "host"), ("feedback", "host"), ("feedback", "spikes")]
"""Forms and inputs."""

CASES = [(name, *way) for name in MODELS for way in WAYS if name != "delayed" or way[0] == "feedback"]
CASES = [case for case in CASES if case[2] == "host" or case[0] not in ("paper", "poisson", "repeat")]
"""The refused ones are below."""


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(base, "CHUNK", CHUNK)


def in_fp64(pipeline):
    """The pipeline itself, in fp64."""
    return LatentPipeline(copy.deepcopy(pipeline.model), pipeline.config, precision="fp64")


@pytest.mark.parametrize(("name", "form", "inputs"), CASES)
def test_spike_for_spike(name, form, inputs, tmp_path):
    pipeline = tiny(**MODELS[name])
    assert pipeline.export(tmp_path, form=form, inputs=inputs) == tmp_path
    loaded = spiking_vq.load(tmp_path, precision="fp64")
    assert_exact(loaded, tmp_path, least=100)
    whole = in_fp64(pipeline).sample(CHUNK + 1, seed=5)
    again = loaded.sample(CHUNK + 1, seed=5)
    assert len(whole.tokens.unique()) > 2
    assert len(whole.images.unique(dim=0)) > 1
    assert torch.equal(again.tokens, whole.tokens)
    assert torch.equal(again.images, whole.images)


def test_the_results_are_those_of_the_network_before_its_batch_norms_were_folded(tmp_path):
    pipeline = tiny(conditional=True)
    pipeline.export(tmp_path)
    examples, expected = results_in(tmp_path)
    for part in ("decoder", "encoder", "denoiser"):
        output = compute(in_fp64(pipeline).model, examples, part)
        torch.testing.assert_close(output.double(), expected[part].output.double(), rtol=0, atol=1e-4)
    folding = json.loads((tmp_path / "export.json").read_text())["folding"]
    assert {row["differ"] for row in folding.values()} == {0}
    assert max(row["output"] for row in folding.values()) < 1e-6
    visible = (examples.masked == examples.tokens).sum()
    assert 0 < visible < examples.tokens.numel()
    assert (examples.masked[examples.masked != examples.tokens] == 6).all()  # the mask, K


def test_the_images_are_what_the_exported_model_makes_first(tmp_path):
    pipeline = tiny()
    pipeline.export(tmp_path, n=CHUNK)
    examples, _ = results_in(tmp_path)
    first = in_fp64(pipeline).sample(CHUNK)
    assert torch.equal(examples.tokens, first.tokens)
    assert torch.equal(examples.images, first.images)


def test_labels_reach_the_graph_as_spikes(tmp_path):
    """A label's row, and those of the halves of its images, are a plane each; no label is its row twice."""
    pipeline = tiny(conditional=True)
    for inputs in ("host", "spikes"):
        pipeline.export(tmp_path / inputs, inputs=inputs)
    models = [in_fp64(pipeline).model] + [
        spiking_vq.load(tmp_path / inputs, precision="fp64").model for inputs in ("host", "spikes")
    ]
    tokens, t = torch.randint(7, (3, 1, 2, 2)), torch.full((3,), 2)
    for labels in (torch.tensor([0, 3, 5]), torch.full((3,), 6), None):
        own, *others = [model.denoiser(tokens, t, labels).detach() for model in models]
        for logits in others:
            torch.testing.assert_close(logits, own, rtol=0, atol=1e-4)
    planes = models[2].denoiser.planes(tokens, torch.tensor([0, 3, 6]))
    assert set(planes.unique().tolist()) == {0, 1}
    assert planes.sum(1).unique().tolist() == [3, 4]  # token, position, and one row or two


@pytest.mark.parametrize("inputs", ["host", "spikes"])
def test_inpainting_through_the_graphs(inputs, tmp_path):
    pipeline = tiny()
    pipeline.export(tmp_path, inputs=inputs)
    images, keep = to_uint8(torch.rand(CHUNK, 1, 8, 8)), torch.tensor([[True, False], [False, True]])
    whole = in_fp64(pipeline).inpaint(images, keep, seed=3)
    again = spiking_vq.load(tmp_path, precision="fp64").inpaint(images, keep, seed=3)
    known = in_fp64(pipeline).model.vq_svae.tokenize(images / 255)
    assert torch.equal(again.tokens, whole.tokens)
    assert torch.equal(again.images, whole.images)
    assert torch.equal(again.tokens[..., keep], known[..., keep])
    assert (again.tokens[..., ~keep] != known[..., ~keep]).any()


def test_fewer_steps_for_the_prediction_without_label(tmp_path):
    """The graphs run as many steps as they are asked for."""
    pipeline = tiny(conditional=True, sample={"guidance": 1.5, "guidance_T": 1})
    pipeline.export(tmp_path)
    loaded = spiking_vq.load(tmp_path, precision="fp64")
    tokens = {steps: in_fp64(pipeline).sample(CHUNK, seed=2, guidance_T=steps).tokens for steps in (1, 3)}
    assert not torch.equal(tokens[1], tokens[3])
    assert torch.equal(loaded.sample(CHUNK, seed=2).tokens, tokens[1])
    assert torch.equal(loaded.sample(CHUNK, seed=2, guidance_T=3).tokens, tokens[3])


def test_an_export_replaces_an_earlier_one(tmp_path):
    tiny("vq").export(tmp_path, inputs="spikes")
    pipeline = tiny("count")
    pipeline.export(tmp_path)
    loaded = spiking_vq.load(tmp_path, precision="fp64")
    assert faults_of(loaded, tmp_path) == []
    assert torch.equal(loaded.sample(1).tokens, in_fp64(pipeline).sample(1).tokens)


def test_exporting_leaves_the_model_and_the_global_generator_alone(tmp_path):
    pipeline = tiny()
    before, state = copy.deepcopy(pipeline.model.state_dict()), torch.get_rng_state()
    pipeline.export(tmp_path)
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in pipeline.model.state_dict().items():
        assert torch.equal(value, before[name]), name
        assert value.dtype == before[name].dtype


# ---------------------------------------------------------------- what cannot be


@pytest.mark.parametrize(
    ("model", "options", "told"),
    [
        (MODELS["paper"], {"inputs": "spikes"}, "the SDID reads a token's index as a number: inputs=host"),
        (MODELS["poisson"], {"inputs": "spikes"}, "a spike generator that a current drives: take inputs=host"),
        (MODELS["repeat"], {"inputs": "spikes"}, "a spike generator that a current drives: take inputs=host"),
        (MODELS["delayed"], {"form": "standard"}, "delayed_subtract .* take form=feedback"),
        ({}, {"form": "soft"}, "form must be one of standard, feedback"),
        ({}, {"inputs": "images"}, "inputs must be one of host, spikes"),
        ({}, {"to": "lava"}, "to must be .*nir, onnx.* pt2.*'lava'"),
        ({"tsm": True}, {}, "a scale for each step"),
    ],
    ids=["sdid", "poisson", "repeat", "delayed", "form", "inputs", "to", "tsm"],
)
def test_models_and_options_that_do_not_fit(model, options, told, tmp_path):
    with pytest.raises(InputError, match=told):
        tiny(**model).export(tmp_path, **options)
    assert not (tmp_path / "export.json").exists()


def test_too_many_codes_for_planes(monkeypatch, tmp_path):
    monkeypatch.setattr("spiking_vq.export.host.MOST_PLANES", 11)
    tiny("vq").export(tmp_path, inputs="spikes")
    with pytest.raises(InputError, match="would need 12 one-hot planes, 11 at most: take inputs=host"):
        tiny("product").export(tmp_path, inputs="spikes")


def test_an_exported_model_is_not_exported_again(tmp_path):
    tiny().export(tmp_path / "one")
    with pytest.raises(InputError, match="the model must be one that is not exported already"):
        spiking_vq.load(tmp_path / "one").export(tmp_path / "two")


def test_attention_is_not_exported(tmp_path):
    pipeline = tiny(conditional=True)
    config = copy.deepcopy(pipeline.config)
    config.model.mixer, config.model.width = "attention", 8
    model = copy.deepcopy(pipeline.model)
    model.denoiser = spiking_vq.checkpoint.build.build_denoiser(config)
    with pytest.raises(InputError, match="mixer=attention cannot be exported"):
        LatentPipeline(model, config).export(tmp_path)


def test_a_model_without_spikes_is_not_exported(tmp_path):
    pipeline = tiny()
    config = copy.deepcopy(pipeline.config)
    config.neuron = config.vq_svae.neuron = "relu"
    config.T = config.vq_svae.T = 1
    model = spiking_vq.checkpoint.build.build_model(config).eval()
    with pytest.raises(InputError, match="cannot be exported"):
        LatentPipeline(model, config).export(tmp_path)


def test_a_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file"):
        tiny().export(tmp_path / "file")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"to": "pt2", "form": "feedback"}, "form and inputs must be left out with to=pt2; got feedback and host"),
        ({"to": "onnx", "inputs": "spikes"}, "form and inputs must be left out with to=onnx; got standard and spikes"),
        ({"n": 0}, "n, the number of images, must be at least 1; got 0"),
    ],
)
def test_options_that_mean_nothing_are_refused(options, message, tmp_path):
    with pytest.raises(InputError, match=message):
        tiny().export(tmp_path, **options)

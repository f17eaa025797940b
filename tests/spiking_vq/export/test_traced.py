"""Networks as torch.export programs and ONNX files compute what they did, at any batch size."""

import pytest
import torch
from tiny_models import LEAKY, PAPER, results_in, tiny

import spiking_vq
from spiking_vq.errors import InputError
from spiking_vq.export import traced
from spiking_vq.export.expected import PARTS, compute
from spiking_vq.export.folder import read_description
from spiking_vq.pipelines import base
from spiking_vq.runtime.running import run_with

CHUNK = 3

GUIDED = {"conditional": True, "steps": 2, "sample": {"guidance": 1.5, "guidance_T": 1}}


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(base, "CHUNK", CHUNK)


def assert_same_outputs(model, folder):
    """The outputs of all parts, all images at once and one by one, against those of the network in the folder."""
    examples, expected = results_in(folder)
    for part in PARTS:
        wanted = expected[part].output
        assert len(wanted.unique()) > 1
        one_by_one = [
            compute(model, type(examples)(*(None if rows is None else rows[i : i + 1] for rows in examples)), part)
            for i in range(len(wanted))
        ]
        for made in (compute(model, examples, part), torch.cat(one_by_one)):
            assert made.shape == wanted.shape
            assert (made.double() - wanted.double()).abs().max() <= 1e-5 * max(1, wanted.double().abs().max())
            assert part != "denoiser" or torch.equal(made.argmax(1), wanted.argmax(1))


def assert_same_samples(pipeline, loaded):
    own, again = pipeline.sample(CHUNK + 1, seed=4), loaded.sample(CHUNK + 1, seed=4)
    assert len(own.tokens.unique()) > 2
    assert torch.equal(again.tokens, own.tokens)
    assert (again.images.int() - own.images.int()).abs().max() <= 1  # rounding of a level


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """A class-conditional model whose sampler takes one step of two for the prediction without label; the folder of its
    export; and that loaded."""
    pipeline = tiny(**GUIDED)
    folder = pipeline.export(tmp_path_factory.mktemp("export"), to="pt2", n=3)
    return pipeline, folder, spiking_vq.load(folder)


def test_torch_export(program):
    pipeline, folder, loaded = program
    assert_same_outputs(loaded.model, folder)
    assert_same_samples(pipeline, loaded)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{"lif": PAPER, "denoiser": "sdid", "denoiser_lif": PAPER}, {"stage1": "count"}], ids=["paper", "count"]
)
def test_torch_export_of_other_models(options, tmp_path):
    pipeline = tiny(**options)
    pipeline.export(tmp_path, to="pt2", n=3)
    loaded = spiking_vq.load(tmp_path)
    assert_same_outputs(loaded.model, tmp_path)
    assert_same_samples(pipeline, loaded)


def test_a_denoiser_is_written_for_each_number_of_steps_that_its_sampler_takes(program):
    pipeline, folder, loaded = program
    parts = read_description(folder)[0]["parts"]
    steps = {name: part["T"] for name, part in parts.items()}
    assert steps == {"decoder": 2, "encoder": 2, "denoiser": 2, "denoiser_T1": 1}
    assert parts["denoiser"]["inputs"] == ["tokens", "labels"]
    tokens, t = torch.randint(7, (5, 1, 2, 2)), torch.ones(5).long()
    for labels in (torch.arange(5), None):
        made = {}
        for steps in (1, 2):
            with run_with(num_steps=steps), torch.no_grad():
                made[steps] = loaded.model.denoiser(tokens, t, labels)
                own = pipeline.model.denoiser(tokens, t, labels)
            torch.testing.assert_close(made[steps], own, rtol=1e-5, atol=1e-5)
        assert not torch.equal(made[1], made[2])


def test_steps_that_were_not_exported_are_refused(program):
    with (
        run_with(num_steps=3),
        pytest.raises(InputError, match="the denoiser at T = 1 and 2; got 3: export it with it"),
    ):
        program[2].sample(1, guidance=0)


def test_inpainting_through_an_exported_program(program):
    pipeline, _, loaded = program
    images, keep = torch.rand(2, 1, 8, 8), torch.tensor([[True, False], [False, True]])
    assert torch.equal(loaded.inpaint(images, keep).tokens, pipeline.inpaint(images, keep).tokens)


@pytest.mark.parametrize("to", ["pt2", "onnx"])
def test_random_spikes_are_refused(to, tmp_path, monkeypatch):
    monkeypatch.setattr(traced, "find_spec", lambda name: True)
    with pytest.raises(InputError, match=rf"to={to} cannot hold random spikes .*take to=nir"):
        tiny(stage1="poisson", lif=LEAKY).export(tmp_path, to=to)


def test_packages_that_are_not_installed(monkeypatch, tmp_path):
    monkeypatch.setattr(traced, "find_spec", lambda name: None if name == "onnxruntime" else True)
    with pytest.raises(InputError, match=r"to=onnx needs onnxruntime: .*spiking_vq\[export\]"):
        tiny().export(tmp_path, to="onnx")
    monkeypatch.setattr(traced, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="to=onnx needs onnx, onnxscript, onnxruntime"):
        tiny().export(tmp_path, to="onnx")


@pytest.mark.parametrize("to", ["nir", "pt2"])
def test_an_exported_program_is_not_exported_again(program, to, tmp_path):
    with pytest.raises(InputError, match="the model must be one that is not exported already"):
        program[2].export(tmp_path, to=to)


@pytest.mark.slow
def test_onnx(tmp_path):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    pipeline = tiny(**GUIDED)
    pipeline.export(tmp_path, to="onnx", n=3)
    loaded = spiking_vq.load(tmp_path)
    assert_same_outputs(loaded.model, tmp_path)
    assert_same_samples(pipeline, loaded)

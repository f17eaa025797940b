"""The documentation's examples of other libraries run, and find what they say."""

import json
import re
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

import spiking_vq
from spiking_vq.data.levels import to_uint8

DOCUMENT = Path(__file__).parents[3] / "docs/neuromorphic.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", DOCUMENT.read_text(), re.S | re.M)
EXAMPLES = [block for block in BLOCKS if "nir.read(" in block]
(HOST_LOOP,) = (block for block in BLOCKS if "onnxruntime.InferenceSession(" in block)
LIBRARIES = {"snntorch": "feedback", "norse": "feedback", "spikingjelly": "feedback", "sinabs": "standard"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    pipe = spiking_vq.load("mnist")
    return {form: pipe.export(tmp_path_factory.mktemp(form), form=form) for form in ("standard", "feedback")}


def example_of(library):
    (block,) = (block for block in EXAMPLES if re.search(rf"^(import|from) {library}\b", block, re.M))
    return block


def test_there_is_an_example_of_each():
    assert len(EXAMPLES) == len(LIBRARIES)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("library", LIBRARIES)
def test_examples_agree_with_the_network(library, folders, monkeypatch):
    pytest.importorskip("nir")
    pytest.importorskip(library)
    monkeypatch.chdir(folders[LIBRARIES[library]])
    exec(example_of(library), {})


@pytest.mark.filterwarnings("ignore")
def test_an_example_finds_another_form(folders, monkeypatch):
    pytest.importorskip("norse")
    monkeypatch.chdir(folders["standard"])  # hard resets, to Norse
    with pytest.raises(AssertionError):
        exec(example_of("norse"), {})


# ---------------------------------------------------------------- ONNX


@pytest.fixture(scope="module")
def pipe():
    return spiking_vq.load("mnist")


def assert_same_as_the_pipeline(made, pipe):
    images, tokens = pipe.sample(1, seed=0, label=7)
    assert np.array_equal(made["tokens"], tokens)
    assert (to_uint8(torch.from_numpy(made["image"])).int() - images.int()).abs().max() <= 1


def test_the_loop_of_the_host(pipe, tmp_path, monkeypatch):
    """The networks themselves answer in the place of their ONNX files, which takes no export."""
    onnxruntime = pytest.importorskip("onnxruntime")

    class Session:
        def __init__(self, path):
            self.path = path

        @torch.no_grad()
        def run(self, _, inputs):
            inputs = {name: torch.from_numpy(value) for name, value in inputs.items()}
            if self.path == "decoder.onnx":
                return [pipe.model.vq_svae.decode(inputs["tokens"]).numpy()]
            return [pipe.model.denoiser(inputs["tokens"], None, inputs["labels"]).numpy()]

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    Path("export.json").write_text(json.dumps({"config": asdict(pipe.config)}))
    exec(HOST_LOOP, made := {})
    assert_same_as_the_pipeline(made, pipe)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_loop_of_the_host_on_an_export(pipe, tmp_path, monkeypatch):
    for package in ("onnxruntime", "onnxscript"):
        pytest.importorskip(package)
    monkeypatch.chdir(pipe.export(tmp_path, to="onnx"))
    exec(HOST_LOOP, made := {})
    assert_same_as_the_pipeline(made, pipe)

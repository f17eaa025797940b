"""The documentation's examples of other libraries run, and find what they say."""

import re
from pathlib import Path

import pytest

import spiking_vq

DOCUMENT = Path(__file__).parents[3] / "docs/neuromorphic.md"
EXAMPLES = [
    block for block in re.findall(r"^```python\n(.*?)^```", DOCUMENT.read_text(), re.S | re.M) if "nir.read(" in block
]
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

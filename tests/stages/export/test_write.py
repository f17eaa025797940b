"""`spiking-vq export`, and what other commands do with what it writes."""

import json
from importlib.metadata import version

import numpy as np
import pytest

import spiking_vq
from spiking_vq.checkpoint.file import fingerprint
from spiking_vq.errors import InputError
from spiking_vq.export import nir_file
from spiking_vq.export.host import GraphVQSVAE
from spiking_vq.files import sha256_of
from spiking_vq.models.vq_svae import VQSVAE
from spiking_vq.pipelines import base
from stages.__main__ import main

pytest.importorskip("nir")

FILES = {"decoder.nir", "denoiser.nir", "encoder.nir", "host.safetensors", "expected.npz", "export.json"}


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(base, "CHUNK", 4)


def described(folder):
    return json.loads((folder / "export.json").read_text())


def test_a_run_is_exported_verified_and_sampled(untrained_runs, tmp_path, capsys):
    run = untrained_runs / "digits/base"
    main(["export", str(run), f"runs={untrained_runs}"])
    folder, said = run / "export/nir", capsys.readouterr().out
    assert {path.name for path in folder.iterdir()} == FILES
    assert f"wrote {folder}: check it with `spiking-vq verify {folder}`" in said
    for part in ("decoder", "denoiser", "encoder"):
        (line,) = [line for line in said.splitlines() if line.split()[0] == part]
        facts = described(folder)["parts"][part]
        assert f"T = 2, {(folder / f'{part}.nir').stat().st_size / 1e6:.2f} MB" in line
        assert f"{facts['neurons']:,} neurons, {facts['weights_not_0']:,} weights" in line
        assert 0 < facts["weights_not_0"] <= facts["weights"]
    main(["verify", str(folder), "receivers=false"])
    assert capsys.readouterr().out.endswith("\nverified\n")
    main(["sample", str(folder), "n=2", f"out={tmp_path / 'there'}"])
    main(["sample", str(run), "n=2", f"out={tmp_path / 'here'}"])
    there, here = (np.load(tmp_path / way / "tokens.npy") for way in ("there", "here"))
    assert np.array_equal(there, here)


def test_an_export_in_a_run_folder_does_not_hide_the_run(untrained_runs):
    run = untrained_runs / "digits/base"
    main(["export", str(run), f"runs={untrained_runs}"])
    assert isinstance(spiking_vq.load(run).model.vq_svae, VQSVAE)
    assert isinstance(spiking_vq.load(run / "export/nir").model.vq_svae, GraphVQSVAE)


def test_the_options_of_an_export(untrained_runs, tmp_path):
    main(["export", str(untrained_runs / "digits/base"), "form=feedback", "inputs=spikes", f"out={tmp_path / 'mine'}"])
    description = described(tmp_path / "mine")
    assert {name: description[name] for name in ("to", "form", "inputs", "dt")} == {
        "to": "nir",
        "form": "feedback",
        "inputs": "spikes",
        "dt": 1e-4,
    }
    assert description["parts"]["decoder"]["input_shape"] == [8, 3, 3]  # a plane for each code
    assert description["parts"]["denoiser"]["input_shape"] == [9 + 9, 3, 3]  # tokens and mask; positions
    main(["verify", str(tmp_path / "mine"), "receivers=false"])


def test_a_description_says_what_was_exported(untrained_runs, tmp_path):
    main(["export", str(untrained_runs / "digits/base"), f"out={tmp_path}"])
    description = described(tmp_path)
    assert description["sha256"].keys() == FILES - {"export.json"}
    assert description["config"]["data"] == "digits"
    assert description["versions"]["torch"] == version("torch")
    model = spiking_vq.load(untrained_runs / "digits/base").model
    assert description["weights_sha256"] == fingerprint(model)
    assert str(tmp_path) not in (tmp_path / "export.json").read_text()


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("to=tensorrt", "to must be one of nir, onnx, pt2"),
        ("form=soft", "form must be one of standard, feedback"),
        ("inputs=images", "inputs must be one of host, spikes"),
        ("fold=true", "unknown argument 'fold=true': .*did you mean form"),
    ],
)
def test_options_that_do_not_exist(untrained_runs, word, told):
    with pytest.raises(InputError, match=told):
        main(["export", str(untrained_runs / "digits/base"), word])


def test_models_that_do_not_generate(untrained_runs):
    with pytest.raises(InputError, match="is a vq_svae model, which cannot generate"):
        main(["export", str(untrained_runs / "digits/base/vq_svae")])


def test_an_export_is_not_exported_again(untrained_runs, tmp_path):
    main(["export", str(untrained_runs / "digits/base"), f"out={tmp_path}"])
    with pytest.raises(InputError, match="the model must be one that is not exported already"):
        main(["export", str(tmp_path), f"out={tmp_path / 'again'}"])


def test_a_folder_that_cannot_be_written_to(untrained_runs, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file"):
        main(["export", str(untrained_runs / "digits/base"), f"out={tmp_path / 'file'}"])


def test_without_the_package(untrained_runs, tmp_path, monkeypatch):
    main(["export", str(untrained_runs / "digits/base"), f"out={tmp_path / 'one'}"])
    monkeypatch.setattr(nir_file, "find_spec", lambda name: None)
    for words in (["export", untrained_runs / "digits/base", f"out={tmp_path / 'two'}"], ["verify", tmp_path / "one"]):
        with pytest.raises(InputError, match=r"needs the package nir: install the extra `export`"):
            main([str(word) for word in words])
    assert not (tmp_path / "two/export.json").exists()


@pytest.mark.slow
def test_programs_of_torch_export(untrained_runs, tmp_path, capsys):
    main(["export", str(untrained_runs / "digits/base"), "to=pt2", f"out={tmp_path}"])
    assert {path.name for path in tmp_path.iterdir()} > {"decoder.pt2", "denoiser.pt2", "encoder.pt2"}
    main(["verify", str(tmp_path)])
    assert capsys.readouterr().out.endswith("\nverified\n")
    description = described(tmp_path)
    expected = dict(np.load(tmp_path / "expected.npz"))
    expected["denoiser/output"] += 1e-3
    np.savez(tmp_path / "expected.npz", **expected)
    description["sha256"]["expected.npz"] = sha256_of(tmp_path / "expected.npz")
    (tmp_path / "export.json").write_text(json.dumps(description))
    with pytest.raises(SystemExit) as stopped:
        main(["verify", str(tmp_path)])
    assert stopped.value.code == 1

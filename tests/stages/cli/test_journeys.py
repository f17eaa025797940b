"""Commands one after another, as a person calls them: the later ones use the files of the earlier."""

import json
import re

import pytest
import torch

from spiking_vq.checkpoint.file import load_model, save_model
from spiking_vq.data.datasets import load_dataset
from spiking_vq.data.levels import to_unit
from spiking_vq.pipelines import zoo
from spiking_vq.pipelines.load import load

MACHINE = {"device": "cpu", "cpu": "a processor", "cores": 2, "threads": 1, "torch": "2"}
SUMMARY = {"command": "train", "parameters": 1, "steps": 3, "seconds": 1.0, "machine": MACHINE}


def test_recognition_reads_the_samples(runs, tmp_path, command):
    command("sample", runs / "digits/base", "n=4", f"runs={tmp_path}")
    code, said, _ = command("study", "recognition", f"runs={tmp_path}")
    assert code == 0
    assert float(re.search(r"reads ([\d.]+)% of real", said)[1]) > 95
    assert "the 4 generated" in said


def test_a_published_model_is_sampled_by_its_name(runs, tmp_path, command, monkeypatch):
    for stage in ("vq_svae", "absorbing"):
        (runs / "digits/base" / stage / "training.json").write_text(json.dumps(SUMMARY))
    monkeypatch.setattr(zoo, "ZOO", tmp_path / "zoo")
    folders = [f"zoo={tmp_path / 'zoo'}", f"results={tmp_path / 'results'}"]
    code, _, said = command("publish", "data=digits", f"runs={runs}", *folders, "temperature=0.5")
    assert code == 0, said
    file = tmp_path / "zoo/digits-base-absorbing.safetensors"
    assert load("digits").sampling()["temperature"] == 0.5
    (tmp_path / "none").mkdir()
    ways = {"name": ["digits"], "fallback": ["data=digits", f"runs={tmp_path / 'none'}"], "own": [runs / "digits/base"]}
    said = {way: command("sample", *words, "n=1", f"out={tmp_path / way}")[2] for way, words in ways.items()}
    assert said["name"] == said["own"] == ""
    assert said["fallback"] == f"no such model in {tmp_path}/none: using the weights that ship, {file}\n"
    tokens = {way: (tmp_path / way / "tokens.npy").read_bytes() for way in ways}
    assert tokens["name"] == tokens["fallback"] != tokens["own"]


@pytest.mark.slow
def test_a_published_classifier_is_found_in_the_zoo(tmp_path, command, monkeypatch):
    short = ["train.max_steps=150", "train.val_every=150", "train.warmup_steps=10", "train.lr=2e-2"]
    short += ["train.compile=false", "precision=fp32", "model.channels=[16,32]"]
    assert command("train", "classifier", "data=digits", f"runs={tmp_path}", *short)[0] == 0
    monkeypatch.setattr(zoo, "ZOO", tmp_path / "zoo")
    folders = [f"runs={tmp_path}", f"zoo={tmp_path / 'zoo'}", f"results={tmp_path / 'results'}"]
    assert command("publish", "data=digits", "stage=classifier", *folders)[0] == 0
    model, _ = load_model(zoo.find_model("classifier", "digits", "base", tmp_path / "none"))
    data = load_dataset("digits", "data")
    with torch.no_grad():
        read = model(to_unit(data.test.images)).argmax(1)
    assert (read == data.test.labels).float().mean() > 0.8


def test_files_at_home(monkeypatch, tmp_path, runs):
    monkeypatch.setenv("HOME", str(runs))
    file = "~/digits/base/absorbing/model.safetensors"
    assert load(file).config.data == "digits"
    assert zoo.find_model("absorbing", "digits", "base", "~") == runs / file[2:]
    assert zoo.find_model("absorbing", "digits", "base", ckpt=file) == runs / file[2:]
    model, config = load_model(file)
    monkeypatch.setenv("HOME", str(tmp_path))
    save_model("~/model.safetensors", model, config)
    assert (tmp_path / "model.safetensors").is_file()
    assert load_dataset("digits", "~/data").root == tmp_path / "data"

"""`spiking-vq verify` passes what the network does, and nothing else."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from spiking_vq.errors import InputError
from spiking_vq.export.graphs.graph import Convolution, Neurons
from spiking_vq.export.nir_file import read_nir, write_nir
from spiking_vq.files import sha256_of
from stages.__main__ import main
from stages.export import verify

pytest.importorskip("nir")

PARTS = ("decoder", "encoder", "denoiser")


@pytest.fixture
def exported(counted_latents, tmp_path):
    """Folder of a small exported model of spike counts."""
    return counted_latents.export(tmp_path / "export")


def signed(folder):
    """Make the description list the files as they are."""
    path = folder / "export.json"
    description = json.loads(path.read_text())
    description["sha256"] = {name: sha256_of(folder / name) for name in description["sha256"]}
    path.write_text(json.dumps(description))


def rewritten(folder, part, change):
    """Write the graph of a part again, with other nodes: `change(name, node) -> node`."""
    graph = read_nir(folder / f"{part}.nir")
    graph.nodes = {name: change(name, node) for name, node in graph.nodes.items()}
    write_nir(folder / f"{part}.nir", graph)
    signed(folder)


def said_no(folder, capsys, *arguments):
    """What `verify` says of a folder that it does not pass."""
    with pytest.raises(SystemExit) as stopped:
        main(["verify", str(folder), "receivers=false", *arguments])
    said = capsys.readouterr().out
    assert stopped.value.code == 1
    assert said.endswith("NOT verified: the export does not do what the network does\n")
    return said


def test_an_export_is_verified(exported, capsys):
    main(["verify", str(exported), "receivers=false"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "verified"
    for part in PARTS:
        (line,) = [line for line in lines if line.startswith(f"{part} ") and "our receiver, float64" in line]
        assert " 0 of " in line
    assert any("0 of 288 pixels" in line for line in lines)  # of two images, 12x12


def test_writing_a_graph_again_as_it_was_is_no_change(exported, capsys):
    for part in PARTS:
        rewritten(exported, part, lambda name, node: node)
    main(["verify", str(exported), "receivers=false"])
    assert capsys.readouterr().out.endswith("\nverified\n")


OTHERS = {
    "a hard reset": lambda node: replace(node, reset="zero", amount=0.0),
    "a reset that subtracts less": lambda node: replace(node, amount=0.9 * node.amount),
    "above, not at the threshold": lambda node: replace(node, threshold=1.0),
    "at, not above the threshold": lambda node: replace(node, threshold=0.5 - 2**-25),
    "another dt": lambda node: replace(node, tau_mem=2 * node.tau_mem),
}
"""Neurons in place of those of the network: stage 1's `IF` with soft reset fires at its threshold of 1, stage 2's `LIF`
of tau 2, whose threshold is halved, above it."""


def with_neurons(other):
    """A change of all neurons of a graph."""
    return lambda name, node: OTHERS[other](node) if isinstance(node, Neurons) else node


@pytest.mark.parametrize(
    ("part", "other"),
    [
        ("decoder", "a hard reset"),
        ("encoder", "a hard reset"),
        ("decoder", "a reset that subtracts less"),
        ("decoder", "above, not at the threshold"),
        ("denoiser", "at, not above the threshold"),
        ("denoiser", "another dt"),
    ],
)
def test_other_neurons_are_found_and_named(exported, capsys, part, other):
    before = read_nir(exported / f"{part}.nir")
    rewritten(exported, part, with_neurons(other))
    after = read_nir(exported / f"{part}.nir")
    said = said_no(exported, capsys)
    assert before.neurons()
    for name in before.neurons():
        assert before.nodes[name] != after.nodes[name]
        assert f"{part}, {name}: expected {before.nodes[name]}; got {after.nodes[name]}" in said


def test_hard_resets_give_other_spikes(exported, capsys):
    rewritten(exported, "encoder", with_neurons("a hard reset"))
    (line,) = [line for line in said_no(exported, capsys).splitlines() if "encoder" in line and "float64" in line]
    assert " 0 of " not in line
    assert "worst layer" in line


@pytest.mark.parametrize(("part", "node"), [("decoder", "readout"), ("denoiser", "readout"), ("encoder", "stem_0")])
def test_a_changed_weight_is_found(exported, capsys, part, node):
    def change(name, found):
        if name != node:
            return found
        weight = found.weight.clone()
        weight[0, 0, -1, -1] += 3.0 if part == "encoder" else 1e-4  # tokens, unlike images and logits, are rough
        return replace(found, weight=weight)

    rewritten(exported, part, change)
    said = said_no(exported, capsys)
    assert "expected" not in said  # the configuration says nothing about weights


def test_a_lost_residual_edge_is_found(exported, capsys):
    graph = read_nir(exported / "denoiser.nir")
    edge = next(edge for edge in graph.edges if edge[0] == "input" and len(graph.sources(edge[1])) > 1)
    graph.edges.remove(edge)
    write_nir(exported / "denoiser.nir", graph)
    signed(exported)
    assert "denoiser: nodes or edges are not those of the network" in said_no(exported, capsys)


def test_another_padding_is_found(exported, capsys):
    def change(name, node):
        point = isinstance(node, Convolution) and node.weight.shape[2:] == (1, 1) and name == "blocks_3_0"
        return replace(node, weight=torch.nn.functional.pad(node.weight, (1, 1, 1, 1)), padding=1) if point else node

    rewritten(exported, "denoiser", change)
    assert "denoiser, blocks_3_0: expected {'shapes': ((16, 8, 1, 1)" in said_no(exported, capsys)


def test_other_weights_of_the_host_are_found(exported, capsys):
    path = exported / "host.safetensors"
    weights = load_file(path)
    weights["denoiser.token_embedding.weight"] += 1.0
    save_file(weights, path)
    signed(exported)
    assert "worst layer" in said_no(exported, capsys)


def test_a_single_spike_is_found(exported, capsys):
    path = exported / "expected.npz"
    arrays = dict(np.load(path))
    spikes = next(name for name in arrays if name.startswith("denoiser/spikes/"))
    arrays[spikes].flat[0] ^= True
    np.savez(path, **arrays)
    signed(exported)
    said = said_no(exported, capsys)
    assert " 1 of " in said
    assert f"worst layer {spikes.removeprefix('denoiser/spikes/')}" in said


@pytest.mark.parametrize("name", ["decoder.nir", "encoder.nir", "denoiser.nir", "host.safetensors", "expected.npz"])
def test_files_of_another_export(exported, name):
    path = exported / name
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(InputError, match=f"{name} is not the file that export.json was written with"):
        verify.main([str(exported)])
    path.unlink()
    with pytest.raises(InputError, match=f"lacks {name}, which its export.json lists"):
        verify.main([str(exported)])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda text: text[: len(text) // 2], "export.json cannot be read"),
        (lambda text: "[]", "export.json cannot be read"),
        (lambda text: text.replace("spiking_vq-export/1", "spiking_vq-export/0"), "has format 'spiking_vq-export/0'"),
        (lambda text: text.replace('"config"', '"settings"'), "export.json cannot be read"),
    ],
    ids=["truncated", "list", "format", "field"],
)
def test_descriptions_that_cannot_be_read(exported, change, told):
    path = exported / "export.json"
    path.write_text(change(path.read_text()))
    with pytest.raises(InputError, match=told):
        verify.main([str(exported)])


def test_folders_that_are_no_export(tmp_path):
    with pytest.raises(InputError, match="is no exported model, it has no export.json: make one"):
        verify.main([str(tmp_path)])
    with pytest.raises(InputError, match="none is no exported model"):
        verify.main([str(tmp_path / "none")])
    with pytest.raises(InputError, match="name the folder of an exported model, such as `spiking-vq verify runs/"):
        verify.main([])

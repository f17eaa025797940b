"""Inspection of networks with several codes a position, and with spike counts as codes."""

import json
from dataclasses import replace

import pytest
import torch

from spiking_vq.checkpoint.build import build_vq_svae
from spiking_vq.checkpoint.file import save_model
from spiking_vq.data.levels import to_uint8
from spiking_vq.energy import count_operations
from stages.inspect import report as inspect
from stages.inspect.energy import twin_of
from stages.inspect.portrait import FRAMES, film
from stages.reporting.hardware import TWINS

DIGITS = {"data": "digits", "preset": "base", "image_size": 12}


@pytest.fixture
def inspected(tmp_path, counted_latents):
    """Function that inspects the generator, or its stage 1: the report."""

    def run(stage, *arguments):
        model = counted_latents.model
        config = replace(counted_latents.config, **DIGITS, vq_svae=replace(counted_latents.config.vq_svae, **DIGITS))
        if stage == "vq_svae":
            model, config = model.vq_svae, config.vq_svae
        path = tmp_path / f"{stage}.safetensors"
        save_model(path, model, config)
        inspect.main([str(path), "n=2", "only=report", f"results={tmp_path}", f"data_dir={tmp_path}", *arguments])
        name = "inspection-vq_svae.json" if stage == "vq_svae" else "inspection.json"
        return json.loads((tmp_path / "digits/base" / name).read_text())

    return run


def test_a_generator_of_spike_counts_is_purely_spiking(inspected, capsys):
    report = inspected("absorbing", "sample_steps=3")
    assert report["purity"]["real_valued"] == {}
    synapses = report["purity"]["synapses"]
    assert report["purity"]["verdict"] == f"Purely spiking: all {synapses} synapses are fed by 0 and 1 only."
    assert report["purity"]["verdict"] in capsys.readouterr().out
    layers = report["energy"]["spiking"]["layers"]
    assert 0 < layers["vq_svae.decoder.0.0"]["firing_rate"] < 1
    connections = [layer for layer in layers.values() if layer["kind"] in ("synapse", "attention")]
    assert len(connections) == synapses
    assert {layer["input_bits"] for layer in connections} == {1}
    assert sum(layer["multiplies"] for layer in connections) == 0


def test_of_stage_1_only_the_stem_sees_real_numbers(inspected):
    report = inspected("vq_svae")
    assert set(report["purity"]["real_valued"]) == {"vq_svae.stem.0"}
    assert report["purity"]["verdict"].startswith("Not purely spiking: 1 of ")
    assert report["purity"]["synapses"] == 6


@pytest.mark.parametrize(
    ("generator", "fed"), [("adaptive", "vq_svae.spike_generator.current.0"), ("repeat", "vq_svae.decoder.0.0")]
)
def test_other_spike_generators_are_not_pure(inspected, counted_latents, generator, fed):
    counted_latents.config.vq_svae.model.spike_generator = generator
    counted_latents.model.vq_svae = build_vq_svae(counted_latents.config.vq_svae).eval()
    report = inspected("absorbing", "sample_steps=1")
    assert set(report["purity"]["real_valued"]) == {fed}
    assert report["purity"]["verdict"].startswith("Not purely spiking: 1 of ")


def test_energy_counts_the_embeddings_of_all_codes(inspected):
    layers = inspected("absorbing", "sample_steps=3")["energy"]["spiking"]["layers"]
    embedding = layers["absorbing.token_embedding"]
    assert embedding["accumulates"] == 3 * 2 * 9 * 8  # calls, codes, positions, channels
    assert layers["absorbing.readout"]["connections"] == 3 * 2 * 9 * 16 * 2 * 9  # calls, steps, positions, in, codes, K


@pytest.mark.parametrize("neuron", TWINS)
def test_twins_of_spike_counts_generate(counted_latents, neuron):
    """With as many classes, though a twin has one step."""
    twin = twin_of(counted_latents, neuron)
    config = twin.config.vq_svae
    assert (config.T, config.neuron, config.model.codebook_size) == (1, neuron, 9)
    made = twin.sample(2)
    assert (made.tokens.shape, made.images.shape) == ((2, 2, 3, 3), (2, 1, 12, 12))
    assert twin.model.vq_svae.quantizer.levels == 3
    assert twin.model.vq_svae.tokenize(torch.rand(2, 1, 12, 12)).max() < 9
    with count_operations(twin.model.vq_svae) as costs:
        twin.decode(made.tokens, torch.Generator().manual_seed(0))
    assert costs["decoder.0.0"].input_bits == (2 if neuron == "quantised" else 32)


def test_positions_that_are_masked_in_part_are_grey_in_part(counted_latents):
    states = [state.x for state in counted_latents.states([7], sample_steps=18, order="random")]
    frames = film(counted_latents, states, len(states)).double() / 255
    made = counted_latents.decode(states[-1], torch.Generator().manual_seed(0))
    assert torch.equal(film(counted_latents, states)[-1:], to_uint8(made))
    assert len(film(counted_latents, states)) == FRAMES
    kinds = set()
    for frame, tokens in zip(frames, states, strict=True):
        shown = torch.where(tokens == 9, states[-1], tokens)
        image = counted_latents.decode(shown, torch.Generator().manual_seed(0))[0, 0].double()
        for row in range(3):
            for column in range(3):
                hidden = (tokens[0, :, row, column] == 9).double().mean().item()
                kinds.add(hidden)
                place = slice(4 * row, 4 * row + 4), slice(4 * column, 4 * column + 4)
                expected = (1 - hidden) * image[place] + hidden * 0.5
                torch.testing.assert_close(frame[0][place], expected, atol=0.6 / 255, rtol=0)
    assert kinds == {0.0, 0.5, 1.0}

"""Inspection of small untrained models of each stage: rates, purity, energy, pictures."""

import builtins
import json
import re
from dataclasses import replace

import pytest
import torch
from PIL import Image

from spiking_vq.checkpoint.build import build_denoiser, build_model
from spiking_vq.checkpoint.file import load_model, save_model
from spiking_vq.data.levels import to_uint8
from spiking_vq.errors import InputError
from spiking_vq.models.vq_svae import VQSVAE
from spiking_vq.neurons.lif import LIF
from spiking_vq.pipelines.base import Pipeline
from spiking_vq.pipelines.load import pipeline_of
from stages.inspect import report as inspect
from stages.inspect.energy import observe
from stages.inspect.portrait import FRAMES, film
from stages.inspect.purity import purity_verdict
from stages.inspect.verdicts import turning_rate

FOLDERS = {"gaussian": "gaussian-base"}


@pytest.fixture
def inspected(tmp_path, models):
    """Function that inspects the model of a stage: the report, None if only pictures are drawn."""

    def run(stage, *arguments):
        path = tmp_path / f"{stage}.safetensors"
        save_model(path, *models[stage])
        inspect.main([str(path), "n=2", f"results={tmp_path}", f"data_dir={tmp_path}", *arguments])
        name = "inspection-vq_svae.json" if stage == "vq_svae" else "inspection.json"
        out = tmp_path / "digits" / FOLDERS.get(stage, "base") / name
        return json.loads(out.read_text()) if out.exists() else None

    return run


def test_one_report_of_rates_purity_and_energy(inspected, tmp_path, capsys):
    report = inspected("absorbing", "sample_steps=3", "only=report")
    assert (report["stage"], report["num_images"], report["seed"]) == ("absorbing", 2, 0)
    assert report["T"] == {"vq_svae": 2, "absorbing": 2}
    assert list(report["firing_rate"]) == ["vq_svae", "absorbing"]
    for rates in report["firing_rate"].values():
        assert all(0 <= rate <= 1 for rate in rates.values())
        assert 0 < rates["all"] < 1
    assert "encoder.0" in report["firing_rate"]["vq_svae"]
    layers = report["energy"]["spiking"]["layers"]
    for name, rate in report["firing_rate"]["absorbing"].items():
        assert name == "all" or layers[f"absorbing.{name}"]["firing_rate"] == rate
    assert "denoiser" not in json.dumps(report)  # a stage has one name
    printed = capsys.readouterr().out
    assert "firing rates of vq_svae\n" in printed
    assert report["purity"]["verdict"] in printed
    assert [path.name for path in (tmp_path / "digits/base").iterdir()] == ["inspection.json"]


def test_an_image_is_its_calls_and_the_decoder(inspected, capsys):
    energy = inspected("absorbing", "sample_steps=3", "only=report")["energy"]
    spiking, twin, few_bits = (energy[name] for name in ("spiking", "relu", "quantised"))
    for part in (spiking, twin, few_bits):
        assert part["calls"] == 3
        for name in ("accumulates", "multiplies", "memory_pj", "published_pj"):
            calls = part["calls"] * part["call"][name]
            assert part["image"][name] == pytest.approx(calls + part["decoder"][name])
            assert part["image"][name] == pytest.approx(sum(layer[name] for layer in part["layers"].values()))
        connections = [layer for layer in part["layers"].values() if layer["kind"] == "synapse"]
        for name, count in (("effective_acs", "accumulates"), ("effective_macs", "multiplies")):
            assert part["operations"][name] == pytest.approx(sum(layer[count] for layer in connections))
        neurons = [layer for layer in part["layers"].values() if layer["kind"] == "neuron"]
        assert part["operations"]["neuron_updates"] == sum(layer["slots"] for layer in neurons)
        assert part["operations"]["spikes"] == pytest.approx(sum(layer["spikes"] for layer in neurons))
    assert twin["operations"]["effective_acs"] == twin["operations"]["neuron_updates"] == 0
    assert 0 < spiking["operations"]["effective_acs"] < spiking["operations"]["connections"]
    assert 0 < spiking["image"]["firing_rate"] < 1
    assert twin["image"]["multiplies"] > spiking["image"]["multiplies"]
    assert twin["image"]["multiplies"] == few_bits["image"]["multiplies"]
    assert few_bits["image"]["arithmetic_pj"] < twin["image"]["arithmetic_pj"]
    assert not [name for name in spiking["layers"] if "encoder" in name]
    printed = capsys.readouterr().out
    assert all(lines in printed for lines in energy["verdict"].values())
    assert energy["constants"]["source"] in printed


def test_layers_that_real_numbers_feed_have_no_firing_rate(inspected):
    energy = inspected("absorbing", "sample_steps=1", "only=report")["energy"]
    real = energy["spiking"]["layers"]["vq_svae.spike_generator.current.0"]
    assert (real["input_bits"], real["firing_rate"]) == (32, None)
    assert 0 < energy["spiking"]["layers"]["vq_svae.decoder.0.0"]["firing_rate"] < 1
    assert {layer["firing_rate"] for layer in energy["relu"]["layers"].values()} == {None}


# Prices in pJ of an addition, a multiplication with an activation of so many bits, a membrane's decay; bits of a weight
PRICES = {
    "32-bit floats": (0.9, lambda bits: min(0.9 * bits, 4.6), 4.6, 32),
    "8-bit integers": (0.1, lambda bits: min(0.1 + 0.03 * (bits - 1), 0.3), 0.8, 8),
}


def picojoules(layer, hardware):
    """Energy of a layer of a report, from its counts."""
    arithmetic, memory = hardware.rsplit(", ", 1)
    add, multiply, decay, width = PRICES[arithmetic]
    connects = layer["kind"] in ("synapse", "attention")
    pj = layer["accumulates"] * add + layer["multiplies"] * (multiply(layer["input_bits"]) if connects else decay)
    if memory == "arithmetic alone":
        return pj
    bits = width * layer["weight_reads"] + min(layer["output_bits"], width) * layer["activations"]
    if memory == "nothing reused":
        bits += 32 * (layer["sum_accesses"] + layer["state_accesses"])
        bits += min(layer["input_bits"], width) * layer["input_reads"]
    else:
        bits += 32 * layer["state_accesses"] + min(layer["input_bits"], width) * layer["numbers"]
        bits += 32 * layer["spikes"] if connects else 0
    return pj + bits * 10 / 64


@pytest.mark.parametrize("stage", ["absorbing", "gaussian"])
def test_the_verdict_follows_from_the_counts_by_hand(inspected, stage):
    """Of the spiking network, the energy of synapses fed by spikes grows with the firing rate, the rest does not."""
    energy = inspected(stage, "sample_steps=3", "only=report")["energy"]
    rate, turns = energy["spiking"]["image"]["firing_rate"], []
    for neuron in ("relu", "quantised"):
        lines = energy["verdict"][neuron].splitlines()
        rates = [at for memories in energy["turning_rates"][neuron].values() for at in memories.values()]
        assert len(lines) == len(rates) == 6
        for line, at in zip(lines, rates, strict=True):
            found = re.fullmatch(
                r"([^:]+): (the spiking network|the [\w ]*twin[\w ]*) wins: ([\d,.]+) uJ an image at a firing rate of"
                r" (.*), ([\d,.]+) uJ for the .*; it would (?:turn at (\d\.\d\d)|do so at any firing rate)\.",
                line,
            )
            hardware, winner, ours, at_rate, other, turn = found.groups()
            theirs = sum(picojoules(layer, hardware) for layer in energy[neuron]["layers"].values())
            fixed = grows = 0.0
            for layer in energy["spiking"]["layers"].values():
                by_spikes = layer["kind"] in ("synapse", "attention") and layer["input_bits"] == 1
                cost = picojoules(layer, hardware)
                fixed, grows = fixed + (not by_spikes) * cost, grows + by_spikes * cost
            assert (winner == "the spiking network") == (fixed + grows < theirs)
            assert float(ours.replace(",", "")) == pytest.approx((fixed + grows) / 1e6, abs=0.051)
            assert float(other.replace(",", "")) == pytest.approx(theirs / 1e6, abs=0.051)
            assert float(at_rate) == pytest.approx(rate, abs=0.0051)
            turning = (theirs - fixed) / grows * rate  # fixed + grows * turning / rate = theirs
            if 0 < turning < 1:
                assert float(turn) == pytest.approx(turning, abs=0.0051)
                assert at == pytest.approx(turning)
            else:
                assert turn is None
                assert at is None
            turns.append(turn)
    assert stage == "gaussian" or {bool(turn) for turn in turns} == {True, False}


def test_the_firing_rate_at_which_the_twin_would_win_by_hand():
    """Of 10 uJ at a rate of 0.2, 4 grow with the rate: 20 a unit of it, on 6 that do not."""
    assert turning_rate(0.2, ours=10.0, by_spikes=4.0, theirs=12.0) == pytest.approx(0.3)  # 6 + 20 * 0.3 = 12
    assert turning_rate(0.2, ours=10.0, by_spikes=4.0, theirs=8.0) == pytest.approx(0.1)
    for theirs in (5.0, 27.0):  # below what it costs without a spike; above what it costs if all neurons always fire
        assert turning_rate(0.2, ours=10.0, by_spikes=4.0, theirs=theirs) is None
    assert turning_rate(0.0, ours=6.0, by_spikes=0.0, theirs=5.0) is None


def test_latency_of_an_image(inspected, models):
    """T = 2: three calls of a denoiser of four synapses in a row, then a decoder of four."""
    latency = inspected("absorbing", "sample_steps=3", "only=report")["energy"]["latency"]
    assert {part: (row["steps"], row["path"], row["waits"]) for part, row in latency.items()} == {
        "absorbing": (6, 4, 24),  # a grid mixer, a 3x3 and a 1x1 convolution, the read-out
        "vq_svae": (2, 4, 8),  # the spike generator, two transposed convolutions, the read-out
        "image": (8, 4, 32),
    }
    with_spikes = latency["image"]["spikes"] * 8
    assert with_spikes == pytest.approx(latency["absorbing"]["spikes"] * 6 + latency["vq_svae"]["spikes"] * 2)


def test_a_network_that_never_spikes_has_a_report(inspected, models, tmp_path):
    for module in models["absorbing"][0].modules():
        if isinstance(module, LIF):
            module.threshold.fill_(1e6)
    report = inspected("absorbing", "sample_steps=2")
    assert report["energy"]["spiking"]["image"]["firing_rate"] == 0
    assert all(lines.count("no turning point") == 6 for lines in report["energy"]["verdict"].values())
    assert [part["all"] for part in report["firing_rate"].values()] == [0.0, 0.0]
    assert (tmp_path / "digits/base/raster.png").is_file()


def test_fewer_spiking_steps_without_a_label_cost_less(inspected, models):
    """Of the spiking network; its twins, which take one step, have no fewer."""
    latent_model, config = models["absorbing"]
    config = replace(config, conditional=True, num_classes=10, sample=replace(config.sample, guidance=2.0))
    latent_model.denoiser = build_denoiser(config).eval()
    reports = []
    for guidance_T in (None, 1):
        models["absorbing"] = latent_model, replace(config, sample=replace(config.sample, guidance_T=guidance_T))
        reports.append(inspected("absorbing", "sample_steps=2", "temperature=0", "only=report"))
    full, fewer = reports
    assert fewer["sampler"]["guidance_T"] == 1
    assert fewer["energy"]["spiking"]["calls"] == full["energy"]["spiking"]["calls"] == 4
    slots = [part["energy"]["spiking"]["layers"]["absorbing.last_neuron"]["slots"] for part in (full, fewer)]
    assert slots[1] / slots[0] == pytest.approx((config.T + 1) / (2 * config.T))
    costs = [part["energy"]["relu"]["image"]["arithmetic_pj"] for part in (full, fewer)]
    assert costs[0] == costs[1]
    assert fewer["energy"]["relu"]["calls"] == 4


@pytest.mark.parametrize("stage", ["absorbing", "gaussian"])
def test_energy_grows_with_the_calls(inspected, stage):
    reports = [inspected(stage, f"sample_steps={steps}", "only=report")["energy"] for steps in (1, 2)]
    assert (
        [report["spiking"]["calls"] for report in reports] == [report["relu"]["calls"] for report in reports] == [1, 2]
    )
    few, many = (part["relu"]["image"]["arithmetic_pj"] - part["relu"]["decoder"]["arithmetic_pj"] for part in reports)
    assert many == pytest.approx(2 * few)  # without spikes every call costs the same
    few, many = (part["spiking"]["call"]["arithmetic_pj"] * part["spiking"]["calls"] for part in reports)
    assert 1.2 * few < many < 3 * few
    assert (reports[0]["spiking"]["decoder"]["accumulates"] == 0) == (stage == "gaussian")


def test_twins_need_no_measurements_nor_thresholds(inspected, models):
    model, config = models["gaussian"]
    model.image_error = torch.linspace(0, 1, 11)
    shifted = replace(config, sample=replace(config.sample, threshold_shift=-0.1))
    models["gaussian"] = model, shifted
    report = inspected("gaussian", "sampler=analytic", "sample_steps=2", "only=report")
    assert (report["sampler"]["sampler"], report["sampler"]["threshold_shift"]) == ("analytic", -0.1)
    assert report["energy"]["relu"]["calls"] == 2
    assert report["T"] == {"gaussian": 2}
    assert set(report["firing_rate"]) == {"gaussian"}


@pytest.mark.parametrize("stage", ["vq_svae", "absorbing", "gaussian"])
def test_purity_names_what_sees_real_numbers(inspected, stage):
    steps = [] if stage == "vq_svae" else ["sample_steps=2"]
    report = inspected(stage, *steps, "only=report")
    real = set(report["purity"]["real_valued"])
    assert report["purity"]["synapses"] > len(real)
    shares = [layer["share_of_operations"] for layer in report["purity"]["real_valued"].values()]
    assert 0 <= sum(shares) < 1
    if stage == "absorbing":  # vectors of the codebook are real; all else that generates is fed by spikes
        assert real == {"vq_svae.spike_generator.current.0"}
    elif stage == "vq_svae":
        assert "vq_svae.stem.0" in real
        assert "energy" not in report
        assert 0 < report["firing_rate"]["vq_svae"]["all"] < 1
    else:
        assert {"gaussian.stem.0", "gaussian.time.0", "gaussian.head"} <= real
        assert report["purity"]["verdict"].startswith("Not purely spiking")


def test_purely_spiking_is_said_of_nothing_else():
    assert purity_verdict(7, 0, 0.0) == "Purely spiking: all 7 synapses are fed by 0 and 1 only."
    assert "2 of 7 synapses are fed by real numbers, 12.5%" in purity_verdict(7, 2, 0.125)


def test_a_network_without_spikes_has_neither_rates_nor_energy(inspected, models, tmp_path):
    _, config = models["absorbing"]
    plain = {"neuron": "relu", "T": 1}
    config = replace(config, **plain, vq_svae=replace(config.vq_svae, **plain))
    models["absorbing"] = build_model(config).eval(), config
    report = inspected("absorbing", "sample_steps=2")
    assert not {"firing_rate", "energy"} & set(report)
    assert report["purity"]["verdict"].startswith("Not purely spiking")
    assert {path.name for path in (tmp_path / "digits/base").iterdir()} == {"inspection.json", "filmstrip.png"}


def test_stage_2_is_inspected_without_its_data(inspected, monkeypatch, capsys):
    def missing(*arguments):
        raise InputError("no files")

    monkeypatch.setattr(inspect, "data_of", missing)
    report = inspected("absorbing", "sample_steps=1", "only=report")
    assert set(report["firing_rate"]) == {"absorbing"}
    assert "without the firing rates of stage 1, which need validation images: no files" in capsys.readouterr().err
    with pytest.raises(InputError, match="no files"):
        inspected("vq_svae")


def test_portrait_of_each_pipeline(inspected, tmp_path):
    for stage, folder in (("absorbing", "base"), ("gaussian", "gaussian-base")):
        assert inspected(stage, "only=portrait", "sample_steps=5") is None
        sizes = {path.name: Image.open(path).size for path in (tmp_path / "digits" / folder).iterdir()}
        assert set(sizes) == {"filmstrip.png", "raster.png"}
        assert sizes["filmstrip.png"] == (FRAMES * 14 + 2, 2 * 14 + 2)  # two images of 12 x 12 in frames
    with pytest.raises(InputError, match="only must be all or report of stage 1 alone"):
        inspected("vq_svae", "only=portrait")


def test_a_film_begins_with_nothing_and_ends_with_the_image(models):
    pipeline = pipeline_of(*models["absorbing"])
    settings = pipeline.sampling(sample_steps=9)
    generation = observe(pipeline, settings, [7, 8])
    frames = film(pipeline, generation.states[0])
    masked = (frames == 128).flatten(1).double().mean(1)  # grey, which images of so few pixels hardly are
    assert masked[0] == 1
    assert (masked.diff() <= 1e-9).all()
    assert torch.equal(frames[-1:], to_uint8(pipeline.make_alone(7, **settings)))
    assert len(generation.states[1]) == 10
    calls = {spk.shape[1] for name, spk in generation.spikes.items() if name.startswith("absorbing.")}
    assert calls == {9 * pipeline.config.T}  # of the first image alone
    assert 0 < torch.cat([spk.flatten() for spk in generation.spikes.values()]).mean() < 1
    assert not [name for name in generation.spikes if "encoder" in name]

    pipeline = pipeline_of(*models["gaussian"])
    settings = pipeline.sampling(sample_steps=5, label=3, guidance=2.0)
    frames = film(pipeline, observe(pipeline, settings, [7]).states[0])
    assert frames.shape == (FRAMES, 1, 12, 12)
    assert torch.equal(frames[-1:], to_uint8(pipeline.make_alone(7, **settings)))


def test_the_raster_needs_an_extra(inspected, monkeypatch):
    found = builtins.__import__

    def without(name, *arguments):
        if name.startswith("matplotlib"):
            raise ModuleNotFoundError(name)
        return found(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"matplotlib: install the extra `metrics`.*only=report"):
        inspected("absorbing")
    assert inspected("absorbing", "only=report", "sample_steps=1")["num_images"] == 2


@pytest.mark.parametrize("stage", ["vq_svae", "gaussian"])
def test_a_report_that_cannot_be_written_is_found_before_the_work(inspected, models, tmp_path, monkeypatch, stage):
    monkeypatch.delattr(Pipeline, "states")
    monkeypatch.delattr(VQSVAE, "tokenize")
    name = {"vq_svae": "base/inspection-vq_svae.json", "gaussian": "gaussian-base/inspection.json"}[stage]
    there = tmp_path / "digits" / name
    there.parent.mkdir(parents=True)
    there.write_text(json.dumps({"stage": stage, "data": "digits", "preset": "sddpm"}))
    with pytest.raises(InputError, match="is a report on preset sddpm, and would be replaced"):
        inspected(stage)
    with pytest.raises(InputError, match="cannot write"):
        inspected(stage, f"results={there}")
    path = tmp_path / "classifier.safetensors"
    with pytest.raises(InputError, match="no model file"):
        inspect.main([str(path)])
    assert load_model(tmp_path / f"{stage}.safetensors")[1].stage == stage

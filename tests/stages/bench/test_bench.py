"""The benchmark measures what it says: its plain form is the paper's network, and so is ours."""

import json

import pytest
import torch
from torch import nn

from spiking_vq.checkpoint.build import build_denoiser, build_unet, build_vq_svae
from spiking_vq.config.load import load_config
from spiking_vq.layers.synapses import BatchNorm
from spiking_vq.neurons.lif import LIF
from stages.bench import run as bench
from stages.bench import worker
from stages.bench.cases import CASES
from stages.bench.work import configured, our_sampling, our_task, training
from stages.bench.worker import Measured
from stages.cli.options import preset_file

CPU = torch.device("cpu")
FIRST = next(iter(CASES))


def layers(model, *kinds):
    return [module for module in model.modules() if isinstance(module, kinds)]


def copy_weights(ours, plain):
    """Give the plain network our weights; layers stand in the same order in both."""
    synapses = nn.Conv2d, nn.ConvTranspose2d, nn.Linear
    for mine, other in zip(layers(ours, *synapses), layers(plain, *synapses), strict=True):
        other.weight.data.copy_(mine.weight.data)
        other.bias.data.copy_(torch.zeros_like(other.bias) if mine.bias is None else mine.bias.data)
    for mine, other in zip(layers(ours, BatchNorm), layers(plain, nn.BatchNorm2d), strict=True):
        other.load_state_dict({key: value for key, value in mine.state_dict().items() if key != "synapse_bias"})


def assert_same_gradients(ours, plain):
    for mine, other in zip(layers(ours, nn.Conv2d), layers(plain, nn.Conv2d), strict=True):
        assert (other.weight.grad != 0).any()
        torch.testing.assert_close(mine.weight.grad, other.weight.grad, rtol=1e-8, atol=1e-10)


@pytest.fixture(params=["stepwise_lif", "fused_lif"])
def ours_and_plain(request):
    """Our network of a stage and its plain form, in float64, of the same weights."""
    plain_form = pytest.importorskip("stages.bench.plain", exc_type=ImportError)

    def build(stage):
        neuron, (config1, config2) = getattr(plain_form, request.param), configured("paper")
        pairs = {
            "vq_svae": (build_vq_svae(config1), plain_form.PlainVQSVAE(neuron)),
            "absorbing": (build_denoiser(config2), plain_form.PlainSDID(neuron)),
        }
        ours, plain = (model.double() for model in pairs[stage])
        copy_weights(ours, plain)
        return ours, plain

    return build


def test_the_plain_stage_1_is_ours(ours_and_plain):
    ours, plain = ours_and_plain("vq_svae")
    plain.codebook.weight.data.copy_(ours.quantizer.codebook)
    ours.data_variance.fill_(0.1)
    images = torch.rand(4, 1, 28, 28).double()
    loss, plain_loss = ours.loss_terms(images).total, plain.loss(images)
    torch.testing.assert_close(loss, plain_loss, rtol=1e-10, atol=0)
    loss.backward(), plain_loss.backward()
    assert_same_gradients(ours, plain)


def test_the_plain_stage_2_is_ours(ours_and_plain):
    ours, plain = ours_and_plain("absorbing")
    # its input planes are single precision
    layers(plain, nn.Conv2d)[0].register_forward_pre_hook(lambda module, x: (x[0].double(),))
    tokens, t = torch.randint(129, (2, 1, 7, 7)), torch.tensor([5, 40])
    logits, plain_logits = ours(tokens, t), plain(tokens, t)
    torch.testing.assert_close(logits, plain_logits, rtol=1e-10, atol=1e-12)
    weights = torch.randn_like(logits)
    (logits * weights).sum().backward(), (plain_logits * weights).sum().backward()
    assert_same_gradients(ours, plain)


@pytest.mark.parametrize("preset", ["sddpm", "fsddim"])
def test_the_plain_unets_are_ours(preset):
    plain_form = pytest.importorskip("stages.bench.plain_unets", exc_type=ImportError)
    config = load_config("gaussian", preset_file("gaussian", preset), ["model.width=8", "precision=fp64"])
    config.image_shape = [3, 32, 32]
    torch.manual_seed(0)
    ours = build_unet(config).double()
    plain = {"sddpm": plain_form.PlainSDDPM, "fsddim": plain_form.PlainFSDDIM}[preset](width=8).double()
    with torch.no_grad():
        for weight in ours.parameters():  # an output that is not near 0, and currents that fire
            weight.add_(0.1 * torch.randn_like(weight))
        for neuron in layers(ours, LIF):
            neuron.beta.fill_(config.lif.beta)  # exactly, where the network's own is single precision
    copy_weights(ours, plain)
    noisy, t = torch.randn(2, 3, 32, 32).double(), torch.tensor([4, 700])
    noisy = noisy.unsqueeze(0) if preset == "fsddim" else noisy
    found, expected = ours(noisy, t), plain(noisy, t)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
    weights = torch.randn_like(found)
    (found * weights).sum().backward(), (expected * weights).sum().backward()
    assert_same_gradients(ours, plain)


def test_plain_sampling_fills_every_position():
    plain_form = pytest.importorskip("stages.bench.plain", exc_type=ImportError)
    tokens = plain_form.PlainSDID().eval().sample(1)
    assert tokens.shape == (1, 1, 7, 7)
    assert 0 <= tokens.min() <= tokens.max() < 128


def test_peak_counts_what_is_held_at_once():
    def run():
        kept = torch.ones(1_000_000)  # 4 MB
        for _ in range(3):
            torch.ones(2_000_000)  # 8 MB, one after the other
        return kept

    assert worker.peak_mb(run, CPU) == pytest.approx(12, rel=0.01)


def test_a_turn_holds_as_many_runs_as_fill_it(monkeypatch):
    clock, runs = [0.0], []
    monkeypatch.setattr(worker.time, "perf_counter", lambda: clock[0])

    def run():
        runs.append(1)
        clock[0] += 5.0 if len(runs) == 1 else 2.0

    assert worker.times(run, CPU) == [5.0]
    runs.clear()
    assert worker.times(run, CPU, turn=8.5) == [5.0, 2.0, 2.0]


def test_every_ratio_has_a_reference():
    for case in CASES.values():
        first, *others = case.values()
        assert first.targets is None
        assert others


def test_a_worker_measures_a_variant(capsys):
    worker.main(FIRST, "ours, not compiled", "cpu", "peak")
    measured = json.loads(capsys.readouterr().out)
    assert measured["median_s"] > 0
    assert measured["peak_mb"] > 25.6  # the spikes of 16 x 32 x 64 x 14 x 14 neurons in fp32


def test_rows_by_hand(monkeypatch, tmp_path, capsys):
    turns = []

    def scripted(case, variant, device, peak):
        """The n-th turn of a variant takes n times its number."""
        number = [*CASES[FIRST]].index(variant) + 1
        turns.append(variant)
        return Measured(9.0, float(number * turns.count(variant)), 100.0 / number if peak else None)

    monkeypatch.setattr(bench, "turn", scripted)
    monkeypatch.setattr(bench, "find_spec", lambda name: True)
    out = tmp_path / "bench.json"
    bench.main(["rounds=3", f"only={FIRST}", f"out={out}"])
    report = json.loads(out.read_text())
    assert turns == 3 * list(CASES[FIRST])
    assert report["rounds"] == 3
    assert [row["variant"] for row in report["rows"]] == list(CASES[FIRST])
    second = report["rows"][1]
    assert (second["median_s"], second["spread_s"], second["ratio"]) == (4.0, 4.0, 0.5)
    assert second["times_s"] == [2.0, 4.0, 6.0]
    assert (second["peak_mb"], second["peak_ratio"], second["first_s"]) == (50.0, 2.0, 9.0)
    assert second["variant"] in capsys.readouterr().out


def test_bf16_is_left_out_where_it_is_emulated(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(bench, "emulates_bf16", lambda device: True)
    monkeypatch.setattr(bench, "find_spec", lambda name: True)
    monkeypatch.setattr(bench, "turn", lambda case, variant, device, peak: Measured(1.0, 1.0, 1.0 if peak else None))
    out = tmp_path / "bench.json"
    bench.main(["rounds=1", "only=sddpm training step, batch 2", f"out={out}"])
    assert [row["dtype"] for row in json.loads(out.read_text())["rows"]] == 3 * ["float32"]
    assert "bfloat16 is left out" in capsys.readouterr().out


@pytest.mark.slow
def test_a_worker_that_dies_says_why():
    with pytest.raises(RuntimeError, match="no such variant"):
        bench.turn(FIRST, "no such variant", "cpu", peak=False)


@pytest.mark.parametrize("stage", ["vq_svae", "absorbing"])
def test_a_training_step_changes_the_weights_and_an_ema_codebook(stage):
    model, loss = our_task(stage, "base", CPU, "train.batch_size=2", "T=1")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    training(model, loss)()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert {name for name, _ in model.named_parameters()} & changed
    assert stage == "absorbing" or "quantizer.codebook" in changed


def test_our_sampling_runs():
    our_sampling("base", 3, 2, "float32", 2, CPU)()

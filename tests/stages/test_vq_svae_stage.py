"""The stage of the VQ-SVAE: the critics' losses, and the update of the codebook."""

import copy

import pytest
import torch

from spiking_vq.checkpoint.file import save_model
from spiking_vq.config.load import load_config
from spiking_vq.data.levels import to_unit
from spiking_vq.errors import InputError
from spiking_vq.models.classifier import Classifier
from spiking_vq.models.critics import PerceptualDistance
from stages import train
from stages.classifier import ClassifierStage
from stages.vq_svae import VQSVAEStage

SMALL = ["data=digits", "image_size=8", "T=2", "precision=fp32", "train.compile=false", "model.num_residual_blocks=0"]


def stage_of(runs, *overrides):
    torch.manual_seed(0)
    given = [*SMALL, "model.channels=[4,8]", f"runs={runs}", "perceptual.weight=0", "adversary.weight=0", *overrides]
    return VQSVAEStage(load_config("vq_svae", train.preset_file("vq_svae", "base"), given))


def seeded():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(256, (6, 1, 8, 8), generator=generator, dtype=torch.uint8)]


def test_critics_add_their_weighted_losses(tmp_path, batch):
    given = ["data=digits", "image_size=8", f"runs={tmp_path}", "model.channels=[4,8]"]
    judge = ClassifierStage(load_config("classifier", train.preset_file("classifier", "base"), given))
    save_model(tmp_path / "judge.safetensors", judge.export(), judge.config)
    others = ["perceptual.weight=2", f"perceptual.classifier={tmp_path / 'judge.safetensors'}", "adversary.weight=0.5"]
    stage = stage_of(tmp_path, *others)
    plain, images = stage_of(tmp_path).batch_loss(batch, seeded()), to_unit(batch[0])
    made = copy.deepcopy(stage.model).loss_terms(images, seeded()).made
    metrics = stage.batch_loss(batch, seeded())

    classifier = Classifier((1, 8, 8), 10, [4, 8])
    classifier.load_state_dict(judge.model.state_dict())
    perceptual = PerceptualDistance(classifier)(made + 0.5, images)
    adversary = stage.adversary(made, images - 0.5)
    torch.testing.assert_close(metrics["perceptual"], perceptual)
    torch.testing.assert_close(metrics["adversary"], adversary)
    critics = 2 * perceptual + 0.5 * stage.adversary.pull(made) + adversary
    torch.testing.assert_close(metrics["loss"], plain["loss"] + critics)
    names = ["loss", "mse", "quantizer", "psp", "perplexity", "restarts"]
    assert list(plain) == names
    assert list(metrics) == [*names, "perceptual", "adversary"]  # the columns of metrics.csv


def test_a_step_updates_an_ema_codebook(tmp_path, batch):
    stage = stage_of(tmp_path, "model.ema_decay=0.9", "model.restart_below=0.95")
    expected = copy.deepcopy(stage.model)
    vectors = expected.encode_spikes(expected.encode(to_unit(batch[0])))
    tokens = expected.quantizer.nearest(vectors)
    restarts = expected.quantizer.update(vectors, tokens, seeded())
    metrics = stage.batch_loss(batch, seeded())
    assert metrics["restarts"] == restarts > 0
    assert torch.equal(stage.model.quantizer.codebook, expected.quantizer.codebook)
    share = torch.bincount(tokens.flatten()) / tokens.numel()
    entropy = -sum(p.log2() * p for p in share if p > 0).item()
    assert metrics["perplexity"].item() == pytest.approx(2**entropy, rel=1e-5)


def test_gradients_train_a_codebook_without_averages(tmp_path, batch):
    stage = stage_of(tmp_path, "model.ema_decay=0", "model.restart_below=0")
    before = stage.model.quantizer.codebook.detach().clone()
    metrics = stage.batch_loss(batch, seeded())
    assert metrics["restarts"] == 0
    assert torch.equal(stage.model.quantizer.codebook, before)
    metrics["loss"].backward()
    assert (stage.model.quantizer.codebook.grad != 0).any()


@pytest.mark.parametrize("quantizer", ["product", "residual"])
def test_a_step_updates_all_codebooks(tmp_path, batch, quantizer):
    stage = stage_of(tmp_path, f"model.quantizer={quantizer}", "model.num_codes=2", "model.restart_below=1.05")
    expected = copy.deepcopy(stage.model.quantizer)
    terms = copy.deepcopy(stage.model).loss_terms(to_unit(batch[0]), seeded())
    restarts = expected.update(terms.vectors, terms.tokens, seeded())
    metrics = stage.batch_loss(batch, seeded())
    assert metrics["restarts"] == restarts > 0
    assert all(map(torch.equal, stage.model.quantizer.codebooks, expected.codebooks))
    entropies = []
    for code in terms.tokens.unbind(1):
        share = torch.bincount(code.flatten()) / code.numel()
        entropies.append(-sum(p.log2() * p for p in share if p > 0).item())
    assert metrics["perplexity"].item() == pytest.approx(2 ** (sum(entropies) / 2), rel=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "fp64", "bf16"])
def test_spike_counts_are_trained_by_the_reconstruction_alone(tmp_path, batch, precision):
    codes = ["model.quantizer=count", "model.embedding_dim=4", "model.num_codes=2", "model.codebook_size=9"]
    codes += ["model.encoding=rate", "model.spike_generator=direct", "model.ema_decay=0", "model.restart_below=0"]
    stage = stage_of(tmp_path, *codes, f"precision={precision}")
    with stage.autocast():
        metrics = stage.batch_loss(batch, seeded())
    assert metrics["quantizer"] == metrics["restarts"] == 0
    assert 1 < metrics["perplexity"] <= 9
    assert metrics["loss"].isfinite()
    metrics["loss"].backward()
    weight = stage.model.encoder[-2][0].weight
    assert (weight.grad != 0).any()


def test_an_adversary_beyond_all_memory(tmp_path):
    with pytest.raises(InputError, match="choose smaller ones"):
        stage_of(tmp_path, "adversary.weight=0.5", f"adversary.channels=[{2**31 - 1},{2**31 - 1}]")

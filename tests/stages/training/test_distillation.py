"""Guidance distilled: the network learns the guided answer of a frozen teacher."""

import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from small_runs import STAGE2, assert_same_run, awake_model, config_of, die_at

from spiking_vq.checkpoint.file import fingerprint, load_model, save_model
from spiking_vq.config.load import read_config
from spiking_vq.diffusion.absorbing import LOSSES, AbsorbingDiffusion
from spiking_vq.errors import InputError
from spiking_vq.models.token_denoiser import TokenDenoiser
from spiking_vq.pipelines import zoo
from spiking_vq.runtime.running import run_with, steps_of
from stages import train
from stages.absorbing import AbsorbingStage

LABELS = ["conditional=true", "styles=2", "label_dropout=0.25"]
DISTIL = [*STAGE2, *LABELS, "distilled_guidance=3", "distilled_T=1"]
NONE = 20  # the label that stands for none


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """File of the teacher, a class-conditional network of two spiking steps."""
    torch.manual_seed(0)
    return awake_model(tmp_path_factory.mktemp("teacher"), *LABELS)


def distilled_into(runs, teacher, *options):
    """Command line of a distillation in a folder of runs."""
    return [*DISTIL, f"train.start_from={teacher}", f"runs={runs}", *options]


def guided_answer(teacher, tokens, t, labels):
    """Logits of the teacher's guided answer, and its own where there is no label."""
    network = load_model(teacher)[0].denoiser
    with torch.no_grad():
        strong = network(tokens, t, labels)
        with run_with(num_steps=1):
            weak = network(tokens, t)
    return torch.where((labels == NONE).view(-1, 1, 1, 1, 1), strong, weak + 3 * (strong - weak))


# ---------------------------------------------------------------------------------------------------------------------
# The objective


@pytest.mark.parametrize("objective", LOSSES)
def test_the_loss_by_hand(objective):
    """Token by token: the cross-entropy of the denoiser's distribution under the teacher's."""
    torch.manual_seed(1)
    diffusion, tokens = AbsorbingDiffusion((2, 1, 3), 4, objective), torch.randint(4, (5, 2, 1, 3))
    ours, theirs = torch.randn(5, 4, 2, 1, 3, requires_grad=True), torch.randn(5, 4, 2, 1, 3, requires_grad=True)
    drawn = diffusion.draw(tokens, torch.Generator().manual_seed(0))
    metrics = diffusion.loss_of(lambda noisy, t: ours, drawn, lambda noisy, t: theirs)
    total, entropies = 0.0, []
    for image in range(5):
        for g, y, x in torch.argwhere(drawn.noisy[image] == 4).tolist():
            p, q = (logits[image, :, g, y, x].softmax(0).tolist() for logits in (theirs, ours))
            entropies.append(-sum(p[k] * math.log(q[k]) for k in range(4)))
            total += drawn.weight[image].item() * entropies[-1] / 5
    assert metrics["loss"].item() == pytest.approx(total)
    assert metrics["cross_entropy"].item() == pytest.approx(sum(entropies) / len(entropies))
    metrics["loss"].backward()
    masked = (drawn.noisy == 4).unsqueeze(1)  # the gradient is zero where both say the same
    expected = drawn.weight.view(5, 1, 1, 1, 1) * masked * (ours.softmax(1) - theirs.softmax(1)) / 5
    torch.testing.assert_close(ours.grad, expected)
    assert theirs.grad is None
    certain = torch.nn.functional.one_hot(tokens, 4).movedim(-1, 1) * 1e4  # a teacher that knows the data
    taught = diffusion.loss_of(lambda noisy, t: ours, drawn, lambda noisy, t: certain)
    assert taught["loss"].item() == pytest.approx(diffusion.loss_of(lambda noisy, t: ours, drawn)["loss"].item())


def test_the_target_is_the_guided_answer(teacher, tmp_path):
    """Of the teacher's own number of spiking steps, whatever those of the student are, in evaluation mode."""
    stage = AbsorbingStage(config_of(distilled_into(tmp_path, teacher, "early_T=1", "early_part=1"))).train()
    tokens, labels = stage.val[0][:12].clone(), torch.tensor([0, 5, NONE] * 4)
    tokens[torch.rand(tokens.shape) < 0.5] = 16
    t = torch.ones(12, dtype=torch.int64)
    with run_with(num_steps=1):
        answer = stage.objective(labels)["teacher"](tokens, t)
    expected = guided_answer(teacher, tokens, t, labels)
    torch.testing.assert_close(answer, expected, atol=1e-5, rtol=1e-5)
    assert (answer[0] - load_model(teacher)[0].denoiser(tokens, t, labels)[0]).abs().max() > 0.1
    assert not answer.requires_grad


def test_validation_is_against_the_teacher(teacher, tmp_path):
    stage = AbsorbingStage(config_of(distilled_into(tmp_path, teacher)))
    (tokens, labels), diffusion = stage.val, stage.diffusion
    generator, total = torch.Generator().manual_seed(stage.generator(3).initial_seed()), 0.0
    with torch.no_grad():
        for rows, label in zip(tokens.split(128), labels.split(128), strict=True):
            drawn = diffusion.draw(rows, generator)
            masked = drawn.noisy == diffusion.mask_id
            p = guided_answer(teacher, drawn.noisy, drawn.t, label).softmax(1)
            q = stage.model.eval()(drawn.noisy, drawn.t, label).log_softmax(1)
            total += len(rows) * -(p * q).sum(1)[masked].mean().item()
    assert stage.validate()["cross_entropy"] == pytest.approx(total / len(tokens), rel=1e-5)
    assert AbsorbingStage(config_of([*STAGE2, *LABELS, f"train.start_from={teacher}"])).teachers == []


# ---------------------------------------------------------------------------------------------------------------------
# Runs


def test_a_distillation_resumes_and_its_export_has_no_teacher(teacher, tmp_path, monkeypatch):
    before = fingerprint(load_model(teacher)[0])
    one, other = (
        distilled_into(tmp_path / name, teacher, "train.ema_decay=0.9", "rate.weight=1", "rate.target=0.01")
        for name in ("one", "other")
    )
    train.main(one)
    with monkeypatch.context() as patch:
        die_at(patch, 8)
        with pytest.raises(RuntimeError, match="killed"):
            train.main(other)
    train.main(other)
    folder, again = (tmp_path / name / "digits/base/absorbing" for name in ("one", "other"))
    assert_same_run(folder, again)
    assert load_file(folder / "model.safetensors").keys() == load_file(teacher).keys()
    state = torch.load(folder / "last.ckpt", weights_only=True)["state_dict"]
    assert {name.split(".")[0] for name in state} == {"model", "ema"}
    model, config = load_model(folder / "model.safetensors")
    taught_by = load_model(teacher)[0]
    assert config.train.start_from_sha256 == fingerprint(taught_by.denoiser)
    assert (config.distilled_guidance, config.distilled_T, config.train.start_from) == (3.0, 1, None)
    assert fingerprint(model.vq_svae) == fingerprint(taught_by.vq_svae)
    assert fingerprint(model.denoiser) != fingerprint(taught_by.denoiser)
    assert fingerprint(taught_by) == before


def test_the_teacher_takes_its_own_spiking_steps(teacher, tmp_path, monkeypatch):
    """Two with the label and one without, when the student begins with one; and it is never in training mode."""
    seen, whole = [], TokenDenoiser.forward

    def watched(self, tokens, t, labels=None):
        seen.append((torch.is_grad_enabled(), self.training, steps_of(self), labels is not None))
        return whole(self, tokens, t, labels)

    monkeypatch.setattr(TokenDenoiser, "forward", watched)
    early = ["early_T=1", "early_part=0.5", "train.max_steps=2", "train.val_every=2"]
    train.main(distilled_into(tmp_path, teacher, *early))
    taught = [(False, False, 2, True), (False, False, 1, False)]
    assert seen[:6] == [(True, True, 1, True), *taught, (True, True, 2, True), *taught]
    assert not any(training for gradients, training, *_ in seen[6:])


# ---------------------------------------------------------------------------------------------------------------------
# Mistakes, and where a run starts


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["train.start_from="], "distilled_guidance needs train.start_from=MODEL"),
        (["conditional=false", "styles=1"], "distilled_guidance must be 0 without conditional=true; got 3.0"),
        (["distilled_guidance=0"], "distilled_T must be null without distilled_guidance; got 1"),
        (["distilled_guidance=-1"], "distilled_guidance must be at least 0; got -1.0"),
        (["distilled_T=3"], r"distilled_T must be in 1\.\.2, the T of .*awake.safetensors; got 3"),
        (["styles=4"], "do not fit this network: .*labels.weight"),
    ],
    ids=str,
)
def test_mistakes(teacher, tmp_path, options, message):
    command = [*DISTIL, f"stage1={teacher}", f"runs={tmp_path}"]
    command += [] if options[0].startswith("train.start_from") else [f"train.start_from={teacher}"]
    with pytest.raises(InputError, match=message):
        train.main([*command, *options])
    assert not (tmp_path / "digits").exists() or not list((tmp_path / "digits").rglob("*.ckpt"))


def test_a_teacher_must_know_the_labels(unbroken, teacher, tmp_path):
    plain = f"train.start_from={unbroken / 'absorbing/model.safetensors'}"
    with pytest.raises(InputError, match="is not class-conditional, so it has no guidance to distil"):
        train.main([*DISTIL, plain, f"runs={tmp_path}"])
    model, config = load_model(teacher)
    save_model(tmp_path / "other.safetensors", model, replace(config, data="mnist"))
    with pytest.raises(InputError, match="knows the labels of mnist, not of digits"):
        train.main(
            [*DISTIL, f"stage1={teacher}", f"train.start_from={tmp_path / 'other.safetensors'}", f"runs={tmp_path}"]
        )


def test_a_run_starts_from_a_model_that_ships(teacher, tmp_path, monkeypatch):
    """By its name, or from a run folder; the name stands for a file of the run's own stage."""
    (tmp_path / "zoo").mkdir()
    (tmp_path / "zoo/digits-base-absorbing.safetensors").write_bytes(teacher.read_bytes())
    monkeypatch.setattr(zoo, "ZOO", tmp_path / "zoo")
    short = ["train.max_steps=1", "train.start_from=digits", f"runs={tmp_path}"]
    train.main([*DISTIL, *short])
    folder = tmp_path / "digits/base/absorbing"
    sha256 = fingerprint(load_model(teacher)[0].denoiser)
    assert load_model(folder / "model.safetensors")[1].train.start_from_sha256 == sha256
    assert read_config(folder / "config.yaml").train.start_from == f"{zoo.ZOO}/digits-base-absorbing.safetensors"
    further = ["train.max_steps=1", f"train.start_from={folder}", f"runs={tmp_path / 'further'}"]
    train.main([*STAGE2, *LABELS, *further])
    tuned = load_model(tmp_path / "further/digits/base/absorbing/model.safetensors")[1]
    assert tuned.train.start_from_sha256 == fingerprint(load_model(folder / "model.safetensors")[0].denoiser)
    with pytest.raises(InputError, match="no model file at nosuch: .*one of digits"):
        train.main([*DISTIL, *short, "train.start_from=nosuch"])

"""What the stages do while they train: spiking steps, firing rates, labels, tokens, classifiers, averages, screens."""

import json
import re

import pytest
import torch
from small_runs import (
    CLASSIFIER,
    DATA,
    GAUSSIAN,
    STAGE1,
    STAGE2,
    assert_same_run,
    awake_model,
    config_of,
    folders,
    rows,
    slow,
    stage_name,
)
from torchvision.io import read_image

from spiking_vq.checkpoint.build import UNETS
from spiking_vq.checkpoint.file import fingerprint, load_model
from spiking_vq.data.datasets import load_dataset
from spiking_vq.diffusion.absorbing import AbsorbingDiffusion
from spiking_vq.errors import InputError
from spiking_vq.models.token_denoiser import TokenDenoiser
from spiking_vq.models.vq_svae import VQSVAE
from spiking_vq.pipelines.load import load
from spiking_vq.runtime.running import steps_of
from stages import absorbing, train
from stages.absorbing import AbsorbingStage, cached_tokens
from stages.classifier import ClassifierStage
from stages.gaussian import GaussianStage
from stages.training.denoiser import PICTURED
from stages.training.ema import MovingAverage

# ---------------------------------------------------------------------------------------------------------------------
# Spiking steps and firing rates


def test_stage_1_begins_with_fewer_spiking_steps(tmp_path, monkeypatch):
    seen, whole = [], VQSVAE.decode_spikes

    def watched(self, spk):
        seen.append((self.training, len(spk)))
        return whole(self, spk)

    monkeypatch.setattr(VQSVAE, "decode_spikes", watched)
    train.main([*STAGE1, "T=3", "early_T=1", "early_part=0.4", "train.max_steps=5", f"runs={tmp_path}"])
    assert [T for training, T in seen if training] == [1, 1, 3, 3, 3]
    assert {T for training, T in seen if not training} == {3}
    assert load_model(tmp_path / "digits/base/vq_svae/model.safetensors")[0].T == 3


def test_stage_2_begins_with_fewer_spiking_steps(unbroken, tmp_path, monkeypatch):
    seen, whole = [], AbsorbingDiffusion.loss_of

    def watched(self, denoiser, *rest):
        seen.append((denoiser.training, steps_of(denoiser)))
        return whole(self, denoiser, *rest)

    monkeypatch.setattr(AbsorbingDiffusion, "loss_of", watched)
    early = ["T=3", "early_T=1", "early_part=0.4", "train.max_steps=5"]
    train.main([*STAGE2, *early, *folders(unbroken, tmp_path, "absorbing")])
    assert [T for training, T in seen if training] == [1, 1, 3, 3, 3]
    assert {T for training, T in seen if not training} == {3}
    assert load_model(tmp_path / "digits/base/absorbing/model.safetensors")[0].denoiser.T == 3


@pytest.mark.parametrize("arguments", [STAGE2, *slow([STAGE1], [GAUSSIAN])], ids=stage_name)
def test_training_to_fire_less(unbroken, tmp_path, arguments):
    rates = {}
    for target in (1.0, 0.02):
        runs = folders(unbroken, tmp_path / str(target), arguments[0])
        train.main([*arguments, *runs, f"rate.target={target}", "rate.weight=30"])
        table = rows(tmp_path / str(target) / "digits/base" / arguments[0] / "metrics.csv")
        rates[target] = [float(row["train/firing_rate"]) for row in table]
    free, held = rates.values()
    assert held[0] == free[0]  # of the same initial weights
    assert 0.02 < held[-1] < 0.9 * free[-1]


@pytest.mark.parametrize("arguments", [CLASSIFIER, *slow([STAGE1], [STAGE2], [GAUSSIAN])], ids=stage_name)
def test_training_does_not_depend_on_torchs_default_type(unbroken, tmp_path, arguments):
    torch.set_default_dtype(torch.float64)
    try:
        train.main([*arguments, *folders(unbroken, tmp_path, arguments[0])])
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert_same_run(tmp_path / "digits/base" / arguments[0], unbroken / arguments[0])


def test_moving_average_by_hand():
    model = torch.nn.BatchNorm1d(1)
    average = MovingAverage(model, 0.5)
    values = [1.0, 3.0, 11.0]
    for value in values:
        with torch.no_grad():
            model.weight.fill_(value)
            model.running_mean.fill_(-value)
            model.num_batches_tracked.add_(1)
        average.update(model)
    # the first update copies; then d = min(0.5, (1 + n) / (10 + n)) with n = 1, 2
    expected = 2 / 11 * 1.0 + 9 / 11 * 3.0
    expected = 3 / 12 * expected + 9 / 12 * 11.0
    assert average.module.weight.item() == pytest.approx(expected)
    assert average.module.running_mean.item() == pytest.approx(-expected)
    assert average.module.num_batches_tracked.item() == 3


# ---------------------------------------------------------------------------------------------------------------------
# Tokens and labels


def test_tokens_are_encoded_once_and_do_not_depend_on_the_batch(unbroken, tmp_path, capsys, monkeypatch):
    model, _ = load_model(unbroken / "vq_svae/model.safetensors")
    images = load_dataset("digits", "data", 12).val.images[:50]
    first = cached_tokens(model, "a", images, tmp_path)
    monkeypatch.setattr(absorbing, "TOKENIZE_BATCH", 7)
    assert torch.equal(cached_tokens(model, "b", images, tmp_path), first)
    assert capsys.readouterr().out.count("encoding") == 2
    assert torch.equal(cached_tokens(model, "a", images, tmp_path), first)
    cached_tokens(model, "a", images.flip(0), tmp_path)
    assert capsys.readouterr().out.count("encoding") == 1


def test_damaged_tokens_are_made_again(unbroken, tmp_path, capsys):
    model, _ = load_model(unbroken / "vq_svae/model.safetensors")
    images = load_dataset("digits", "data", 12).val.images[:50]
    tokens = cached_tokens(model, "a", images, tmp_path)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    for content in (b"", b"no tokens", whole[:-9]):
        path.write_bytes(content)
        assert torch.equal(cached_tokens(model, "a", images, tmp_path), tokens)
        assert path.read_bytes() == whole
        assert f"{path} is damaged" in capsys.readouterr().out


def test_runs_may_share_a_folder_of_tokens(unbroken, tmp_path, capsys):
    for seed in (0, 1):
        runs = folders(unbroken, tmp_path / str(seed), "absorbing")
        _, data = absorbing.prepare(config_of(STAGE2, *runs, f"tokens_dir={tmp_path}", f"seed={seed}"))
    assert len(list(tmp_path.glob("*.npy"))) == 2  # of the training and of the validation images
    assert capsys.readouterr().out.count("encoding") == 2
    assert len(data.train[0]) == len(data.train[1]) == len(load_dataset("digits", tmp_path).train.labels)


@pytest.mark.parametrize(
    ("override", "message"),
    [("image_size=8", "image_size must be .* got 8"), ("sample.order=spiral", "halton.*'spiral'")],
)
def test_what_does_not_fit_stage_1_or_the_sampler_is_refused(unbroken, tmp_path, override, message):
    with pytest.raises(InputError, match=message):
        train.main([*STAGE2, *folders(unbroken, tmp_path, "absorbing"), override])


def test_a_missing_stage_1_is_named_with_the_command_that_trains_it(tmp_path):
    with pytest.raises(InputError, match=r"run `spiking-vq train vq_svae data=digits preset=base` first"):
        train.main([*STAGE2, f"runs={tmp_path}"])


@pytest.fixture(scope="module")
def conditional(tmp_path_factory):
    """A class-conditional run of stage 2 with guidance, of awake networks, and the labels of each of its calls."""
    seen, whole, runs = [], TokenDenoiser.forward, tmp_path_factory.mktemp("conditional")
    options = ["conditional=true", "styles=2", "label_dropout=0.25", "sample.guidance=3", "train.ema_decay=0.9"]
    options += ["train.lr=1e-3", f"runs={runs}"]
    start = awake_model(runs, *options)
    with pytest.MonkeyPatch.context() as patch:

        def watched(self, tokens, t, labels=None):
            seen.append((self.training, labels))
            return whole(self, tokens, t, labels)

        patch.setattr(TokenDenoiser, "forward", watched)
        train.main([*STAGE2, *options, f"train.start_from={start}"])
    return runs / "digits/base/absorbing", seen


def test_labels_are_learnt_and_dropped(unbroken, conditional):
    folder, seen = conditional
    labels = torch.cat([labels for training, labels in seen if training])
    assert set(labels.tolist()) == set(range(21))
    assert (labels == 20).double().mean().item() == pytest.approx(0.25, abs=0.03)
    assert load_model(unbroken / "absorbing/model.safetensors")[1].num_classes is None
    model, config = load_model(folder / "model.safetensors")
    assert (config.conditional, config.num_classes, config.styles) == (True, 10, 2)
    assert config.label_counts == load_dataset("digits", "data").train.labels.bincount(minlength=10).tolist()
    assert model.denoiser.labels.weight.shape == (10 + 20 + 1, 8)  # labels, halves of their images, none


# ---------------------------------------------------------------------------------------------------------------------
# Pictures


def as_picture(images):
    """uint8 images as the grid of a run's pictures, sixteen in a row, with borders of two pixels."""
    from torchvision.utils import make_grid

    return make_grid(images, nrow=16)


def assert_pictured(folder, images):
    step = torch.load(folder / "best.ckpt", weights_only=True)["global_step"]
    (picture,) = (folder / "images").glob(f"step*{step}.png")
    assert torch.equal(read_image(str(picture)), as_picture(images))


def test_the_picture_of_a_class_conditional_run_is_sampled_by_the_pipeline(conditional):
    folder, _ = conditional
    pipeline = load(folder / "model.safetensors", precision="fp32")
    assert pipeline.sampling()["guidance"] == 3
    assert_pictured(folder, pipeline.sample(PICTURED, seed=0).images)
    with pytest.raises(AssertionError):
        assert_pictured(folder, pipeline.sample(PICTURED, seed=0, guidance=0.0).images)


def test_the_picture_of_a_continuous_run_is_sampled_by_the_pipeline(unbroken, tmp_path):
    sampler = ["sample.guidance=9", "sample.contrast=1.3", "sample.sampler=ddpm_large", "precision=bf16"]
    train.main([*GAUSSIAN, *sampler, "seed=3", "train.max_steps=4", "train.lr=0.1", f"runs={tmp_path}"])
    folder = tmp_path / "digits/base/gaussian"
    pipeline = load(folder / "model.safetensors", precision="bf16")
    assert_pictured(folder, pipeline.sample(PICTURED, seed=3).images)
    for changed in ({"guidance": 0.0}, {"contrast": 1.0}, {"sampler": "ddim"}):
        with pytest.raises(AssertionError):
            assert_pictured(folder, pipeline.sample(PICTURED, seed=3, **changed).images)


@pytest.mark.parametrize(("kind", "arguments"), [(AbsorbingStage, STAGE2), (GaussianStage, GAUSSIAN)])
def test_a_picture_leaves_the_run_as_it_was(unbroken, tmp_path, kind, arguments):
    """Its weights, whether it trains, and torch's random state."""
    stage = kind(config_of(arguments, "train.ema_decay=0.5", *folders(unbroken, tmp_path, arguments[0]))).train()
    weights = {name: value.clone() for name, value in stage.state_dict().items()}
    state = torch.get_rng_state()
    assert torch.equal(stage.picture(), stage.picture())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in stage.model.modules())
    for name, value in stage.state_dict().items():
        assert torch.equal(value, weights[name])


def test_a_picture_takes_few_calls(tmp_path, monkeypatch):
    """However many the configuration's sampler takes."""
    from stages.training import denoiser

    stage = GaussianStage(config_of(GAUSSIAN, "sample.sample_steps=null", f"runs={tmp_path}"))
    calls = []
    monkeypatch.setattr(type(stage.model), "forward", lambda self, x, t, labels=None: calls.append(t) or x)
    monkeypatch.setattr(denoiser, "PICTURE_CALLS", 3)
    stage.picture()
    assert len(calls) == 3


def test_a_sampler_that_does_not_fit_is_found_before_training(tmp_path):
    no_fit = ["diffusion.prediction=noise", "sample.sampler=dpm_solver"]
    with pytest.raises(InputError, match="dpm_solver with predicted noise needs some image at t = N"):
        GaussianStage(config_of(GAUSSIAN, *no_fit, f"runs={tmp_path}"))
    analytic = config_of(GAUSSIAN, "sample.sampler=analytic", f"runs={tmp_path}")
    assert GaussianStage(analytic).picture().isfinite().all()  # though its error is measured after training


# ---------------------------------------------------------------------------------------------------------------------
# Other networks


def test_the_published_continuous_networks_train(tmp_path):
    given = [text for text in GAUSSIAN if text.split("=")[0] not in ("image_size", "preset", "conditional", "early_T")]
    for preset in ("sddpm", "fsddim"):
        options = [f"preset={preset}", "image_size=16", "train.max_steps=2", "train.batch_size=8", "val_images=64"]
        train.main([*given, *options, f"runs={tmp_path}"])
        model, config = load_model(tmp_path / f"digits/{preset}/gaussian/model.safetensors")
        assert type(model.unet) is UNETS[config.model.unet]
        metrics = rows(tmp_path / f"digits/{preset}/gaussian/metrics.csv")
        assert float(metrics[-1]["val/mse"]) > 0


def test_the_classifier_learns_from_images_augmented_by_its_noise(tmp_path):
    def loss(seed, *overrides):
        torch.manual_seed(0)
        given = ["classifier", *DATA, f"runs={tmp_path}", *overrides]
        stage = ClassifierStage(config_of(given))
        images, labels = stage.val.images[:8], stage.val.labels[:8]
        return stage.eval().batch_loss((images, labels), torch.Generator().manual_seed(seed))["loss"].item()

    augmented = ["augment.degrees=8", "augment.shift=0.05"]
    assert loss(0) == loss(1)
    assert loss(0, *augmented) == loss(0, *augmented) != loss(1, *augmented)


def test_stage_1_trains_the_classifier_of_its_perceptual_loss_first(tmp_path, monkeypatch):
    short = tmp_path / "perceptual.yaml"
    short.write_text("model: {channels: [4, 8]}\ntrain: {max_steps: 2}\n")
    own = train.preset_file
    monkeypatch.setattr(train, "preset_file", lambda *names: short if names[1] == "perceptual" else own(*names))
    arguments = [*STAGE1, "perceptual.weight=2", "seed=3", "train.max_steps=2", f"runs={tmp_path}"]
    with pytest.raises(InputError, match=r"needs a trained classifier.*leave perceptual\.classifier= out"):
        train.main([*arguments, f"perceptual.classifier={tmp_path / 'none'}"])
    train.main(arguments)
    folder = tmp_path / "digits/base/vq_svae"
    assert float(rows(folder / "metrics.csv")[0]["train/perceptual"]) > 0
    _, config = load_model(folder / "model.safetensors")
    classifier, its_config = load_model(tmp_path / "digits/perceptual/classifier/model.safetensors")
    assert its_config.seed == 0  # whatever that of stage 1
    assert config.perceptual.classifier_sha256 == fingerprint(classifier)
    commands = [
        json.loads((tmp_path / "digits" / run / "training.json").read_text())["command"]
        for run in ("base/vq_svae", "perceptual/classifier")
    ]
    assert commands[0].startswith("spiking-vq train vq_svae preset=base data=digits ")
    assert commands[1].startswith("spiking-vq train classifier preset=perceptual data=digits ")
    with pytest.raises(InputError, match="is a vq_svae model"):
        other = [f"perceptual.classifier={folder / 'model.safetensors'}", f"runs={tmp_path / 'other'}"]
        train.main([*arguments, *other])


# ---------------------------------------------------------------------------------------------------------------------
# The screen


def test_without_a_terminal_there_is_a_line_for_each_validation(unbroken, tmp_path, capsys):
    train.main([*CLASSIFIER, f"runs={tmp_path}"])
    lines = capsys.readouterr().err.splitlines()
    ours = [line for line in lines if line.startswith("classifier digits base: ")]
    assert [line.split(", ")[0] for line in ours] == [f"classifier digits base: step {n} of 10" for n in (4, 8, 10)]
    table = {row["step"]: row for row in rows(unbroken / "classifier/metrics.csv")}
    for line, step in zip(ours, ("4", "8", "10"), strict=True):
        shown = dict(re.findall(r"(\w+) ([\d.e+-]+)(?:,|$)", line.partition(", ")[2]))
        assert float(shown["loss"]) == pytest.approx(float(table[step]["loss"]), rel=1e-3)
        assert float(shown["val_cross_entropy"]) == pytest.approx(float(table[step]["val/cross_entropy"]), rel=1e-3)
    assert "it/s" not in "".join(lines)

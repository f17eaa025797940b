"""The stages of the presets, on noise in place of data: small batches of it, and the networks as they are."""

from dataclasses import replace
from types import SimpleNamespace

import torch

from spiking_vq.checkpoint.build import build_classifier, build_denoiser, build_vq_svae
from spiking_vq.config.load import load_config
from spiking_vq.data.official import Split
from stages import absorbing, classifier, gaussian, train, vq_svae

ROWS, LABELS = 8, 10


def noise_data(shape=(1, 28, 28)):
    """Data of `ROWS` images of noise in each split, with labels."""
    split = Split(torch.randint(256, (ROWS, *shape), dtype=torch.uint8), torch.arange(ROWS) % LABELS)
    return SimpleNamespace(
        name="noise", train=split, val=split, image_shape=shape, num_classes=LABELS, labelled=True, variance=0.1
    )


def configured(stage, preset, *overrides):
    """The configuration of a preset for batches of four in a run of twenty steps."""
    small = ["train.max_steps=20", "train.batch_size=4", "train.val_every=20"]
    config = load_config(stage, train.preset_file(stage, preset), [*small, *overrides])
    return replace(config, train=replace(config.train, start_from=None))


def noise_stage(monkeypatch, stage, preset, *overrides):
    """The stage of a preset, on the CPU."""
    config = configured(stage, preset, *overrides)
    size = getattr(config, "image_size", None) or 28
    data = noise_data((1, size, size))
    for module in (vq_svae, gaussian, classifier):
        monkeypatch.setattr(module, "data_of", lambda _: data)
    monkeypatch.setattr(vq_svae, "load_perceptual", lambda _: _perceptual(data))
    monkeypatch.setattr(absorbing, "prepare", lambda own: _prepared(own, data))
    monkeypatch.setattr(absorbing, "load_teacher", _teacher)
    return train.STAGES[stage](config)


def _perceptual(data):
    config = configured("classifier", "perceptual")
    config.image_shape, config.num_classes = list(data.image_shape), LABELS
    return build_classifier(config)


def _prepared(config, data):
    """What `absorbing.prepare` makes of its configuration, by an untrained stage 1 of the same preset or of `base`."""
    known = {path.stem for path in train.preset_file("vq_svae", "base").parent.glob("*.yaml")}
    config.vq_svae = configured("vq_svae", config.preset if config.preset in known else "base")
    config.vq_svae.image_shape = config.image_shape = list(data.image_shape)
    config.num_classes = LABELS if config.conditional else None
    config.label_counts = [ROWS] * LABELS if config.conditional else None
    stage1 = build_vq_svae(config.vq_svae)
    tokens = torch.randint(stage1.codebook_size, (ROWS, *stage1.code_grid))
    labels = torch.arange(ROWS) % (LABELS * config.styles)
    return config, absorbing.TokenData(stage1, [tokens, labels], [tokens, labels])


def _teacher(config):
    own = configured("absorbing", "base")
    own.vq_svae, own.num_classes, own.image_shape = config.vq_svae, LABELS, config.image_shape
    return build_denoiser(own).requires_grad_(False)

"""Configurations of codes: the number of classes of spike counts follows from T."""

from dataclasses import replace
from pathlib import Path

import pytest

from spiking_vq.checkpoint.build import build_vq_svae
from spiking_vq.config.load import load_config
from spiking_vq.errors import InputError

BASE = Path(__file__).parents[3] / "configs/vq_svae/base.yaml"  # T = 4
COUNT = ["model.quantizer=count", "model.encoding=rate", "model.embedding_dim=8", "model.num_codes=2"]
COUNT += ["model.ema_decay=0", "model.restart_below=0"]


def loaded(*overrides):
    return load_config("vq_svae", BASE, [*COUNT, *overrides])


@pytest.mark.parametrize(
    ("overrides", "digits", "levels"),
    [
        (["model.codebook_size=625"], 4, 5),
        (["model.codebook_size=25", "model.num_codes=4"], 2, 5),
        (["model.codebook_size=6561", "T=8"], 4, 9),
        (["model.codebook_size=15625", "model.embedding_dim=12"], 6, 5),
    ],
)
def test_classes_of_spike_counts(overrides, digits, levels):
    quantizer = build_vq_svae(replace(loaded(*overrides), image_shape=[1, 8, 8])).quantizer
    assert (len(quantizer.units), quantizer.levels) == (digits, levels)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["model.codebook_size=512"],
            r"codebook_size must be \(T \+ 1\)\^\(embedding_dim / num_codes\), 625, .* got 512",
        ),
        (["model.codebook_size=625", "T=8"], r"\(T \+ 1\)\^\(embedding_dim / num_codes\), 6561, .* got 625"),
        (
            ["model.codebook_size=625", "model.encoding=both"],
            "model.encoding must be rate with quantizer=count; got 'both'",
        ),
        (["model.codebook_size=625", "model.ema_decay=0.9"], r"must be 0 with quantizer=count, .* got \[0.9, 0.0\]"),
        (["model.codebook_size=625", "model.embedding_dim=1000000"], "which is too many: take more num_codes"),
        (["model.codebook_size=625", "model.embedding_dim=2147483647"], "which is too many: take more num_codes"),
        (["model.codebook_size=625", "T=2147483647"], "which is too many: take more num_codes"),
    ],
)
def test_what_is_no_spike_count(overrides, message):
    with pytest.raises(InputError, match=message):
        loaded(*overrides)


@pytest.mark.parametrize(("neuron", "bits"), [("relu", None), ("quantised", 3)])
def test_a_twin_keeps_the_classes_of_its_preset(neuron, bits):
    config = loaded("model.codebook_size=625", f"neuron={neuron}")
    assert (config.T, config.activation_bits, config.model.codebook_size) == (1, bits, 625)
    assert build_vq_svae(replace(config, image_shape=[1, 8, 8])).quantizer.levels == 5


@pytest.mark.parametrize("wrong", ["beta=0.5", "threshold=2", "reset=zero", "learn_beta=true", "scale_input=true"])
def test_direct_spikes_need_neurons_that_count(wrong):
    direct = ["model.codebook_size=625", "model.spike_generator=direct"]
    assert loaded(*direct).model.spike_generator == "direct"
    assert loaded(*direct, f"lif.{wrong}", "neuron=relu").neuron == "relu"  # which hands the rate on
    with pytest.raises(InputError, match=f"lif.{wrong.partition('=')[0]} must be .* with spike_generator=direct"):
        loaded(*direct, f"lif.{wrong}")

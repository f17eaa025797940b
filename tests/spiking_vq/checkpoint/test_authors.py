"""Reading the authors' checkpoints: how they are wrapped, and what is refused."""

import argparse

import pytest
import torch
from published import golden, preset
from safetensors.torch import save_file
from torch import nn

from spiking_vq.checkpoint.authors import fsddim, sddpm, spiking_diffusion
from spiking_vq.checkpoint.authors.reading import read_weights, state_dict_of
from spiking_vq.checkpoint.file import save_model
from spiking_vq.errors import InputError

SDDPM = golden("sddpm").weights
FSDDIM = golden("fsddim").weights
STAGE1 = golden("vq_svae").weights
DENOISER = golden("sdid").weights


def convert_sddpm(weights, **options):
    return sddpm.convert(state_dict_of(weights), preset("gaussian", "sddpm", "T=4"), **options)


def convert_fsddim(weights, **options):
    return fsddim.convert(state_dict_of(weights), preset("gaussian", "fsddim", "T=4"), **options)


def convert_stage1(weights, num_steps=16, **options):
    config = preset("vq_svae", "paper", f"T={num_steps}")
    return spiking_diffusion.convert_stage1(state_dict_of(weights), config, **options)


def convert_denoiser(weights):
    return spiking_diffusion.convert_denoiser(weights, preset("absorbing", "paper", "T=16"), *convert_stage1(STAGE1))


CONVERTERS = {
    "sddpm": (convert_sddpm, SDDPM),
    "fsddim": (convert_fsddim, FSDDIM),
    "stage 1": (convert_stage1, STAGE1),
    "denoiser": (convert_denoiser, DENOISER),
}
each_network = pytest.mark.parametrize(("convert", "weights"), CONVERTERS.values(), ids=CONVERTERS)


def without(weights, *keys):
    return {key: value for key, value in weights.items() if key not in keys}


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda weights: weights,
        lambda weights: {"net_model": weights, "optim": {"state": {}}, "step": 3, "x_T": torch.zeros(2)},
        lambda weights: {"epoch": 1, "model_state_dict": weights},
        lambda weights: {"model": {"state_dict": weights}},
        lambda weights: {f"module.{key}": value for key, value in weights.items()},
        lambda weights: {f"module._orig_mod.{key}": value for key, value in weights.items()},
    ],
)
def test_a_state_dict_is_found(wrapped, tmp_path):
    torch.save(wrapped(DENOISER), tmp_path / "saved.pth")
    found = read_weights(tmp_path / "saved.pth")
    assert found.keys() == DENOISER.keys()
    assert all(torch.equal(found[key], value) for key, value in DENOISER.items())


def test_a_file_of_safetensors_and_an_axis_of_steps(tmp_path):
    save_file(FSDDIM, tmp_path / "saved.safetensors")
    found = read_weights(tmp_path / "saved.safetensors")
    assert FSDDIM["conv_in.weight"].dim() == 5
    assert torch.equal(found["conv_in.weight"], FSDDIM["conv_in.weight"].squeeze(4))
    assert found["conv_in.bias"].dim() == 1


def test_files_that_hold_no_state_dict(tmp_path, vq_svae, vq_svae_config):
    path = tmp_path / "saved.pth"
    with pytest.raises(InputError, match=r"no file at .*saved\.pth"):
        read_weights(path)
    for content, message in (
        ({"optim": 1, "step": 2}, r"holds no state dict: .* got only the keys optim, step"),
        ([torch.zeros(2)], r"holds no state dict: .* got none"),
        ({}, "holds no state dict"),
        ({"a": torch.zeros(1), "module.a": torch.zeros(1)}, "holds a twice"),
        (
            {"net_model": nn.Linear(1, 1)},
            r"holds an object of torch\.nn\..*Linear\. Save the network's state dict alone",
        ),
        ({"args": argparse.Namespace(), "net_model": {}}, r"holds an object of argparse\.Namespace"),
    ):
        torch.save(content, path)
        with pytest.raises(InputError, match=message):
            read_weights(path)
    torch.save(DENOISER, path)
    for damaged in (path.read_bytes()[:1000], b"", b"no checkpoint"):
        for suffix in (".pth", ".safetensors"):
            path.with_suffix(suffix).write_bytes(damaged)
            with pytest.raises(InputError, match="truncated, corrupt"):
                read_weights(path.with_suffix(suffix))
    save_model(path, vq_svae, vq_svae_config)
    with pytest.raises(InputError, match="is a model file of this package already"):
        read_weights(path)


@each_network
def test_unknown_and_missing_keys_and_other_shapes_are_named(convert, weights):
    norm = next(key for key in weights if key.endswith("running_mean"))
    with pytest.raises(InputError, match=rf"of another network: 1 missing keys \({norm}\)"):
        convert(without(weights, norm))
    added = {f"more.{index}": torch.zeros(1) for index in range(5)}
    with pytest.raises(InputError, match=r"5 unknown keys \(more\.0, more\.1, more\.2 and 2 more\)"):
        convert({**weights, **added})
    size = len(weights[norm])
    with pytest.raises(InputError, match=rf"1 other shapes \({norm} is \[{size + 1}\] instead of \[{size}\]\)"):
        convert({**weights, norm: torch.zeros(size + 1)})


@pytest.mark.parametrize(
    ("convert", "weights", "key"),
    [
        (convert_sddpm, SDDPM, "conv.weight"),
        (convert_sddpm, SDDPM, "downblocks.0.conv1.weight"),
        (convert_sddpm, SDDPM, "time_embedding.timembedding.1.weight"),
        (convert_sddpm, FSDDIM, "conv.weight"),
        (convert_fsddim, FSDDIM, "downs.1.2.conv.1.weight"),
        (convert_fsddim, SDDPM, "conv_in.weight"),
        (convert_stage1, STAGE1, "vq_layer.embeddings.weight"),
        (convert_denoiser, DENOISER, "conv6.0.weight"),
        (convert_denoiser, STAGE1, "conv6.0.weight"),
    ],
)
def test_a_key_from_which_sizes_follow(convert, weights, key):
    with pytest.raises(InputError, match=f"lacks {key}, and holds"):
        convert(without(weights, key))


def test_a_weight_of_another_rank_and_widths_that_are_no_multiples():
    with pytest.raises(InputError, match=r"shape of conv\.weight must be one of 4 axes; got \[2\]"):
        convert_sddpm({**SDDPM, "conv.weight": torch.zeros(2)})
    with pytest.raises(InputError, match=r"widths of the levels must be multiples of 8; got \[8, 12, 16, 32\]"):
        convert_sddpm({**SDDPM, "downblocks.3.conv1.weight": torch.zeros(12, 8, 3, 3)})


def test_image_size_and_number_of_diffusion_times():
    table = "time_embedding.timembedding.0.weight"
    _, config = convert_sddpm({**SDDPM, table: SDDPM[table][:500]}, image_size=64)
    assert (config.image_shape, config.diffusion.diffusion_steps) == ([3, 64, 64], 500)
    _, config = convert_sddpm(without(SDDPM, table))
    assert config.diffusion.diffusion_steps == 1000
    with pytest.raises(InputError, match="must be multiples of 8.*got 28x28"):
        convert_fsddim(FSDDIM, image_size=28)


def test_another_time_table_is_refused():
    table = "time_embedding.timembedding.0.weight"
    with pytest.raises(InputError, match=rf"{table} must be the table .*; got one that is 0\.5 off"):
        convert_sddpm({**SDDPM, table: SDDPM[table] + 0.5})
    angles = torch.arange(1000)[:, None] * 10_000 ** (-torch.arange(4) / 3)
    pe = torch.stack([angles.sin(), angles.cos()], 2).flatten(1)
    convert_fsddim({**FSDDIM, "pe": pe})
    with pytest.raises(InputError, match="pe must be the table"):
        convert_fsddim({**FSDDIM, "pe": SDDPM[table]})


def test_scales_of_the_steps():
    """SDM's checkpoints: convolutions inside of layers that scale each step."""
    scaled = {}
    for key, value in SDDPM.items():
        layer, _, name = key.rpartition(".")
        is_conv = "conv" in layer.split(".")[-1] or layer.endswith(("T_output_layer", "shortcut"))
        scaled[f"{layer}.tsmconv.{name}" if is_conv else key] = value
        if is_conv:
            scaled[f"{layer}.tsmp"] = torch.ones(4, 1, 1, 1, 1)
    assert len(scaled) > len(SDDPM)
    expected, found = (convert_sddpm(weights)[0].state_dict() for weights in (SDDPM, scaled))
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
    scaled["conv.tsmp"][2] = 1.1
    with pytest.raises(InputError, match=r"conv\.tsmp holds scales .* other than 1"):
        convert_sddpm(scaled)


def test_fsddim_was_trained_with_one_of_two_norms():
    with pytest.raises(InputError, match="trained_with must be one of sync_batch_norm, tdbn; got 'batch_norm'"):
        convert_fsddim(FSDDIM, trained_with="batch_norm")
    model, written = (convert_fsddim(FSDDIM, trained_with=name)[0].state_dict() for name in fsddim.TRAINERS)
    factors = {name: (model[name] / value).mean().item() for name, value in written.items() if not value.isnan().any()}
    larger = [name for name, factor in factors.items() if factor == pytest.approx(2**0.5)]
    assert len(larger) == 38
    assert all(name.endswith((".second.1.weight", ".shortcut.1.weight", ".shortcut.weight")) for name in larger)
    assert all(torch.equal(model[name], written[name]) for name in factors.keys() - larger)


def test_stage_1_knows_its_number_of_steps():
    with pytest.raises(InputError, match=r"T must be 16, the number of steps in memout\.coef; got 4"):
        convert_stage1(STAGE1, num_steps=4)
    with pytest.raises(InputError, match=r"memout\.coef must be the table"):
        convert_stage1({**STAGE1, "memout.coef": torch.ones(16, 1, 1, 1, 1)})


def test_data_variance():
    model, _ = convert_stage1(STAGE1)
    assert model.data_variance == 1
    model, _ = convert_stage1(STAGE1, data_variance=0.0949)
    assert model.data_variance.item() == pytest.approx(0.0949)


def test_a_denoiser_of_other_tokens():
    fewer = {
        **DENOISER,
        "conv6.0.weight": DENOISER["conv6.0.weight"][:64],
        "conv6.0.bias": DENOISER["conv6.0.bias"][:64],
    }
    with pytest.raises(InputError, match="predicts 64 codes, stage 1 has 128"):
        convert_denoiser(fewer)
    with pytest.raises(InputError, match="one with vq_layer.embeddings.weight or conv6.0.weight; got neither"):
        spiking_diffusion.is_stage1(SDDPM)

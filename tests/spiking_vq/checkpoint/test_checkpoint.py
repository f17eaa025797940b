import json
import pickle
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from spiking_vq.checkpoint import file as checkpoint
from spiking_vq.checkpoint.build import LatentModel, build_model
from spiking_vq.checkpoint.file import FORMAT, fingerprint, load_model, save_model
from spiking_vq.config.compare import differences
from spiking_vq.config.schema import ClassifierConfig
from spiking_vq.errors import InputError


@pytest.fixture(params=["vq_svae", "absorbing"])
def trained(request, vq_svae_config, absorbing_config, latent_model):
    """A network and its configuration, of each stage."""
    if request.param == "vq_svae":
        return latent_model.vq_svae, vq_svae_config
    return latent_model, absorbing_config


@pytest.fixture
def path(tmp_path, vq_svae, vq_svae_config):
    """A good stage-1 file."""
    save_model(tmp_path / "model.safetensors", vq_svae, vq_svae_config)
    return tmp_path / "model.safetensors"


def rewrite(path, weights=None, **metadata):
    """Write the file again with other weights or metadata."""
    with safe_open(path, framework="pt") as file:
        old = file.metadata()
    save_file(load_file(path) if weights is None else weights, path, metadata={**old, **metadata})


def error_of(path):
    with pytest.raises(InputError) as caught:
        load_model(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------- there and back


def test_weights_come_back_bit_by_bit(trained, tmp_path, images):
    model, config = trained
    save_model(tmp_path / "a" / "model.safetensors", model, config)
    loaded, loaded_config = load_model(tmp_path / "a" / "model.safetensors")
    assert type(loaded) is type(model)
    assert loaded_config == config
    assert not any(module.training for module in loaded.modules())
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name]), name
        assert value.dtype == loaded.state_dict()[name].dtype
    if isinstance(model, LatentModel):
        tokens = torch.randint(9, (4, 1, 3, 3))
        assert torch.equal(loaded.denoiser(tokens, torch.ones(4)), model.denoiser(tokens, torch.ones(4)))
    else:
        assert torch.equal(loaded(images)[0], model(images)[0])


def test_every_state_travels(tmp_path, vq_svae_config):
    """Restart counters and the data's variance too."""
    vq_svae_config.model.ema_decay, vq_svae_config.model.restart_below = 0.9, 0.5
    model = build_model(vq_svae_config)
    model.quantizer.use.uniform_()
    model.data_variance.fill_(0.123)
    save_model(tmp_path / "m", model, vq_svae_config)
    loaded, _ = load_model(tmp_path / "m")
    assert torch.equal(loaded.quantizer.use, model.quantizer.use)
    assert torch.equal(loaded.data_variance, model.data_variance)


def test_bf16_file_loads_as_fp32_and_close(tmp_path, path, vq_svae, vq_svae_config):
    short = tmp_path / "bf16.safetensors"
    save_model(short, vq_svae, vq_svae_config, torch.bfloat16)
    kinds = {value.dtype for value in load_file(short).values()}
    assert kinds == {torch.bfloat16, torch.int64}
    assert short.stat().st_size < path.stat().st_size
    loaded, _ = load_model(short)
    for name, value in vq_svae.state_dict().items():
        other = loaded.state_dict()[name]
        assert other.dtype == value.dtype
        torch.testing.assert_close(other, value, rtol=2**-8, atol=0)
    assert next(vq_svae.parameters()).dtype == torch.float32  # the network itself stays as it was


# ---------------------------------------------------------------- fingerprint


def test_fingerprint_changes_with_any_weight(latent_model):
    whole = fingerprint(latent_model)
    for name, value in latent_model.state_dict().items():
        before = value.clone()
        value[(-1,) * value.dim()] += 1
        assert fingerprint(latent_model) != whole, name
        value.copy_(before)
    assert fingerprint(latent_model) == whole


def test_fingerprint_tells_names_shapes_and_types_apart():
    zeros = [nn.Linear(2, 3, bias=False), nn.Linear(3, 2, bias=False), nn.Embedding(3, 4), nn.BatchNorm2d(3)]
    zeros += [nn.Linear(2, 3, bias=False).bfloat16(), nn.Sequential(nn.Linear(2, 3, bias=False))]
    for module in zeros:
        for parameter in module.parameters():
            nn.init.zeros_(parameter)
    assert len({fingerprint(module) for module in zeros}) == len(zeros)


def test_fingerprint_does_not_change_with_the_file(tmp_path, path, vq_svae, vq_svae_config):
    vq_svae_config.seed = 9
    save_model(tmp_path / "other" / "name", vq_svae, vq_svae_config)
    first, second = load_model(path)[0], load_model(tmp_path / "other" / "name")[0]
    assert fingerprint(first) == fingerprint(second) == fingerprint(vq_svae.train())


# ---------------------------------------------------------------- files that are not good


def test_missing_file(tmp_path):
    assert "no model file" in error_of(tmp_path / "none.safetensors")
    assert "no model file" in error_of(tmp_path)


@pytest.mark.parametrize("size", [0, 4, 100, 0.5, 0.99])
def test_truncated_file(path, size):
    data = path.read_bytes()
    path.write_bytes(data[: size if isinstance(size, int) else int(size * len(data))])
    assert "truncated" in error_of(path)


@pytest.mark.parametrize("data", [b"not a model at all", b"\xff" * 4096, bytes(4096), b'{"a": 1}' * 99])
def test_garbage(path, data):
    path.write_bytes(data)
    assert "not a whole model.safetensors" in error_of(path)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_foreign_safetensors(path, metadata):
    save_file({"weight": torch.zeros(3)}, path, metadata=metadata)
    message = error_of(path)
    assert "not of this package" in message
    assert FORMAT in message


def test_weights_of_another_network(path, vq_svae_config):
    vq_svae_config.model.channels = [4, 16]
    rewrite(path, config=json.dumps(asdict(vq_svae_config)))
    assert "size mismatch" in error_of(path)


def test_a_weight_is_missing_or_too_many(path):
    weights = load_file(path)
    value = weights.pop("stem.0.weight")
    rewrite(path, weights)
    assert "stem.0.weight" in error_of(path)
    rewrite(path, weights | {"stem.0.weight": value, "stray": torch.zeros(1)})
    assert "stray" in error_of(path)


@pytest.mark.parametrize("config", ["{", "[]", "{}", '{"stage": "gan"}', '{"stage": "vq_svae", "speed": 1}'])
def test_configuration_that_cannot_be_read(path, config):
    rewrite(path, config=config)
    error_of(path)


def test_configuration_of_a_later_version(path, vq_svae_config):
    rewrite(path, config=json.dumps(asdict(vq_svae_config) | {"speed": 1}))
    assert "speed" in error_of(path)


@pytest.mark.parametrize("config", [{"image_shape": None}, {"stage": "absorbing", "model": {}, "vq_svae": None}])
def test_incomplete_configuration(path, vq_svae_config, config):
    rewrite(path, config=json.dumps(asdict(vq_svae_config) | config))
    error_of(path)


class Bomb:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("write", [torch.save, lambda bomb, path: path.write_bytes(pickle.dumps(bomb))])
def test_loading_runs_no_pickle(tmp_path, path, write):
    marker = tmp_path / "executed"
    write(Bomb(marker), path)
    assert "not a whole model.safetensors" in error_of(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("stage", "sizes"),
    [
        ("vq_svae", {"codebook_size": 2**60}),
        ("vq_svae", {"channels": [4, 2**60]}),
        ("absorbing", {"width": 2**61}),
        ("absorbing", {"width": 2**62 + 1, "denoiser": "sdid", "num_blocks": None}),
        ("gaussian", {"width": 2**61}),
        ("classifier", {"channels": [2**62]}),
    ],
)
def test_sizes_beyond_all_memory(stage, sizes, vq_svae_config, absorbing_config, gaussian_config):
    classifier = ClassifierConfig(image_shape=[1, 12, 12], num_classes=10)
    configs = {"vq_svae": vq_svae_config, "absorbing": absorbing_config, "gaussian": gaussian_config}
    config = configs.get(stage, classifier)
    for name, value in sizes.items():
        setattr(config.model, name, value)
    with pytest.raises(InputError, match="network of these sizes cannot be built: choose smaller ones"):
        build_model(config)


def test_diffusion_steps_beyond_all_memory(gaussian_config):
    gaussian_config.diffusion.diffusion_steps = 2**60
    with pytest.raises(InputError, match="choose smaller ones"):
        build_model(gaussian_config)


# ---------------------------------------------------------------- writing


def test_folder_that_cannot_be_written(path, vq_svae, vq_svae_config):
    with pytest.raises(InputError, match="cannot write .*below.*folder you can write to"):
        save_model(path / "below" / "model.safetensors", vq_svae, vq_svae_config)


def test_a_folder_in_place_of_the_file(tmp_path, vq_svae, vq_svae_config):
    folder = tmp_path / "model.safetensors"
    folder.mkdir()
    with pytest.raises(InputError, match="cannot write"):
        save_model(folder, vq_svae, vq_svae_config)
    assert list(tmp_path.iterdir()) == [folder]


def test_what_was_trained_in_fp64_comes_back_in_fp64(tmp_path, vq_svae, vq_svae_config):
    vq_svae_config.precision = "fp64"
    trained = vq_svae.double()
    trained.decoder[0][0].weight.data += 1e-12
    save_model(tmp_path / "model.safetensors", trained, vq_svae_config)
    model, _ = load_model(tmp_path / "model.safetensors")
    for name, weight in trained.state_dict().items():
        assert torch.equal(weight, model.state_dict()[name])
    assert model.decoder[0][0].weight.dtype == torch.float64


@pytest.mark.parametrize("failure", [OSError("disk full"), KeyboardInterrupt()])
def test_a_failing_save_leaves_the_old_file(monkeypatch, path, vq_svae, vq_svae_config, failure):
    old = path.read_bytes()

    def fail(weights, temporary, metadata):
        temporary.write_bytes(b"half a file")
        assert path.read_bytes() == old
        raise failure

    monkeypatch.setattr(checkpoint, "save_file", fail)
    with pytest.raises(type(failure)):
        save_model(path, vq_svae, vq_svae_config)
    assert path.read_bytes() == old
    assert list(path.parent.iterdir()) == [path]


def test_a_model_file_names_no_path_of_this_machine(tmp_path, latent_model, absorbing_config):
    stage1 = replace(absorbing_config.vq_svae, data_dir="/home/me/data", runs="/home/me/runs", device="cuda:1")
    config = replace(absorbing_config, data_dir="/home/me/data", stage1="/home/me/model.safetensors", vq_svae=stage1)
    save_model(tmp_path / "model.safetensors", latent_model, config)
    assert b"/home/me" not in (tmp_path / "model.safetensors").read_bytes()
    _, loaded = load_model(tmp_path / "model.safetensors")
    assert differences(config, loaded) == []
    assert (loaded.vq_svae.data_dir, loaded.vq_svae.device, loaded.stage1) == ("data", "cpu", None)


def test_a_model_file_is_as_readable_as_any_other(tmp_path, vq_svae, vq_svae_config):
    save_model(tmp_path / "model.safetensors", vq_svae, vq_svae_config)
    (tmp_path / "any").touch()
    assert (tmp_path / "model.safetensors").stat().st_mode == (tmp_path / "any").stat().st_mode


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_weights_that_are_not_finite_are_neither_written_nor_used(path, vq_svae, vq_svae_config, value):
    old, name = path.read_bytes(), "decoder.0.1.running_var"
    weights = load_file(path)
    vq_svae.state_dict()[name][-1] = weights[name][-1] = value
    with pytest.raises(InputError, match=rf"cannot write .*NaN or infinite \({name}\)"):
        save_model(path, vq_svae, vq_svae_config)
    assert path.read_bytes() == old
    rewrite(path, weights)
    assert f"NaN or infinite ({name})" in error_of(path)


def test_weights_that_are_finite_in_the_type_of_training_only(path, vq_svae, vq_svae_config):
    next(vq_svae.parameters()).data.fill_(torch.finfo(torch.float32).max)
    save_model(path, vq_svae, vq_svae_config)
    with pytest.raises(InputError, match="NaN or infinite"):
        save_model(path, vq_svae, vq_svae_config, torch.bfloat16)


def test_what_is_not_measured_yet_is_not_a_number_and_travels(tmp_path, gaussian_config):
    model, path = build_model(gaussian_config), tmp_path / "model.safetensors"
    save_model(path, model, gaussian_config)
    assert load_model(path)[0].image_error.isnan().all()
    model.image_error.fill_(1.0)
    save_model(path, model, gaussian_config)
    model.image_error[3] = torch.nan  # measured, and damaged
    with pytest.raises(InputError, match=r"NaN or infinite \(image_error\)"):
        save_model(path, model, gaussian_config)
    assert (load_model(path)[0].image_error == 1).all()

"""Fine-tuning: runs that start from trained weights."""

from dataclasses import replace

import pytest
import torch
from small_runs import GAUSSIAN, STAGE1, STAGE2

from spiking_vq.checkpoint.file import fingerprint, load_model, save_model
from spiking_vq.data.datasets import load_dataset
from spiking_vq.errors import InputError
from spiking_vq.neurons.lif import LIF
from stages import train
from stages.training.fine_tune import take_over
from stages.training.stage import Stage


def network(**buffers):
    """A network with a weight, and buffers."""
    made = torch.nn.Linear(2, 1, bias=False)
    for name, value in buffers.items():
        made.register_buffer(name, torch.tensor(value))
    return made


def test_weights_are_taken_over_but_for_those_of_the_data():
    trained, model = network(data_variance=9.0), network(data_variance=1.0, scales=[1.0, 1.0])
    take_over(model, trained.state_dict(), same_data=False, source="file")
    assert torch.equal(model.weight, trained.weight)
    assert model.data_variance == 1
    assert torch.equal(model.scales, torch.ones(2))
    take_over(model, trained.state_dict(), same_data=True, source="file")
    assert model.data_variance == 9
    with pytest.raises(InputError, match=r"weights in file do not fit this network: 0 weights are missing, 1 unknown"):
        take_over(network(), network(scales=[1.0]).state_dict(), same_data=True, source="file")
    with pytest.raises(InputError, match=r"1 weights are missing, 0 unknown"):
        take_over(network(more=1.0), network().state_dict(), same_data=True, source="file")
    with pytest.raises(InputError, match=r"size mismatch for weight"):
        take_over(torch.nn.Linear(3, 1, bias=False), network().state_dict(), same_data=True, source="file")


def test_fine_tuning_scales_of_the_steps_starts_from_the_trained_weights(unbroken, tmp_path, monkeypatch):
    """TSM is added to a trained network: at the start it computes what that did."""
    trained, config = load_model(unbroken / "gaussian/model.safetensors")
    seen, whole = [], Stage.training_step

    def watched(self, batch, batch_idx):
        seen.append({name: value.clone() for name, value in self.model.state_dict().items()})
        return whole(self, batch, batch_idx)

    monkeypatch.setattr(Stage, "training_step", watched)
    start = f"train.start_from={unbroken / 'gaussian/model.safetensors'}"
    tsm = ["tsm=true", "early_T=null", "train.grad_clip=1.0", "train.max_steps=3"]
    train.main([*GAUSSIAN, *tsm, start, f"runs={tmp_path}"])
    for name, value in trained.unet.state_dict().items():
        assert torch.equal(seen[0][name], value), name
    scales = {name for name in seen[0] if name.endswith("scales")}
    assert len(scales) == sum(isinstance(module, LIF) for module in trained.modules())
    assert all((seen[0][name] == torch.ones(2)).all() for name in scales)
    tuned, config = load_model(tmp_path / "digits/base/gaussian/model.safetensors")
    assert config.tsm
    assert config.train.start_from is None  # a path, which does not travel
    assert config.train.start_from_sha256 == fingerprint(trained.unet)
    assert any((value != 1).any() for name, value in tuned.unet.state_dict().items() if name in scales)


def test_fine_tuning_adds_labels(unbroken, tmp_path):
    trained = load_model(unbroken / "absorbing/model.safetensors")[0].denoiser.state_dict()
    start = f"train.start_from={unbroken / 'absorbing/model.safetensors'}"  # which holds its stage 1
    train.main([*STAGE2, "conditional=true", "train.lr=1e-9", "train.max_steps=3", start, f"runs={tmp_path}"])
    tuned = load_model(tmp_path / "digits/base/absorbing/model.safetensors")[0].denoiser.state_dict()
    assert set(tuned) - set(trained) == {"labels.weight"}
    for name, value in trained.items():
        if "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(tuned[name], value, atol=1e-6, rtol=0)


def test_fine_tuning_on_other_data(unbroken, tmp_path):
    """Stage 1 out of the file of a stage 2, then the denoiser, which takes that stage 1."""
    stage1 = f"stage1={unbroken / 'vq_svae/model.safetensors'}"
    short = ["conditional=true", "train.max_steps=2"]
    train.main([*STAGE2, *short, stage1, f"runs={tmp_path}"])
    trained, config = load_model(tmp_path / "digits/base/absorbing/model.safetensors")
    trained.vq_svae.data_variance.fill_(9.0)
    trained.denoiser.labels.weight.data.fill_(9.0)
    other = replace(config, data="mnist", vq_svae=replace(config.vq_svae, data="mnist"))
    save_model(tmp_path / "other.safetensors", trained, other)

    fine_tuned = [f"train.start_from={tmp_path / 'other.safetensors'}", "train.lr=1e-9", f"runs={tmp_path / 'tuned'}"]
    train.main([*STAGE1, "train.max_steps=2", *fine_tuned])
    train.main([*STAGE2, *short, *fine_tuned])
    tuned, config = load_model(tmp_path / "tuned/digits/base/absorbing/model.safetensors")
    assert config.vq_svae.train.start_from_sha256 == fingerprint(trained.vq_svae)
    assert config.train.start_from_sha256 == fingerprint(trained.denoiser)
    assert tuned.vq_svae.data_variance.item() == pytest.approx(load_dataset("digits", tmp_path, 12).variance)
    assert tuned.denoiser.labels.weight.abs().max() < 1
    before = dict(trained.named_parameters())
    for name, value in tuned.named_parameters():
        if name != "denoiser.labels.weight":
            torch.testing.assert_close(value, before[name], atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*GAUSSIAN, "model.width=6"], "do not fit this network"),
        ([*GAUSSIAN, "conditional=false"], "0 weights are missing, 1 unknown"),
        (STAGE1, "is a gaussian model: name a vq_svae or absorbing one"),
    ],
)
def test_weights_of_another_network_are_refused(unbroken, tmp_path, arguments, message):
    with pytest.raises(InputError, match=message):
        train.main([*arguments, f"train.start_from={unbroken / 'gaussian/model.safetensors'}", f"runs={tmp_path}"])


def test_fine_tuning_keeps_to_its_stage_1(unbroken, other_stage1, tmp_path):
    start = f"train.start_from={unbroken / 'absorbing/model.safetensors'}"
    with pytest.raises(InputError, match="was trained on other tokens than those of stage1="):
        train.main([*STAGE2, start, f"stage1={other_stage1}", f"runs={tmp_path}"])


def test_retrained_stage1_is_noticed(unbroken, other_stage1):
    """A stage-2 run is tied to the weights of its stage 1, not to their path."""
    with pytest.raises(InputError, match="stage1_sha256"):
        train.main([*STAGE2, f"runs={unbroken.parent.parent}", f"stage1={other_stage1}"])

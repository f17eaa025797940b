"""The published networks, through the importer, compute what their authors' programs compute, in float64."""

import pytest
import torch
from published import golden, preset, with_spike_counts

from spiking_vq.checkpoint.authors import fsddim, sddpm, spiking_diffusion
from spiking_vq.checkpoint.authors.reading import state_dict_of


def assert_near(found, expected, most):
    """At most so far apart, in units of the largest expected value; rounding alone is below 1e-15."""
    assert found.shape == expected.shape
    assert found.dtype == torch.float64
    assert (found - expected).abs().max() <= most * expected.abs().max()


@pytest.fixture(scope="module")
def stage1():
    return spiking_diffusion.convert_stage1(
        state_dict_of(golden("vq_svae").weights), preset("vq_svae", "paper", "T=16")
    )


def test_sddpm():
    weights, inputs, outputs = golden("sddpm")
    model, config = sddpm.convert(state_dict_of(weights), preset("gaussian", "sddpm", "T=4"))
    assert (config.model.width, config.model.multipliers, config.model.num_blocks) == (8, [1, 2, 2, 4], 2)
    assert config.image_shape == [3, 32, 32]
    unet, x, t = model.unet, inputs["x"], inputs["t"] + 1
    noise, counts = with_spike_counts(unet, lambda: unet(x, t))
    assert_near(noise, outputs["noise"], 4e-15)
    assert counts == outputs["spike_counts"].tolist()
    shifted, _ = with_spike_counts(unet, lambda: unet(x, t), threshold_shift=-0.003)
    assert_near(shifted, outputs["noise_threshold_0.997"], 4e-15)
    late, _ = with_spike_counts(unet, lambda: unet(x, t + 1))
    assert (late - outputs["noise"]).abs().max() > 0.01 * outputs["noise"].abs().max()


@torch.no_grad()
def test_sddpm_reads_the_time_of_the_authors():
    """Our embedding of t is theirs of t - 1; both tables are float32."""
    weights, *_ = golden("sddpm")
    model, _ = sddpm.convert(state_dict_of(weights), preset("gaussian", "sddpm", "T=4"))
    first = "time_embedding.timembedding.{}.{}".format
    times = torch.arange(1000)
    expected = weights[first(0, "weight")].double() @ weights[first(1, "weight")].double().T
    found = model.unet.time[0](model.unet.time_features(times + 1)) - model.unet.time[0].bias
    scale = weights[first(1, "weight")].abs().sum(1).max().item()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * scale)  # theirs are sines of float32 angles
    angles = times.double()[:, None] * 10_000 ** -(torch.arange(4, dtype=torch.float64) / 4)
    exact = torch.stack([angles.sin(), angles.cos()], 2).flatten(1) @ weights[first(1, "weight")].double().T
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-7 * scale)


def test_fsddim_as_written():
    weights, inputs, outputs = golden("fsddim")
    model, config = fsddim.convert(state_dict_of(weights), preset("gaussian", "fsddim", "T=4"), trained_with="tdbn")
    assert (config.model.width, config.model.multipliers, config.model.num_blocks) == (8, [1, 2, 3, 4], 2)
    assert config.image_shape == [1, 32, 32]
    unet, x, t = model.unet, inputs["x"].unsqueeze(0), inputs["t"] + 1
    assert_near(unet.time_features(t), outputs["time_table_rows"], 0)
    currents, counts = with_spike_counts(unet, lambda: unet(x, t))
    assert_near(currents, outputs["currents"], 2e-15)
    assert counts == outputs["spike_counts"].tolist()


def test_fsddim_trained_with_plain_batch_norm():
    """Weights of 38 norms times the square root of 2: undone by hand, the network is the one as written."""
    weights, inputs, outputs = golden("fsddim")
    arms = ("conv2.bn.weight", "nin_shortcut.bn.weight", "nin_shortcut.weight")
    scaled = {key: value for key, value in weights.items() if key.endswith(arms) and value.dim() == 1}
    assert len(scaled) == 38
    smaller = {**weights, **{key: value.double() / 2**0.5 for key, value in scaled.items()}}
    model, _ = fsddim.convert(state_dict_of(smaller), preset("gaussian", "fsddim", "T=4"))
    unet, x, t = model.unet, inputs["x"].unsqueeze(0), inputs["t"] + 1
    currents, counts = with_spike_counts(unet, lambda: unet(x, t))
    assert_near(currents, outputs["currents"], 4e-15)
    assert counts == outputs["spike_counts"].tolist()
    model, _ = fsddim.convert(state_dict_of(weights), preset("gaussian", "fsddim", "T=4"))
    assert with_spike_counts(model.unet, lambda: model.unet(x, t))[1] != counts


@torch.no_grad()
def test_spiking_diffusion_stage_1(stage1):
    _, inputs, outputs = golden("vq_svae")
    model, config = stage1
    assert (config.image_shape, config.model.codebook_size, config.model.embedding_dim) == ([1, 28, 28], 128, 16)
    made = model(inputs["images"])
    for found, name in ((made.encoded, "encoder_spikes"), (made.generated, "generator_spikes")):
        assert torch.equal(found, outputs[name].double()), name
    assert torch.equal(made.quantized.tokens.squeeze(1), outputs["tokens"])
    assert_near(made.vectors, outputs["encoding"], 1e-7)  # the authors' weights of the steps are float32
    assert_near(model.reconstruct(made.potential), outputs["image_minus_half"], 1e-7)
    assert_near(model.decode(inputs["tokens"].unsqueeze(1)), outputs["decoded"], 1e-7)


def test_spiking_diffusion_denoiser(stage1):
    weights, inputs, outputs = golden("sdid")
    model, config = spiking_diffusion.convert_denoiser(weights, preset("absorbing", "paper", "T=16"), *stage1)
    assert sum(parameter.numel() for parameter in model.denoiser.parameters()) == 3_101_504
    denoiser, tokens = model.denoiser, inputs["noisy_tokens"].unsqueeze(1)
    logits, counts = with_spike_counts(denoiser, lambda: denoiser(tokens, inputs["t"]))
    assert_near(logits.squeeze(2), outputs["logits"], 1e-15)
    assert counts == outputs["spike_counts"].tolist()
    assert config.vq_svae == stage1[1]
    stage1_weights = stage1[0].state_dict()
    assert all(torch.equal(value, stage1_weights[name]) for name, value in model.vq_svae.state_dict().items())

"""Stage 1 with several codes a position, and with spike counts as codes; the decoder's own widths and blocks."""

import pytest
import torch
from awake import wake
from torch import nn

from spiking_vq.errors import InputError
from spiking_vq.models.quantizers import QUANTIZERS
from spiking_vq.models.vq_svae import VQSVAE
from spiking_vq.neurons.twins import neuron_factory

T = 4
INTEGRATE = {"beta": 1.0, "reset": "subtract", "fire_at_threshold": True}
COUNT = {"quantizer": "count", "codebook_size": 25, "encoding": "rate", "spike_generator": "direct"}
CODES = {
    "vq": {},
    "product": {"quantizer": "product", "num_codes": 2},
    "residual": {"quantizer": "residual", "num_codes": 2},
    "count": COUNT | {"num_codes": 2},
}


def tiny(num_steps=T, neuron="lif", bits=None, **options):
    build = neuron_factory(neuron, bits, **(INTEGRATE if neuron == "lif" else {}))
    small = {"channels": [4, 8], "embedding_dim": 4, "codebook_size": 8}
    return VQSVAE((1, 12, 12), num_steps, build, **small | options)


@pytest.mark.parametrize("name", QUANTIZERS)
@pytest.mark.parametrize(("neuron", "num_steps", "bits"), [("lif", T, None), ("relu", 1, None), ("quantised", 1, 3)])
def test_every_quantiser_trains_and_decodes(images, name, neuron, num_steps, bits):
    model = tiny(num_steps, neuron, bits, **CODES[name])
    wake(model, images)
    grid = (model.quantizer.num_codes, 3, 3)
    assert grid[0] == CODES[name].get("num_codes", 1)
    assert model.code_grid == grid
    tokens = model.tokenize(images)
    assert tokens.shape == (6, *grid)
    assert 0 <= tokens.min() <= tokens.max() < model.codebook_size
    made = model(images)
    assert torch.equal(made.quantized.tokens, tokens)
    decoded = model.decode(tokens)
    assert decoded.shape == images.shape
    torch.testing.assert_close(decoded, (model.reconstruct(made.potential) + 0.5).clamp(0, 1))
    terms = model.train().loss_terms(images)
    terms.total.backward()
    assert terms.total.isfinite()
    assert (model.stem[0].weight.grad != 0).any()  # the gradient passes the codes
    assert terms.tokens.shape == tokens.shape


@pytest.mark.parametrize("num_steps", [1, 2, 3, 4, 6])
def test_counted_tokens_are_the_encoders_spikes_and_the_decoder_gets_as_many(images, num_steps):
    model = tiny(num_steps, **COUNT | {"num_codes": 2, "codebook_size": (num_steps + 1) ** 2})
    wake(model, images)
    counts = model.encode(images).sum(0).long().unflatten(1, (2, 2))
    tokens = model.tokenize(images)
    assert torch.equal(tokens, counts[:, :, 0] + (num_steps + 1) * counts[:, :, 1])
    assert len(tokens.unique()) > 2
    made = model(images)
    assert torch.equal(made.generated.sum(0), made.encoded.sum(0))


def test_with_counts_the_decoder_sees_spikes_alone(images):
    model, seen = wake(tiny(**CODES["count"]), images), {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.register_forward_hook(lambda module, inputs, output, name=name: seen.update({name: inputs[0]}))
    model(images)
    real_valued = {name for name, x in seen.items() if not set(x.unique().tolist()) <= {0.0, 1.0}}
    assert real_valued == {"stem.0", "readout.synapse"}  # the latter reads spikes summed over time
    assert len(seen) == 6


def test_counts_in_training_with_fewer_steps_are_rounded_to_those_of_all(images):
    """Two steps of four: rates of 0, 1/2 and 1 are counts of 0, 2 and 4."""
    model = tiny(**CODES["count"])
    model.T = 2
    terms = model.loss_terms(images)
    digits = torch.stack([terms.tokens % 5, terms.tokens // 5])
    assert set(digits.unique().tolist()) == {0, 2, 4}


# ---------------------------------------------------------------- the decoder

DECODER = {
    0: "0.0.weight 2.0.weight",
    1: "0.0.weight 1.branch.1.0.weight 1.branch.3.0.weight 3.0.weight 5.0.weight",
}
"""Number of residual blocks -> synapses of the decoder, as files of before name them."""


@pytest.mark.parametrize("blocks", DECODER)
def test_by_default_the_decoder_is_what_it_was(blocks):
    model = tiny(num_residual_blocks=blocks)
    names = [name for name, weight in model.decoder.named_parameters() if weight.dim() == 4]
    assert names == DECODER[blocks].split()
    torch.manual_seed(1)
    first = tiny(num_residual_blocks=blocks).state_dict()
    torch.manual_seed(1)
    said = tiny(num_residual_blocks=blocks, decoder_channels=[4, 8], decoder_blocks=[blocks]).state_dict()
    assert list(first) == list(said)
    assert all(torch.equal(first[name], said[name]) for name in first)


@pytest.mark.parametrize("channels", [[6, 10], [3, 3]])
@pytest.mark.parametrize("blocks", [[0], [2], [0, 1], [1, 0, 1], [0, 0, 0]])
def test_the_decoders_own_widths_and_blocks(images, channels, blocks):
    model = tiny(decoder_channels=channels, decoder_blocks=blocks, num_residual_blocks=1)
    wake(model, images)
    assert model.decode(model.tokenize(images)).shape == images.shape
    assert model.readout.synapse.in_channels == channels[0]
    ups = [module for module in model.decoder.modules() if isinstance(module, nn.ConvTranspose2d)]
    assert [up.out_channels for up in ups] == [channels[1], channels[0]]
    assert len([name for name in model.state_dict() if name.startswith("decoder") and "branch.1.0.w" in name]) == sum(
        blocks
    )
    assert len([name for name in model.state_dict() if name.startswith("encoder") and "branch.1.0.w" in name]) == 1
    model.train().loss_terms(images).total.backward()
    for name, weight in model.decoder.named_parameters():
        assert weight.grad is not None, name


def test_blocks_stand_at_the_resolutions_that_they_are_asked_for(images):
    model, sizes = tiny(decoder_blocks=[1, 2, 3]), []
    for name, module in model.decoder.named_modules():
        if name.endswith("branch"):
            module.register_forward_hook(lambda module, inputs, output: sizes.append(output.shape[-1]))
    model(images)
    assert sizes == [3, 6, 6, 12, 12, 12]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decoder_channels": [4]}, r"decoder_channels must be 2 widths, as many as channels; got \[4\]"),
        ({"decoder_channels": []}, r"decoder_channels must be 2 widths.*; got \[\]"),
        ({"decoder_channels": [4, 8, 8]}, r"decoder_channels must be 2 widths.*; got \[4, 8, 8\]"),
        ({"decoder_blocks": [1, 1, 1, 1]}, r"decoder_blocks must be at most 3 numbers; got \[1, 1, 1, 1\]"),
        ({"quantizer": "product", "num_codes": 3}, "embedding_dim must be a multiple of num_codes, 3; got 4"),
        ({"num_codes": 2}, "num_codes must be 1 with quantizer=vq; got 2"),
        ({"quantizer": "count", "num_codes": 2}, r"codebook_size must be the number of levels.* 2; got 8"),
    ],
)
def test_what_does_not_fit(options, message):
    with pytest.raises(InputError, match=message):
        tiny(**options)

import copy
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
from awake import LIF_OPTIONS, wake
from torch import nn

from spiking_vq.checkpoint.build import build_vq_svae
from spiking_vq.config.load import load_config
from spiking_vq.errors import InputError
from spiking_vq.models.spike_encoding import ENCODINGS, PSPS, SpikeEncoding
from spiking_vq.models.spike_generators import SPIKE_GENERATORS
from spiking_vq.models.vq_svae import VQSVAE
from spiking_vq.neurons.lif import LIF
from spiking_vq.neurons.twins import neuron_factory

CONFIGS = Path(__file__).parents[3] / "configs" / "vq_svae"
SMALL = {"channels": [4, 8], "embedding_dim": 4, "codebook_size": 8}


def tiny(image_shape=(1, 12, 12), T=2, neuron="lif", **options):
    lif = LIF_OPTIONS if neuron == "lif" else {}
    return VQSVAE(image_shape, T, neuron_factory(neuron, **lif), **SMALL | options)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def mean_square(x):
    return (x**2).mean()


def psp_by_hand(spk, tau=2):
    trace = [torch.zeros_like(spk[0])]
    for step in spk:
        trace.append(trace[-1] - trace[-1] / tau + step / tau)
    return torch.stack(trace[1:])


# ---------------------------------------------------------------- architecture


def test_paper_has_50658_parameters():
    config = replace(load_config("vq_svae", CONFIGS / "paper.yaml"), image_shape=[1, 28, 28])
    model = build_vq_svae(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == 50_658
    assert (model.grid, model.codebook_size, model.T) == ((7, 7), 128, 16)


@pytest.mark.parametrize(("image_shape", "grid"), [((1, 12, 12), (3, 3)), ((3, 32, 32), (8, 8)), ((2, 8, 20), (2, 5))])
@pytest.mark.parametrize("num_residual_blocks", [0, 1])
def test_shapes_and_ranges(image_shape, grid, num_residual_blocks):
    model = tiny(image_shape, T=3, num_residual_blocks=num_residual_blocks)
    images = torch.rand(2, *image_shape)
    wake(model, images)
    tokens = model.tokenize(images)
    assert model.grid == grid
    assert tokens.shape == (2, 1, *grid)
    assert model.code_grid == (1, *grid)
    assert tokens.dtype == torch.int64
    spk = model.encode(images)
    assert spk.shape == (3, 2, 4, *grid)
    assert spk.unique().tolist() == [0, 1]
    decoded = model.decode(torch.randint(8, (2, 1, *grid)))
    assert decoded.shape == images.shape
    assert 0 <= decoded.min() < decoded.max() <= 1


@pytest.mark.parametrize(("channels", "grid"), [([4], (8, 12)), ([4, 8], (4, 6)), ([4, 6, 8], (2, 3))])
@pytest.mark.parametrize("num_residual_blocks", [0, 1])
def test_each_of_the_channels_halves_the_grid(channels, grid, num_residual_blocks):
    model = tiny((1, 16, 24), channels=channels, num_residual_blocks=num_residual_blocks)
    images = torch.rand(2, 1, 16, 24)
    wake(model, images)
    tokens = model.tokenize(images)
    assert tokens.shape == (2, 1, *model.grid) == (2, 1, *grid)
    assert model.decode(tokens).shape == images.shape
    strides = [module.stride for module in model.modules() if isinstance(module, nn.Conv2d | nn.ConvTranspose2d)]
    assert strides.count((2, 2)) == 2 * len(channels)


def test_the_image_is_presented_around_zero():
    model = tiny()
    seen = []
    model.stem[0].register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    images = torch.rand(2, 1, 12, 12)
    model.encode(images)
    torch.testing.assert_close(seen[0], images - 0.5)


def test_only_spikes_travel_between_layers(vq_svae, images):
    seen = {}
    for name, module in vq_svae.named_modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.register_forward_hook(lambda module, inputs, output, name=name: seen.update({name: inputs[0]}))
    vq_svae(images)
    # the image, the code vector, and the spikes summed over time where that equals the sum of what they give
    real_valued = {"stem.0", "spike_generator.current.0", "readout.synapse"}
    assert {name for name, x in seen.items() if not set(x.unique().tolist()) <= {0.0, 1.0}} == real_valued
    assert len(seen) == 7


def test_reconstruction_by_hand(vq_svae, images):
    potential, quantized, encoded, generated, vectors = vq_svae(images)
    currents = [vq_svae.readout.synapse(spk) for spk in vq_svae.readout.neuron(vq_svae.decoder(generated))]
    torch.testing.assert_close(potential, sum(0.8 ** (1 - step) * currents[step] for step in range(2)))
    reconstruction = vq_svae.reconstruct(potential)
    torch.testing.assert_close(reconstruction, torch.tanh(potential))
    assert torch.equal(quantized.tokens, vq_svae.tokenize(images))
    assert torch.equal(encoded, vq_svae.encode(images))
    assert torch.equal(vectors, vq_svae.encode_spikes(encoded))
    torch.testing.assert_close(vq_svae.decode(quantized.tokens), (reconstruction + 0.5).clamp(0, 1))


@pytest.mark.parametrize(("encoding", "psp"), list(product(ENCODINGS, PSPS)))
def test_encoding_by_its_formula(encoding, psp):
    T = 5
    spk = (torch.rand(T, 2, 4, 3, 3) < 0.5).float()
    rate = sum(spk) / T
    potential = sum(0.8 ** (T - 1 - step) * spk[step] for step in range(T)) if psp == "decay" else psp_by_hand(spk)[-1]
    encode = SpikeEncoding(encoding, psp)
    if encoding == "both":
        assert encode.mix.item() == 0.5
        encode.mix.data.fill_(0.3)
    else:
        assert not list(encode.parameters())
    expected = {"rate": rate, "psp": potential, "both": 0.7 * potential + 0.3 * rate}[encoding]
    torch.testing.assert_close(encode(spk), expected)


def test_autocast_rounds_neither_the_encoding_nor_the_read_out(vq_svae):
    spk, current = (torch.rand(3, 6, 4, 3, 3) < 0.5).float(), torch.randn(3, 6, 4, 12, 12).bfloat16()
    vq_svae.decoder = nn.Identity()
    encoded, decoded = vq_svae.encode_spikes(spk), vq_svae.decode_spikes(current.float())
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(vq_svae.encode_spikes(spk.bfloat16()).float(), encoded)  # spikes are exact in bf16
        torch.testing.assert_close(vq_svae.decode_spikes(current), decoded)


# ---------------------------------------------------------------- the loss


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
@pytest.mark.parametrize("cross_entropy", [0.0, 2.0])
def test_loss_and_its_gradients_by_hand(images, ema_decay, cross_entropy):
    read_out = {"output": "sigmoid", "cross_entropy": cross_entropy} if cross_entropy else {}
    model = tiny(commitment_cost=0.3, ema_decay=ema_decay, data_variance=0.1, **read_out)
    model.quantizer.codebook.data.uniform_(0, 2)
    by_hand = copy.deepcopy(model)
    out = model.loss_terms(images)

    potential, quantized, z_spk, q_spk, _ = by_hand(images)
    reconstruction = by_hand.reconstruct(potential)
    z, q = by_hand.encode_spikes(z_spk), by_hand.quantizer.lookup(quantized.tokens)
    mse = mean_square(reconstruction - (images - 0.5))
    quantizer = 0.3 * mean_square(z - q.detach()) + (0 if ema_decay else mean_square(q - z.detach()))
    psp_z, psp_q = psp_by_hand(z_spk), psp_by_hand(q_spk)
    psp = mean_square(psp_q - psp_z.detach()) + 0.3 * mean_square(psp_q.detach() - psp_z)
    p = potential.double().sigmoid()
    entropy = -cross_entropy * (images * p.log() + (1 - images) * (1 - p).log()).mean().float()
    loss = mse / 0.1 + entropy + quantizer + psp

    terms = {"reconstruction": mse / 0.1, "cross_entropy": entropy, "quantizer": quantizer, "psp": psp}
    for name, value in {**terms, "mse": mse, "total": loss}.items():
        torch.testing.assert_close(getattr(out, name), value, check_stride=False)
    torch.testing.assert_close(out.made, reconstruction)
    torch.testing.assert_close(out.vectors, z)
    assert torch.equal(out.tokens, quantized.tokens)
    out.total.backward()
    loss.backward()
    for mine, theirs in zip(model.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)


def test_reconstruction_moves_the_encoder_through_the_codes(images):
    model = tiny()
    potential, *_ = model(images)
    potential.square().mean().backward()
    assert (model.stem[0].weight.grad != 0).any()
    assert model.quantizer.codebook.grad is None


class Leaf(nn.Module):
    """Stands in for a layer and gives its own parameter, whatever goes in."""

    def __init__(self, *shape):
        super().__init__()
        self.value = nn.Parameter(torch.rand(shape))

    def forward(self, *inputs):
        return self.value


@pytest.mark.parametrize("commitment_cost", [0.0, 0.3])
def test_psp_terms_pull_at_the_generator_and_at_the_encoder(images, commitment_cost):
    """d/dq is that of the first term alone, d/dz that of the second: commitment_cost times as strong."""
    model = tiny(commitment_cost=commitment_cost, data_variance=float("inf"))
    model.encoder, model.spike_generator = Leaf(2, 6, 4, 3, 3), Leaf(2, 6, 4, 3, 3)
    model.encode_spikes.register_forward_hook(lambda module, inputs, output: output.detach())  # the PSP terms alone
    model.loss_terms(images).total.backward()

    z, q = model.encoder.value, model.spike_generator.value
    first, second = (psp_by_hand(q) - psp_by_hand(z)).detach()  # PSP[0] = x[0] / 2, PSP[1] = x[0] / 4 + x[1] / 2
    pull = torch.stack([first / 2 + second / 4, second / 2]) * 2 / q.numel()
    torch.testing.assert_close(q.grad, pull)
    torch.testing.assert_close(z.grad, -commitment_cost * pull)


def test_the_loss_leaves_an_ema_codebook_alone(images):
    model = tiny(ema_decay=0.9, restart_below=0.95).train()
    before = copy.deepcopy(model.quantizer.state_dict())
    model.loss_terms(images, seeded()).total.backward()
    assert all(torch.equal(value, before[name]) for name, value in model.quantizer.state_dict().items())


# ---------------------------------------------------------------- ablations

CODES = [("rate", "decay"), *product(["psp", "both"], PSPS)]
ABLATIONS = [(*code, *rest) for code in CODES for rest in product(SPIKE_GENERATORS, [0.0, 0.9], [0, 1])]


@pytest.mark.parametrize("ablation", ABLATIONS, ids=lambda ablation: "-".join(map(str, ablation)))
def test_every_ablation_trains_every_parameter(images, ablation):
    names = ("encoding", "psp", "spike_generator", "ema_decay", "num_residual_blocks")
    model = tiny(**dict(zip(names, ablation, strict=True)))
    model.quantizer.codebook.data.uniform_(0, 1)  # several codes in use: one alone is no current after batch norm
    model.loss_terms(images, seeded()).total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert (parameter.grad != 0).any() != name.endswith("synapse_bias"), name  # batch norm takes it away again


def test_neuron_parameters_are_trained(images):
    lif = neuron_factory("lif", learn_beta=True, learn_threshold=True)
    model = VQSVAE((1, 12, 12), 3, lif, **SMALL)
    model.loss_terms(images).total.backward()
    neurons = [module for module in model.modules() if isinstance(module, LIF)]
    assert len(neurons) == 6
    assert all(neuron.beta.grad != 0 and neuron.threshold.grad != 0 for neuron in neurons)


def test_relu_twin(images):
    model = tiny(T=1, neuron="relu")
    assert not any(isinstance(module, LIF) for module in model.modules())
    model.loss_terms(images).total.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert model.decode(model.tokenize(images)).shape == images.shape
    assert len(model.encode(images).unique()) > 2


# ---------------------------------------------------------------- a forward is a function


def test_tokens_do_not_depend_on_the_batch(vq_svae, images):
    vq_svae.double()  # at another batch size convolutions round differently
    images = images.double()
    whole = vq_svae.tokenize(images)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    assert torch.equal(vq_svae.tokenize(images[order]), whole[order])
    assert torch.equal(torch.cat([vq_svae.tokenize(image) for image in images.split(1)]), whole)
    assert len(whole.flatten(1).unique(dim=0)) == 6


def test_same_input_same_output(vq_svae, images):
    first = vq_svae(images)
    vq_svae(torch.rand(2, 1, 12, 12))  # another batch size in between
    again = vq_svae(images)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[3], again[3])


def test_nothing_but_weights_and_statistics_survives_a_training_step(vq_svae, images):
    vq_svae.train().loss_terms(images).total.backward()
    copied = copy.deepcopy(vq_svae).eval()
    fresh = tiny()
    fresh.load_state_dict(vq_svae.state_dict())
    assert torch.equal(copied(images)[0], fresh.eval()(images)[0])


def test_poisson_follows_its_generator(images):
    model = wake(tiny(spike_generator="poisson"), images)
    tokens = model.tokenize(images)
    assert torch.equal(model.decode(tokens, seeded()), model.decode(tokens, seeded()))
    assert not torch.equal(model.decode(tokens, seeded()), model.decode(tokens, seeded(1)))


# ---------------------------------------------------------------- what cannot be


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_shape": (1, 30, 28)}, "multiples of 4.*30x28.*image_size"),
        ({"image_shape": (1, 28, 30)}, "multiples of 4.*28x30"),
        ({"T": 0}, "T.*at least 1.*0"),
        ({"channels": []}, r"channels.*one width or more.*\[\]"),
        ({"channels": [4, 0]}, r"channels.*\[4, 0\]"),
        ({"channels": [4, 4, 4]}, "multiples of 8.*3 convolutions.*12x12.*model.channels"),
        ({"encoding": "bits"}, "encoding.*rate, psp, both.*'bits'"),
        ({"psp": "sum"}, "psp.*decay, trace.*'sum'"),
        ({"spike_generator": "none"}, "spike_generator.*adaptive, direct, poisson, repeat.*'none'"),
        ({"output": "relu"}, "output.*tanh, sigmoid.*'relu'"),
        ({"output": "sigmoid", "cross_entropy": -1.0}, "cross_entropy.*at least 0.*-1"),
        ({"neuron": "tanh"}, "neuron.*lif.*relu.*'tanh'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message):
        tiny(**options)


@pytest.mark.parametrize("shape", [(2, 1, 12, 16), (2, 3, 12, 12), (1, 12, 12), (2, 1, 28, 28)])
def test_wrong_image_shape(vq_svae, shape):
    with pytest.raises(InputError, match=r"expected images .*\[B, 1, 12, 12\]; got"):
        vq_svae.tokenize(torch.rand(shape))


@pytest.mark.parametrize("value", [-1e-3, 1.001, 255.0, float("nan"), float("inf")])
def test_tokens_are_of_images_in_the_unit_range(vq_svae, images, value):
    assert vq_svae.tokenize(images.round()).shape == (6, 1, 3, 3)  # 0 and 1 are in it
    images[2, 0, 5, 5] = value
    message = rf"finite and in \[0, 1\]; got torch.float32 \[6, 1, 12, 12\] with values from .*{value}"
    with pytest.raises(InputError, match=message):
        vq_svae.tokenize(images)
    with pytest.raises(InputError, match=r"floating-point torch tensor .*; got numpy.float32 \[6, 1, 12, 12\]"):
        vq_svae.tokenize(images.numpy())


def test_sigmoid_read_out_is_stretched_and_clamped(vq_svae_config):
    vq_svae_config.model.output = "sigmoid"
    model = build_vq_svae(vq_svae_config)
    potential = torch.tensor([-100.0, -3.1, -1.0, 0.0, 1.0, 3.1, 100.0])
    inner = 1.1 * (1 / (1 + 2.718281828 ** -torch.tensor([-1.0, 0.0, 1.0])) - 0.5)
    expected = torch.cat([torch.tensor([-0.5, -0.5]), inner, torch.tensor([0.5, 0.5])])
    torch.testing.assert_close(model.reconstruct(potential), expected)


def test_cross_entropy_needs_the_sigmoid():
    with pytest.raises(InputError, match="output.*sigmoid.*'tanh'"):
        tiny(cross_entropy=1.0)

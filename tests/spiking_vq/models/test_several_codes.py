"""Several codes a position: slices of the vector, or coarse to fine; each is held against single quantisers."""

import copy

import pytest
import torch

from spiking_vq.errors import InputError
from spiking_vq.models.quantizers import QUANTIZERS, build_quantizer

G, K, D = 3, 8, 6
NAMES = ["product", "residual"]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def batch(b=3):
    return torch.randn(b, D, 2, 5)


def built(name, **options):
    return build_quantizer(name, G, K, D, **options)


def singles(quantizer):
    """Copies of its quantisers of one code, in order."""
    return [copy.deepcopy(part) for part in quantizer.parts]


def inputs_of(name, parts, z, tokens):
    """What each of the single quantisers quantises: a slice, or what the codes before it leave."""
    if name == "product":
        return list(z.split(D // G, 1))
    rests = [z]
    for part, codes in zip(parts, tokens.split(1, 1), strict=True):
        rests.append(rests[-1] - part.lookup(codes))
    return rests[:-1]


@pytest.mark.parametrize("name", NAMES)
def test_tokens_are_those_of_the_single_quantisers(name):
    quantizer, z = built(name), batch()
    tokens = quantizer.nearest(z)
    assert tokens.shape == (3, G, 2, 5)
    assert (quantizer.num_codes, quantizer.codebook_size) == (G, K)
    parts = singles(quantizer)
    for code, part, own in zip(tokens.split(1, 1), parts, inputs_of(name, parts, z, tokens), strict=True):
        assert torch.equal(code, part.nearest(own))
        assert len(code.unique()) > 2
    assert [book.shape for book in quantizer.codebooks] == [(K, D // G if name == "product" else D)] * G


@pytest.mark.parametrize("name", NAMES)
def test_lookup_joins_the_code_vectors(name):
    quantizer, tokens = built(name), torch.randint(K, (3, G, 2, 5))
    row = quantizer.lookup(tokens)[1, :, 0, 4]
    codes = [book[token] for book, token in zip(quantizer.codebooks, tokens[1, :, 0, 4], strict=True)]
    assert torch.equal(row, torch.cat(codes) if name == "product" else sum(codes))


def test_tokens_of_a_product_come_back():
    quantizer, tokens = built("product"), torch.randint(K, (3, G, 2, 5))
    assert torch.equal(quantizer.nearest(quantizer.lookup(tokens)), tokens)


def test_levels_go_from_coarse_to_fine():
    """Levels of units, tenths and hundredths, each from -5 to 4, read numbers digit by digit."""
    quantizer = build_quantizer("residual", 3, 10, 1)
    for level, unit in zip(quantizer.parts, (1, 0.1, 0.01), strict=True):
        level.codebook.data = unit * (torch.arange(10.0) - 5).unsqueeze(1)
    z = torch.tensor([3.12, 2.93, -0.59]).view(1, 1, 1, 3)
    tokens = quantizer.nearest(z)
    digits = (tokens - 5).view(3, 3).T  # 3 + 0.1 + 0.02, 3 - 0.1 + 0.03, -1 + 0.4 + 0.01
    assert digits.tolist() == [[3, 1, 2], [3, -1, 3], [-1, 4, 1]]
    torch.testing.assert_close(quantizer.lookup(tokens), z)


@pytest.mark.parametrize("name", NAMES)
def test_forward_gives_nearest_and_lookup(name):
    quantizer, z = built(name), batch()
    out = quantizer(z)
    assert torch.equal(out.tokens, quantizer.nearest(z))
    torch.testing.assert_close(out.vectors, quantizer.lookup(out.tokens))


@pytest.mark.parametrize("name", NAMES)
def test_gradient_goes_straight_through(name):
    quantizer, z = built(name), batch().requires_grad_()
    weight = torch.randn_like(z)
    (quantizer(z).vectors * weight).sum().backward()
    torch.testing.assert_close(z.grad, weight)
    assert all(book.grad is None for book in quantizer.codebooks)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_the_loss_is_the_mean_of_the_single_losses(name, ema_decay):
    quantizer, z = built(name, commitment_cost=0.3, ema_decay=ema_decay), batch().requires_grad_()
    parts, mine = singles(quantizer), z.detach().clone().requires_grad_()
    out = quantizer(z)
    own = inputs_of(name, parts, mine, out.tokens)
    if name == "residual":
        own = [mine - (mine - rest).detach() for rest in own]  # earlier codes are constants to a later level
    loss = sum(part(rows).loss for part, rows in zip(parts, own, strict=True)) / G
    torch.testing.assert_close(out.loss, loss)
    out.loss.backward()
    loss.backward()
    torch.testing.assert_close(z.grad, mine.grad)
    assert quantizer.commitment_cost == 0.3
    assert len(list(quantizer.parameters())) == (0 if ema_decay else G)
    if not ema_decay:
        for book, part in zip(quantizer.codebooks, parts, strict=True):
            assert (book.grad != 0).any()
            torch.testing.assert_close(book.grad, part.codebook.grad)


@pytest.mark.parametrize("name", NAMES)
def test_moving_averages_are_those_of_the_single_quantisers(name):
    quantizer = built(name, ema_decay=0.9, restart_below=1.15)
    parts = singles(quantizer)
    for step in range(2):
        z, generator = batch(), seeded(step)
        tokens = quantizer.nearest(z)
        own = inputs_of(name, parts, z, tokens)
        restarts = [
            part.update(rows, codes, generator)
            for part, rows, codes in zip(parts, own, tokens.split(1, 1), strict=True)
        ]
        assert quantizer.update(z, tokens, seeded(step)) == sum(restarts) > 0
    for part, expected in zip(singles(quantizer), parts, strict=True):
        for key, value in expected.state_dict().items():
            assert torch.equal(part.state_dict()[key], value), key


@pytest.mark.parametrize("name", NAMES)
def test_learning_by_averages_brings_the_codes_to_the_vectors(name):
    quantizer, z = built(name, ema_decay=0.5, restart_below=0.1), 3 + batch(8)
    errors = []
    for step in range(20):
        out = quantizer(z)
        errors.append((out.vectors - z).square().mean().item())
        quantizer.update(z, out.tokens, seeded(step))
    assert errors[-1] < 0.1 * errors[0]


@pytest.mark.parametrize("name", NAMES)
def test_autocast_changes_nothing(name):
    quantizer, z = built(name), batch()
    with torch.autocast("cpu", torch.bfloat16):
        out = quantizer(z)
    assert torch.equal(out.tokens, quantizer.nearest(z))
    assert out.vectors.dtype == torch.float32


@pytest.mark.parametrize("name", [*NAMES, "vq"])
def test_one_code_of_any_kind_is_the_single_quantiser(name):
    torch.manual_seed(1)
    quantizer, z = build_quantizer(name, 1, K, D), batch()
    torch.manual_seed(1)
    single = build_quantizer("vq", 1, K, D)
    torch.testing.assert_close(quantizer(z), single(z))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("product", 4, 8, 6), "embedding_dim must be a multiple of num_codes, 4; got 6"),
        (("vq", 2, 8, 6), "num_codes must be 1 with quantizer=vq; got 2"),
        *(((name, 0, 8, 6), "num_codes must be at least 1; got 0") for name in QUANTIZERS),
        *(((name, 1, 0, 6), "codebook_size must be .*1.*; got 0") for name in QUANTIZERS),
        (("lookup", 1, 8, 6), "quantizer must be one of vq, product, residual, count; got 'lookup'"),
    ],
)
def test_sizes_that_do_not_fit(arguments, message):
    with pytest.raises(InputError, match=message):
        build_quantizer(*arguments)

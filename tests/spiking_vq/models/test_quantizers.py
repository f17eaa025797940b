"""One code a position: the nearest code vector, its gradient, moving averages and restarts."""

import pytest
import torch

from spiking_vq.errors import InputError
from spiking_vq.models.quantizers import VectorQuantizer

K, D = 8, 4


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def rows_of(z):
    return [z[b, :, i, j] for b in range(z.shape[0]) for i in range(z.shape[2]) for j in range(z.shape[3])]


def batch(b=3):
    return torch.randn(b, D, 2, 5)


# ---------------------------------------------------------------- the nearest code


def test_nearest_by_brute_force():
    quantizer, z = VectorQuantizer(K, D), batch()
    expected = [min(range(K), key=lambda k: (row - quantizer.codebook[k]).norm().item()) for row in rows_of(z)]
    assert quantizer.nearest(z).shape == (3, 1, 2, 5)
    assert quantizer.nearest(z).flatten().tolist() == expected
    assert len(set(expected)) > 2


def test_ties_go_to_the_lowest_id():
    quantizer = VectorQuantizer(5, 1)
    quantizer.codebook.data = torch.tensor([[4.0], [1.0], [0.0], [1.0], [0.0]])
    z = torch.tensor([0.5, 1.0, 0.0, 9.0]).view(1, 1, 2, 2)
    assert quantizer.nearest(z).flatten().tolist() == [1, 1, 2, 0]


def test_lookup():
    quantizer = VectorQuantizer(K, D)
    tokens = torch.randint(K, (3, 1, 2, 5))
    assert torch.equal(quantizer.lookup(tokens)[1, :, 0, 4], quantizer.codebook[tokens[1, 0, 0, 4]])


def test_autocast_does_not_change_the_tokens():
    quantizer, z = VectorQuantizer(128, 16), torch.rand(16, 16, 7, 7)
    distances = torch.cdist(z.movedim(1, -1).flatten(0, -2).double(), quantizer.codebook.double())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(quantizer(z).tokens.flatten(), distances.argmin(1))


# ---------------------------------------------------------------- what it gives, and gradients


def test_vectors_are_the_codes_themselves():
    quantizer, z = VectorQuantizer(K, D), batch()
    out = quantizer(z)
    assert torch.equal(out.tokens, quantizer.nearest(z))
    assert torch.equal(out.vectors, quantizer.lookup(out.tokens))


def test_straight_through_gradient():
    quantizer, z = VectorQuantizer(K, D), batch().requires_grad_()
    weight = torch.randn(3, D, 2, 5)
    (quantizer(z).vectors * weight).sum().backward()
    torch.testing.assert_close(z.grad, weight)
    assert quantizer.codebook.grad is None


def test_loss_by_hand_and_whom_it_moves():
    quantizer, z = VectorQuantizer(K, D, commitment_cost=0.3), batch().requires_grad_()
    out = quantizer(z)
    difference = (z - out.vectors).detach()
    assert out.loss.item() == pytest.approx(1.3 * difference.square().mean().item(), rel=1e-5)

    out.loss.backward()
    torch.testing.assert_close(z.grad, 0.3 * 2 * difference / z.numel())
    expected = torch.zeros(K, D)
    for row, token in zip(rows_of(difference), out.tokens.flatten(), strict=True):
        expected[token] -= 2 * row / z.numel()
    torch.testing.assert_close(quantizer.codebook.grad, expected)


def test_an_ema_codebook_has_no_gradient():
    quantizer, z = VectorQuantizer(K, D, commitment_cost=0.3, ema_decay=0.9), batch().requires_grad_()
    out = quantizer(z)
    assert list(quantizer.parameters()) == []
    assert out.loss.item() == pytest.approx(0.3 * (z - out.vectors).square().mean().item(), rel=1e-5)
    out.loss.backward()
    torch.testing.assert_close(z.grad, 0.3 * 2 * (z - out.vectors).detach() / z.numel())


# ---------------------------------------------------------------- moving averages


def test_ema_by_hand_over_two_batches():
    quantizer = VectorQuantizer(K, D, ema_decay=0.9)
    use, total = [1.0] * K, [code.clone() for code in quantizer.codebook]
    for _ in range(2):
        z = batch()
        tokens = quantizer.nearest(z)
        for k in range(K):
            mine = [row for row, token in zip(rows_of(z), tokens.flatten(), strict=True) if token == k]
            use[k] = 0.9 * use[k] + 0.1 * len(mine)
            total[k] = 0.9 * total[k] + 0.1 * sum(mine, torch.zeros(D))
        assert quantizer.update(z, tokens) == 0
        torch.testing.assert_close(quantizer.codebook, torch.stack([total[k] / use[k] for k in range(K)]))
    torch.testing.assert_close(quantizer.use, torch.tensor(use))
    assert len(set(use)) > 2


def test_averages_and_counters_travel_in_the_state_dict():
    whole, resumed = (VectorQuantizer(K, D, ema_decay=0.9, restart_below=0.8) for _ in range(2))
    first, second = batch(), batch()
    whole.update(first, whole.nearest(first), seeded())
    resumed.load_state_dict(whole.state_dict())
    for quantizer in (whole, resumed):
        quantizer.update(second, quantizer.nearest(second), seeded(1))
    assert set(whole.state_dict()) == {"codebook", "use", "total"}
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name])


# ---------------------------------------------------------------- restarts: one batch uses code 0 only


def restarted(z, restart_below=0.95, seed=0):
    """A quantiser after one update in which all of `z` went to code 0; the others' use fell to 0.9."""
    torch.manual_seed(0)
    quantizer = VectorQuantizer(K, D, ema_decay=0.9, restart_below=restart_below)
    before = quantizer.codebook.clone()
    torch.seed()  # what is random comes from the generator given, whatever the global one's state
    count = quantizer.update(z, torch.zeros(len(z), 1, *z.shape[2:], dtype=torch.int64), seeded(seed))
    return quantizer, before, count


def test_dead_codes_become_distinct_vectors_of_the_batch():
    z = 10 * batch()
    quantizer, before, count = restarted(z)
    assert count == K - 1
    distances = torch.cdist(quantizer.codebook[1:], torch.stack(rows_of(z)))
    assert (distances.min(1).values < 0.1 * z.std()).all()
    assert len(distances.argmin(1).unique()) == K - 1
    torch.testing.assert_close(quantizer.use[1:], torch.ones(K - 1))
    torch.testing.assert_close(quantizer.codebook[0], (0.9 * before[0] + 0.1 * sum(rows_of(z))) / (0.9 + 0.1 * 30))


@pytest.mark.parametrize("background", [[0.0] * D, [0.5] * D, [0.0, 1.0, 0.5, 0.25]])
def test_codes_restarted_from_flat_background_stay_apart(background):
    z = torch.tensor(background).view(1, D, 1, 1).expand(3, D, 2, 5)
    quantizer, _, count = restarted(z)
    assert count == K - 1
    assert torch.cdist(quantizer.codebook, quantizer.codebook).fill_diagonal_(9).min() > 1e-4
    assert (quantizer.codebook[1:] - torch.tensor(background)).abs().max() < 0.1


def test_restarts_depend_on_the_generator_alone():
    z = batch()
    first = restarted(z)[0].codebook
    assert torch.equal(first, restarted(z)[0].codebook)
    assert not torch.equal(first, restarted(z, seed=1)[0].codebook)


def test_no_more_restarts_than_vectors():
    assert restarted(torch.randn(1, D, 1, 3))[2] == 3
    quantizer, _, count = restarted(torch.randn(1, D, 1, 1))
    assert count == 1
    assert quantizer.codebook.isfinite().all()


def test_codes_above_the_limit_stay():
    quantizer, before, count = restarted(batch(), restart_below=0.85)
    assert count == 0
    torch.testing.assert_close(quantizer.codebook[1:], before[1:])
    assert restarted(batch(), restart_below=0.0)[2] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [({"ema_decay": 1.0}, "ema_decay"), ({"ema_decay": -0.1}, "ema_decay"), ({"restart_below": 1.0}, "restart_below")],
)
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message):
        VectorQuantizer(K, D, **options)

"""The diffusion on K = 3 codes and two tokens is small enough to enumerate; the rest is told by oracles and counts."""

import math
from itertools import product

import pytest
import torch

from spiking_vq.diffusion import absorbing
from spiking_vq.diffusion.absorbing import LOSSES, AbsorbingDiffusion, nucleus, unmask
from spiking_vq.diffusion.unmasking import ORDERS, call_plan, halton_order, unmask_schedule
from spiking_vq.errors import InputError

K, N = 3, 2  # the enumerable case
MASK = K
IMAGES = list(product(range(K), repeat=N))
TABLE = 2 * torch.randn(N, K + 1, K + 1, N, K, generator=torch.Generator().manual_seed(0))  # [t - 1, x_0, x_1, i, k]


def table_denoiser(tokens, t):
    return TABLE[t - 1, tokens[:, 0, 0], tokens[:, 0, 1]].movedim(-1, 1).unsqueeze(2)


def table_prob(state, t, i, k):
    return TABLE[t - 1, state[0], state[1], i].softmax(-1)[k].item()


def subsets(positions):
    return [
        [i for i, keep in zip(positions, kept, strict=True) if keep] for kept in product((0, 1), repeat=len(positions))
    ]


def exact_model(times, chance):
    """P(image) of the chain over `times` that unmasks each masked position with probability chance(t)."""
    states = {(MASK,) * N: 1.0}
    for t in times:
        after = {}
        for state, p in states.items():
            masked = [i for i in range(N) if state[i] == MASK]
            for chosen in subsets(masked):
                p_chosen = chance(t) ** len(chosen) * (1 - chance(t)) ** (len(masked) - len(chosen))
                for codes in product(range(K), repeat=len(chosen)):
                    new, p_new = list(state), p * p_chosen
                    for i, k in zip(chosen, codes, strict=True):
                        new[i], p_new = k, p_new * table_prob(state, t, i, k)
                    after[tuple(new)] = after.get(tuple(new), 0) + p_new
        states = after
    return torch.tensor([states[image] for image in IMAGES])


def exact_bound_bits(image):
    total = 0.0
    for t in range(1, N + 1):
        for masked in subsets(range(N)):
            p_mask = (t / N) ** len(masked) * (1 - t / N) ** (N - len(masked))
            state = [MASK if i in masked else image[i] for i in range(N)]
            total += p_mask / t * sum(-math.log2(table_prob(state, t, i, image[i])) for i in masked)
    return total


PAPER_MODEL = exact_model(times=(2, 1), chance=lambda t: 1 / t)


def chi_square(samples, probabilities):
    """Pearson's statistic of sampled images [B, 1, 2]; 8 degrees of freedom: above 26.1 once in a thousand."""
    counts = (samples[:, 0, 0] * K + samples[:, 0, 1]).bincount(minlength=K * K)
    expected = probabilities * len(samples)
    return ((counts - expected) ** 2 / expected).sum().item()


def all_images(repeats):
    return torch.tensor(IMAGES).unsqueeze(1).repeat(repeats, 1, 1)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class Recorder:
    """Wraps a denoiser and keeps what it was asked."""

    def __init__(self, denoiser):
        self.denoiser, self.calls = denoiser, []

    def __call__(self, tokens, t):
        self.calls.append((tokens.clone(), t.clone()))
        return self.denoiser(tokens, t)

    def num_masked(self, mask_id):
        return [(tokens == mask_id).sum((1, 2)).tolist() for tokens, _ in self.calls]


def oracle(images, codebook_size):
    logits = torch.nn.functional.one_hot(images, codebook_size).movedim(-1, 1).float().log()  # 0 and -inf
    return lambda tokens, t: logits


def mixing_denoiser(tokens, t):
    """Logits [B, 5, h, w] that depend on position, t and the whole image, but not on the batch: exact in integers."""
    position = torch.arange(tokens[0].numel()).view(tokens.shape[1:])
    state = (tokens * (position + 1)).sum((1, 2)).view(-1, 1, 1, 1) + t.view(-1, 1, 1, 1)
    return (state + 3 * position + 7 * torch.arange(5).view(-1, 1, 1)) % 11 / 4


# ---------------------------------------------------------------- the bound and the model, by enumeration


def test_elbo_bits_is_the_enumerated_bound():
    exact = torch.tensor([exact_bound_bits(image) for image in IMAGES])
    bits = AbsorbingDiffusion((1, N), K).elbo_bits(table_denoiser, all_images(4000), seeded())
    bits = bits.view(-1, len(IMAGES))
    error = (bits.mean(0) - exact).abs()
    assert (error < 4 * bits.std(0) / len(bits) ** 0.5).all()
    assert not bits.requires_grad


def test_elbo_bounds_the_likelihood_of_the_sampled_process():
    exact = torch.tensor([exact_bound_bits(image) for image in IMAGES])
    assert PAPER_MODEL.sum().item() == pytest.approx(1, abs=1e-5)
    assert (-PAPER_MODEL.log2() <= exact + 1e-5).all()


def test_elbo_loss_is_the_bound_in_nats_per_token():
    exact = sum(map(exact_bound_bits, IMAGES)) / len(IMAGES) * math.log(2) / N
    loss = AbsorbingDiffusion((1, N), K, "elbo").loss(table_denoiser, all_images(4000), seeded())["loss"]
    assert loss.item() == pytest.approx(exact, rel=0.02)


@pytest.mark.parametrize(
    ("order", "sample_steps", "model"),
    [
        ("bernoulli", 2, PAPER_MODEL),
        ("bernoulli", 1, exact_model(times=(2,), chance=lambda t: 1.0)),
        ("random", 1, exact_model(times=(2,), chance=lambda t: 1.0)),
    ],
)
def test_sample_frequencies(order, sample_steps, model):
    diffusion = AbsorbingDiffusion((1, N), K)
    samples = diffusion.sample(table_denoiser, list(range(5000)), order=order, sample_steps=sample_steps)
    assert chi_square(samples, model) < 26.1


def test_p_sample_chain_frequencies():
    diffusion, n, generator = AbsorbingDiffusion((1, N), K), 5000, seeded()
    tokens = diffusion.prior(n)
    for t in (2, 1):
        tokens = diffusion.p_sample(table_denoiser, tokens, torch.full((n,), t), torch.full((n,), t - 1), generator)
    assert chi_square(tokens, PAPER_MODEL) < 26.1


def test_the_statistic_sees_a_wrong_model():
    samples = AbsorbingDiffusion((1, N), K).sample(table_denoiser, list(range(5000)), order="bernoulli")
    assert chi_square(samples, exact_model(times=(2,), chance=lambda t: 1.0)) > 100


# ---------------------------------------------------------------- forward process and objectives


def test_q_sample_masks_at_rate_t_over_n():
    diffusion = AbsorbingDiffusion((3, 4), 5)
    tokens = torch.randint(5, (13 * 3000, 3, 4), generator=seeded())
    t = torch.arange(13).repeat_interleave(3000)
    noisy = diffusion.q_sample(tokens, t, seeded(1))
    masked = noisy == diffusion.mask_id
    rate = masked.view(13, 3000, 12).float().mean(1)
    torch.testing.assert_close(rate, (torch.arange(13) / 12)[:, None].expand(13, 12), atol=0.04, rtol=0)
    assert (rate[0] == 0).all()
    assert (rate[12] == 1).all()
    assert torch.equal(noisy[~masked], tokens[~masked])
    assert torch.equal(diffusion.prior(2), torch.full((2, 3, 4), 5))


def test_times_are_stratified():
    recorder = Recorder(lambda tokens, t: torch.zeros(len(t), 5, 3, 4))
    diffusion = AbsorbingDiffusion((3, 4), 5)
    for seed in range(3000):
        diffusion.loss(recorder, torch.zeros(4, 3, 4, dtype=torch.int64), seeded(seed))
    times = torch.stack([t for _, t in recorder.calls])
    assert (times.diff(dim=1) % 12 == 3).all()  # evenly spaced over the cycle 1..12
    torch.testing.assert_close(
        times[:, 0].bincount(minlength=13)[1:] / 3000, torch.full((12,), 1 / 12), atol=0.02, rtol=0
    )


@pytest.mark.parametrize("name", LOSSES)
def test_loss_weights_by_hand(name):
    """With all logits equal each masked token costs ln K, so that the loss is a weighted count of the masks."""
    recorder = Recorder(lambda tokens, t: torch.zeros(len(t), 5, 2, 2))
    out = AbsorbingDiffusion((2, 2), 5, name).loss(recorder, torch.zeros(3, 2, 2, dtype=torch.int64), seeded(3))
    t, num_masked = recorder.calls[0][1], recorder.num_masked(5)[0]
    pairs = list(zip(t.tolist(), num_masked, strict=True))
    expected = {
        "elbo": sum(m / t for t, m in pairs) / 3,
        "reweighted": sum((1 - t / 4) / (4 * math.log(2)) * m for t, m in pairs) / 3,
        "masked_ce": 1,
    }[name]
    assert sum(num_masked) > 0
    assert out["loss"].item() == pytest.approx(math.log(5) * expected)
    assert out["cross_entropy"].item() == pytest.approx(math.log(5))
    assert out["accuracy"].item() == 1  # argmax of equal logits is the first code, here the right one


@pytest.mark.parametrize("name", LOSSES)
def test_loss_without_a_mask_is_zero(name, monkeypatch):
    diffusion = AbsorbingDiffusion((1, 2), 3, name)
    monkeypatch.setattr(diffusion, "q_sample", lambda tokens, t, generator: tokens)
    out = diffusion.loss(table_denoiser, torch.zeros(1, 1, 2, dtype=torch.int64))
    assert [out[key].item() for key in ("loss", "cross_entropy", "accuracy")] == [0, 0, 0]


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_reaches_only_masked_positions(name):
    logits = torch.randn(8, 5, 2, 2, generator=seeded()).requires_grad_()
    recorder = Recorder(lambda tokens, t: logits)
    out = AbsorbingDiffusion((2, 2), 5, name).loss(recorder, torch.ones(8, 2, 2, dtype=torch.int64), seeded())
    out["loss"].backward()
    tokens, t = recorder.calls[0]
    has_gradient = logits.grad.abs().sum(1) > 0
    expected = tokens == 5
    if name == "reweighted":
        expected &= (t < 4).view(-1, 1, 1)
    assert torch.equal(has_gradient, expected)
    assert not out["accuracy"].requires_grad
    assert not out["cross_entropy"].requires_grad


def test_bf16_logits_are_scored_in_float32():
    logits = torch.randn(4, 5, 2, 2, generator=seeded()).bfloat16()
    tokens = torch.randint(5, (4, 2, 2), generator=seeded())
    diffusion = AbsorbingDiffusion((2, 2), 5)
    half = diffusion.loss(lambda tokens, t: logits, tokens, seeded())
    full = diffusion.loss(lambda tokens, t: logits.float(), tokens, seeded())
    assert half["loss"].dtype == torch.float32
    assert all(torch.equal(half[key], full[key]) for key in half)
    assert diffusion.sample(lambda tokens, t: logits, [0, 1, 2, 3]).max() < 5


# ---------------------------------------------------------------- the sampler


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("sample_steps", [1, 5, 12, None])
def test_oracle_comes_back_and_visible_tokens_never_change(order, sample_steps):
    diffusion = AbsorbingDiffusion((3, 4), 5)
    images = torch.randint(1, 5, (6, 3, 4), generator=seeded())
    recorder = Recorder(oracle(images, 5))
    assert torch.equal(diffusion.sample(recorder, list(range(6)), order=order, sample_steps=sample_steps), images)
    for tokens, _ in recorder.calls:
        done = (tokens == 0).all(2).all(1)  # its place in the batch has no image any more
        assert ((tokens == images) | (tokens == 5))[~done].all()
    remaining = torch.tensor(recorder.num_masked(5))
    assert (remaining[0] == 12).all()
    assert (remaining.diff(dim=0) <= 0).all()


@pytest.mark.parametrize("order", ["random", "halton"])
@pytest.mark.parametrize("sample_steps", [1, 5, 12])
def test_ranked_orders_split_evenly_over_exactly_the_calls(order, sample_steps):
    recorder, progress = Recorder(mixing_denoiser), []
    diffusion = AbsorbingDiffusion((3, 4), 5)
    diffusion.sample(
        recorder, [3, 4], order=order, sample_steps=sample_steps, progress=lambda *done: progress.append(done)
    )
    assert len(recorder.calls) == sample_steps
    assert progress == [(i + 1, sample_steps) for i in range(sample_steps)]
    remaining = torch.tensor([*recorder.num_masked(5), [0, 0]])
    unmasked = -remaining.diff(dim=0)
    assert unmasked.min() >= 12 // sample_steps
    assert unmasked.max() <= math.ceil(12 / sample_steps)
    times = [t.unique().item() for _, t in recorder.calls]
    assert times == [math.ceil(12 * (sample_steps - c) / sample_steps) for c in range(sample_steps)]


def test_cosine_schedule_unmasks_few_at_first():
    recorder, diffusion = Recorder(mixing_denoiser), AbsorbingDiffusion((7, 7), 5)
    tokens = diffusion.sample(recorder, [0, 1], sample_steps=8, schedule="cosine")
    assert tokens.max() < 5
    masked = [49, 48, 45, 40, 34, 27, 18, 9]  # as many as have not come up at 49 (1 - cos(pi / 2 * c / 8))
    assert recorder.num_masked(5) == [[count] * 2 for count in masked]
    times = [math.ceil(49 * math.cos(math.pi / 2 * c / 8)) for c in range(8)]
    assert [t.tolist() for _, t in recorder.calls] == [[t] * 2 for t in times]


def test_cosine_schedule_of_bernoulli_calls():
    noise = torch.rand(4000, 12, generator=seeded())
    calls = unmask_schedule("bernoulli", noise, torch.ones(4000, 3, 4, dtype=torch.bool), 4, "cosine")
    left = [math.cos(math.pi / 2 * c / 4) for c in range(5)]
    expected = -torch.tensor(left).diff()
    torch.testing.assert_close(calls.flatten().bincount() / calls.numel(), expected, atol=0.01, rtol=0)


def test_bernoulli_call_is_uniform_and_empty_calls_are_skipped():
    noise = torch.rand(2000, 12, generator=seeded())
    calls = unmask_schedule("bernoulli", noise, torch.ones(2000, 3, 4, dtype=torch.bool), 7)
    torch.testing.assert_close(calls.flatten().bincount() / calls.numel(), torch.full((7,), 1 / 7), atol=0.01, rtol=0)

    recorder = Recorder(mixing_denoiser)
    AbsorbingDiffusion((3, 4), 5).sample(recorder, [0], order="bernoulli")
    remaining = [masked for (masked,) in recorder.num_masked(5)]
    assert len(remaining) < 12
    assert remaining == sorted(set(remaining), reverse=True)


@pytest.mark.parametrize("batch_size", [1, 3, 8])
@pytest.mark.parametrize("order", ORDERS)
def test_images_share_a_smaller_or_larger_batch(order, batch_size):
    """Every image has its own calls at its own times, whichever place of the batch it has."""
    diffusion, recorder = AbsorbingDiffusion((3, 4), 5), Recorder(mixing_denoiser)
    known = torch.full((5, 3, 4), 5)
    known[1, 0], known[3] = 2, 4  # the last one needs no call
    options = {"order": order, "sample_steps": 7, "known": known}
    expected = diffusion.sample(mixing_denoiser, list(range(5)), **options)
    assert torch.equal(diffusion.sample(recorder, list(range(5)), batch_size=batch_size, **options), expected)
    assert {len(tokens) for tokens, _ in recorder.calls} == {batch_size}


def test_call_plan_by_hand():
    """Two places, images with 2, 1, no and 3 calls."""
    unmask_call = torch.tensor([[0, 4, 4], [3, 3, -1], [-1, -1, -1], [1, 2, 5]]).unsqueeze(1)
    rows, calls = call_plan(unmask_call, 2, idle=9)
    assert rows.tolist() == [[0, 1], [0, 3], [4, 3], [4, 3]]
    assert calls.tolist() == [[0, 3], [4, 1], [9, 2], [9, 5]]


def test_bernoulli_leaves_out_the_calls_that_unmask_nothing():
    recorder, n, steps = Recorder(mixing_denoiser), 200, 12
    AbsorbingDiffusion((3, 4), 5).sample(recorder, list(range(n)), order="bernoulli", batch_size=4)
    expected = n * steps * (1 - (1 - 1 / steps) ** steps)
    assert 4 * len(recorder.calls) == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("order", ORDERS)
def test_one_seed_per_image_whatever_the_batch(order):
    diffusion, seeds = AbsorbingDiffusion((3, 4), 5), [5, 0, 7, 2**40, 5]
    known = torch.full((5, 3, 4), 5)
    known[1, 0], known[3, :, 1:] = 2, 4
    for given in (None, known):
        together = diffusion.sample(mixing_denoiser, seeds, order=order, sample_steps=5, known=given)
        for rows in (slice(0, 2), slice(1, 4), slice(4, 5)):
            part = None if given is None else given[rows]
            alone = diffusion.sample(mixing_denoiser, seeds[rows], order=order, sample_steps=5, known=part)
            assert torch.equal(alone, together[rows])
        assert torch.equal(together[0], together[4])
        assert not torch.equal(together[0], together[2])


@pytest.mark.parametrize("order", ORDERS)
def test_known_tokens_stay_and_only_free_positions_are_scheduled(order):
    diffusion = AbsorbingDiffusion((3, 4), 5)
    known = torch.randint(5, (3, 3, 4), generator=seeded())
    free = torch.zeros_like(known, dtype=torch.bool)
    free[0, 1:], free[1, 0, :2] = True, True  # 8 free, 2 free, none
    given = known.masked_fill(free, 5)
    recorder = Recorder(mixing_denoiser)
    filled = diffusion.sample(recorder, [0, 1, 2], order=order, sample_steps=4, known=given)
    assert torch.equal(filled[~free], known[~free])
    assert filled.max() < 5
    assert torch.equal(given == 5, free)  # the argument is not written to
    if order != "bernoulli":
        assert recorder.num_masked(5) == [[8, 2, 0], [6, 1, 0], [4, 0, 0], [2, 0, 0]]


def test_nucleus_by_hand():
    probabilities = torch.tensor([0.1, 0.5, 0.3, 0.1 - 1e-6, 1e-6]).view(1, 5, 1, 1)
    for top_p, kept in ((0.4, [1]), (0.5 + 1e-6, [1, 2]), (0.85, [0, 1, 2]), (1.0, [0, 1, 2, 3, 4])):
        assert nucleus(probabilities.log(), top_p).flatten().nonzero().flatten().tolist() == kept


def test_only_tokens_of_the_nucleus_are_drawn():
    def denoiser(tokens, t):
        return torch.tensor([0.5, 0.3, 0.15, 0.05]).log().view(1, 4, 1, 1).expand(len(tokens), 4, 3, 4)

    diffusion, seeds = AbsorbingDiffusion((3, 4), 4), list(range(200))
    shares = [diffusion.sample(denoiser, seeds, top_p=p).flatten().bincount(minlength=4) / 2400 for p in (1.0, 0.7)]
    torch.testing.assert_close(shares[0], torch.tensor([0.5, 0.3, 0.15, 0.05]), atol=0.03, rtol=0)
    torch.testing.assert_close(shares[1], torch.tensor([0.625, 0.375, 0, 0]), atol=0.03, rtol=0)
    hotter = diffusion.sample(denoiser, seeds, top_p=0.7, temperature=2.0)  # of what the temperature makes of them
    assert hotter.max() == 2
    assert diffusion.sample(denoiser, seeds, top_p=0.7, temperature=0.0).max() == 0


@pytest.fixture
def temperatures(monkeypatch):
    """Those of the images of each call, as they are made."""
    used = []

    def recorded(denoiser, tokens, t, chosen, gumbel, temperature, top_p):
        used.append(temperature.flatten().tolist())
        return unmask(denoiser, tokens, t, chosen, gumbel, temperature, top_p)

    monkeypatch.setattr(absorbing, "unmask", recorded)
    return used


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"sample_steps": 4}, [2.0, 1.5, 1.0, 0.5]),
        ({"sample_steps": 4, "last_temperature": None}, [2.0] * 4),
        ({"sample_steps": 6, "remask_calls": 2}, [2.0, 1.5, 1.0, 0.5, 0.5, 0.5]),
        ({"sample_steps": 1}, [2.0]),
    ],
)
def test_temperature_goes_from_the_first_call_to_the_last(settings, expected, temperatures):
    diffusion = AbsorbingDiffusion((3, 4), 5)
    diffusion.sample(mixing_denoiser, [0, 1], **({"temperature": 2.0, "last_temperature": 0.5} | settings))
    assert temperatures == [[value] * 2 for value in expected]


def test_temperature_starts_on_the_way_where_much_is_known(temperatures):
    diffusion = AbsorbingDiffusion((2, 4), 5)
    known = torch.full((1, 2, 4), 5)
    known[:, 0] = 0
    known[:, 1, 0] = 0  # five of eight
    diffusion.sample(mixing_denoiser, [0], sample_steps=4, temperature=0.8, last_temperature=0.0, known=known)
    torch.testing.assert_close(torch.tensor(temperatures).flatten(), torch.tensor([0.3, 0.15, 0.0]))


def test_images_in_one_batch_are_drawn_each_at_its_own_temperature():
    """As the Bernoulli order skips calls, an image is ahead of its neighbour in the batch."""
    diffusion = AbsorbingDiffusion((3, 4), 5)
    settings = {"order": "bernoulli", "temperature": 2.0, "last_temperature": 0.0}
    together = diffusion.sample(mixing_denoiser, [0, 1, 2], **settings)
    alone = [diffusion.sample(mixing_denoiser, [seed], **settings) for seed in (0, 1, 2)]
    assert torch.equal(together, torch.cat(alone))
    assert not torch.equal(together, diffusion.sample(mixing_denoiser, [0, 1, 2], **settings | {"last_temperature": 2}))


def test_remasking_draws_everything_once_more():
    diffusion, recorder = AbsorbingDiffusion((3, 4), 5), Recorder(mixing_denoiser)
    known = torch.full((2, 3, 4), 5)
    known[1, 0] = torch.tensor([0, 1, 2, 3])
    made = diffusion.sample(recorder, [0, 1], sample_steps=7, remask_calls=3, known=known)
    assert recorder.num_masked(5) == [[12, 8], [9, 6], [6, 4], [3, 2], [4, 3], [4, 3], [4, 2]]
    assert [t.tolist() for _, t in recorder.calls] == [[12] * 2, [9] * 2, [6] * 2, [3] * 2, [4] * 2, [4] * 2, [4] * 2]
    again = torch.stack([tokens == 5 for tokens, _ in recorder.calls[4:]]).sum(0)
    assert torch.equal(again, (known == 5).long())  # each place once, and what was known never
    assert torch.equal(made[1, 0], known[1, 0])
    plain = diffusion.sample(mixing_denoiser, [0, 1], sample_steps=4, known=known)
    first = recorder.calls[4][0]
    assert torch.equal(first.where(first != 5, plain), plain)  # until then as without
    assert not torch.equal(made, plain)


def test_remasking_mends_what_was_drawn_at_once():
    """Both places drawn in one call are independent; drawing each again, given the other, brings the joint back."""
    joint = torch.tensor([[0.30, 0.02, 0.01], [0.02, 0.25, 0.03], [0.02, 0.05, 0.30]])

    def conditionals(tokens, t):
        first, second = tokens[:, 0, 0], tokens[:, 0, 1]
        of_first = torch.where((second == MASK)[:, None], joint.sum(1), joint.T[second.clamp(max=K - 1)])
        of_second = torch.where((first == MASK)[:, None], joint.sum(0), joint[first.clamp(max=K - 1)])
        return torch.stack([of_first, of_second], dim=2).unsqueeze(2).log()

    seeds, diffusion = list(range(4000)), AbsorbingDiffusion((1, N), K)
    at_once = diffusion.sample(conditionals, seeds, sample_steps=1)
    independent = (joint.sum(1, keepdim=True) * joint.sum(0)).flatten()
    assert chi_square(at_once, independent) < 26.1
    exact = diffusion.sample(conditionals, seeds, sample_steps=4, remask_calls=2)
    assert chi_square(exact, joint.flatten()) < 26.1  # right already, and left so
    mended = diffusion.sample(conditionals, seeds, sample_steps=3, remask_calls=2)
    assert chi_square(mended, joint.flatten()) < 0.1 * chi_square(at_once, joint.flatten())


def test_fully_known_needs_no_call():
    recorder, known = Recorder(mixing_denoiser), torch.ones(2, 3, 4, dtype=torch.int64)
    filled = AbsorbingDiffusion((3, 4), 5).sample(recorder, [0, 1], known=known)
    assert torch.equal(filled, known)
    assert filled.data_ptr() != known.data_ptr()
    assert recorder.calls == []


def test_temperature():
    diffusion = AbsorbingDiffusion((1, 1), 3)
    logits = torch.tensor([0.0, 1.0, 0.5]).view(1, 3, 1, 1)
    seeds = list(range(4000))

    def frequencies(temperature):
        samples = diffusion.sample(lambda tokens, t: logits.expand(4000, -1, -1, -1), seeds, temperature=temperature)
        return samples.flatten().bincount(minlength=3) / 4000

    assert torch.equal(frequencies(0), torch.tensor([0.0, 1.0, 0.0]))
    for temperature in (0.5, 1.0, 2.0):
        expected = (logits.flatten() / temperature).softmax(0)
        torch.testing.assert_close(frequencies(temperature), expected, atol=0.03, rtol=0)


def test_p_sample_unmasks_at_the_posterior_rate():
    diffusion, images = AbsorbingDiffusion((3, 4), 5), torch.randint(5, (3000, 3, 4), generator=seeded())
    t, s = torch.full((3000,), 8), torch.full((3000,), 2)
    before = diffusion.q_sample(images, t, seeded(1))
    after = diffusion.p_sample(oracle(images, 5), before, t, s, seeded(2), temperature=0)
    visible = before != 5
    assert torch.equal(after[visible], before[visible])
    assert ((after == images) | (after == 5)).all()
    assert (after == 5).float().mean().item() == pytest.approx(2 / 12, abs=0.01)


@pytest.mark.parametrize("grid", [(7, 7), (8, 9), (1, 5), (16, 16)])
def test_halton_order_is_a_permutation(grid):
    assert sorted(halton_order(grid).tolist()) == list(range(math.prod(grid)))


def test_halton_schedule_visits_the_cells_in_halton_order():
    calls = unmask_schedule("halton", torch.rand(2, 56), torch.ones(2, 7, 8, dtype=torch.bool), 56)
    assert torch.equal(calls.flatten(1).argsort(1), halton_order((7, 8)).expand(2, 56))


def test_halton_order_is_spread():
    """Six points in a row fall one into each of 2 x 3 blocks, told by their indices mod 2 and mod 3."""
    cells = halton_order((8, 9))[:6]
    assert len(set(zip((cells // 9 // 4).tolist(), (cells % 9 // 3).tolist(), strict=True))) == 6
    assert cells[:2].tolist() == [4 * 9 + 3, 2 * 9 + 6]  # (1/2, 1/3), (1/4, 2/3)


# ---------------------------------------------------------------- what a person can get wrong


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"grid": (2, 2), "codebook_size": 3, "loss": "mse"}, "elbo, reweighted, masked_ce"),
        ({"grid": (0, 2), "codebook_size": 3}, "at least 1"),
        ({"grid": (2, 2), "codebook_size": 0}, "at least 1"),
    ],
)
def test_constructor_errors(arguments, message):
    with pytest.raises(InputError, match=message):
        AbsorbingDiffusion(**arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -0.1}, ">= 0"),
        ({"temperature": math.inf}, "finite"),
        ({"temperature": math.nan}, "finite"),
        ({"last_temperature": -0.1}, "last_temperature must be finite and >= 0"),
        ({"top_p": 0.0}, r"top_p must be in \(0, 1\]"),
        ({"sample_steps": 0}, r"1\.\.12; got 0"),
        ({"sample_steps": 13}, r"1\.\.12; got 13"),
        ({"order": "raster"}, "bernoulli, random, halton"),
        ({"schedule": "square"}, "schedule.*linear, cosine.*'square'"),
        ({"remask_calls": -1}, "remask_calls must be at least 0; got -1"),
        ({"sample_steps": 4, "remask_calls": 4}, r"sample_steps must be in 5\.\.16; got 4"),
        ({"known": torch.zeros(2, 4, 3, dtype=torch.int64)}, r"\[2, 3, 4\].*got \[2, 4, 3\]"),
        ({"known": torch.zeros(3, 3, 4, dtype=torch.int64)}, r"\[2, 3, 4\].*got \[3, 3, 4\]"),
        ({"known": torch.full((2, 3, 4), -1)}, r"0\.\.4, or 5"),
        ({"known": torch.full((2, 3, 4), 6)}, r"0\.\.4, or 5"),
        ({"seeds": []}, "at least one seed"),
        ({"batch_size": 0}, "batch_size must be at least 1.*got 0"),
    ],
)
def test_sample_errors(options, message):
    with pytest.raises(InputError, match=message):
        AbsorbingDiffusion((3, 4), 5).sample(mixing_denoiser, **{"seeds": [0, 1], **options})


def test_step_errors():
    diffusion, t = AbsorbingDiffusion((3, 4), 5), torch.tensor([4])
    with pytest.raises(InputError, match=r"\[B, 3, 4\].*got \[1, 4, 3\]"):
        diffusion.q_sample(torch.zeros(1, 4, 3, dtype=torch.int64), t)
    with pytest.raises(InputError, match="s < t"):
        diffusion.p_sample(mixing_denoiser, diffusion.prior(1), t, t)
    with pytest.raises(InputError, match="t <= 12"):
        diffusion.p_sample(mixing_denoiser, diffusion.prior(1), 4 * t, t)
    with pytest.raises(InputError, match="temperature"):
        diffusion.p_sample(mixing_denoiser, diffusion.prior(1), t, t - 1, temperature=-1)

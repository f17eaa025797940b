"""The absorbing sampler: exact frequencies on an enumerable case, oracles, counts."""

import math

import pytest
import torch
from token_denoisers import (
    GRIDS,
    PAPER_MODEL,
    K,
    N,
    Recorder,
    chi_square,
    exact_model,
    mixing_denoiser,
    oracle,
    sample,
    seeded,
    table_denoiser,
)

from spiking_vq.diffusion import absorbing_sampler
from spiking_vq.diffusion.absorbing import AbsorbingDiffusion
from spiking_vq.diffusion.absorbing_sampler import AbsorbingSampler, AbsorbingSamplerOptions, draw_chosen, nucleus
from spiking_vq.diffusion.unmasking import ORDERS
from spiking_vq.errors import InputError


@pytest.mark.parametrize(
    ("order", "sample_steps", "model"),
    [
        ("bernoulli", 2, PAPER_MODEL),
        ("bernoulli", 1, exact_model(times=(2,), chance=lambda t: 1.0)),
        ("random", 1, exact_model(times=(2,), chance=lambda t: 1.0)),
    ],
)
@pytest.mark.parametrize("grid", GRIDS)
def test_sample_frequencies(order, sample_steps, model, grid):
    diffusion = AbsorbingDiffusion(grid, K)
    options = {"order": order, "sample_steps": sample_steps, "batch_size": 250}
    samples = sample(diffusion, table_denoiser, list(range(5000)), **options)
    assert chi_square(samples, model) < 26.1


@pytest.mark.parametrize("grid", [(1, 3, 4), (2, 2, 3)])
@pytest.mark.parametrize("sample_steps", [1, 3, 5, 12])
def test_the_loop_written_out(sample_steps, grid):
    """One image at a time, position by position: the random order, and draws by the Gumbel-max trick."""
    known = torch.full((4, *grid), 5)
    known[2].view(-1)[:2] = torch.tensor([1, 4])
    expected = known.clone()
    for seed, image in enumerate(expected.view(4, 12)):
        generator = seeded(seed)
        order_noise, uniform = (torch.rand(shape, generator=generator) for shape in (12, (12, 5)))
        gumbel = -(-uniform.log()).log()
        free = [position for position in order_noise.argsort().tolist() if image[position] == 5]
        calls = min(sample_steps, len(free))
        for call in range(calls):
            t = math.ceil(12 * (sample_steps - call) / sample_steps)
            logits = mixing_denoiser(image.view(1, *grid).clone(), torch.tensor([t])).view(5, 12)
            for rank, position in enumerate(free):
                if rank * calls // len(free) == call:
                    image[position] = (logits[:, position] + gumbel[position]).argmax()
    diffusion = AbsorbingDiffusion(grid, 5)
    found = sample(diffusion, mixing_denoiser, range(4), known, batch_size=2, sample_steps=sample_steps)
    assert torch.equal(found, expected)


def test_the_statistic_sees_a_wrong_model():
    diffusion, seeds = AbsorbingDiffusion((1, 1, N), K), list(range(5000))
    samples = sample(diffusion, table_denoiser, seeds, batch_size=250, order="bernoulli")
    assert chi_square(samples, exact_model(times=(2,), chance=lambda t: 1.0)) > 100


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("sample_steps", [1, 5, 12, None])
def test_oracle_comes_back_and_visible_tokens_never_change(order, sample_steps):
    diffusion = AbsorbingDiffusion((2, 2, 3), 5)
    images = torch.randint(1, 5, (6, 2, 2, 3), generator=seeded())
    recorder = Recorder(oracle(images, 5))
    assert torch.equal(sample(diffusion, recorder, list(range(6)), order=order, sample_steps=sample_steps), images)
    for tokens, _ in recorder.calls:
        done = (tokens == 0).flatten(1).all(1)  # its slot in the batch has no image any more
        assert ((tokens == images) | (tokens == 5))[~done].all()
    remaining = torch.tensor(recorder.num_masked(5))
    assert (remaining[0] == 12).all()
    assert (remaining.diff(dim=0) <= 0).all()


@pytest.mark.parametrize("order", ["random", "halton"])
@pytest.mark.parametrize("sample_steps", [1, 5, 12])
def test_ranked_orders_split_evenly_over_exactly_the_calls(order, sample_steps):
    recorder, options = Recorder(mixing_denoiser), AbsorbingSamplerOptions(order=order, sample_steps=sample_steps)
    states = list(AbsorbingSampler(AbsorbingDiffusion((1, 3, 4), 5), options).states(recorder, [3, 4]))
    assert len(recorder.calls) == sample_steps
    assert [state[1:] for state in states] == [(calls, sample_steps) for calls in range(sample_steps + 1)]
    for state, (seen, _) in zip(states, recorder.calls, strict=False):
        assert torch.equal(state.x, seen)  # what the next call sees; no state is written to afterwards
    assert states[-1].x.max() < 5
    remaining = torch.tensor([*recorder.num_masked(5), [0, 0]])
    unmasked = -remaining.diff(dim=0)
    assert unmasked.min() >= 12 // sample_steps
    assert unmasked.max() <= math.ceil(12 / sample_steps)
    times = [t.unique().item() for _, t in recorder.calls]
    assert times == [math.ceil(12 * (sample_steps - c) / sample_steps) for c in range(sample_steps)]


def test_cosine_schedule_unmasks_few_at_first():
    recorder, diffusion = Recorder(mixing_denoiser), AbsorbingDiffusion((1, 7, 7), 5)
    tokens = sample(diffusion, recorder, [0, 1], sample_steps=8, schedule="cosine")
    assert tokens.max() < 5
    masked = [49, 48, 45, 40, 34, 27, 18, 9]  # as many as have not come up at 49 (1 - cos(pi / 2 * c / 8))
    assert recorder.num_masked(5) == [[count] * 2 for count in masked]
    times = [math.ceil(49 * math.cos(math.pi / 2 * c / 8)) for c in range(8)]
    assert [t.tolist() for _, t in recorder.calls] == [[t] * 2 for t in times]


def test_empty_calls_of_the_bernoulli_order_are_skipped():
    recorder = Recorder(mixing_denoiser)
    sample(AbsorbingDiffusion((1, 3, 4), 5), recorder, [0], order="bernoulli")
    remaining = [masked for (masked,) in recorder.num_masked(5)]
    assert len(remaining) < 12
    assert remaining == sorted(set(remaining), reverse=True)


@pytest.mark.parametrize("batch_size", [1, 3, 8])
@pytest.mark.parametrize("order", ORDERS)
def test_images_share_a_smaller_or_larger_batch(order, batch_size):
    """Every image has its own calls at its own times, in whichever slot of the batch."""
    diffusion, recorder = AbsorbingDiffusion((1, 3, 4), 5), Recorder(mixing_denoiser)
    known = torch.full((5, 1, 3, 4), 5)
    known[1, :, 0], known[3] = 2, 4  # the last one needs no call
    options = {"order": order, "sample_steps": 7, "known": known}
    expected = sample(diffusion, mixing_denoiser, list(range(5)), **options)
    assert torch.equal(sample(diffusion, recorder, list(range(5)), batch_size=batch_size, **options), expected)
    assert {len(tokens) for tokens, _ in recorder.calls} == {batch_size}


def test_bernoulli_leaves_out_the_calls_that_unmask_nothing():
    recorder, n, steps = Recorder(mixing_denoiser), 200, 12
    sample(AbsorbingDiffusion((1, 3, 4), 5), recorder, list(range(n)), order="bernoulli", batch_size=4)
    expected = n * steps * (1 - (1 - 1 / steps) ** steps)
    assert 4 * len(recorder.calls) == pytest.approx(expected, rel=0.03)


def test_noise_is_drawn_for_the_images_that_have_a_slot(monkeypatch):
    """With many classes the noise of all images would not fit into memory."""
    drawn, draw = [], absorbing_sampler.gumbel_noise
    monkeypatch.setattr(absorbing_sampler, "gumbel_noise", lambda *given: drawn.append(1) or draw(*given))
    sampler = AbsorbingSampler(AbsorbingDiffusion((2, 2, 3), 5), AbsorbingSamplerOptions(sample_steps=4))
    made = [len(drawn) for _ in sampler.states(mixing_denoiser, range(6), batch_size=2)]
    assert made == [0, *[2] * 4, *[4] * 4, *[6] * 4]


@pytest.mark.parametrize("grid", [(1, 3, 4), (2, 2, 3)])
@pytest.mark.parametrize("order", ORDERS)
def test_one_seed_per_image_whatever_the_batch(order, grid):
    diffusion, seeds = AbsorbingDiffusion(grid, 5), [5, 0, 7, 2**40, 5]
    known = torch.full((5, *grid), 5)
    known[1, :, 0], known[3, :, :, 1:] = 2, 4
    for given in (None, known):
        together = sample(diffusion, mixing_denoiser, seeds, order=order, sample_steps=5, known=given)
        for rows in (slice(0, 2), slice(1, 4), slice(4, 5)):
            part = None if given is None else given[rows]
            alone = sample(diffusion, mixing_denoiser, seeds[rows], order=order, sample_steps=5, known=part)
            assert torch.equal(alone, together[rows])
        assert torch.equal(together[0], together[4])
        assert not torch.equal(together[0], together[2])


@pytest.mark.parametrize("order", ORDERS)
def test_known_tokens_stay_and_only_free_positions_are_scheduled(order):
    diffusion = AbsorbingDiffusion((1, 3, 4), 5)
    known = torch.randint(5, (3, 1, 3, 4), generator=seeded())
    free = torch.zeros_like(known, dtype=torch.bool)
    free[0, :, 1:], free[1, :, 0, :2] = True, True  # 8 free, 2 free, none
    given = known.masked_fill(free, 5)
    recorder = Recorder(mixing_denoiser)
    filled = sample(diffusion, recorder, [0, 1, 2], order=order, sample_steps=4, known=given)
    assert torch.equal(filled[~free], known[~free])
    assert filled.max() < 5
    assert torch.equal(given == 5, free)  # the argument is not written to
    if order != "bernoulli":
        assert recorder.num_masked(5) == [[8, 2, 0], [6, 1, 0], [4, 0, 0], [2, 0, 0]]


def test_nucleus_by_hand():
    probabilities = torch.tensor([0.1, 0.5, 0.3, 0.1 - 1e-6, 1e-6]).view(1, 5, 1, 1, 1)
    for top_p, kept in ((0.4, [1]), (0.5 + 1e-6, [1, 2]), (0.85, [0, 1, 2]), (1.0, [0, 1, 2, 3, 4])):
        assert nucleus(probabilities.log(), top_p).flatten().nonzero().flatten().tolist() == kept


def test_only_tokens_of_the_nucleus_are_drawn():
    def denoiser(tokens, t):
        return torch.tensor([0.5, 0.3, 0.15, 0.05]).log().view(1, 4, 1, 1, 1).expand(len(tokens), 4, 1, 3, 4)

    diffusion, seeds = AbsorbingDiffusion((1, 3, 4), 4), list(range(200))
    shares = [sample(diffusion, denoiser, seeds, top_p=p).flatten().bincount(minlength=4) / 2400 for p in (1.0, 0.7)]
    torch.testing.assert_close(shares[0], torch.tensor([0.5, 0.3, 0.15, 0.05]), atol=0.03, rtol=0)
    torch.testing.assert_close(shares[1], torch.tensor([0.625, 0.375, 0, 0]), atol=0.03, rtol=0)
    hotter = sample(diffusion, denoiser, seeds, top_p=0.7, temperature=2.0)  # of what the temperature makes of them
    assert hotter.max() == 2
    assert sample(diffusion, denoiser, seeds, top_p=0.7, temperature=0.0).max() == 0


@pytest.fixture
def temperatures(monkeypatch):
    """Temperatures of the images of each call, filled as they are made."""
    used = []

    def recorded(logits, tokens, chosen, gumbel, temperature, top_p):
        used.append(temperature.flatten().tolist())
        return draw_chosen(logits, tokens, chosen, gumbel, temperature, top_p)

    monkeypatch.setattr(absorbing_sampler, "draw_chosen", recorded)
    return used


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"sample_steps": 4}, [2.0, 1.5, 1.0, 0.5]),
        ({"sample_steps": 4, "last_temperature": None}, [2.0] * 4),
        ({"sample_steps": 1}, [2.0]),
    ],
)
def test_temperature_goes_from_the_first_call_to_the_last(settings, expected, temperatures):
    diffusion = AbsorbingDiffusion((1, 3, 4), 5)
    sample(diffusion, mixing_denoiser, [0, 1], **({"temperature": 2.0, "last_temperature": 0.5} | settings))
    assert temperatures == [[value] * 2 for value in expected]


def test_temperature_starts_on_the_way_where_much_is_known(temperatures):
    diffusion = AbsorbingDiffusion((1, 2, 4), 5)
    known = torch.full((1, 1, 2, 4), 5)
    known[..., 0, :] = 0
    known[..., 1, 0] = 0  # five of eight
    sample(diffusion, mixing_denoiser, [0], sample_steps=4, temperature=0.8, last_temperature=0.0, known=known)
    torch.testing.assert_close(torch.tensor(temperatures).flatten(), torch.tensor([0.3, 0.15, 0.0]))


def test_images_in_one_batch_are_drawn_each_at_its_own_temperature():
    """As the Bernoulli order skips calls, an image is ahead of its neighbour in the batch."""
    diffusion = AbsorbingDiffusion((1, 3, 4), 5)
    settings = {"order": "bernoulli", "temperature": 2.0, "last_temperature": 0.0}
    together = sample(diffusion, mixing_denoiser, [0, 1, 2], **settings)
    alone = [sample(diffusion, mixing_denoiser, [seed], **settings) for seed in (0, 1, 2)]
    assert torch.equal(together, torch.cat(alone))
    assert not torch.equal(
        together, sample(diffusion, mixing_denoiser, [0, 1, 2], **settings | {"last_temperature": 2})
    )


def test_fully_known_needs_no_call():
    recorder, known = Recorder(mixing_denoiser), torch.ones(2, 1, 3, 4, dtype=torch.int64)
    filled = sample(AbsorbingDiffusion((1, 3, 4), 5), recorder, [0, 1], known=known)
    assert torch.equal(filled, known)
    assert filled.data_ptr() != known.data_ptr()
    assert recorder.calls == []


def test_labels_go_with_their_images():
    """Logits that are the label alone, with images that change their slots."""

    def denoiser(tokens, t, labels):
        return torch.nn.functional.one_hot(labels, 5).view(-1, 5, 1, 1, 1).expand(-1, -1, 1, 3, 4).float().log()

    labels, known = torch.tensor([3, 1, 4, 0, 2]), torch.full((5, 1, 3, 4), 5)
    known[1, :, 0], known[3] = 1, 0
    for options in ({"batch_size": 2}, {"order": "bernoulli", "batch_size": 3}, {"sample_steps": 1}):
        made = sample(AbsorbingDiffusion((1, 3, 4), 5), denoiser, range(5), known, labels, **options)
        assert torch.equal(made, labels.view(5, 1, 1, 1).expand(5, 1, 3, 4))


def test_bf16_logits_are_drawn_in_float32():
    logits = torch.randn(4, 5, 1, 2, 2, generator=seeded()).bfloat16()
    drawn = [
        sample(AbsorbingDiffusion((1, 2, 2), 5), lambda tokens, t, x=x: x, range(4), sample_steps=1)
        for x in (logits, logits.float())
    ]
    assert torch.equal(*drawn)


def test_temperature():
    diffusion = AbsorbingDiffusion((1, 1, 1), 3)
    logits = torch.tensor([0.0, 1.0, 0.5]).view(1, 3, 1, 1, 1)
    seeds = list(range(4000))

    def frequencies(temperature):
        options = {"temperature": temperature, "batch_size": 250}
        samples = sample(diffusion, lambda tokens, t: logits.expand(len(tokens), -1, -1, -1, -1), seeds, **options)
        return samples.flatten().bincount(minlength=3) / 4000

    assert torch.equal(frequencies(0), torch.tensor([0.0, 1.0, 0.0]))
    for temperature in (0.5, 1.0, 2.0):
        expected = (logits.flatten() / temperature).softmax(0)
        torch.testing.assert_close(frequencies(temperature), expected, atol=0.03, rtol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -0.1}, "temperature must be at least 0; got -0.1"),
        ({"temperature": math.inf}, "finite"),
        ({"temperature": math.nan}, "finite"),
        ({"last_temperature": -0.1}, "last_temperature must be at least 0"),
        ({"top_p": 0.0}, r"top_p must be in \(0, 1\]"),
        ({"sample_steps": 0}, "sample_steps must be at least 1; got 0"),
        ({"sample_steps": 13}, r"1\.\.12; got 13"),
        ({"order": "raster"}, "bernoulli, random, halton"),
        ({"schedule": "square"}, "schedule.*linear, cosine.*'square'"),
        ({"known": torch.zeros(2, 1, 4, 3, dtype=torch.int64)}, r"\[2, 1, 3, 4\].*got \[2, 1, 4, 3\]"),
        ({"known": torch.zeros(3, 1, 3, 4, dtype=torch.int64)}, r"\[2, 1, 3, 4\].*got \[3, 1, 3, 4\]"),
        ({"known": torch.full((2, 1, 3, 4), -1)}, r"0\.\.4, or 5"),
        ({"known": torch.full((2, 1, 3, 4), 6)}, r"0\.\.4, or 5"),
        ({"seeds": []}, "at least one seed"),
        ({"batch_size": 0}, "batch_size must be at least 1.*got 0"),
    ],
)
def test_sample_errors(options, message):
    with pytest.raises(InputError, match=message):
        sample(AbsorbingDiffusion((1, 3, 4), 5), mixing_denoiser, **{"seeds": [0, 1], **options})


def test_options_check_themselves():
    with pytest.raises(InputError, match="order must be one of bernoulli, random, halton, .*levels; got 'raster'"):
        AbsorbingSamplerOptions(order="raster")
    own = AbsorbingSamplerOptions(temperature=1.4, last_temperature=0.2, top_p=0.9)
    assert own.replaced(top_p=0.5) == AbsorbingSamplerOptions(temperature=1.4, last_temperature=0.2, top_p=0.5)
    assert own.replaced(temperature=0.9) == AbsorbingSamplerOptions(temperature=0.9, top_p=0.9)
    assert own.replaced(temperature=0.9, last_temperature=0.1).last_temperature == 0.1

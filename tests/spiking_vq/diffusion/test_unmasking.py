"""The plan of the sampler: orders, schedules, and which images share a call; by hand and by counts."""

import math

import pytest
import torch
from token_denoisers import seeded

from spiking_vq.diffusion.unmasking import ORDERS, call_times, halton_order, plan_calls, unmask_calls


@pytest.mark.parametrize("grid", [(1, 2, 2), (2, 1, 2)])
def test_plan_by_hand(grid):
    """Two slots and four images of four tokens, in at most four calls.

    Image 0 is drawn in two calls, image 1 is half known and drawn in one, image 2 is known and needs none, image 3
    takes the slot of image 1 for three calls.
    """
    unmask_call = torch.tensor([[[0, 0], [2, 2]], [[-1, -1], [1, 1]], [[-1, -1], [-1, -1]], [[3, 1], [0, 3]]])
    unmask_call = unmask_call.view(4, *grid)
    rows, t, chosen, temperature = plan_calls(unmask_call, torch.tensor([4, 3, 2, 1]), (1.0, 0.0), slots=2)
    assert rows.tolist() == [[0, 1], [0, 3], [4, 3], [4, 3]]  # from 4 on, no image
    assert t.tolist() == [[4, 3], [2, 4], [1, 3], [1, 1]]
    assert chosen.view(4, 2, 2, 2).long().tolist() == [
        [[[1, 1], [0, 0]], [[0, 0], [1, 1]]],
        [[[0, 0], [1, 1]], [[0, 0], [1, 0]]],
        [[[0, 0], [0, 0]], [[0, 1], [0, 0]]],
        [[[0, 0], [0, 0]], [[1, 0], [0, 1]]],
    ]
    assert temperature.shape == (4, 2, 1, 1, 1, 1)
    expected = [1.0, 0.0, 0.0, 1.0, 2 / 3, 0.0]  # image 1 in its only call, image 3 in calls 0, 1 and 3 of 3
    found = temperature.flatten(1)
    assert torch.stack([*found[:2, 0], *found[:, 1]]).tolist() == pytest.approx(expected)


def test_an_image_takes_the_slot_that_is_free_first():
    unmask_call = torch.tensor([[[0, 1], [2, 2]], [[0, 0], [0, 0]], [[0, 0], [1, 1]]]).unsqueeze(1)
    plan = plan_calls(unmask_call, torch.tensor([3, 2, 1]), (1.0, 1.0), slots=2)
    assert plan.rows.tolist() == [[0, 1], [0, 2], [0, 2]]


def test_a_plan_of_known_images_has_no_calls():
    plan = plan_calls(torch.full((3, 1, 2, 2), -1), torch.tensor([4, 2]), (1.0, 1.0), slots=2)
    assert [len(part) for part in plan] == [0] * 4


@pytest.mark.parametrize("sample_steps", [1, 5, 12])
def test_times_of_the_linear_schedule(sample_steps):
    expected = [math.ceil(12 * (sample_steps - call) / sample_steps) for call in range(sample_steps)]
    assert call_times(12, sample_steps).tolist() == expected


def test_times_of_the_cosine_schedule():
    expected = [math.ceil(49 * math.cos(math.pi / 2 * call / 8)) for call in range(8)]
    assert call_times(49, 8, "cosine").tolist() == expected
    for steps in range(1, 50):
        times = call_times(49, steps, "cosine")
        assert times[0] == 49
        assert times[-1] >= 1
        assert (times.diff() <= 0).all()


@pytest.mark.parametrize("order", ["random", "halton", "positions", "levels"])
@pytest.mark.parametrize("sample_steps", [1, 5, 12])
def test_ranked_orders_split_evenly(order, sample_steps):
    free = torch.ones(3, 2, 2, 3, dtype=torch.bool)
    calls = unmask_calls(order, torch.rand(3, 12, generator=seeded()), free, sample_steps)
    for image in calls:
        counts = image.flatten().bincount(minlength=sample_steps)
        assert len(counts) == sample_steps
        assert 12 // sample_steps <= counts.min()
        assert counts.max() <= math.ceil(12 / sample_steps)


def test_cosine_schedule_of_bernoulli_calls():
    noise = torch.rand(4000, 12, generator=seeded())
    calls = unmask_calls("bernoulli", noise, torch.ones(4000, 1, 3, 4, dtype=torch.bool), 4, "cosine")
    left = [math.cos(math.pi / 2 * c / 4) for c in range(5)]
    expected = -torch.tensor(left).diff()
    torch.testing.assert_close(calls.flatten().bincount() / calls.numel(), expected, atol=0.01, rtol=0)


def test_bernoulli_call_is_uniform():
    noise = torch.rand(2000, 12, generator=seeded())
    calls = unmask_calls("bernoulli", noise, torch.ones(2000, 1, 3, 4, dtype=torch.bool), 7)
    torch.testing.assert_close(calls.flatten().bincount() / calls.numel(), torch.full((7,), 1 / 7), atol=0.01, rtol=0)


@pytest.mark.parametrize("grid", [(7, 7), (8, 9), (1, 5), (16, 16)])
def test_halton_order_is_a_permutation(grid):
    assert sorted(halton_order(grid).tolist()) == list(range(math.prod(grid)))


def test_halton_schedule_visits_the_cells_in_halton_order():
    calls = unmask_calls("halton", torch.rand(2, 56), torch.ones(2, 1, 7, 8, dtype=torch.bool), 56)
    assert torch.equal(calls.flatten(1).argsort(1), halton_order((7, 8)).expand(2, 56))


def test_halton_schedule_draws_the_codes_of_a_position_one_after_another():
    """Positions in Halton order; with one code a call, the three codes of each take three calls in a row."""
    free = torch.ones(2, 3, 4, 5, dtype=torch.bool)
    calls = unmask_calls("halton", torch.rand(2, 60), free, 60).flatten(2)
    for image in calls:
        assert image[:, halton_order((4, 5))].T.flatten().tolist() == list(range(60))
    calls = unmask_calls("halton", torch.rand(2, 60), free, 20)
    assert (calls == calls[:, :1]).all()  # a position a call, with all its codes
    free[0, 1, 2, 3] = False  # a code that is known is left out, and what follows moves up
    calls = unmask_calls("halton", torch.rand(2, 60), free, 59)[0].flatten(1)
    in_order = [call for call in calls[:, halton_order((4, 5))].T.flatten().tolist() if call >= 0]
    assert in_order == list(range(59))
    assert calls[1, 13] == -1


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("sample_steps", [1, 5, 18])
def test_every_free_code_is_drawn_in_exactly_one_call(order, sample_steps):
    """Also of positions of which some codes are known."""
    free = torch.rand(5, 3, 2, 3, generator=seeded()) < 0.6
    free[4] = False
    noise = torch.rand(5, 18, generator=seeded(1))
    unmask_call = unmask_calls(order, noise, free, sample_steps)
    assert ((unmask_call >= 0) == free).all()
    assert unmask_call.max() < sample_steps
    plan = plan_calls(unmask_call, call_times(18, sample_steps), (1.0, 1.0), slots=2)
    drawn = torch.zeros(7, 3, 2, 3, dtype=torch.int64)
    for rows, chosen in zip(plan.rows, plan.chosen, strict=True):
        assert len(rows.unique()) == 2
        drawn[rows] += chosen
    assert torch.equal(drawn[:5], free.long())
    assert drawn[5:].sum() == 0  # slots without an image


def test_codes_of_a_position_are_drawn_independently():
    """Of two codes, the first is drawn before the second in half of the images, and seldom with it."""
    calls = unmask_calls("random", torch.rand(4000, 24, generator=seeded()), torch.ones(4000, 2, 3, 4).bool(), 12)
    first, second = calls.flatten(2).unbind(1)
    assert (first < second).float().mean().item() == pytest.approx(0.5 * 22 / 23, abs=0.01)
    assert (first == second).float().mean().item() == pytest.approx(1 / 23, abs=0.01)


def ranks(order, noise, free):
    """The rank of each free code, from one code a call; of the other codes -1."""
    return unmask_calls(order, noise, free, int(free[0].sum())).flatten(2)


@pytest.mark.parametrize("order", ["positions", "levels"])
def test_with_one_code_a_position_an_order_is_random(order):
    noise, free = torch.rand(50, 12, generator=seeded()), torch.rand(50, 1, 3, 4, generator=seeded(1)) < 0.7
    for steps in (1, 5, 12):
        assert torch.equal(unmask_calls(order, noise, free, steps), unmask_calls("random", noise, free, steps))


def test_all_codes_of_a_position_follow_each_other():
    noise, free = torch.rand(2000, 24, generator=seeded()), torch.ones(2000, 3, 2, 4, dtype=torch.bool)
    found = ranks("positions", noise, free)
    assert torch.equal(found[:, 1:], found[:, :2] + 1)  # of a position, code 0 first
    assert (found[:, 0] % 3 == 0).all()
    first = (found[:, 0] == 0).double().mean(0)
    torch.testing.assert_close(first, torch.full((8,), 1 / 8).double(), atol=0.03, rtol=0)
    by_noise = noise[:, :8].argsort(1).argsort(1)
    assert torch.equal(found[:, 0], 3 * by_noise)
    equal = ranks("positions", torch.zeros(1, 24), free[:1])  # of equal noise, too
    assert torch.equal(equal[:, 1:], equal[:, :2] + 1)
    free[:, 1, 0, 2] = False  # a code that is known is left out, and what follows moves up
    found = ranks("positions", noise, free)
    assert torch.equal(found[:, 2, 2], found[:, 0, 2] + 1)
    assert (found[:, 1, 2] == -1).all()


def test_one_level_follows_the_other():
    noise, free = torch.rand(2000, 24, generator=seeded()), torch.ones(2000, 3, 2, 4, dtype=torch.bool)
    found = ranks("levels", noise, free)
    for level in range(3):
        assert torch.equal(found[:, level], 8 * level + noise.view(-1, 3, 8)[:, level].argsort(1).argsort(1))
    assert not torch.equal(found[:, 0] + 8, found[:, 1])  # each in its own order
    in_three = unmask_calls("levels", noise, free, 3)
    assert torch.equal(in_three, torch.arange(3).view(3, 1, 1).expand_as(in_three))  # a level a call
    extreme = torch.full((1, 24), 1 - 2**-24)
    extreme[:, 8:16] = 0.0  # which float32 cannot tell from the end of the level before
    assert torch.equal(ranks("levels", extreme, free[:1]).flatten(), torch.arange(24))


def test_halton_order_is_spread():
    """Six points in a row fall one into each of 2 x 3 blocks, told by their indices mod 2 and mod 3."""
    cells = halton_order((8, 9))[:6]
    assert len(set(zip((cells // 9 // 4).tolist(), (cells % 9 // 3).tolist(), strict=True))) == 6
    assert cells[:2].tolist() == [4 * 9 + 3, 2 * 9 + 6]  # (1/2, 1/3), (1/4, 2/3)

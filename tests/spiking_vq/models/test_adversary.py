import pytest
import torch
import torch.nn.functional as F

from spiking_vq.errors import InputError
from spiking_vq.models.critics import PatchAdversary


@pytest.fixture
def adversary():
    torch.manual_seed(0)
    return PatchAdversary(2, [4, 8]).double()


@pytest.fixture
def batches():
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(3, 2, 12, 12, dtype=torch.float64, generator=generator) - 0.5 for _ in range(2)]


def test_its_own_loss_is_the_hinge_of_every_patch(adversary, batches):
    made, real = batches
    made.requires_grad_()
    of_made, of_real = adversary.scores(made), adversary.scores(real)
    assert of_made.shape == (3, 1, 6, 6)
    expected = sum(max(0, 1 + score) for score in of_made.flatten().tolist()) / 108
    expected += sum(max(0, 1 - score) for score in of_real.flatten().tolist()) / 108
    loss = adversary(made, real)
    assert loss.item() == pytest.approx(expected)
    loss.backward()
    assert made.grad is None
    assert all(parameter.grad.any() for parameter in adversary.parameters() if parameter.dim() > 1)


def test_its_pull_is_the_mean_score_and_teaches_it_nothing(adversary, batches):
    made, _ = batches
    made.requires_grad_()
    pull = adversary.pull(made)
    assert pull.item() == pytest.approx(-adversary.scores(made).mean().item())
    pull.backward()
    assert made.grad.any()
    assert all(parameter.grad is None for parameter in adversary.parameters())


def test_it_learns_to_tell_smooth_from_rough(adversary):
    generator = torch.Generator().manual_seed(2)
    optimizer = torch.optim.Adam(adversary.parameters(), 1e-2)

    def rough():
        return torch.randn(8, 2, 12, 12, dtype=torch.float64, generator=generator)

    for _ in range(60):
        optimizer.zero_grad()
        adversary(F.avg_pool2d(rough(), 3, 1, 1), rough()).backward()
        optimizer.step()
    assert adversary.scores(rough()).mean() > 0.5
    assert adversary.scores(F.avg_pool2d(rough(), 3, 1, 1)).mean() < -0.5


def test_nonsense_is_refused():
    with pytest.raises(InputError, match=r"adversary\.channels"):
        PatchAdversary(1, [])

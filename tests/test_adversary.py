import pytest
import torch
import torch.nn.functional as F

from spiking_vq.errors import InputError
from spiking_vq.models.adversary import PatchAdversary


@pytest.fixture
def adversary():
    torch.manual_seed(0)
    return PatchAdversary(2, [4, 8], weight=0.3).double()


@pytest.fixture
def batches():
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(3, 2, 12, 12, dtype=torch.float64, generator=generator) - 0.5 for _ in range(2)]


def test_its_own_loss_is_the_hinge_of_every_patch(adversary, batches):
    made, real = batches
    made.requires_grad_()
    of_made, of_real = adversary.scores(made), adversary.scores(real)
    assert of_made.shape == (3, 1, 3, 3)
    expected = sum(max(0, 1 + score) for score in of_made.flatten().tolist()) / 27
    expected += sum(max(0, 1 - score) for score in of_real.flatten().tolist()) / 27
    loss = adversary(made, real)
    assert loss.item() == pytest.approx(expected)
    loss.backward()
    assert made.grad is None
    assert all(parameter.grad.any() for parameter in adversary.parameters() if parameter.dim() > 1)


def test_its_pull_has_a_share_of_the_errors_gradient(adversary, batches):
    potential, real = batches
    potential.requires_grad_()
    made = potential.sigmoid() - 0.5
    error = 7 * F.mse_loss(made, real)
    pull = adversary.pull(made, error, at=potential)
    of_error, of_pull, of_score = (
        torch.autograd.grad(term, potential, retain_graph=True)[0]
        for term in (error, pull, -adversary.scores(made).mean())
    )
    assert (of_pull.norm() / of_error.norm()).item() == pytest.approx(0.3)
    torch.testing.assert_close(F.normalize(of_pull.flatten(), dim=0), F.normalize(of_score.flatten(), dim=0))
    pull.backward()
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
        PatchAdversary(1, [], 1.0)
    with pytest.raises(InputError, match=r"adversary\.weight"):
        PatchAdversary(1, [4], -1.0)

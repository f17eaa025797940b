import copy

import pytest
import torch
import torch.nn.functional as F

from spiking_vq.models.classifier import Classifier
from spiking_vq.models.critics import PerceptualDistance
from spiking_vq.runtime.running import run_with


@pytest.fixture
def classifier():
    torch.manual_seed(0)
    return Classifier((1, 8, 8), 3, [4, 6]).double()


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(2, 1, 8, 8, dtype=torch.float64, generator=generator) for _ in range(2)]


def test_it_is_the_distance_of_directions_at_every_position_of_every_convolution(classifier, images):
    distance = PerceptualDistance(classifier)
    expected = 0.0
    for x, y in zip(*map(classifier.maps, images), strict=True):
        positions = []
        for image in range(2):
            for row in range(x.shape[2]):
                for column in range(x.shape[3]):
                    a, b = (maps[image, :, row, column] for maps in (x, y))
                    positions.append((a / max(a.norm(), 1e-12) - b / max(b.norm(), 1e-12)).square().sum())
        expected += torch.stack(positions).mean().item()
    assert [tuple(maps.shape) for maps in classifier.maps(images[0])] == [(2, 4, 8, 8), (2, 6, 4, 4)]
    assert distance(*images).item() == pytest.approx(expected, rel=1e-4)  # in float32
    assert distance(images[0], images[0]).item() == 0


@pytest.mark.parametrize("compile", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_its_gradient_is_that_of_the_definition(classifier, images, compile):
    classifier.float()
    made, real = images[0].float().requires_grad_(), images[1].float()
    with run_with(compile=compile):
        found = PerceptualDistance(classifier)(made, real)
        (gradient,) = torch.autograd.grad(found, made)
    pairs = zip(classifier.maps(made), classifier.maps(real), strict=True)
    plain = sum((F.normalize(x) - F.normalize(y.detach())).square().sum(1).mean() for x, y in pairs)
    torch.testing.assert_close(found, plain)
    torch.testing.assert_close(gradient, torch.autograd.grad(plain, made)[0])


def test_where_nothing_is_seen_there_is_no_gradient(classifier):
    for block in classifier.trunk:
        block[1].bias.data.fill_(-1e3)
    made = torch.rand(2, 1, 8, 8, dtype=torch.float64, requires_grad=True)
    distance = PerceptualDistance(classifier)(made, torch.rand(2, 1, 8, 8, dtype=torch.float64))
    distance.backward()
    assert distance.item() == 0
    assert not made.grad.any()


def test_it_moves_the_made_image_alone(classifier, images):
    distance, before = PerceptualDistance(classifier), copy.deepcopy(classifier.state_dict())
    made, real = images[0].requires_grad_(), images[1].requires_grad_()
    distance(made, real).backward()
    assert made.grad.any() and real.grad is None
    assert all(parameter.grad is None for parameter in distance.parameters())
    for name, value in distance.classifier.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_a_step_against_its_gradient_brings_images_nearer(classifier, images):
    distance = PerceptualDistance(classifier)
    made = images[0].requires_grad_()
    before = distance(made, images[1])
    before.backward()
    assert distance(made - 1e-2 * made.grad, images[1]) < before

"""Guidance: which answers are combined, for which images, and how often the network is evaluated."""

from dataclasses import replace

import pytest
import torch

from spiking_vq.diffusion.guidance import guided
from spiking_vq.errors import InputError
from spiking_vq.pipelines.latent import LatentPipeline
from spiking_vq.runtime.running import steps_of


class Network:
    """Answers with `scale x + label`, and keeps the labels of each evaluation."""

    def __init__(self, scale=1.0):
        self.scale, self.seen = scale, []

    def __call__(self, x, t, labels=None):
        self.seen.append(None if labels is None else labels.tolist())
        return self.scale * x + (0 if labels is None else labels.view(-1, 1))


def evaluations(pipeline, call):
    """Whether there are labels, and the spiking steps, in each evaluation of the network in a call."""
    seen = []
    hook = pipeline.network.register_forward_pre_hook(lambda module, xs: seen.append((len(xs) == 3, steps_of(module))))
    call()
    hook.remove()
    return seen


@pytest.fixture
def unlabelled(latent_model, absorbing_config):
    """A pipeline without labels."""
    return LatentPipeline(latent_model, absorbing_config)


# ---------------------------------------------------------------------------------------------------------------------
# The formula


def test_guidance_by_hand():
    strong, weak, x, t = Network(2.0), Network(0.5), torch.ones(2, 3), torch.tensor([1, 2])
    labels = torch.tensor([4, 2])
    denoiser = guided(strong, 3.0, weak)
    assert torch.equal(denoiser(x, t, labels), 0.5 + 3.0 * (2.0 + labels.view(2, 1) - 0.5) * x)
    assert (strong.seen, weak.seen) == ([[4, 2]], [None])
    assert torch.equal(denoiser(x, t), 2.0 * x)  # without labels there is nothing to compare
    assert weak.seen == [None]


def test_the_network_itself_answers_without_labels():
    network, x, labels = Network(), torch.zeros(2, 3), torch.tensor([4, 2])
    assert torch.equal(guided(network, 1.5)(x, torch.ones(2), labels), x + 1.5 * labels.view(2, 1))
    assert network.seen == [[4, 2], None]


@pytest.mark.parametrize(("guidance", "labels_seen"), [(0.0, None), (1.0, [4, 2])])
@pytest.mark.parametrize("applies", [None, torch.tensor([True, False])], ids=["all", "some"])
def test_one_evaluation_is_enough_at_0_and_1(guidance, labels_seen, applies):
    strong, weak, x, labels = Network(2.0), Network(), torch.ones(2, 3), torch.tensor([4, 2])
    answer = guided(strong, guidance, weak, applies)(x, torch.ones(2), labels)
    assert torch.equal(answer, 2.0 * x + guidance * labels.view(2, 1))
    assert (strong.seen, weak.seen) == ([labels_seen], [])


def test_each_image_is_guided_or_not_by_itself():
    strong, weak, x, t = Network(2.0), Network(0.5), torch.ones(3, 3), torch.ones(3)
    labels, applies = torch.tensor([4, 2, 7]), torch.tensor([True, False, True])
    everywhere = guided(strong, 3.0, weak)(x, t, labels)
    mixed = guided(strong, 3.0, weak, applies)(x, t, labels)
    assert torch.equal(mixed[[0, 2]], everywhere[[0, 2]])
    assert torch.equal(mixed[1], strong(x, t, labels)[1])
    assert not torch.equal(mixed[1], everywhere[1])


# ---------------------------------------------------------------------------------------------------------------------
# Pipelines


@pytest.mark.parametrize("guidance", [0.0, 0.5, 1.0, 2.0])
def test_evaluations_are_those_of_an_image(labelled_latents, guidance):
    settings = {"guidance": guidance, "guidance_T": 1, "sample_steps": 4, "label": 3}
    seen = evaluations(labelled_latents, lambda: labelled_latents.make_alone(7, **settings))
    assert labelled_latents.evaluations(**settings) == (len(seen), sum(steps for _, steps in seen))
    assert all(with_label == (guidance > 0 and steps == 2) for with_label, steps in seen)
    assert evaluations(labelled_latents, lambda: labelled_latents.sample(3, **settings)) == seen  # of a whole chunk


@pytest.mark.parametrize(("guidance", "calls"), [(None, 8), (0, 8), (1.0, 8), (1.5, 16)])
def test_guidance_evaluates_the_network_twice(labelled_latents, guidance, calls):
    assert labelled_latents.evaluations(sample_steps=8, guidance=guidance) == (calls, 2 * calls)
    fewer = labelled_latents.evaluations(sample_steps=8, guidance=guidance, guidance_T=1)
    assert fewer == (calls, {8: 16, 16: 24}[calls])


def test_a_network_without_labels_has_no_guidance(unlabelled, absorbing_config):
    assert not unlabelled.sampling().keys() & {"label", "guidance", "guidance_T"}
    assert unlabelled.evaluations(sample_steps=3) == (3, 6)
    for settings in ({"label": 1}, {"guidance": 2.0}, {"guidance_T": 1}):
        with pytest.raises(InputError, match="not class-conditional"):
            unlabelled.sample(1, **settings)
    with pytest.raises(InputError, match=r"sample\.guidance must be 0 without conditional=true"):
        replace(absorbing_config, sample=replace(absorbing_config.sample, guidance=2.0))

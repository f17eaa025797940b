"""Guidance: which answers are combined, for which images, and how often the network is evaluated."""

from dataclasses import replace

import pytest
import torch
from token_denoisers import mixing_denoiser, seeded

from spiking_vq.diffusion.absorbing import AbsorbingDiffusion
from spiking_vq.diffusion.absorbing_sampler import AbsorbingSampler, AbsorbingSamplerOptions
from spiking_vq.diffusion.guidance import guided
from spiking_vq.errors import InputError
from spiking_vq.pipelines.latent import LatentPipeline
from spiking_vq.runtime.running import run_with, steps_of

RANKED = ("random", "halton", "positions", "levels")
LATE, EARLY = {"guidance_from": 0.5}, {"guidance_to": 0.5}


class Network:
    """Answers with `scale x + label`, and keeps the labels and the number of images of each evaluation."""

    def __init__(self, scale=1.0):
        self.scale, self.seen = scale, []

    def __call__(self, x, t, labels=None):
        self.seen.append(None if labels is None else labels.tolist())
        return self.scale * x + (0 if labels is None else labels.view(-1, 1))


def evaluations(pipeline, call):
    """Number of label arguments and spiking steps of each evaluation of the network in a call."""
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


def test_guidance_by_the_same_label():
    strong, weak, x, t = Network(2.0), Network(0.5), torch.ones(2, 3), torch.tensor([1, 2])
    labels = torch.tensor([4, 2])
    denoiser = guided(strong, 3.0, weak, "same_label")
    expected = (0.5 + labels.view(2, 1)) + 3.0 * (2.0 - 0.5) * x  # the labels cancel in the difference
    assert torch.equal(denoiser(x, t, labels), expected)
    assert (strong.seen, weak.seen) == ([[4, 2]], [[4, 2]])
    assert torch.equal(denoiser(x, t), (0.5 + 3.0 * (2.0 - 0.5)) * x)  # and without labels
    assert (strong.seen[1:], weak.seen[1:]) == ([None], [None])


def test_guidance_by_the_unlabelled_answer():
    strong, weak, x, t = Network(2.0), Network(0.5), torch.ones(2, 3), torch.tensor([1, 2])
    labels = torch.tensor([4, 2])
    denoiser = guided(strong, 3.0, weak)
    assert torch.equal(denoiser(x, t, labels), 0.5 + 3.0 * (2.0 + labels.view(2, 1) - 0.5) * x)
    assert (strong.seen, weak.seen) == ([[4, 2]], [None])
    assert torch.equal(denoiser(x, t), 2.0 * x)  # without labels there is nothing to compare
    assert weak.seen == [None]


@pytest.mark.parametrize("guide", ["unlabelled", "same_label"])
@pytest.mark.parametrize(("guidance", "labels_seen"), [(0.0, None), (1.0, [4, 2])])
def test_one_evaluation_is_enough_at_0_and_1(guide, guidance, labels_seen):
    strong, weak = Network(2.0), Network()
    denoiser = guided(strong, guidance, weak, guide, lambda x: torch.ones(len(x), dtype=torch.bool))
    denoiser(torch.ones(2, 3), torch.ones(2), torch.tensor([4, 2]))
    assert (strong.seen, weak.seen) == ([labels_seen], [])


@pytest.mark.parametrize("guide", ["unlabelled", "same_label"])
def test_each_image_is_guided_or_not_by_itself(guide):
    strong, weak, x, t = Network(2.0), Network(0.5), torch.ones(3, 3), torch.ones(3)
    labels, chosen = torch.tensor([4, 2, 7]), torch.tensor([True, False, True])
    everywhere = guided(strong, 3.0, weak, guide)(x, t, labels)
    mixed = guided(strong, 3.0, weak, guide, lambda x: chosen)(x, t, labels)
    assert torch.equal(mixed[[0, 2]], everywhere[[0, 2]])
    assert torch.equal(mixed[1], strong(x, t, labels)[1])
    assert not torch.equal(mixed[1], everywhere[1])
    evaluated = len(weak.seen)
    nowhere = guided(strong, 3.0, weak, guide, lambda x: torch.zeros(3, dtype=torch.bool))(x, t, labels)
    assert torch.equal(nowhere, strong(x, t, labels))
    assert len(weak.seen) == evaluated
    assert torch.equal(guided(strong, 3.0, weak, guide, lambda x: None)(x, t, labels), everywhere)


# ---------------------------------------------------------------------------------------------------------------------
# The interval


def sampler_of(grid=(2, 3, 4), **options):
    """A sampler of 24 tokens of five classes."""
    return AbsorbingSampler(AbsorbingDiffusion(grid, 5), AbsorbingSamplerOptions(guidance=2.0, **options))


def test_the_interval_is_one_of_known_tokens():
    tokens = torch.full((5, 24), 5)
    for image, known in enumerate((0, 11, 12, 17, 18)):
        tokens[image, :known] = 3
    tokens = tokens.view(5, 2, 3, 4)
    sampler = sampler_of(guidance_from=0.5, guidance_to=0.75)
    assert sampler.guided_images(tokens).tolist() == [False, False, True, True, False]
    assert sampler_of(guidance_to=0.5).guided_images(tokens).tolist() == [True, True, False, False, False]
    assert sampler_of().guided_images(tokens) is None
    finished = torch.zeros(1, 2, 3, 4, dtype=torch.int64)  # as in a slot without an image
    assert sampler_of(guidance_from=0.5).guided_images(finished).tolist() == [False]


@pytest.mark.parametrize("order", [*RANKED, "bernoulli"])
@pytest.mark.parametrize("steps", [4, 8, 24])
def test_shares_of_the_known_tokens_are_shares_of_the_calls(order, steps):
    """In the schedule "linear", whatever the order; the ends 0.25 and 0.75 are those of calls."""
    for interval, share in (({}, 1), ({"guidance_from": 0.25}, 0.75), ({"guidance_to": 0.25}, 0.25)):
        assert sampler_of(order=order, sample_steps=steps, **interval).guided_calls == share * steps
    both = {"guidance_from": 0.25, "guidance_to": 0.75}
    assert sampler_of(order=order, sample_steps=steps, **both).guided_calls == steps / 2
    plain = AbsorbingSampler(AbsorbingDiffusion((1, 1, 24), 5), AbsorbingSamplerOptions(guidance=1.0, **both))
    assert plain.guided_calls == 0


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("order", RANKED)
@pytest.mark.parametrize("interval", [(0.0, 1.0), (0.3, 1.0), (0.0, 0.4), (0.2, 0.55), (0.98, 1.0)], ids=str)
def test_what_is_counted_is_evaluated(schedule, order, interval):
    """Also by a batch that has slots without an image: of five images in slots of three, one has the last batch."""
    begin, end = interval
    sampler = sampler_of(order=order, schedule=schedule, sample_steps=7, guidance_from=begin, guidance_to=end)
    for n, slots in ((1, 1), (3, 3), (5, 3)):
        weak = []

        def weaker(tokens, t, weak=weak):
            weak.append(len(tokens))
            return mixing_denoiser(tokens, t)

        denoiser = guided(lambda x, t, labels: mixing_denoiser(x, t), 2.0, weaker, applies=sampler.guided_images)
        sampler.sample(denoiser, range(n), torch.zeros(n, dtype=torch.int64), batch_size=slots)
        assert len(weak) == sampler.guided_calls * -(-n // slots)


@pytest.mark.parametrize("order", ["bernoulli", "random"])
def test_an_image_is_guided_alike_in_any_batch(order):
    """Images of the Bernoulli order, and those that are partly known, are at different times in a batch."""
    sampler = sampler_of(order=order, guidance_from=0.2, guidance_to=0.6, sample_steps=12)
    selections = []

    def applies(tokens):
        selections.append(sampler.guided_images(tokens))
        return selections[-1]

    def network(tokens, t, labels=None):
        return mixing_denoiser(tokens + (0 if labels is None else labels.view(-1, 1, 1, 1)), t)

    known = torch.full((6, 2, 3, 4), 5)
    known[3:].view(3, -1)[:, :10] = torch.randint(5, (3, 10), generator=seeded())
    denoiser, labels = guided(network, 2.0, applies=applies), torch.arange(6)
    together = sampler.sample(denoiser, range(6), labels, known=known)
    assert any(rows.any() and not rows.all() for rows in selections)
    alone = [sampler.sample(denoiser, [i], labels[i : i + 1], known=known[i : i + 1]) for i in range(6)]
    assert torch.equal(together, torch.cat(alone))
    everywhere = sampler.sample(guided(network, 2.0), range(6), labels, known=known)
    assert not torch.equal(together, everywhere)


# ---------------------------------------------------------------------------------------------------------------------
# Pipelines


def test_autoguidance_by_hand(labelled_latents):
    """Four calls of one image, with the answers of both numbers of steps side by side."""
    pipeline, network = labelled_latents, labelled_latents.network

    def by_hand(tokens, t, labels):
        strong = network(tokens, t, labels)
        with run_with(num_steps=1):
            weak = network(tokens, t, labels)
        return weak + 2.5 * (strong - weak)

    settings = {"guidance": 2.5, "guide": "same_label", "guidance_T": 1, "sample_steps": 4, "label": 3}
    sampler = pipeline.sampler(AbsorbingSamplerOptions(sample_steps=4))
    expected = sampler.sample(by_hand, [7], torch.tensor([3]))
    *_, last = pipeline.states([7], **settings)
    assert torch.equal(last.x, expected)
    *_, other = pipeline.states([7], **settings | {"guide": "unlabelled"})
    assert not torch.equal(other.x, expected)
    *_, neither = pipeline.states([7], **settings | {"guidance": 1.0})
    assert not torch.equal(neither.x, expected)


def test_a_network_without_labels_is_guided_by_its_fewer_steps(unlabelled):
    plain = unlabelled.sampling()
    assert not plain.keys() & {"label", "guidance", "guide", "guidance_T", "guidance_from", "guidance_to"}
    settings = unlabelled.sampling(guidance=3.0, guide="same_label", guidance_T=1, sample_steps=3)
    assert (settings["guidance"], settings["guide"], settings["guidance_T"]) == (3.0, "same_label", 1)
    assert unlabelled.sampling(**settings) == settings
    assert evaluations(unlabelled, lambda: unlabelled.sample(2, **settings)) == 3 * [(False, 2), (False, 1)]
    strong, alone = unlabelled.sample(4, **settings).tokens, unlabelled.sample(4, sample_steps=3).tokens
    assert not torch.equal(strong, alone)
    assert torch.equal(unlabelled.sample(4, **settings | {"guidance": 1.0}).tokens, alone)
    config = replace(unlabelled.config, sample=replace(unlabelled.config.sample, **settings))  # as a file may say
    assert torch.equal(LatentPipeline(unlabelled.model, config).sample(4).tokens, strong)
    with pytest.raises(InputError, match="not class-conditional"):
        unlabelled.sample(1, label=1, **settings)


@pytest.mark.parametrize("guide", ["unlabelled", "same_label"])
@pytest.mark.parametrize("guidance", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("interval", [{}, {"guidance_from": 0.5}, {"guidance_from": 0.3, "guidance_to": 0.7}], ids=str)
def test_evaluations_are_those_of_an_image(labelled_latents, guide, guidance, interval):
    settings = {"guide": guide, "guidance": guidance, "guidance_T": 1, "sample_steps": 4, "label": 3} | interval
    seen = evaluations(labelled_latents, lambda: labelled_latents.make_alone(7, **settings))
    assert labelled_latents.evaluations(**settings) == (len(seen), sum(steps for _, steps in seen))
    assert all(with_label == (guidance > 0 and (steps == 2 or guide == "same_label")) for with_label, steps in seen)
    assert evaluations(labelled_latents, lambda: labelled_latents.sample(3, **settings)) == seen  # of a whole chunk


@pytest.mark.parametrize(("guidance", "calls"), [(None, 8), (0, 8), (1.0, 8), (1.5, 16)])
def test_guidance_evaluates_the_network_twice(labelled_latents, guidance, calls):
    assert labelled_latents.evaluations(sample_steps=8, guidance=guidance) == (calls, 2 * calls)
    fewer = labelled_latents.evaluations(sample_steps=8, guidance=guidance, guidance_T=1)
    assert fewer == (calls, {8: 16, 16: 24}[calls])


def test_an_interval_changes_images_and_its_defaults_none(labelled_latents):
    settings = {"guidance": 3.0, "label": 1, "sample_steps": 4}
    full = labelled_latents.sample(4, **settings).tokens
    assert torch.equal(labelled_latents.sample(4, guidance_from=0.0, guidance_to=1.0, **settings).tokens, full)
    late, early = (labelled_latents.sample(4, **settings, **part).tokens for part in (LATE, EARLY))
    assert not torch.equal(late, full)
    assert not torch.equal(early, full)
    assert not torch.equal(early, late)
    none = labelled_latents.sample(4, **settings | {"guidance": 1.0}).tokens
    assert torch.equal(labelled_latents.sample(4, guidance_from=0.99, **settings).tokens, none)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"guide": "same_label"}, "guidance_T must be below the network's T, 2, with guide=same_label; got None"),
        ({"guide": "same_label", "guidance_T": 2}, "guidance_T must be below the network's T, 2, .*; got 2"),
        ({"guide": "stranger"}, "guide must be one of unlabelled, same_label; got 'stranger'"),
        ({"guidance_from": 0.5, "guidance_to": 0.5}, "guidance_from must be below guidance_to, 0.5; got 0.5"),
        ({"guidance_from": 1.0}, "guidance_from must be below guidance_to, 1; got 1.0"),
        ({"guidance_to": 1.5}, r"guidance_to must be in \[0, 1\]; got 1.5"),
    ],
    ids=str,
)
def test_guidance_out_of_range(labelled_latents, settings, message):
    with pytest.raises(InputError, match=message):
        labelled_latents.sample(1, guidance=2.0, **settings)


@pytest.mark.parametrize("settings", [{"guidance": 2.0}, {"guidance_from": 0.5}, {"guide": "unlabelled"}], ids=str)
def test_guidance_by_labels_needs_labels(unlabelled, settings):
    with pytest.raises(InputError, match="not class-conditional"):
        unlabelled.sample(1, **settings)


def test_a_configuration_is_checked_too(absorbing_config):
    same = replace(absorbing_config.sample, guide="same_label", guidance=2.0, guidance_T=1)
    assert replace(absorbing_config, sample=same).sample.guidance == 2.0
    message = "sample.guidance_T must be below the network's T, 2, with sample.guide=same_label; got 2"
    with pytest.raises(InputError, match=message):
        replace(absorbing_config, sample=replace(same, guidance_T=2))
    with pytest.raises(InputError, match="sample.guidance must be 0 without conditional=true"):
        replace(absorbing_config, sample=replace(same, guide="unlabelled"))

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from awake import LIF_OPTIONS, wake
from torch import nn

from spiking_vq.checkpoint.build import DENOISERS, build_denoiser
from spiking_vq.config.load import load_config
from spiking_vq.diffusion.absorbing import AbsorbingDiffusion
from spiking_vq.errors import InputError
from spiking_vq.layers.mixing import AttentionProduct
from spiking_vq.models.sdid import SDID
from spiking_vq.models.token_denoiser import MIXERS
from spiking_vq.neurons.activity import observed
from spiking_vq.neurons.lif import LIF
from spiking_vq.neurons.twins import neuron_factory

CONFIGS = Path(__file__).parents[3] / "configs"
K, T, GRID = 8, 2, (1, 3, 4)


def tokens_of(batch=6, grid=GRID):
    return torch.randint(K + 1, (batch, *grid))


def times(batch=6, t=1):
    return torch.full((batch,), t)


def awake(name, grid=GRID, neuron="lif", num_steps=T, **options):
    build = neuron_factory(neuron, **(LIF_OPTIONS if neuron == "lif" else {}))
    if name == "token":
        options = {"num_blocks": 1} | options
    model = DENOISERS[name](grid, K, num_steps, build, width=8, **options)
    return wake(model, tokens_of(64, grid), torch.randint(1, 13, (64,)))


def record(modules):
    """Inputs of each module, filled as they compute."""
    seen = {name: [] for name in modules}
    for name, module in modules.items():
        module.register_forward_hook(lambda module, inputs, output, name=name: seen[name].append(inputs[0]))
    return seen


def is_binary(x):
    return set(x.unique().tolist()) == {0.0, 1.0}


def synapses(model):
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}


def test_sdid_has_3101504_parameters():
    config = load_config("absorbing", CONFIGS / "absorbing" / "paper.yaml")
    config.vq_svae = replace(load_config("vq_svae", CONFIGS / "vq_svae" / "paper.yaml"), image_shape=[1, 28, 28])
    model = build_denoiser(config)
    assert isinstance(model, SDID)
    assert sum(parameter.numel() for parameter in model.parameters()) == 3_101_504


@pytest.mark.parametrize("name", DENOISERS)
@pytest.mark.parametrize(("neuron", "num_steps"), [("lif", T), ("relu", 1)])
def test_shapes_and_gradients(name, neuron, num_steps):
    model = awake(name, neuron=neuron, num_steps=num_steps).train()
    assert any(isinstance(module, LIF) for module in model.modules()) == (neuron == "lif")
    logits = model(tokens_of(), times())
    assert logits.shape == (6, K, *GRID)
    (logits * torch.randn_like(logits)).sum().backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
    assert all((module.weight.grad != 0).any() for module in synapses(model).values())


def test_sdid_sees_index_and_time_as_two_planes():
    model, tokens = awake("sdid"), tokens_of()
    seen = record({"stem": model.stem})["stem"]
    model(tokens, torch.tensor([1, 2, 3, 4, 5, 12]))
    assert seen[0].shape == (1, 6, 2, 3, 4)
    assert torch.equal(seen[0][0, :, :1], tokens.float())
    assert torch.equal(seen[0][0, 5, 1:], torch.full(GRID, 12.0))


def test_sdid_uses_t_and_token_denoiser_does_not():
    tokens = tokens_of()
    for name, uses in {"sdid": True, "token": False}.items():
        model = awake(name)
        assert torch.equal(model(tokens, times(t=1)), model(tokens, times(t=12))) != uses


@pytest.mark.parametrize("name", DENOISERS)
def test_same_input_same_output(name):
    model, tokens = awake(name), tokens_of()
    first = model(tokens, times())
    model(tokens_of(2), times(2))
    assert torch.equal(model(tokens, times()), first)


# ---------------------------------------------------------------- what travels between layers


def real_valued_synapses(seen):
    return [name for name, inputs in seen.items() if not is_binary(inputs[0])]


def test_sdids_spikes_reach_every_synapse_between_the_first_and_the_last():
    model = awake("sdid")
    seen = record(synapses(model))
    model(tokens_of(), times())
    assert real_valued_synapses(seen) == ["stem.0", "readout"]  # the latter reads rates: the mean over its steps
    assert seen.keys() == {"stem.0", "readout", *(f"blocks.{index}.0" for index in (0, 2, 4, 6))}


@pytest.mark.parametrize("mixer", MIXERS)
def test_token_denoiser_blocks_see_spikes_only(mixer):
    model = awake("token", num_blocks=2, mixer=mixer)
    products = {name: module for name, module in model.named_modules() if isinstance(module, AttentionProduct)}
    seen = record(synapses(model.blocks) | products)
    model(tokens_of(), times())
    assert real_valued_synapses(seen) == []
    assert len(list(seen)) >= 4


def test_token_denoiser_reads_out_as_it_would_step_by_step():
    model = awake("token")
    seen = []
    with observed(model.last_neuron, lambda _, spk: seen.append(spk)):
        logits = model(tokens_of(), times())
    assert seen[0].shape == (T, 6, 2 * 8, 3, 4)
    assert is_binary(seen[0])
    torch.testing.assert_close(logits[:, :, 0], torch.stack([model.readout(step) for step in seen[0]]).mean(0))


def test_sdid_reads_out_first_and_last_spikes_averaged_over_time():
    model = awake("sdid")
    spikes = {}
    with observed(model, spikes.__setitem__):
        logits = model(tokens_of(), times())
    first, last = spikes["first_neuron"], spikes["last_neuron"]
    assert first.shape == (T, 6, 8, 3, 4)
    assert last.shape == (T, 6, 4 * 8, 3, 4)
    steps = [model.readout(torch.cat(spk, dim=1)) for spk in zip(last, first, strict=True)]
    torch.testing.assert_close(logits[:, :, 0], torch.stack(steps).mean(0))


# ---------------------------------------------------------------- the embedding and the reach of TokenDenoiser


def test_current_is_token_embedding_plus_position_embedding():
    model, tokens = awake("token"), tokens_of()
    seen = record({"blocks": model.blocks})["blocks"]
    model(tokens, times())
    expected = model.token_embedding.weight[tokens[2, 0, 1, 3]] + model.position_embedding[:, 1, 3]
    torch.testing.assert_close(seen[0].value()[0, 2, :, 1, 3], expected)
    assert seen[0].shape == (T, *tokens.shape[:1], model.readout.in_channels // 2, 3, 4)


def test_places_differ_even_if_all_are_masked():
    logits = awake("token")(torch.full((1, *GRID), K), times(1)).flatten(2)[0]
    assert len(logits.T.unique(dim=0)) > 1


def test_every_place_sees_every_place():
    model, tokens = awake("token"), tokens_of(1)  # awake evaluates: in training, batch norm would tie places together
    embedded = []
    model.token_embedding.register_forward_hook(lambda module, inputs, output: embedded.append(output))
    logits = model(tokens, times(1)).flatten(2)
    for place in range(logits.shape[2]):
        (grad,) = torch.autograd.grad(logits[0, 0, place], embedded[0], retain_graph=True)
        assert (grad != 0).any(-1).all()


def test_a_far_token_changes_the_logits():
    """Beyond the reach of the 3x3 convolutions, in the forward pass itself; within the image alone."""
    model, tokens = awake("token", grid=(1, 1, 16)), tokens_of(32, (1, 1, 16))
    changed = tokens.clone()
    changed[:16, 0, 0, 0] = (tokens[:16, 0, 0, 0] + 1) % (K + 1)
    difference = (model(changed, times(32)) - model(tokens, times(32))).abs().amax(1)[:, 0, 0]
    assert (difference[:16, 8:] > 0).any()
    assert (difference[16:] == 0).all()


# ---------------------------------------------------------------- several codes a position

SEVERAL = (3, 2, 4)


@pytest.mark.parametrize("mixer", MIXERS)
@pytest.mark.parametrize(("neuron", "num_steps"), [("lif", T), ("relu", 1)])
def test_several_codes_have_logits_each(mixer, neuron, num_steps):
    model = awake("token", SEVERAL, neuron, num_steps, mixer=mixer).train()
    logits = model(tokens_of(grid=SEVERAL), times())
    assert logits.shape == (6, K, *SEVERAL)
    (logits * torch.randn_like(logits)).sum().backward()
    assert all((module.weight.grad != 0).any() for module in synapses(model).values())
    assert (model.token_embedding.weight.grad != 0).any(1).all()  # codes and masks of all three


def test_the_current_is_the_sum_of_the_embeddings_of_a_positions_codes():
    """Each code has its own vectors, one for its mask among them."""
    model, tokens = awake("token", SEVERAL), tokens_of(grid=SEVERAL)
    tokens[2, :, 1, 3] = torch.tensor([5, K, 0])
    seen = record({"blocks": model.blocks})["blocks"]
    model(tokens, times())
    vectors = model.token_embedding.weight.view(3, K + 1, 8)
    expected = vectors[0, 5] + vectors[1, K] + vectors[2, 0] + model.position_embedding[:, 1, 3]
    torch.testing.assert_close(seen[0].value()[0, 2, :, 1, 3], expected)


def test_each_code_has_its_own_head():
    model, tokens = awake("token", SEVERAL), tokens_of(grid=SEVERAL)
    before = model(tokens, times())
    model.readout.bias.data[K : 2 * K] += torch.arange(K)  # of the second code
    difference = (model(tokens, times()) - before).movedim(1, -1)
    expected = torch.zeros_like(difference)
    expected[:, 1] = torch.arange(K)
    torch.testing.assert_close(difference, expected)


def test_a_visible_code_tells_of_the_others_of_its_position_and_a_masked_one_tells_nothing():
    """What a mask hides is no part of the logits, nor of the loss of what is visible."""
    model = awake("token", SEVERAL)
    diffusion, seen = AbsorbingDiffusion(SEVERAL, K), []
    tokens = torch.randint(K, (16, *SEVERAL))
    noisy = diffusion.q_sample(tokens, torch.full((16,), 12))
    masked = noisy == K
    others = torch.where(masked, (tokens + 1) % K, tokens)
    drawn = diffusion.draw(tokens)
    for images in (tokens, others):
        draw = drawn._replace(tokens=images, noisy=images.masked_fill(masked, K))
        diffusion.loss_of(lambda noisy, t: seen.append(model(noisy, t)) or seen[-1], draw)
    assert torch.equal(*seen)
    assert (masked.any(1) & ~masked.all(1)).any()  # positions that are visible in part

    changed = noisy.clone()
    changed[:, 0] = torch.where(masked[:, 0], K, (noisy[:, 0] + 1) % K)  # the visible first codes
    here = ~masked[:, 0] & masked[:, 1]
    difference = (model(changed, times(16)) - model(noisy, times(16))).abs().amax(1)[:, 1]
    assert (difference[here] > 0).any()


def test_several_codes_start_as_strong_as_one():
    """The sum of the embeddings has the variance of a single one."""
    build = neuron_factory("lif", **LIF_OPTIONS)
    stds = []
    for grid in ((1, 2, 2), (4, 2, 2)):
        model = DENOISERS["token"](grid, 64, T, build, width=64, num_blocks=1)
        tokens = torch.randint(65, (64, *grid))
        stds.append(model.token_embedding(tokens + model.first_row).sum(1).std().item())
    assert stds == pytest.approx([1.0, 1.0], rel=0.1)


def test_files_of_one_code_are_what_they_were():
    """Keys and shapes, and the random numbers of a new network."""
    state = DENOISERS["token"](GRID, K, T, neuron_factory("lif"), width=8, num_blocks=1).state_dict()
    shapes = {name: list(state[name].shape) for name in state if not name.startswith("blocks")}
    assert shapes == {
        "position_embedding": [8, 3, 4],
        "token_embedding.weight": [K + 1, 8],
        "last_neuron.beta": [],
        "last_neuron.threshold": [],
        "readout.weight": [K, 16, 1, 1],
        "readout.bias": [K],
    }
    torch.manual_seed(3)
    model = DENOISERS["token"](GRID, K, T, neuron_factory("lif"), width=8, num_blocks=1)
    torch.manual_seed(3)
    vectors, positions = nn.Embedding(K + 1, 8), torch.randn(8, 3, 4)
    assert torch.equal(model.token_embedding.weight, vectors.weight)
    assert torch.equal(model.position_embedding, positions)


def test_the_published_denoiser_takes_one_code_a_position():
    with pytest.raises(InputError, match="model.num_codes of stage 1 must be 1 for the SDID; got 3"):
        SDID(SEVERAL, K, T, neuron_factory("lif"))


def test_many_classes_are_in_the_embedding_and_the_read_out_alone():
    """Of 15,625 classes; everything else is as large as with one."""
    sizes = []
    for codebook_size in (1, 15_625):
        model = DENOISERS["token"]((1, 2, 2), codebook_size, T, neuron_factory("lif"), width=4, num_blocks=1)
        state = model.state_dict()
        own = [state.pop(name).numel() for name in ("token_embedding.weight", "readout.weight", "readout.bias")]
        sizes.append(sum(value.numel() for value in state.values()))
        assert own == [4 * (codebook_size + 1), 8 * codebook_size, codebook_size]
        assert sum(buffer.numel() for buffer in model.buffers()) < 200
    assert sizes[0] == sizes[1]

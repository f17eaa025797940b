"""The spiking U-Nets: sizes as published, what they depend on, and that they are functions."""

import pytest
import torch

from spiking_vq.checkpoint.build import UNETS
from spiking_vq.errors import InputError
from spiking_vq.models.fsddim import FSDDIMUNet, PostSumBlock
from spiking_vq.models.sddpm import PreSpikeBlock, SDDPMUNet
from spiking_vq.models.unet_parts import sinusoid
from spiking_vq.neurons.activity import record_activity
from spiking_vq.neurons.lif import LIF
from spiking_vq.neurons.twins import neuron_factory

IF = neuron_factory("lif", beta=1.0)
LEAKY = neuron_factory("lif", beta=0.8, detach_reset=True, surrogate="triangle")
SMALL = {"width": 4, "multipliers": (1, 2), "num_blocks": 1}


@pytest.fixture(params=UNETS, ids=str)
def small(request):
    """A small U-Net of three steps that knows four labels, its batch norms used to some data, and its noisy input."""
    torch.manual_seed(0)
    unet = UNETS[request.param]((1, 8, 8), 3, IF if request.param == "sddpm" else LEAKY, num_classes=4, **SMALL)
    noisy = torch.randn(5, 1, 8, 8)
    if request.param == "fsddim":
        noisy = noisy.unsqueeze(0)
        with torch.no_grad():  # so that the neurons of the time fire, which few do in a network as narrow as this
            unet.time_in.weight.mul_(4)
            unet.time_out.weight.mul_(8)
    for _ in range(20):
        unet(noisy, torch.arange(1, 6) * 200)
    return unet.eval(), noisy


def count(module):
    return sum(weight.numel() for weight in module.parameters())


def test_parameters_as_published():
    assert count(SDDPMUNet((3, 32, 32), 4, IF)) == 66_568_413


@torch.no_grad()
def test_prediction_depends_on_time_labels_and_image_alone(small):
    unet, noisy = small
    t = torch.tensor([1, 10, 100, 500, 1000])
    out = unet(noisy, t)
    assert out.shape[-4:] == (5, 1, 8, 8)
    assert out.isfinite().all()
    assert torch.equal(unet(noisy, t), out)  # nothing survives a call
    rows = [2, 4]
    torch.testing.assert_close(unet(noisy[..., rows, :, :, :], t[rows]), out[..., rows, :, :, :])
    assert not torch.allclose(unet(noisy, t.flip(0))[..., 0, :, :, :], out[..., 0, :, :, :])
    labels = torch.tensor([0, 1, 2, 3, 4])
    labelled = unet(noisy, t, labels)
    torch.testing.assert_close(labelled[..., 4, :, :, :], out[..., 4, :, :, :])  # the label after the last means none


def test_every_weight_learns(small):
    unet, noisy = small
    unet.train()
    for parameter in unet.parameters():
        parameter.grad = None
    torch.manual_seed(1)
    out = unet(noisy, torch.arange(1, 6), torch.arange(5))
    (out * torch.randn_like(out)).sum().backward()
    silent = [name for name, weight in unet.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert [name for name in silent if not name.endswith("synapse_bias")] == []  # batch norm takes these away again


@torch.no_grad()
def test_only_spikes_and_told_real_numbers_cross_synapses(small):
    """The published networks are not purely spiking; which synapses see real numbers is known."""
    unet, noisy = small
    real = set()

    def see(name):
        def hook(_, inputs):
            if not ((inputs[0] == 0) | (inputs[0] == 1)).all():
                real.add(name)

        return hook

    for name, module in unet.named_modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
            module.register_forward_pre_hook(see(name))
    unet(noisy, torch.arange(1, 6))
    if isinstance(unet, SDDPMUNet):
        shortcuts = {f"{name}.shortcut" for name, block in unet.named_modules() if isinstance(block, PreSpikeBlock)}
        times = {f"{name}.time" for name, block in unet.named_modules() if isinstance(block, PreSpikeBlock)}
        assert real <= {"stem.0", "time.0", "time.2", "head", "smooth.0"} | shortcuts | times
        assert real >= {"stem.0", "time.0", "head"}
    else:
        fed = {"stem", "time_in", "down.0.0.first.0", "shrink.0.1", "down.1.0.first.0", "head"}
        fed |= {f"up.{level}.0.{part}.0" for level in (0, 1) for part in ("first", "shortcut")}
        assert real <= fed | {"last.first.0", "last.shortcut.0"}
        assert {"stem", "shrink.0.1", "head"} <= real


@torch.no_grad()
def test_neurons_fire(small):
    unet, noisy = small
    with record_activity(unet) as activity:
        unet(noisy, torch.arange(1, 6))
    assert len(activity) == sum(isinstance(module, LIF) for module in unet.modules())
    assert sum(layer.spikes > 0 for layer in activity.values()) > 0.7 * len(activity)


@torch.no_grad()
def test_currents_may_differ_from_step_to_step():
    torch.manual_seed(0)
    unet = FSDDIMUNet((1, 8, 8), 3, LEAKY, **SMALL).eval()
    noisy, t = torch.randn(1, 2, 1, 8, 8), torch.tensor([3, 900])
    torch.testing.assert_close(unet(noisy, t), unet(noisy.expand(3, -1, -1, -1, -1), t))
    moved = noisy + torch.tensor([0.0, 0.0, 2.0]).view(3, 1, 1, 1, 1)
    changed = (unet(moved, t) - unet(noisy, t)).abs().flatten(1).amax(1)
    assert (changed[:2] == 0).all()  # time runs forward
    assert changed[2] > 0


@pytest.mark.parametrize("kind", UNETS)
@torch.no_grad()
def test_patches_are_channels(kind):
    """2 x 2 pixels of one channel are one position of four, the same way in and out."""
    neuron, t = IF if kind == "sddpm" else LEAKY, torch.tensor([3, 700])
    on_patches = UNETS[kind]((1, 8, 8), 3, neuron, patch_size=2, **SMALL)
    on_channels = UNETS[kind]((4, 4, 4), 3, neuron, **SMALL)
    on_channels.load_state_dict(on_patches.state_dict())
    noisy = torch.randn(*((1,) if kind == "fsddim" else ()), 2, 1, 8, 8)
    corners = torch.stack([noisy[..., i::2, j::2] for i in (0, 1) for j in (0, 1)], dim=-3).squeeze(-4)
    found, expected = on_patches(noisy, t), on_channels(corners, t)
    assert found.shape[-3:] == (1, 8, 8)
    for channel, (i, j) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        torch.testing.assert_close(found[..., 0, i::2, j::2], expected[..., channel, :, :])


@torch.no_grad()
def test_blocks_add_currents_before_a_neuron():
    torch.manual_seed(0)
    block = PreSpikeBlock(IF, 4, 4, 8).eval()
    block.second[1].weight.zero_()
    block.second[1].bias.fill_(0.25)
    x = torch.randn(3, 2, 4, 5, 5)
    torch.testing.assert_close(block(x, torch.zeros(2, 8)).value(), x + 0.25)
    wider = PreSpikeBlock(IF, 4, 6, 8).eval()
    wider.second[1].weight.zero_()
    torch.testing.assert_close(wider(x, torch.zeros(2, 8)).value()[1], wider.shortcut(x[1]))
    spiking = PostSumBlock(LEAKY, 1.0, 4, 6, 8).eval()
    spk = spiking((x > 0).float(), torch.randn(3, 2, 8))
    assert spk.shape == (3, 2, 6, 5, 5)
    assert set(spk.unique().tolist()) <= {0.0, 1.0}


def test_norms_scale_to_the_threshold():
    block = PostSumBlock(LEAKY, 2.0, 4, 6, 8)
    x = (torch.rand(3, 8, 4, 5, 5, generator=torch.Generator().manual_seed(0)) < 0.3).float()
    first = block.first(x, torch.zeros(3, 8, 6, 1, 1)).value()
    assert first.std().item() == pytest.approx(2, rel=0.02)
    shortcut = block.shortcut(x).value()
    assert shortcut.std().item() == pytest.approx(2**0.5, rel=0.02)


def test_sinusoid():
    found = sinusoid(torch.tensor([0, 7]), 6)
    waves = [10_000 ** (-i / 6) for i in (0, 2, 4)]
    expected = [value for w in waves for value in (torch.sin(torch.tensor(7 * w)), torch.cos(torch.tensor(7 * w)))]
    torch.testing.assert_close(found[1], torch.stack(expected))
    torch.testing.assert_close(found[0], torch.tensor([0.0, 1.0] * 3))


def test_fsddim_counts_time_from_0_up_to_frequency_1e_4():
    """As the authors' table does; see `tests/golden/fsddim.safetensors`."""
    unet = FSDDIMUNet((1, 8, 8), 2, LEAKY, **SMALL | {"width": 6})
    found = unet.time_features(torch.tensor([1, 8]))
    waves = [10_000 ** (-i / 2) for i in range(3)]
    expected = [value for w in waves for value in (torch.sin(torch.tensor(7 * w)), torch.cos(torch.tensor(7 * w)))]
    torch.testing.assert_close(found[1], torch.stack(expected))
    torch.testing.assert_close(found[0], torch.tensor([0.0, 1.0] * 3))


def test_sddpm_starts_as_the_authors_network():
    torch.manual_seed(0)
    unet = SDDPMUNet((3, 16, 16), 3, IF, width=16, multipliers=(1, 2), num_blocks=1)
    noisy = torch.randn(8, 3, 16, 16)
    loss = (unet(noisy, torch.arange(1, 9) * 100) - torch.randn(8, 3, 16, 16)).square().mean().item()
    assert loss == pytest.approx(1, abs=0.1)  # an output near 0 against noise of variance 1
    block, width = unet.down[0], 16
    for layer, fan in ((block.first[0], 18 * width), (block.time, 5 * width), (unet.stem[0], 9 * (3 + width))):
        limit = (6 / fan) ** 0.5  # Xavier-uniform
        assert 0.9 * limit < layer.weight.abs().max() <= limit
    assert not block.time.bias.any()


@pytest.mark.parametrize("unet", UNETS.values())
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_shape": (1, 9, 8)}, "multiples of 2.*9x8"),
        ({"image_shape": (1, 8, 6), "patch_size": 2}, "multiples of 4.*8x6"),
        ({"patch_size": 0}, "patch_size"),
        ({"T": 0}, "T, the number"),
        ({"width": 5}, "even"),
        ({"multipliers": ()}, "multipliers"),
        ({"num_blocks": 0}, "num_blocks"),
    ],
    ids=str,
)
def test_sizes_that_do_not_fit(unet, options, message):
    with pytest.raises(InputError, match=message):
        unet(**{"image_shape": (1, 8, 8), "T": 2, "neuron": IF, **SMALL, **options})

"""A training step of every preset on a fake GPU: one device, no shapes that depend on data, no waiting for the GPU."""

import pytest
import torch
from fake_gpu import CUDA, HostSync, WrongDevice, backward, fake_gpu, on_gpu
from noise_stages import noise_stage
from torch import nn
from torch._subclasses.fake_tensor import DynamicOutputShapeException

from spiking_vq.diffusion.gaussian import GaussianDiffusion
from spiking_vq.pipelines.load import pipeline_of
from spiking_vq.runtime.precision import autocast

PRESETS = {
    "vq_svae": ["base", "counts", "paper", "base-relu", "base-quantised"],
    "absorbing": ["base", "large", "counts", "paper", "base-relu", "base-quantised"],
    "gaussian": ["base", "sddpm", "fsddim"],
    "classifier": ["base", "augmented", "perceptual"],
}
RESTARTS = ["model.ema_decay=0.5", "model.restart_below=0.5", "model.num_codes=2"]
VARIANTS = [
    ("vq_svae", "base", "model.quantizer=product", *RESTARTS),
    ("vq_svae", "base", "model.quantizer=residual", *RESTARTS),
    ("vq_svae", "base", "model.spike_generator=poisson"),
    ("vq_svae", "paper", "model.spike_generator=repeat"),
    ("absorbing", "paper", "loss=elbo"),
    ("absorbing", "base", "loss=reweighted", "tsm=true", "early_T=null"),
    ("absorbing", "base", "lif.learn_beta=true", "lif.learn_threshold=true"),
    ("gaussian", "base", "neuron=relu", "conditional=true"),
    ("gaussian", "base", "train.ema_decay=0", "diffusion.prediction=noise"),
]
LARGE = pytest.param(("gaussian", "sddpm"), marks=pytest.mark.slow)


def presets(*stages):
    """Stage and preset of each case; the largest network is left to the slow tests."""
    cases = [(stage, preset) for stage in stages for preset in PRESETS[stage]]
    return [LARGE if case == ("gaussian", "sddpm") else case for case in cases]


def moved(stage):
    """A stage on the fake GPU, with everything that a training step uses."""
    held = [*getattr(stage, "perceptual", []), *getattr(stage, "teachers", [])]
    for module in (stage, *held):
        on_gpu(module)
    stage._device = CUDA
    return stage


def step(stage, batch):
    """A whole training step."""
    optimizer = stage.configure_optimizers()["optimizer"]
    backward(stage.training_step(batch, 0))
    assert all(weight.grad is not None for weight in stage.model.parameters() if weight.requires_grad)
    optimizer.step()
    if stage.ema is not None:
        stage.ema.update(stage.model)


@pytest.mark.parametrize("precision", ["bf16", pytest.param("fp32", marks=pytest.mark.slow)])
@pytest.mark.parametrize("case", presets(*PRESETS) + VARIANTS, ids=" ".join)
def test_a_training_step_keeps_to_the_gpu(monkeypatch, case, precision):
    stage = noise_stage(monkeypatch, *case, f"precision={precision}")
    batch = next(iter(stage.stream))
    with fake_gpu(monkeypatch) as gpu:
        step(moved(stage), tuple(map(on_gpu, batch)))
        if case[0] == "absorbing" or case == ("vq_svae", "paper"):  # they draw nothing on the CPU
            assert gpu.copies == 0
        assert {value.device for value in stage.metrics.values()} == {CUDA}


@pytest.mark.parametrize("precision", ["bf16", pytest.param("fp32", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "case",
    presets("absorbing", "gaussian")
    + [("gaussian", "base", "sample.sampler=ddpm_small"), ("gaussian", "base", "sample.sampler=dpm_solver")],
    ids=" ".join,
)
def test_sampling_keeps_to_the_gpu(monkeypatch, case, precision):
    """Every call of the sampler, and decoding. Noise and plans come from the CPU, and nothing goes back."""
    stage = noise_stage(monkeypatch, *case, f"precision={precision}", "sample.sample_steps=2")
    pipeline = pipeline_of(stage.export(), stage.config, precision=precision)
    monkeypatch.setattr("spiking_vq.pipelines.pixel.check_threshold_shift", lambda *_: None)  # it reads the thresholds
    with fake_gpu(monkeypatch, strict=False):
        on_gpu(pipeline.model)
        pipeline.device = CUDA
        with autocast(precision, CUDA), torch.no_grad():
            *_, last = pipeline.states([1, 2, 3])
            images = pipeline.decode(last.x, torch.Generator())
    assert last.calls == last.total == 2
    assert (images.device, len(images)) == (CUDA, 3)


@pytest.mark.parametrize("preset", PRESETS["vq_svae"])
def test_tokenizing_and_decoding_keep_to_the_gpu(monkeypatch, preset):
    stage = noise_stage(monkeypatch, "vq_svae", preset)
    with fake_gpu(monkeypatch):
        model, images = on_gpu(stage.model.eval()), torch.rand(2, *stage.model.image_shape, device=CUDA)
        monkeypatch.setattr("spiking_vq.models.vq_svae.require_unit_range", lambda *_: None)  # it reads the images
        with autocast("bf16", CUDA), torch.no_grad():
            tokens = model.tokenize(images)
            assert model.decode(tokens).shape == images.shape
    assert tokens.device == CUDA


@pytest.mark.parametrize("loss", ["mse", "synaptic_current"])
def test_tables_of_a_gaussian_diffusion_are_copied_once(monkeypatch, loss):
    diffusion = GaussianDiffusion(20, "cosine", "v", loss)
    with fake_gpu(monkeypatch) as gpu:
        images = torch.zeros(2, 1, 4, 4, device=CUDA)
        diffusion.loss(lambda noisy, t: noisy, images)
        copies = gpu.copies
        diffusion.loss(lambda noisy, t: noisy, images)
        assert gpu.copies == copies > 0


FAULTS = {
    "a mask as index": (lambda x: x[x > 0].sum(), DynamicOutputShapeException),
    "nonzero": (lambda x: (x > 0).nonzero().sum(), DynamicOutputShapeException),
    "bincount": (lambda x: x.long().bincount().sum(), DynamicOutputShapeException),
    "unique": (lambda x: x.unique().sum(), DynamicOutputShapeException),
    "a mask as index of an assignment": (lambda x: x.index_put((x > 0,), x.new_zeros(())).sum(), HostSync),
    "a tensor left on the CPU": (lambda x: (x + torch.ones(len(x))).sum(), WrongDevice),
    "an index left on the CPU": (lambda x: x[torch.zeros(1, dtype=torch.long)].sum(), WrongDevice),
    "a generator left on the CPU": (
        lambda x: x.sum() + torch.rand((), device=x.device, generator=torch.Generator()),
        WrongDevice,
    ),
    "a copy to the GPU": (lambda x: (x + torch.ones(len(x)).to(x.device)).sum(), HostSync),
    "a constant copied to the GPU": (lambda x: x.sum() + torch.tensor(1.0, device=x.device), HostSync),
    "a copy to the CPU": (lambda x: x.cpu().sum(), HostSync),
}
READS = {
    "item": lambda x: x.sum().item(),
    "bool": lambda x: bool(x.sum()),
    "tolist": lambda x: x.tolist(),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found(monkeypatch, fault):
    run, error = FAULTS[fault]
    with fake_gpu(monkeypatch), pytest.raises(error):
        run(torch.zeros(3, device=CUDA))


@pytest.mark.parametrize("read", READS)
def test_a_value_that_is_read_is_found(monkeypatch, read):
    with fake_gpu(monkeypatch), pytest.raises(Exception, match="_local_scalar_dense"):
        READS[read](torch.zeros(3, device=CUDA))


def test_the_backward_pass_gives_torch_s_gradients():
    """Node by node, on the CPU, where torch's engine can be asked too."""
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
    x = torch.randn(3, 1, 4, 4)

    def loss():
        y = network(x)
        return (y * y).sum() + y.mean() + network[0].weight.square().sum()

    loss().backward()
    expected = [weight.grad for weight in network.parameters()]
    network.zero_grad()
    backward(loss())
    for weight, grad in zip(network.parameters(), expected, strict=True):
        torch.testing.assert_close(weight.grad, grad)

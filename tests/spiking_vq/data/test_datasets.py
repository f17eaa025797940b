import gzip
import pickle
import shutil
import tarfile
import zipfile
from itertools import islice
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torchvision.datasets import cifar, mnist

from spiking_vq.data.datasets import DATASETS, load_dataset
from spiking_vq.data.levels import resize_images, to_uint8, to_unit
from spiking_vq.data.stream import BatchStream
from spiking_vq.errors import InputError
from spiking_vq.randomness import mix_seed

FOLDERS = {"mnist": "MNIST", "fmnist": "FashionMNIST", "kmnist": "KMNIST", "letters": "EMNIST"}
NUM_TRAIN, NUM_TEST = 50, 7


@pytest.fixture(autouse=True)
def downloads(monkeypatch):
    """Cut the network, and list what would have been downloaded."""
    urls = []

    def refuse(url, *args, **kwargs):
        urls.append(url)
        raise URLError("no network")

    for module in (mnist, cifar):
        monkeypatch.setattr(module, "download_and_extract_archive", refuse)
    return urls


def write_idx(file, array):
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, dtype=">i4").tobytes()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(header + array.astype(np.uint8).tobytes())


def idx_half(root, name, train):
    """The image and the label file of one half, in torchvision's layout."""
    prefix = "train" if train else "t10k"
    if name == "letters":
        prefix = "emnist-letters-train" if train else "emnist-letters-test"
    folder = root / FOLDERS[name] / "raw"
    return folder / f"{prefix}-images-idx3-ubyte", folder / f"{prefix}-labels-idx1-ubyte"


def stand_in(root, name):
    """Write a small set of 5x5 images; the first pixel of every training image is its row in the file."""
    rng = np.random.default_rng(0)
    for train, count in ((True, NUM_TRAIN), (False, NUM_TEST)):
        images = rng.integers(0, 256, (count, 5, 5))
        images[:, 0, 0] = np.arange(count)
        first_label = 1 if name == "letters" else 0
        image_file, label_file = idx_half(root, name, train)
        write_idx(image_file, images)
        write_idx(label_file, np.arange(count) % 3 + first_label)
    return load_dataset(name, root)


def file_rows(split):
    return split.images[:, 0, 0, 0].tolist()


@pytest.mark.parametrize("name", FOLDERS)
def test_counts_come_from_the_files_and_a_tenth_validates(tmp_path, name):
    data = stand_in(tmp_path, name)
    assert [len(split.labels) for split in (data.train, data.val, data.test)] == [45, 5, 7]
    assert sorted(file_rows(data.train) + file_rows(data.val)) == list(range(NUM_TRAIN))
    assert data.image_shape == (1, 5, 5)
    assert data.num_classes == (26 if name == "letters" else 10)
    assert data.stand_in.startswith("a stand-in of 50 training and 7 test images, officially ")
    for split in (data.train, data.val, data.test):
        assert (split.images.dtype, split.labels.dtype) == (torch.uint8, torch.int64)
        assert split.images.shape[1:] == data.image_shape
        assert split.labels.tolist() == [row % 3 for row in file_rows(split)]


def test_the_split_is_fixed_and_leaves_the_global_random_state_alone(tmp_path):
    torch.manual_seed(1)
    rows = file_rows(stand_in(tmp_path, "mnist").val)
    assert max(rows) - min(rows) > 5  # drawn from the whole file, which may be sorted by label
    torch.manual_seed(2)
    expected_draw = torch.rand(1)
    torch.manual_seed(2)
    assert file_rows(load_dataset("mnist", tmp_path).val) == rows
    assert torch.rand(1) == expected_draw


@pytest.mark.parametrize("name", FOLDERS)
def test_training_neither_needs_nor_fetches_the_test_files(tmp_path, name, downloads):
    data = stand_in(tmp_path, name)
    for file in idx_half(tmp_path, name, train=False):
        file.unlink()
    assert len(data.train.labels) == 45
    assert data.variance > 0
    assert not downloads
    with pytest.raises(InputError, match="not found"):
        _ = data.test
    assert downloads


def test_splits_are_read_once(tmp_path):
    data = stand_in(tmp_path, "mnist")
    assert data.train is data.train
    assert data.val is data.val
    assert data.test is data.test


def test_letters_are_turned_upright(tmp_path):
    data = stand_in(tmp_path, "letters")
    stored = np.frombuffer(idx_half(tmp_path, "letters", train=False)[0].read_bytes()[16:], np.uint8)
    assert (data.test.images[:, 0].numpy() == stored.reshape(NUM_TEST, 5, 5).transpose(0, 2, 1)).all()


@pytest.fixture
def cifar_root(tmp_path, monkeypatch):
    """A CIFAR-10 of 5 x 4 training images and 3 test images, whose checksums are taken as right."""
    monkeypatch.setattr(cifar, "check_integrity", lambda path, md5=None: Path(path).is_file())
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for batch, count in {**{f"data_batch_{i}": 4 for i in range(1, 6)}, "test_batch": 3}.items():
        entry = {"data": rng.integers(0, 256, (count, 3072), dtype=np.uint8), "labels": list(range(count))}
        (folder / batch).write_bytes(pickle.dumps(entry))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": ["plane"]}))
    return tmp_path


def test_cifar10_keeps_its_channels_and_reads_the_test_batch_last(cifar_root):
    test_batch = cifar_root / "cifar-10-batches-py" / "test_batch"
    stored = test_batch.read_bytes()
    test_batch.unlink()
    data = load_dataset("cifar10", cifar_root)
    assert (len(data.train.labels), len(data.val.labels), data.image_shape) == (18, 2, (3, 32, 32))
    test_batch.write_bytes(stored)
    assert (data.test.images.flatten(1).numpy() == pickle.loads(stored)["data"]).all()
    assert data.test.labels.tolist() == [0, 1, 2]


def test_cifar10_with_a_wrong_checksum_is_an_input_error(cifar_root, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(cifar.CIFAR10, "download", lambda self: None)
    with pytest.raises(InputError, match=r"cifar-10-batches-py: damaged: .*test_batch"):
        _ = load_dataset("cifar10", cifar_root).test


@pytest.mark.parametrize("name", [name for name in DATASETS if name != "digits"])
def test_missing_data_says_where_it_looked_and_what_to_do(tmp_path, name):
    data = load_dataset(name, tmp_path)  # lazy: nothing is missed yet
    with pytest.raises(InputError) as caught:
        _ = data.train
    folder = tmp_path / (
        f"{FOLDERS[name]}/raw" if name in FOLDERS else {"celeba": "celeba"}.get(name, "cifar-10-batches-py")
    )
    for part in (str(folder), "network", "torchvision downloads", "put torchvision's files", "data=digits"):
        assert part in str(caught.value)


def test_missing_data_is_downloaded(tmp_path, monkeypatch):
    data = load_dataset("kmnist", tmp_path)
    monkeypatch.setattr(mnist.MNIST, "download", lambda self: stand_in(tmp_path, "kmnist"))
    assert len(data.train.labels) == 45


@pytest.mark.parametrize(
    "damage",
    [
        lambda images, labels: images.write_bytes(b""),
        lambda images, labels: images.write_bytes(b"<html>not found</html>"),
        lambda images, labels: images.write_bytes(images.read_bytes()[:-1]),
        lambda images, labels: labels.write_bytes(labels.read_bytes()[:-1]),
        lambda images, labels: write_idx(labels, np.zeros(NUM_TRAIN - 1)),
        lambda images, labels: write_idx(labels, np.full(NUM_TRAIN, 10)),
    ],
    ids=["empty", "not idx", "images cut", "labels cut", "one label short", "label out of range"],
)
def test_a_damaged_file_is_an_input_error(tmp_path, damage):
    data = stand_in(tmp_path, "mnist")
    images, labels = idx_half(tmp_path, "mnist", train=True)
    damage(images, labels)
    with pytest.raises(InputError, match="damaged: train-images-idx3-ubyte") as caught:
        _ = data.train
    assert str(images.parent) in str(caught.value)
    assert len(data.test.labels) == NUM_TEST


def test_what_cannot_be_loaded_is_refused_at_once(tmp_path):
    with pytest.raises(
        InputError, match="'imagenet'.*mnist, fmnist, kmnist, letters, cifar10, celeba, digits, or the path"
    ):
        load_dataset("imagenet", tmp_path)
    with pytest.raises(InputError, match="image_size must be at least 1 pixel; got 0"):
        load_dataset("digits", tmp_path, image_size=0)


def test_digits_are_stratified_and_the_same_every_time(tmp_path):
    data, again = load_dataset("digits", tmp_path), load_dataset("digits", tmp_path)
    parts = (data.train, data.val, data.test)
    assert [len(part.labels) for part in parts] == [1437, 180, 180]
    assert (data.image_shape, data.num_classes) == ((1, 28, 28), 10)
    for part, part_again in zip(parts, (again.train, again.val, again.test), strict=True):
        assert torch.equal(part.images, part_again.images)
    shares = torch.stack([torch.bincount(part.labels, minlength=10) / len(part.labels) for part in parts])
    assert (shares.amax(0) - shares.amin(0)).max() < 0.01


def test_digits_are_rounded_once_after_the_resize(tmp_path):
    data, digits = load_dataset("digits", tmp_path), load_digits()
    unit = torch.from_numpy(digits.images).float().unsqueeze(1) / 16
    resized = torch.nn.functional.interpolate(unit, (28, 28), mode="bilinear", antialias=True)
    expected = (resized * 255).round().byte().numpy()
    stored = [(image.tobytes(), label) for image, label in zip(expected, digits.target, strict=True)]
    splits = (data.train, data.val, data.test)
    found = [(image.numpy().tobytes(), int(label)) for split in splits for image, label in zip(*split, strict=True)]
    # Whatever the order, every image is in exactly one split and has its label.
    assert sorted(found) == sorted(stored)


def test_image_size_resizes_every_split_with_antialiasing(tmp_path):
    # Columns of 0 and 200 by turns: their mean is 100, which a resize without antialiasing misses.
    stripes = np.tile([0, 200], (20, 16, 8))
    for train in (True, False):
        images, labels = idx_half(tmp_path, "mnist", train)
        write_idx(images, stripes)
        write_idx(labels, np.arange(20) % 10)
    data = load_dataset("mnist", tmp_path, image_size=4)
    assert data.image_shape == (1, 4, 4)
    for split in (data.train, data.val, data.test):
        assert split.images.shape[1:] == (1, 4, 4)
        assert (split.images[..., 1:-1].float() - 100).abs().max() < 5


def test_variance_is_that_of_the_training_pixels(tmp_path):
    data = stand_in(tmp_path, "mnist")
    assert data.variance == pytest.approx((data.train.images.numpy() / 255).var(), rel=1e-12)


def test_pixel_conversions_undo_each_other_and_clamp():
    levels = torch.arange(256, dtype=torch.uint8)
    unit = to_unit(levels)
    assert (unit.dtype, unit.min(), unit.max()) == (torch.float32, 0, 1)
    assert torch.equal(to_uint8(unit), levels)
    assert to_uint8(torch.tensor([-0.1, 0.4 / 255, 0.6 / 255, 1.1])).tolist() == [0, 0, 1, 255]
    with pytest.raises(InputError, match="expected uint8 images, got torch.float32"):
        to_unit(unit)
    with pytest.raises(InputError, match="expected floating-point images .* got torch.uint8"):
        to_uint8(levels)


@pytest.mark.parametrize("function", [to_unit, to_uint8, lambda images: resize_images(images, (4, 4))])
@pytest.mark.parametrize("images", [np.zeros((2, 1, 4, 4), np.uint8), np.zeros((2, 1, 4, 4)), [torch.zeros(1, 4, 4)]])
def test_what_is_no_tensor_is_told_from_one(function, images):
    told = r"as a torch tensor, got (numpy.uint8|numpy.float64|an object of type list).*as_uint8_images"
    with pytest.raises(InputError, match=told):
        function(images)


def test_resizing_takes_levels_only():
    for size in ((4, 4), (5, 5)):
        with pytest.raises(InputError, match=r"expected uint8 images, got torch.float32 \[2, 1, 4, 4\]"):
            resize_images(torch.zeros(2, 1, 4, 4), size)
        with pytest.raises(InputError, match=r"\[N, C, H, W\]; got torch.uint8 \[4, 4\]"):
            resize_images(torch.zeros(4, 4, dtype=torch.uint8), size)


def packed(folder):
    """Replace every file in a folder by its official archive, `NAME.gz`."""
    for file in list(folder.iterdir()):
        file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()


def contents(root):
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", FOLDERS)
def test_archives_are_read_where_nothing_can_be_unpacked(tmp_path, name):
    """Without a network torchvision unpacks nothing here, as in a folder that it may not write to."""
    loose = stand_in(tmp_path / "loose", name)
    stand_in(tmp_path / "packed", name)
    packed(tmp_path / "packed" / FOLDERS[name] / "raw")
    before = contents(tmp_path / "packed")
    data = load_dataset(name, tmp_path / "packed")
    for split in ("train", "val", "test"):
        for ours, theirs in zip(getattr(data, split), getattr(loose, split), strict=True):
            assert torch.equal(ours, theirs)
    assert contents(tmp_path / "packed") == before


def test_emnist_is_read_from_its_zip(tmp_path):
    loose = stand_in(tmp_path / "loose", "letters")
    stand_in(tmp_path / "packed", "letters")
    raw = tmp_path / "packed/EMNIST/raw"
    packed(raw)
    with zipfile.ZipFile(raw / "gzip.zip", "w") as archive:
        for file in raw.glob("*.gz"):
            archive.write(file, f"gzip/{file.name}")
            file.unlink()
    assert torch.equal(load_dataset("letters", tmp_path / "packed").test.images, loose.test.images)
    assert [path.name for path in raw.iterdir()] == ["gzip.zip"]


def test_cifar10_is_read_from_its_archive(cifar_root):
    expected = load_dataset("cifar10", cifar_root)
    wanted = expected.train.images, expected.test.images
    with tarfile.open(cifar_root / "cifar-10-python.tar.gz", "w:gz") as archive:
        archive.add(cifar_root / "cifar-10-batches-py", "cifar-10-batches-py")
    shutil.rmtree(cifar_root / "cifar-10-batches-py")
    data = load_dataset("cifar10", cifar_root)
    for ours, theirs in zip((data.train.images, data.test.images), wanted, strict=True):
        assert torch.equal(ours, theirs)
    assert [path.name for path in cifar_root.iterdir()] == ["cifar-10-python.tar.gz"]


def test_a_damaged_archive_is_named(tmp_path):
    data = stand_in(tmp_path, "mnist")
    packed(tmp_path / "MNIST/raw")
    archive = tmp_path / "MNIST/raw/train-images-idx3-ubyte.gz"
    archive.write_bytes(archive.read_bytes()[:-20])
    with pytest.raises(
        InputError, match=r"(?s)cannot be unpacked from train-images-idx3-ubyte\.gz.*delete the archives"
    ):
        _ = data.train
    assert len(data.test.labels) == NUM_TEST


def stream(num_batches=7, seed=0):
    """Rows 0..9 in batches of 3: three batches an epoch, one row left over."""
    rows = torch.arange(10)
    return BatchStream((rows, -rows), batch_size=3, num_batches=num_batches, seed=seed)


def served_rows(batches):
    return [rows.tolist() for rows, _ in batches]


def test_an_epoch_covers_the_rows_once_and_drops_the_partial_batch():
    batches = list(stream())
    assert (len(batches), len(stream()), stream().batches_per_epoch) == (7, 7, 3)
    epochs = [sum(served_rows(batches[start : start + 3]), []) for start in (0, 3)]
    assert all(len(set(epoch)) == 9 for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert all(torch.equal(rows, -negated) for rows, negated in batches)


def test_order_depends_on_the_seed_alone():
    expected = served_rows(stream(seed=3))
    torch.manual_seed(5)
    assert served_rows(stream(seed=3)) == expected
    assert served_rows(stream(seed=4)) != expected
    # seed + epoch would make the second epoch of seed 3 the first of seed 4
    assert served_rows(stream(seed=4))[:3] != expected[3:6]
    assert served_rows(stream(seed=3, num_batches=20))[:7] == expected


@pytest.mark.parametrize("served", range(7))
def test_a_resumed_stream_continues_the_unbroken_one(served):
    unbroken = served_rows(stream())
    first = stream()
    assert served_rows(islice(first, served)) == unbroken[:served]
    assert first.state_dict() == {"served": served}
    resumed = stream()
    resumed.load_state_dict(first.state_dict())
    assert served_rows(resumed) == unbroken[served:]
    assert served_rows(resumed) == unbroken


def test_a_batch_counts_as_served_when_it_is_yielded():
    batches = stream()
    for count, _ in enumerate(batches, start=1):
        assert batches.state_dict() == {"served": count}
    assert count == len(batches)


def test_iterators_nobody_draws_from_change_nothing():
    batches = stream()
    batches.load_state_dict({"served": 2})
    iter(batches)
    drawn = iter(batches)
    iter(batches)
    assert served_rows(drawn) == served_rows(stream())[2:]


def test_a_stream_that_handed_out_its_last_batch_starts_again():
    batches = stream()
    drawn = iter(batches)
    for _ in range(7):  # as Lightning does: the seventh batch, and no further `next` to end the iterator
        next(drawn)
    assert served_rows(batches) == served_rows(stream())


def test_stream_refuses_what_it_cannot_serve():
    with pytest.raises(InputError, match="batch_size must lie in 1..10, the number of rows, got 11"):
        BatchStream((torch.arange(10),), batch_size=11, num_batches=1, seed=0)
    with pytest.raises(InputError, match="one number of rows"):
        BatchStream((torch.arange(10), torch.arange(9)), batch_size=2, num_batches=1, seed=0)
    with pytest.raises(InputError, match="cannot resume after 8 batches a run of 7"):
        stream().load_state_dict({"served": 8})


def test_mix_seed_is_stable_and_separates_its_parts():
    assert mix_seed(0, 0) == 411788715114236230  # pinned: another value would change every run
    assert mix_seed(np.int64(3), 4) == mix_seed(3, 4)
    seeds = {mix_seed(*parts) for parts in [(1, 2), (2, 1), (12,), (1, 2, 0), (-1, 2), (2**70, 2)]}
    grid = {mix_seed(seed, epoch) for seed in range(50) for epoch in range(50)}
    assert (len(seeds), len(grid)) == (6, 2500)
    assert all(0 <= seed < 2**63 for seed in seeds | grid)
    with pytest.raises(TypeError):
        mix_seed(0.5)

"""Own data sets: folders of pictures and `.npz` files, read once and kept on disk."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from spiking_vq.data import mapped
from spiking_vq.data.datasets import is_path, load_dataset
from spiking_vq.data.listing import SPLITS
from spiking_vq.data.own import is_own_name, register
from spiking_vq.errors import InputError


def write_pictures(folder, count, size=(8, 8), first=0, mode="RGB"):
    """Pictures of one level each, `<number>.png`."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        level = number % 256
        Image.new(mode, size, level if mode == "L" else (level, 255 - level, 0)).save(folder / f"{number}.png")


@pytest.fixture
def pictures(tmp_path):
    """Two classes of 30 pictures each."""
    write_pictures(tmp_path / "pictures" / "apples", 30)
    write_pictures(tmp_path / "pictures" / "pears", 30, first=100)
    return tmp_path / "pictures"


def levels(split):
    """The first channel's level of each image."""
    return split.images[:][:, 0, 0, 0]


def test_class_folders_are_labels(pictures, tmp_path):
    data = load_dataset(str(pictures), tmp_path / "data")
    assert data.classes == ["apples", "pears"] and data.num_classes == 2 and data.labelled
    assert data.image_shape == (3, 8, 8)
    assert sum(len(getattr(data, split).labels) for split in SPLITS) == 60
    for split in SPLITS:
        held = getattr(data, split)
        assert torch.equal(held.labels, (levels(held) >= 100).long()), split


def test_a_split_is_in_random_order_and_the_same_again(pictures, tmp_path):
    train = load_dataset(str(pictures), tmp_path / "data").train
    assert 0 < train.labels[:20].sum() < 20
    again = load_dataset(str(pictures), tmp_path / "elsewhere").train
    assert torch.equal(levels(train), levels(again))


def test_further_files_move_no_other(pictures, tmp_path):
    before = load_dataset(str(pictures), tmp_path / "data")
    held = {split: set(levels(getattr(before, split)).tolist()) for split in SPLITS}
    write_pictures(pictures / "pears", 40, first=150)
    after = load_dataset(str(pictures), tmp_path / "data")
    assert after.name != before.name
    for split in SPLITS:
        now = set(levels(getattr(after, split)).tolist())
        assert held[split] == {level for level in now if level < 150}, split
    assert len(after.test.labels) > len(before.test.labels)


def test_tenths_are_about_tenths(tmp_path):
    images = np.zeros((5000, 4, 4), np.uint8)
    np.savez(tmp_path / "many.npz", images=images)
    data = load_dataset(str(tmp_path / "many.npz"), tmp_path / "data")
    assert 400 < len(data.test.labels) < 600 and 400 < len(data.val.labels) < 600


def test_named_splits_are_kept_and_missing_ones_are_taken_from_train(tmp_path):
    write_pictures(tmp_path / "set" / "train" / "a", 40)
    write_pictures(tmp_path / "set" / "train" / "b", 40, first=100)
    write_pictures(tmp_path / "set" / "Test" / "b", 5, first=200)
    data = load_dataset(str(tmp_path / "set"), tmp_path / "data")
    assert sorted(levels(data.test).tolist()) == list(range(200, 205))
    assert data.test.labels.tolist() == [1] * 5
    assert len(data.val.labels) > 0 and len(data.val.labels) + len(data.train.labels) == 80
    write_pictures(tmp_path / "set" / "Test" / "c", 1)
    with pytest.raises(InputError, match="classes that train does not have: c"):
        _ = load_dataset(str(tmp_path / "set"), tmp_path / "data").train.labels
    write_pictures(tmp_path / "set" / "more", 1)
    with pytest.raises(InputError, match="images in more next to"):
        load_dataset(str(tmp_path / "set"), tmp_path / "data")


@pytest.mark.parametrize("nested", ["", "one", "one/deeper"])
def test_a_flat_folder_and_a_single_sub_folder_have_no_labels(tmp_path, nested):
    write_pictures(tmp_path / "flat" / nested, 12)
    data = load_dataset(str(tmp_path / "flat"), tmp_path / "data")
    assert data.num_classes == 1 and not data.labelled and data.classes == []
    assert not data.train.labels.any() and "no labels" in data.about


def test_pictures_next_to_sub_folders_are_said(pictures, tmp_path):
    write_pictures(pictures, 2, first=200)
    data = load_dataset(str(pictures), tmp_path / "data")
    assert not data.labelled and "2 images lie next to 2 sub-folders" in data.about


def test_names_with_spaces_unicode_and_dots(tmp_path):
    folder = tmp_path / "Mes images (été).v2"
    write_pictures(folder / "Ä pfel", 6)
    write_pictures(folder / "梨 .b", 6, first=100)
    (folder / "Ä pfel" / "0.png").rename(folder / "Ä pfel" / "ñ o.e.PNG")
    data = load_dataset(str(folder), tmp_path / "data")
    assert sum(len(getattr(data, split).labels) for split in SPLITS) == 12
    assert is_own_name(data.name) and data.name.startswith("Mes-images-été-.v2-"), data.name
    assert data.classes == ["Ä pfel", "梨 .b"]


def test_hidden_files_and_other_files_are_counted(pictures, tmp_path):
    (pictures / "apples" / "notes.txt").write_text("x")
    (pictures / ".hidden").mkdir()
    write_pictures(pictures / ".hidden", 3)
    shutil.copy(pictures / "apples" / "0.png", pictures / "apples" / "._0.png")
    data = load_dataset(str(pictures), tmp_path / "data")
    assert "2 other files ignored" in data.about
    assert sum(len(getattr(data, split).labels) for split in SPLITS) == 60


def test_broken_images_are_named_and_counted_or_skipped(pictures, tmp_path):
    for number in range(7):
        whole = (pictures / "pears" / f"{100 + number}.png").read_bytes()
        (pictures / "pears" / f"broken {number}.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError) as caught:
        _ = load_dataset(str(pictures), tmp_path / "data").train.labels
    message = str(caught.value)
    assert "7 of 67 images" in message and "skip_broken=true" in message
    assert sum(f"pears/broken {number}.png" in message for number in range(7)) == 5
    data = load_dataset(str(pictures), tmp_path / "data", skip_broken=True)
    assert "7 broken images left out" in data.about
    for split in SPLITS:
        held = getattr(data, split)
        assert torch.equal(held.labels, (levels(held) >= 100).long()), split


def test_sizes_that_differ_need_an_image_size(pictures, tmp_path):
    write_pictures(pictures / "pears", 1, size=(9, 8), first=250)
    with pytest.raises(InputError, match=r"8 x 8 pixels .*8 x 9 pixels \(pears/250.png\).*image_size=64"):
        _ = load_dataset(str(pictures), tmp_path / "data").train.labels
    assert load_dataset(str(pictures), tmp_path / "data", 6).image_shape == (3, 6, 6)


def test_channels_are_those_of_most_files(tmp_path):
    write_pictures(tmp_path / "grey", 8, mode="L")
    write_pictures(tmp_path / "grey", 3, first=50)
    assert load_dataset(str(tmp_path / "grey"), tmp_path / "data").image_shape == (1, 8, 8)
    assert load_dataset(str(tmp_path / "grey"), tmp_path / "data", channels=3).image_shape == (3, 8, 8)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_images(tmp_path, count):
    (tmp_path / "few").mkdir()
    write_pictures(tmp_path / "few", count)
    with pytest.raises(InputError, match=f"holds {count} images .*at least 3"):
        load_dataset(str(tmp_path / "few"), tmp_path / "data")


@pytest.mark.parametrize("count", [3, 4, 9])
def test_every_split_has_an_image(tmp_path, count):
    write_pictures(tmp_path / "few", count)
    data = load_dataset(str(tmp_path / "few"), tmp_path / "data")
    lengths = [len(getattr(data, split).labels) for split in SPLITS]
    assert min(lengths) >= 1 and sum(lengths) == count


def test_it_is_read_once_and_works_without_its_source(pictures, tmp_path):
    name = register(pictures, tmp_path / "data")
    train = load_dataset(name, tmp_path / "data", 6).train
    shutil.rmtree(pictures)
    again = load_dataset(name, tmp_path / "data", 6).train
    assert torch.equal(train.images[:], again.images[:])
    with pytest.raises(InputError, match="no folder of images and no .npz file at"):
        _ = load_dataset(name, tmp_path / "data", 5).train.labels


def test_an_edited_file_is_read_anew_and_an_added_one_is_told(pictures, tmp_path):
    name = register(pictures, tmp_path / "data")
    before = load_dataset(name, tmp_path / "data").variance
    edited = pictures / "apples" / "0.png"
    pixels = Image.new("RGB", (8, 8), (9, 246, 0))
    size = edited.stat().st_size
    pixels.save(edited)
    assert edited.stat().st_size == size  # the same name and size: the same set
    assert register(pictures, tmp_path / "data") == name
    assert load_dataset(name, tmp_path / "data").variance != before
    write_pictures(pictures / "apples", 1, first=99)
    with pytest.raises(InputError, match="has changed since"):
        _ = load_dataset(name, tmp_path / "data", 5).train.labels


def test_an_interrupted_set_is_never_taken_for_whole(pictures, tmp_path, monkeypatch):
    data = load_dataset(str(pictures), tmp_path / "data")
    written = []

    def stopped(*arguments):
        written.append(arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", stopped)
        with pytest.raises(KeyboardInterrupt):
            _ = data.train
    assert written and [path.name for path in (tmp_path / "data" / "own" / data.name).iterdir()] == ["source.json"]
    killed = tmp_path / "data" / "own" / data.name / ".0123.99.part"
    killed.mkdir()
    assert len(load_dataset(data.name, tmp_path / "data").train.labels) > 0


def test_abandoned_parts_are_removed(tmp_path):
    kept = tmp_path / "kept"
    old = tmp_path / ".kept.1.part"
    old.mkdir()
    (old / "images.npy").write_bytes(b"x")
    for path in (old / "images.npy", old):
        os.utime(path, (0, 0))
    young = tmp_path / ".kept.2.part"
    young.mkdir()
    assert mapped.kept(kept, lambda folder: {"classes": []}) == {"classes": []}
    assert not old.exists() and young.exists()
    assert json.loads((kept / mapped.DESCRIPTION).read_text()) == {"classes": []}


def test_rows_of_mapped_images_are_those_of_the_tensor(tmp_path):
    images = torch.randint(256, (20, 3, 4, 5), dtype=torch.uint8)
    mapped.write_rows(tmp_path / "images.npy", images.split(6))
    assert np.array_equal(np.load(tmp_path / "images.npy"), images.numpy())
    rows = torch.randperm(20)[:12]
    own = mapped.MappedImages(tmp_path / "images.npy", rows.numpy())
    expected = images[rows]
    assert own.shape == expected.shape and len(own) == 12 and own.numel() == expected.numel()
    some = torch.tensor([3, 3, 0])
    assert torch.equal(own[some], expected[some]) and torch.equal(own[2:5], expected[2:5])
    assert torch.equal(torch.cat(list(own.split(5))), expected)
    assert torch.equal(own[torch.arange(12) % 2 == 0], expected[::2])


@pytest.mark.parametrize("packed", [np.savez, np.savez_compressed])
def test_arrays(tmp_path, packed):
    images = torch.randint(256, (300, 6, 6, 3), dtype=torch.uint8).numpy()
    labels, split = np.arange(300) % 4, np.array(["train"] * 200 + ["val"] * 60 + ["test"] * 40)
    packed(tmp_path / "arrays.npz", images=images, labels=labels, split=split)
    data = load_dataset(str(tmp_path / "arrays.npz"), tmp_path / "data")
    assert data.num_classes == 4 and data.image_shape == (3, 6, 6)
    for name, rows in (("train", range(200)), ("val", range(200, 260)), ("test", range(260, 300))):
        held = getattr(data, name)
        assert len(held.labels) == len(rows)
        found = {
            tuple(image.flatten().tolist()): int(label)
            for image, label in zip(held.images[:], held.labels, strict=True)
        }
        assert found == {tuple(images[row].transpose(2, 0, 1).flatten().tolist()): row % 4 for row in rows}


def test_grey_arrays_become_colour_and_alpha_is_flattened(tmp_path):
    grey = np.full((10, 4, 4), 7, np.uint8)
    np.savez(tmp_path / "grey.npz", images=grey)
    assert load_dataset(str(tmp_path / "grey.npz"), tmp_path / "data").image_shape == (1, 4, 4)
    colour = load_dataset(str(tmp_path / "grey.npz"), tmp_path / "data", channels=3)
    assert (colour.train.images[:] == 7).all() and colour.image_shape == (3, 4, 4)
    clear = np.zeros((10, 4, 4, 4), np.uint8)
    np.savez(tmp_path / "clear.npz", images=clear)
    white = load_dataset(str(tmp_path / "clear.npz"), tmp_path / "data", background="#ff8000").train.images[:]
    assert white[0, :, 0, 0].tolist() == [255, 128, 0]


def test_luma_of_arrays_is_that_of_pictures(tmp_path):
    images = torch.randint(256, (12, 6, 6, 3), dtype=torch.uint8).numpy()
    np.savez(tmp_path / "colour.npz", images=images)
    data = load_dataset(str(tmp_path / "colour.npz"), tmp_path / "data", channels=1)
    expected = {np.asarray(Image.fromarray(image).convert("L")).tobytes() for image in images}
    assert {image.numpy().tobytes() for split in SPLITS for image in getattr(data, split).images[:]} == expected


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"pictures": np.zeros((9, 4, 4), np.uint8)}, "holds `images`"),
        ({"images": np.zeros((9, 4, 4), np.float32)}, "float32"),
        ({"images": np.zeros((9, 4, 4, 2), np.uint8)}, r"\[9, 4, 4, 2\]"),
        ({"images": np.zeros((0, 4, 4), np.uint8)}, r"\[0, 4, 4\]"),
        ({"images": np.zeros((9, 4, 4), np.uint8), "labels": np.zeros(8, int)}, r"labels must be of shape \[9\]"),
        ({"images": np.zeros((9, 4, 4), np.uint8), "labels": np.full(9, -1)}, "integers of at least 0"),
        ({"images": np.zeros((9, 4, 4), np.uint8), "split": np.full(9, "best")}, "'best'"),
        ({"images": np.zeros((2, 4, 4), np.uint8)}, "2 training images, and at least 3"),
        ({"images": np.array([{}] * 9)}, "object"),
    ],
)
def test_arrays_that_cannot_be_used(tmp_path, arrays, message):
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(InputError, match=message):
        load_dataset(str(tmp_path / "bad.npz"), tmp_path / "data")


@pytest.mark.parametrize("packed", [np.savez, np.savez_compressed])
def test_damaged_arrays(tmp_path, packed):
    path = tmp_path / "arrays.npz"
    packed(path, images=torch.randint(256, (300, 8, 8), dtype=torch.uint8).numpy())
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    data = load_dataset(str(path), tmp_path / "data")
    with pytest.raises(InputError, match="arrays.npz is damaged .*write it again"):
        _ = data.train
    assert [file.name for file in (tmp_path / "data" / "own" / data.name).iterdir()] == ["source.json"]


def test_what_names_no_data_set(tmp_path):
    (tmp_path / "x.npz").write_bytes(b"PK not a zip")
    with pytest.raises(InputError, match="must be an .npz file"):
        load_dataset(str(tmp_path / "x.npz"), tmp_path / "data")
    with pytest.raises(InputError, match="no folder of images and no .npz file at"):
        load_dataset("./nowhere", tmp_path / "data")
    with pytest.raises(InputError, match="no data set sprites-0123abcd in"):
        load_dataset("sprites-0123abcd", tmp_path / "data")
    with pytest.raises(InputError, match="channels, background: only for a folder of images"):
        load_dataset("digits", tmp_path, channels=1, background="white")
    with pytest.raises(InputError, match="background must be a colour"):
        load_dataset("digits", tmp_path, background="nothing")


def test_a_name_wins_over_a_folder_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mine").mkdir()
    assert not is_path("mnist") and is_path("./mnist") and is_path("mine") and not is_path("yours")


def test_the_variance_is_that_of_all_training_pixels(pictures, tmp_path):
    data = load_dataset(str(pictures), tmp_path / "data")
    pixels = data.train.images[:].double() / 255
    assert data.variance == pytest.approx(pixels.var(correction=0).item(), rel=1e-12)

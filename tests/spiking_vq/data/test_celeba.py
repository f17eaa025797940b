"""CelebA, on made files in its layout."""

import pytest
import torch
from PIL import Image
from torchvision.datasets import CelebA

from spiking_vq.data.datasets import load_dataset
from spiking_vq.errors import InputError

PARTITION = {f"{number:06d}.jpg": split for number, split in enumerate((0, 2, 0, 1, 0, 1, 2), 1)}


@pytest.fixture
def celeba_root(tmp_path, monkeypatch):
    """Seven faces: red in the middle 148 x 148 pixels, blue around it."""
    folder = tmp_path / "celeba"
    (folder / "img_align_celeba").mkdir(parents=True)
    for name in PARTITION:
        image = Image.new("RGB", (178, 218), (0, 0, 255))
        image.paste((255, 0, 0), (15, 35, 163, 183))
        image.save(folder / "img_align_celeba" / name, quality=95)
    (folder / "list_eval_partition.txt").write_text("".join(f"{name} {part}\n" for name, part in PARTITION.items()))
    (folder / "identity_CelebA.txt").write_text("".join(f"{name} 1\n" for name in PARTITION))
    for table in ("list_bbox_celeba.txt", "list_landmarks_align_celeba.txt", "list_attr_celeba.txt"):
        rows = "".join(f"{name} 1 1 1 1\n" for name in PARTITION)
        (folder / table).write_text(f"{len(PARTITION)}\na b c d\n{rows}")
    monkeypatch.setattr(CelebA, "file_list", [(key, None, name) for key, _, name in CelebA.file_list])
    return tmp_path


def test_splits_crop_and_size(celeba_root):
    data = load_dataset("celeba", celeba_root)
    assert [len(split.labels) for split in (data.train, data.val, data.test)] == [3, 2, 2]
    assert data.image_shape == data.official_shape == (3, 64, 64) and not data.labelled
    images = data.train.images[:]
    assert images.dtype == torch.uint8
    assert (images[:, 0] > 200).float().mean() > 0.97 and images[:, 0, 32, 32].min() > 240  # the blue is cropped
    assert load_dataset("celeba", celeba_root, 32).image_shape == (3, 32, 32)


def test_it_is_read_once(celeba_root):
    before = load_dataset("celeba", celeba_root).test.images[:]
    (celeba_root / "celeba" / "list_eval_partition.txt").unlink()
    assert torch.equal(load_dataset("celeba", celeba_root).test.images[:], before)


def test_a_damaged_face_is_named(celeba_root):
    (celeba_root / "celeba" / "img_align_celeba" / "000004.jpg").write_bytes(b"x")
    with pytest.raises(InputError, match="000004.jpg is damaged"):
        _ = load_dataset("celeba", celeba_root).train

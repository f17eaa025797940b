"""Picture files of every usual kind."""

import numpy as np
import pytest
import torch
from PIL import Image

from spiking_vq.data.pictures import Wanted, fitted, has_colour, read_picture
from spiking_vq.errors import InputError


def levels(path, channels=3, background="black"):
    """The levels of the top left pixel."""
    return read_picture(path, channels, background)[:, 0, 0].tolist()


def test_grey_and_colour(tmp_path):
    Image.new("L", (3, 2), 7).save(tmp_path / "grey.png")
    Image.new("RGB", (3, 2), (10, 20, 30)).save(tmp_path / "colour.png")
    assert read_picture(tmp_path / "grey.png", 3).shape == (3, 2, 3)
    assert levels(tmp_path / "grey.png") == [7, 7, 7] and levels(tmp_path / "grey.png", 1) == [7]
    assert levels(tmp_path / "colour.png") == [10, 20, 30]
    assert levels(tmp_path / "colour.png", 1) == [18]  # 0.299 R + 0.587 G + 0.114 B
    assert has_colour(tmp_path / "colour.png") and not has_colour(tmp_path / "grey.png")


def test_black_and_white_of_one_bit(tmp_path):
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "bits.png")
    assert read_picture(tmp_path / "bits.png", 1)[0, 0].tolist() == [255, 0]
    assert not has_colour(tmp_path / "bits.png")


def test_palettes(tmp_path):
    palette = Image.new("P", (2, 2), 1)
    palette.putpalette([0, 0, 0, 200, 100, 50])
    palette.save(tmp_path / "palette.png")
    assert levels(tmp_path / "palette.png") == [200, 100, 50] and has_colour(tmp_path / "palette.png")
    palette.info["transparency"] = 1
    palette.save(tmp_path / "clear.png", transparency=1)
    assert levels(tmp_path / "clear.png", background="white") == [255, 255, 255]
    grey = Image.new("P", (2, 2), 1)
    grey.putpalette([0, 0, 0, 9, 9, 9])
    grey.save(tmp_path / "grey.gif")
    assert not has_colour(tmp_path / "grey.gif") and levels(tmp_path / "grey.gif", 1) == [9]


@pytest.mark.parametrize(("background", "expected"), [("black", [100, 0, 0]), ("white", [255, 155, 155])])
def test_alpha_is_flattened_on_the_background(tmp_path, background, expected):
    Image.new("RGBA", (2, 2), (255, 0, 0, 100)).save(tmp_path / "alpha.png")
    assert levels(tmp_path / "alpha.png", background=background) == expected


def test_alpha_of_grey_and_of_webp(tmp_path):
    Image.new("LA", (2, 2), (200, 0)).save(tmp_path / "grey.png")
    assert levels(tmp_path / "grey.png", 1, "#202020") == [32]
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "clear.webp", lossless=True)
    assert levels(tmp_path / "clear.webp", background="white") == [255, 255, 255]


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_grey(tmp_path, suffix):
    Image.fromarray(np.full((2, 2), 257 * 99 + 128, np.uint16)).save(tmp_path / f"deep.{suffix}")
    assert levels(tmp_path / f"deep.{suffix}", 1) == [99] and levels(tmp_path / f"deep.{suffix}") == [99] * 3
    assert not has_colour(tmp_path / f"deep.{suffix}")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.full((2, 2), 70_000, np.int32), "32-bit levels from 70000"),
        (np.full((2, 2), 255, np.int32), "32-bit levels from 255 to 255"),
        (np.full((2, 2), 0.5, np.float32), "floating-point levels from 0.5"),
    ],
)
def test_numbers_that_are_no_16_bit_levels(tmp_path, values, message):
    Image.fromarray(values).save(tmp_path / "deep.tif")
    with pytest.raises(InputError, match=message):
        read_picture(tmp_path / "deep.tif", 1)


def test_cmyk(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "print.tif")
    assert levels(tmp_path / "print.tif") == [255, 0, 0] and has_colour(tmp_path / "print.tif")
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "print.jpg", quality=95)
    red, green, blue = levels(tmp_path / "print.jpg")
    assert red > 240 and green < 15 and blue < 15


def test_exif_rotation(tmp_path):
    image = Image.new("L", (16, 8), 0)
    image.paste(255, (8, 0, 16, 8))  # white on the right
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    image.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    turned = read_picture(tmp_path / "turned.jpg", 1)[0]
    assert turned.shape == (16, 8) and turned[:7].max() < 20 and turned[9:].min() > 235


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_the_first_frame_of_an_animation(tmp_path, suffix):
    frames = [Image.new("RGB", (8, 8), (255, 0, 0)), Image.new("RGB", (8, 8), (0, 0, 255))]
    options = {"lossless": True} if suffix == "webp" else {}
    frames[0].save(tmp_path / f"film.{suffix}", save_all=True, append_images=frames[1:], **options)
    assert levels(tmp_path / f"film.{suffix}") == [255, 0, 0]


def test_what_is_no_picture(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(OSError, match="cannot identify"):
        read_picture(tmp_path / "broken.png", 1)


@pytest.mark.parametrize("shape", [(1, 20, 40), (3, 40, 20), (1, 7, 90)])
@pytest.mark.parametrize("size", [8, 20, 33])
def test_the_middle_is_cropped_from_the_resized_shorter_side(shape, size):
    ramp = torch.linspace(0, 255, shape[2]).round().to(torch.uint8).expand(shape)
    square = fitted(ramp, Wanted(size))
    assert square.shape == (shape[0], size, size)
    middle = square[0, size // 2].float().mean() - 127.5
    assert abs(middle) < 8  # the crop is centred
    if shape[2] > shape[1]:
        assert square[0, 0, -1].int() - square[0, 0, 0].int() < 255 * (shape[1] / shape[2]) + 12


def test_stretching_keeps_the_whole_picture():
    ramp = torch.linspace(0, 255, 60).round().to(torch.uint8).expand(1, 20, 60)
    square = fitted(ramp, Wanted(20, resize="stretch"))
    assert square.shape == (1, 20, 20) and square[0, 0, 0] < 8 and square[0, 0, -1] > 247


def test_without_a_size_nothing_changes():
    image = torch.randint(256, (3, 5, 9), dtype=torch.uint8)
    assert torch.equal(fitted(image, Wanted()), image)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (Wanted(0), "image_size must be at least 1"),
        (Wanted(channels=2), "channels must be 1 for grey or 3"),
        (Wanted(resize="zoom"), "resize must be"),
        (Wanted(background="see-through"), "background must be a colour"),
    ],
)
def test_options_out_of_range(wanted, message):
    with pytest.raises(InputError, match=message):
        wanted.checked()

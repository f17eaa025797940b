"""Completion on the page: what stays, uploads of all kinds, and mistakes."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from spiking_vq.data.levels import to_unit
from spiking_vq.errors import InputError
from stages.app.complete import COMPLETIONS, MOST_BYTES, PARTS, complete, kept, part, read_upload
from stages.app.models import Models, controls


@pytest.fixture
def pipeline(latents):
    return latents.pipeline(latents.first)


@pytest.fixture
def own(pipeline):
    return controls(pipeline).values | {"temperature": 3.0}  # so that draws vary


def encoded(image, kind, **options):
    image.save(file := io.BytesIO(), kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("erased", ["000000111", "100000000", "111111111"])
def test_kept_tokens_stay_and_the_others_vary(pipeline, own, images, erased):
    image = (images[0] * 255).to(torch.uint8)
    made = complete(pipeline, image, erased, 0, own)
    assert made.images.shape == (COMPLETIONS, 1, 12, 12)
    keep = torch.tensor([cell == "0" for cell in erased]).view(3, 3)
    tokens = pipeline.model.vq_svae.tokenize(to_unit(image.unsqueeze(0)))
    assert (made.tokens == tokens)[..., keep].all()
    assert not (made.tokens == made.tokens[:1])[..., ~keep].all()


def test_completion_obeys_seed_and_label(pipeline, own, images):
    image = (images[0] * 255).to(torch.uint8)
    first, again, seed, label = (
        complete(pipeline, image, "000111111", *given).tokens
        for given in ((0, own), (0, own), (1, own), (0, own | {"label": 3}))
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, seed)
    assert not torch.equal(first, label)


@pytest.mark.parametrize("erased", ["", None, "0" * 9, "0101", "x" * 9, 7])
def test_nothing_to_complete(pipeline, own, images, erased):
    with pytest.raises(InputError, match="first"):
        complete(pipeline, (images[0] * 255).to(torch.uint8), erased, 0, own)
    with pytest.raises(InputError, match="choose a picture first"):
        complete(pipeline, None, "000000111", 0, own)


def test_a_model_of_pixels_says_so(pixels, images):
    pipeline = pixels.pipeline(pixels.first)
    with pytest.raises(InputError, match="pixels, not tokens"):
        complete(pipeline, (images[0] * 255).to(torch.uint8), "000000111", 0, controls(pipeline).values)


def test_parts_of_a_picture(pipeline):
    assert {name: part(name, pipeline) for name in PARTS} == {
        "upper half": "111000000",
        "lower half": "000000111",
        "left half": "100100100",
        "right half": "001001001",
        "middle": "000010000",
        "nothing": "000000000",
    }
    assert kept("000000111", (3, 3)).tolist() == [[True] * 3, [True] * 3, [False] * 3]
    with pytest.raises(InputError, match="the part must be one of"):
        part("a corner", pipeline)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("mode", ["L", "RGB", "P", "1"])
def test_usual_formats(pipeline, kind, mode):
    if (kind, mode) == ("JPEG", "P"):
        pytest.skip("JPEG has no palettes")
    ink = np.zeros((60, 40), np.uint8)
    ink[20:40, 10:30] = 255
    image, changes = read_upload(encoded(Image.fromarray(ink).convert(mode), kind), pipeline)
    assert image.shape == (1, 12, 12)
    assert image[0, 6, 6] > 200
    assert image[0, 0, 0] < 50
    assert changes == "cropped and resized to 12 x 12 pixels"


def test_a_picture_of_the_right_size_is_exact(pipeline):
    levels = np.zeros((12, 12), np.uint8)
    levels[1:-1, 1:-1] = np.arange(100).reshape(10, 10)
    image, changes = read_upload(encoded(Image.fromarray(levels), "PNG"), pipeline)
    assert np.array_equal(image[0], levels)
    assert changes == ""


def test_dark_ink_on_white_is_inverted_and_transparency_is_black(pipeline):
    paper = np.full((12, 12), 255, np.uint8)
    paper[5:7] = 0
    paper[:, 0] = paper[:, -1] = 255
    image, changes = read_upload(encoded(Image.fromarray(paper), "PNG"), pipeline)
    assert np.array_equal(image[0], 255 - paper)
    assert changes.startswith("inverted")
    clear = np.zeros((12, 12, 4), np.uint8)
    clear[..., :3] = 255
    clear[5, 5, 3] = 255
    image, _ = read_upload(encoded(Image.fromarray(clear), "PNG"), pipeline)
    assert image.sum() == 255


def test_grey_of_16_bits_and_colors_of_a_printer(pipeline):
    levels = np.zeros((12, 12), np.uint16)
    levels[5, 5] = 65535
    levels[5, 6] = 128 * 257
    image, _ = read_upload(encoded(Image.fromarray(levels), "PNG"), pipeline)
    assert image[0, 5, 5:7].tolist() == [255, 128]
    assert image.sum() == 383
    white_on_black = Image.fromarray(levels.astype(np.uint8)).convert("CMYK")
    assert read_upload(encoded(white_on_black, "TIFF"), pipeline).image.shape == (1, 12, 12)


def test_color_stays_for_a_model_of_colors(latents):
    pipeline = Models(latents.path).pipeline("cifar10-base-absorbing")
    image, _ = read_upload(encoded(Image.new("RGB", (64, 64), (200, 30, 40)), "PNG"), pipeline)
    assert image.shape == (3, 32, 32)
    assert image[:, 0, 0].tolist() == [200, 30, 40]


def test_uploads_that_cannot_be_read(pipeline):
    whole = encoded(Image.new("L", (200, 200)), "PNG")
    svg = b'<svg xmlns="http://www.w3.org/2000/svg"></svg>'
    for content in (b"", b"nope", whole[: len(whole) // 2], svg, b"\x89PNG\r\n\x1a\n" + bytes(99)):
        with pytest.raises(InputError, match="no picture that can be read"):
            read_upload(content, pipeline)
    with pytest.raises(InputError, match="at most 10 MB"):
        read_upload(bytes(MOST_BYTES + 1), pipeline)
    with pytest.raises(InputError, match="50 million pixels"):
        read_upload(encoded(Image.new("1", (8000, 8000)), "PNG"), pipeline)

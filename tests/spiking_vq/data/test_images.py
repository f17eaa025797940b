"""Images from outside: every conversion is exact, or refused by name."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from spiking_vq.data.images import as_uint8_images, list_png_files, read_images
from spiking_vq.data.levels import to_unit
from spiking_vq.errors import InputError

GREY, COLOUR, GREY_ALPHA, COLOUR_ALPHA = 0, 2, 4, 6  # PNG's colour types
LEVELS = np.array([[0, 64, 128], [255, 1, 254]])
INK = np.array([[0, 40, 255], [255, 128, 3]])


def read_image(path, channels, background="black"):
    return read_images([path], channels, background).images[0]


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def write_png(path, values, bits, kind, transparent=None):
    """Write integer values [H, W, channels] as a PNG file of this colour type; one value may be transparent."""
    height, width = values.shape[:2]
    values = values.reshape(height, -1)
    if bits < 8:
        rows = [np.packbits([int(bit) for v in row for bit in f"{v:0{bits}b}"]).tobytes() for row in values]
    else:
        rows = [row.astype(">u2" if bits == 16 else np.uint8).tobytes() for row in values]
    content = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0))
    if transparent is not None:
        content += chunk(b"tRNS", struct.pack(f">{len(transparent)}H", *transparent))
    content += chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    return path


def in_colour(levels):
    """Levels [H, W] as R, G and B that differ."""
    return np.stack([levels, levels[::-1], 255 - levels], -1)


def saved(path, image, **options):
    image.save(path, **options)
    return path


def over(ink, alpha, background):
    """Ink on a background, in real numbers rounded once."""
    return np.floor((alpha * ink + (255 - alpha) * background) / 255 + 0.5).astype(int)


@pytest.mark.parametrize(("bits", "step"), [(1, 255), (2, 85), (4, 17), (8, 1)])
def test_grey_of_up_to_8_bits_is_exact_and_repeated_in_colour(tmp_path, bits, step):
    values = np.arange(8).reshape(2, 4) % 2**bits
    path = write_png(tmp_path / "a.png", values, bits, GREY)
    grey = read_image(path, 1)
    assert (grey.dtype, grey[0].tolist()) == (torch.uint8, (values * step).tolist())
    assert torch.equal(read_image(path, 3), grey.expand(3, -1, -1))


def test_grey_of_16_bits_is_divided_by_257(tmp_path):
    path = write_png(tmp_path / "a.png", 257 * LEVELS, 16, GREY)
    assert read_image(path, 1)[0].tolist() == LEVELS.tolist()
    every = np.arange(65536).reshape(256, 256)
    read_back = read_image(write_png(tmp_path / "b.png", every, 16, GREY), 1)
    assert read_back[0].tolist() == np.floor(every / 257 + 0.5).tolist()


def test_colour_and_palettes_are_exact(tmp_path):
    colour = in_colour(LEVELS).astype(np.uint8)
    image = Image.fromarray(colour)
    palette = image.convert("P", palette=Image.Palette.ADAPTIVE, colors=8)
    for path in (saved(tmp_path / "a.png", image), saved(tmp_path / "b.png", palette)):
        assert (read_image(path, 3).permute(1, 2, 0).numpy() == colour).all()
        with pytest.raises(InputError, match=rf"{path.name} has colour \(R, G and B differ\), and grey is expected"):
            read_image(path, 1)
    equal = saved(tmp_path / "c.png", Image.fromarray(np.stack([LEVELS] * 3, -1).astype(np.uint8)))
    assert read_image(equal, 1)[0].tolist() == LEVELS.tolist()


@pytest.mark.parametrize(("background", "level"), [("black", 0), ("white", 255)])
def test_alpha_is_composited_on_the_background(tmp_path, background, level):
    expected = over(LEVELS, INK, level)
    grey = write_png(tmp_path / "grey.png", np.stack([LEVELS, INK], -1), 8, GREY_ALPHA)
    assert read_image(grey, 1, background)[0].tolist() == expected.tolist()
    colour = in_colour(LEVELS)
    with_alpha = write_png(tmp_path / "colour.png", np.dstack([colour, INK]), 8, COLOUR_ALPHA)
    expected = over(colour, INK[..., None], level)
    assert read_image(with_alpha, 3, background).permute(1, 2, 0).tolist() == expected.tolist()
    faded = Image.fromarray(INK.astype(np.uint8)).convert("P")
    faded = saved(tmp_path / "palette.png", faded, transparency=bytes(range(256)))
    expected = over(INK, INK, level)
    assert read_image(faded, 1, background)[0].tolist() == expected.tolist()
    assert read_images([grey], 1, background).composited == 1


@pytest.mark.parametrize(
    ("values", "bits", "kind", "key"),
    [
        (LEVELS, 8, GREY, (64,)),
        (257 * LEVELS, 16, GREY, (257 * 64,)),
        (np.array([[0, 1, 2], [3, 0, 3]]), 2, GREY, (1,)),
        (in_colour(LEVELS), 8, COLOUR, tuple(in_colour(LEVELS)[0, 1])),
    ],
    ids=["grey", "16 bits", "2 bits", "colour"],
)
def test_one_transparent_value_is_composited(tmp_path, values, bits, kind, key):
    channels = 3 if kind == COLOUR else 1
    opaque = read_image(write_png(tmp_path / "a.png", values, bits, kind), channels)
    path = write_png(tmp_path / "b.png", values, bits, kind, key)
    expected = opaque.clone()
    expected[:, 0, 1] = 255
    assert torch.equal(read_image(path, channels, "white"), expected)


def test_opaque_alpha_is_left_out(tmp_path):
    opaque = write_png(tmp_path / "a.png", np.stack([LEVELS, np.full_like(LEVELS, 255)], -1), 8, GREY_ALPHA)
    unused = write_png(tmp_path / "b.png", LEVELS, 8, GREY, (77,))
    images, composited = read_images([opaque, unused], 1)
    assert images.tolist() == [[LEVELS.tolist()]] * 2
    assert composited == 0


@pytest.mark.parametrize("kind", [COLOUR, GREY_ALPHA, COLOUR_ALPHA])
def test_colour_of_16_bits_is_refused(tmp_path, kind):
    path = write_png(tmp_path / "deep.png", np.full((2, 2, {2: 3, 4: 2, 6: 4}[kind]), 65535), 16, kind)
    with pytest.raises(InputError, match=r"deep\.png has 16 bits a channel.*8 bits"):
        read_image(path, 3)


def test_other_files_are_refused_by_name(tmp_path):
    frames = [Image.new("L", (4, 4), level) for level in (0, 9)]
    path = saved(tmp_path / "moving.png", frames[0], save_all=True, append_images=frames[1:])
    with pytest.raises(InputError, match=r"moving\.png has 2 frames"):
        read_image(path, 1)
    for content in (b"", b"no image", path.read_bytes()[:60]):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"moving\.png is not a whole image"):
            read_image(path, 1)
    jpeg = saved(tmp_path / "photo.png", frames[0], format="jpeg")
    with pytest.raises(InputError, match=r"photo\.png is not a whole image.*cannot identify"):
        read_image(jpeg, 1)
    with pytest.raises(InputError, match="background must be one of black, white; got 'green'"):
        read_image(path, 1, "green")


def test_no_damaged_byte_passes_for_pixels(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (6, 6), dtype=np.uint8)
    path = saved(tmp_path / "a.png", Image.fromarray(image))
    whole = path.read_bytes()
    refused = 0
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 16]) + whole[position + 1 :])
        try:
            assert (read_image(path, 1)[0].numpy() == image).all()
        except InputError:
            refused += 1
    assert refused > len(whole) / 2


def test_images_of_one_size(tmp_path):
    paths = [saved(tmp_path / f"{n}.png", Image.new("L", (n, 8))) for n in (8, 9)]
    with pytest.raises(InputError, match=r"one size; got 8 x 8 in .*/8\.png and 8 x 9 in .*/9\.png"):
        read_images(paths, 1)


def test_png_files_are_listed_in_any_case_without_hidden_ones(tmp_path):
    for name in ("b.png", "a.PNG", "c.Png", ".png", "._b.png", ".hidden.png", "d.jpg", "png", "e.png.txt"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert [path.name for path in list_png_files(tmp_path)] == ["a.PNG", "b.png", "c.Png"]
    with pytest.raises(InputError, match="cannot read the folder of images .*none: No such file"):
        list_png_files(tmp_path / "none")
    with pytest.raises(InputError, match=r"must be a folder; got the file .*b\.png"):
        list_png_files(tmp_path / "b.png")


def examples(shape):
    """uint8 images [2, C, H, W], all different."""
    count = 2 * int(np.prod(shape))
    return torch.from_numpy(np.arange(count).reshape(2, *shape).astype(np.uint8))


@pytest.mark.parametrize("shape", [(1, 3, 4), (3, 4, 5)])
@pytest.mark.parametrize("kind", ["torch", "numpy"])
@pytest.mark.parametrize("levels", ["uint8", "float32", "float64", "float16"])
def test_arrays_and_tensors_of_every_layout(shape, kind, levels):
    expected = examples(shape)
    images = expected if levels == "uint8" else to_unit(expected).to(getattr(torch, levels))
    given = images.requires_grad_(images.is_floating_point()) if kind == "torch" else images.numpy()
    last = given.permute(0, 2, 3, 1) if kind == "torch" else given.transpose(0, 2, 3, 1)
    layouts = [given, last] + ([given[:, 0]] if shape[0] == 1 else [])
    for batch in layouts:
        for images in (batch, list(batch), tuple(batch), [batch[:1], batch[1]]):
            assert torch.equal(as_uint8_images(images, shape), expected)
        assert torch.equal(as_uint8_images(batch[0], shape), expected[:1])


def test_arrays_are_copied_whatever_their_strides_and_byte_order():
    expected = examples((1, 3, 4))
    array = expected.numpy().copy()
    array.flags.writeable = False
    made = as_uint8_images(array[:, :, ::-1], (1, 3, 4))
    assert torch.equal(made, expected.flip(2))
    assert torch.equal(as_uint8_images((array / 255).astype(">f8"), (1, 3, 4)), expected)
    made[:] = 7
    assert array.max() > 7


def test_pil_images_are_converted_as_files_are():
    levels = LEVELS.astype(np.uint8)
    grey, shape = Image.fromarray(levels), (1, *LEVELS.shape)
    faded = grey.copy()
    faded.putalpha(Image.fromarray(INK.astype(np.uint8)))
    deep = Image.fromarray((257 * LEVELS).astype(np.uint16))
    found = as_uint8_images([grey, grey.convert("RGB"), deep, faded, levels], shape)
    expected = [LEVELS, LEVELS, LEVELS, over(LEVELS, INK, 0), LEVELS]
    assert found[:, 0].tolist() == [image.tolist() for image in expected]
    assert torch.equal(as_uint8_images(grey, (3, *LEVELS.shape)), torch.from_numpy(levels).expand(1, 3, -1, -1))


def a_file_cut_short():
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (3, 4), dtype=np.uint8)).save(stream, "png")
    return Image.open(io.BytesIO(stream.getvalue()[:-30]))


@pytest.mark.parametrize(
    ("images", "told"),
    [
        (np.zeros((2, 5, 4), np.uint8), r"\[n, 1, 3, 4\], \[n, 3, 4, 1\] or \[n, 3, 4\].*got numpy.uint8 \[2, 5, 4\]"),
        (torch.zeros(0, 1, 3, 4), r"n at least 1.*got torch.float32 \[0, 1, 3, 4\]"),
        (torch.zeros(2, 3, 3, 4), r"got torch.float32 \[2, 3, 3, 4\].*resize_images"),
        (
            np.full((3, 4), 1.5),
            r"finite and in \[0, 1\]; got numpy.float64 \[3, 4\] with values from 1.5 to 1.5. Divide",
        ),
        (torch.full((3, 4), float("nan")), r"finite and in \[0, 1\]; got torch.float32 \[3, 4\] with values from nan"),
        (np.zeros((3, 4), np.int64), r"got numpy.int64 \[3, 4\]: of levels 0..255, images.astype\(numpy.uint8\)"),
        (torch.zeros(3, 4, dtype=torch.bool), r"got torch.bool \[3, 4\]: 255 \* images.to\(torch.uint8\)"),
        (np.zeros((3, 4), np.uint16), r"got numpy.uint16 \[3, 4\]: images / 65535"),
        ([np.zeros((3, 4), np.uint8), 7], r"images\[1\] must be a torch tensor.*got an object of type int"),
        ([], r"images must be at least one image; got an empty list"),
        ("digit.png", r"a torch tensor, a NumPy array, a PIL image, or a list of these; got .* type str"),
        (Image.new("L", (3, 4)), r"PIL image of mode L, 4 x 3 pixels\) must be 3 x 4 pixels: image.resize\(\(4, 3\)\)"),
        (Image.new("RGB", (4, 3), "red"), r"PIL image of mode RGB.* has colour"),
        (Image.new("CMYK", (4, 3)), r"mode CMYK, .*convert it to L \(grey\) or RGB"),
        (Image.new("F", (4, 3)), r"mode F, of which no conversion to levels 0..255 is exact"),
        (Image.new("I", (4, 3), 65536), r"levels from 65536 to 65536 in 32 bits"),
        (Image.new("I", (4, 3), 255), r"levels from 255 to 255 in 32 bits.*mode L"),
        (a_file_cut_short(), r"mode L, 3 x 4 pixels\) is not a whole image"),
    ],
)
def test_what_cannot_be_converted_is_told_in_its_own_words(images, told):
    with pytest.raises(InputError, match=told):
        as_uint8_images(images, (1, 3, 4))

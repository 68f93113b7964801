"""Pictures of every kind, as a viewer shows them."""

import numpy as np
import pytest
from PIL import Image

from ptd_core.data.image_folder import read_image
from ptd_core.errors import DataError

RED, BLUE = (255, 0, 0), (0, 0, 255)


def corner(path, size=8):
    """RGB of the upper left pixel."""
    return tuple(read_image(path, size)[:, 0, 0].tolist())


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_first_frame(tmp_path, kind):
    path = tmp_path / f"a.{kind.lower()}"
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, BLUE)]
    options = {"WEBP": {"lossless": True}}.get(kind, {})
    frames[0].save(path, kind, save_all=True, append_images=frames[1:], **options)
    assert corner(path) == RED


@pytest.mark.parametrize(
    "ink, seen", [((0, 255, 255, 0), RED), ((0, 0, 0, 255), (0, 0, 0)), ((0, 0, 0, 0), (255,) * 3)]
)
@pytest.mark.parametrize("kind", ["jpg", "tif"])
def test_cmyk(tmp_path, ink, seen, kind):
    Image.new("CMYK", (8, 8), ink).save(tmp_path / f"a.{kind}")
    assert corner(tmp_path / f"a.{kind}") == pytest.approx(seen, abs=3)


@pytest.mark.parametrize("kind", ["png", "tif", "pgm"])
def test_16_bit_grey_is_scaled(tmp_path, kind):
    values = np.repeat(np.array([0, 257, 128 * 257, 40_000, 65_535], np.uint16)[:, None], 5, 1)
    if kind == "pgm":
        (tmp_path / "a.pgm").write_bytes(b"P5 5 5 65535\n" + values.astype(">u2").tobytes())
    else:
        Image.fromarray(values).save(tmp_path / f"a.{kind}")
    assert read_image(tmp_path / f"a.{kind}", 5)[:, :, 0].tolist() == [[0, 1, 128, 156, 255]] * 3


def test_16_bit_grey_with_white_as_zero(tmp_path):
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(tmp_path / "a.tif", tiffinfo={262: 0})
    with Image.open(tmp_path / "a.tif") as image:
        assert image.tag_v2[262] == 0
    assert corner(tmp_path / "a.tif") == (255, 255, 255)


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_pixels_of_unknown_white_are_refused(tmp_path, dtype):
    Image.fromarray(np.zeros((8, 8), dtype)).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=r"a\.tif has more than 16 bits"):
        read_image(tmp_path / "a.tif", 8)


def test_palette(tmp_path):
    Image.new("RGB", (8, 8), (200, 100, 50)).quantize(4).save(tmp_path / "a.png")
    assert corner(tmp_path / "a.png") == (200, 100, 50)


@pytest.mark.parametrize("kind", ["png", "gif"])
def test_transparent_colour_of_a_palette_is_white(tmp_path, kind):
    image = Image.new("P", (8, 8), 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.paste(0, (0, 0, 8, 4))
    image.save(tmp_path / f"a.{kind}", transparency=1)
    seen = read_image(tmp_path / f"a.{kind}", 8)
    assert seen[:, 0, 0].tolist() == [255, 0, 0] and seen[:, 7, 0].tolist() == [255, 255, 255]


@pytest.mark.parametrize(
    "mode, colour, seen",
    [
        ("RGBA", (255, 0, 0, 0), (255, 255, 255)),
        ("RGBA", (255, 0, 0, 255), RED),
        ("RGBA", (0, 0, 0, 51), (204, 204, 204)),
        ("LA", (0, 51), (204, 204, 204)),
    ],
)
def test_alpha_lies_on_white(tmp_path, mode, colour, seen):
    Image.new(mode, (8, 8), colour).save(tmp_path / "a.png")
    assert corner(tmp_path / "a.png") == seen


@pytest.mark.parametrize("mode, colour, key", [("RGB", RED, RED), ("L", 7, 7)])
def test_a_colour_that_stands_for_transparent_is_white(tmp_path, mode, colour, key):
    Image.new(mode, (8, 8), colour).save(tmp_path / "a.png", transparency=key)
    assert corner(tmp_path / "a.png") == (255, 255, 255)


@pytest.mark.parametrize("kind", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(tmp_path, kind, orientation):
    """Stored so that, turned as the tag says, the upper left quarter is white, the upper right grey."""
    upright = np.zeros((16, 16), np.uint8)
    upright[:8, :8], upright[:8, 8:] = 255, 128
    back = {1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: np.transpose,
            6: lambda a: np.rot90(a), 7: lambda a: np.rot90(a, 2).T, 8: lambda a: np.rot90(a, -1)}  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(back[orientation](upright))).convert("RGB")
    stored.save(tmp_path / f"a.{kind}", exif=exif)
    seen = read_image(tmp_path / f"a.{kind}", 16)[0].astype(int)
    assert [seen[2, 2], seen[2, 13], seen[13, 2], seen[13, 13]] == pytest.approx([255, 128, 0, 0], abs=12)


def exif_with(*entries):
    """Big-endian Exif: orientation 3 and other entries (tag, type, count, value as four bytes)."""
    rows = [(0x0112, 3, 1, b"\0\3\0\0"), *entries]
    body = b"".join(t.to_bytes(2, "big") + k.to_bytes(2, "big") + n.to_bytes(4, "big") + v for t, k, n, v in rows)
    return b"Exif\0\0MM\0*\0\0\0\x08" + len(rows).to_bytes(2, "big") + body + bytes(4)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "entry",
    [
        (0x010F, 2, 99, b"\0\0\xff\xff"),  # text beyond the end
        (0x8769, 4, 1, b"\xff\xff\xff\xff"),  # more tags, nowhere
        (0x8769, 2, 2, b"x\0\0\0"),
        (0x8825, 3, 2, b"\0\1\0\2"),
        (0x011A, 5, 1, b"\0\0\0\x08"),  # a fraction over zero, or nearly so
        (0x9286, 77, 1, b"\0\0\0\0"),
        (0x0100, 12, 1, b"\0\0\0\x08"),
        (0x0131, 3, 2, b"\xff\xff\0\0"),
        (0x014A, 13, 1, b"\xff\0\0\0"),
    ],
)
def test_faulty_tags_beside_the_orientation_do_not_matter(tmp_path, entry):
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:8] = 255
    Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=exif_with(entry), quality=95)
    seen = read_image(tmp_path / "a.jpg", 16)[0]
    assert seen[0, 0] < 20 and seen[15, 15] > 235

"""TIFF: each combination of layout, depth, colour and compression gives its pixels, or a reason."""

from __future__ import annotations

import io
import itertools
import struct
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from conftest import picture
from PIL import Image

from featx.errors import ImageError
from featx.images import DecodePolicy, decode

GREY = np.asarray(picture(11, (47, 33)).convert("L"))
COLOUR = np.asarray(picture(12, (47, 33)))
TOPS = {"u1": 255, "u2": 65535, "u4": 65535, "i1": 127, "i2": 32767}


def write(samples: np.ndarray, **options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, samples, metadata=None, **options)
    return file.getvalue()


def pillow(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "TIFF", **options)
    return file.getvalue()


def stored(levels: np.ndarray, dtype: str, photometric: str) -> tuple[np.ndarray, np.ndarray]:
    """Samples of a type that stand for grey levels, and the levels that they stand for."""
    top = TOPS.get(dtype, 1)
    values = levels / 255 * top
    values = values.astype(dtype) if dtype[0] == "f" else np.rint(values).astype(dtype)
    means = np.rint(values.astype(np.float64) * 255 / top).astype(np.uint8)
    return (top - values if photometric == "miniswhite" else values).astype(dtype), means


LAYOUTS = list(
    itertools.product(
        ("minisblack", "miniswhite", "rgb"),
        ("contig", "separate"),
        ((None, False), ("lzw", False), ("lzw", True), ("zlib", True), ("packbits", False)),
        ("<", ">"),
        (None, (16, 32)),
    )
)


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "i1", "i2", "f2", "f4", "f8"])
def test_every_layout_gives_its_pixels(dtype: str) -> None:
    checked = 0
    for photometric, planar, (compression, predictor), order, tile in LAYOUTS:
        if photometric != "rgb" and planar == "separate":
            continue
        samples, levels = stored(COLOUR if photometric == "rgb" else GREY, dtype, photometric)
        if planar == "separate":
            samples = np.moveaxis(samples, 2, 0)
        data = write(
            samples.astype(samples.dtype.newbyteorder(order)),
            photometric=photometric,
            planarconfig=planar if photometric == "rgb" else None,
            compression=compression,
            predictor=predictor,
            byteorder=order,
            tile=tile,
            bigtiff=checked % 2 == 1,
            rowsperstrip=None if tile else 8,
        )
        wanted = levels if levels.ndim == 3 else np.repeat(levels[..., None], 3, axis=2)
        off = np.abs(decode(data).astype(int) - wanted).max()
        assert off <= (photometric == "miniswhite" and dtype[0] == "f"), (photometric, planar)
        checked += 1
    assert checked == 80


@pytest.mark.parametrize("bits", [1, 2, 4, 10, 12, 14])
@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
def test_packed_bits_are_scaled_by_their_own_range(bits: int, photometric: str) -> None:
    top = 2**bits - 1
    values = (np.arange(32 * 24) * 5 % (top + 1)).reshape(24, 32)
    values = values.astype(np.uint8 if bits < 9 else np.uint16)
    samples = values.astype(bool) if bits == 1 else values
    pixels = decode(write(samples, photometric=photometric, bitspersample=bits))
    wanted = np.rint((top - values if photometric == "miniswhite" else values) * (255 / top))
    assert np.abs(pixels[..., 1] - wanted).max() <= (photometric == "miniswhite")


@pytest.mark.parametrize("compression", [None, "group3", "group4", "tiff_lzw", "packbits"])
def test_bilevel_pictures_of_pillow(compression: str | None) -> None:
    image = picture(3, (50, 41)).convert("1")
    data = pillow(image, compression=compression)
    np.testing.assert_array_equal(decode(data), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA", "LA", "CMYK", "YCbCr", "LAB", "1"])
@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate"])
def test_ordinary_pictures_stay_those_of_pillow(mode: str, compression: str | None) -> None:
    image = mode_picture(mode)
    data = pillow(image, compression=compression)
    again = image.copy()
    if "A" in mode and mode != "LAB":
        white = Image.new("RGBA", image.size, "white")
        again = Image.alpha_composite(white, again.convert("RGBA"))
    np.testing.assert_array_equal(decode(data), np.asarray(again.convert("RGB")))


def mode_picture(mode: str) -> Image.Image:
    image = picture(21, (37, 29))
    if mode == "P":
        return image.quantize(40)
    if mode == "LAB":
        return Image.merge("LAB", picture(22, (37, 29)).split())
    if mode in ("RGBA", "LA"):
        image.putalpha(picture(23, (37, 29)).convert("L"))
    return image.convert(mode)


@pytest.mark.parametrize("options", [{}, {"subsampling": (2, 2)}, {"tile": (16, 32)}])
def test_jpeg_inside_is_what_pillow_makes_of_it(options: dict[str, Any]) -> None:
    for samples, photometric in ((GREY, "minisblack"), (COLOUR, "rgb")):
        if photometric != "rgb" and "subsampling" in options:
            continue
        data = write(samples, photometric=photometric, compression="jpeg", **options)
        wanted = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
        found = decode(data)
        assert np.abs(found - wanted).max() <= 2
        right = samples if samples.ndim == 3 else samples[..., None]
        assert np.abs(found.astype(int) - right).mean() < 20


@pytest.mark.parametrize("compression", ["webp", "jpeg2000"])
def test_other_codecs_inside(compression: str) -> None:
    arguments = {"lossless": True} if compression == "webp" else {"level": 0, "reversible": True}
    data = write(COLOUR, photometric="rgb", compression=compression, compressionargs=arguments)
    np.testing.assert_array_equal(decode(data), COLOUR)


def test_alpha_is_composed_on_white_at_every_depth() -> None:
    alpha = np.asarray(picture(5, (47, 33)).convert("L"))
    rgba = np.dstack([COLOUR, alpha])
    wanted = decode(pillow(Image.fromarray(rgba)))
    for samples in (rgba, rgba.astype(np.uint16) * 257):
        for planar in ("contig", "separate"):
            moved = np.moveaxis(samples, 2, 0) if planar == "separate" else samples
            options = {"photometric": "rgb", "planarconfig": planar}
            data = write(moved, extrasamples=["unassalpha"], **options)
            np.testing.assert_array_equal(decode(data), wanted)
            plain = decode(write(moved, extrasamples=["unspecified"], **options))
            np.testing.assert_array_equal(plain, COLOUR)
    premultiplied = np.dstack([np.rint(COLOUR * (alpha[..., None] / 255)).astype(np.uint8), alpha])
    data = write(premultiplied, photometric="rgb", extrasamples=["assocalpha"])
    assert np.abs(decode(data).astype(int) - wanted).max() <= 3


def test_deep_cmyk_and_planes_of_palettes() -> None:
    cmyk = np.asarray(picture(6, (20, 10)).convert("CMYK"))
    wanted = decode(pillow(Image.fromarray(cmyk, "CMYK")))
    deep = write(cmyk.astype(np.uint16) * 257, photometric="separated")
    np.testing.assert_array_equal(decode(deep), wanted)


@pytest.mark.parametrize("scale", [257, 256, 1])
def test_colours_of_a_palette_of_16_or_of_8_bits(scale: int) -> None:
    colours = np.random.default_rng(1).integers(0, 256, (3, 256), dtype=np.uint16)
    data = write(GREY, photometric="palette", colormap=colours * np.uint16(scale))
    np.testing.assert_array_equal(decode(data), colours.T.astype(np.uint8)[GREY])


def test_bands_are_refused_by_number_or_chosen() -> None:
    eight = np.dstack([COLOUR, COLOUR, COLOUR[..., :2]])
    for planar in ("contig", "separate"):
        samples = np.moveaxis(eight, 2, 0) if planar == "separate" else eight
        data = write(samples, photometric="minisblack", planarconfig=planar)
        with pytest.raises(ImageError, match=r"^8 bands.*--bands 3,2,1"):
            decode(data)
        chosen = decode(data, DecodePolicy(bands=(3, 2, 7)))
        np.testing.assert_array_equal(chosen, COLOUR[..., [2, 1, 0]])
        grey = decode(data, DecodePolicy(bands=(2,)))
        np.testing.assert_array_equal(grey, np.repeat(COLOUR[..., 1:2], 3, axis=2))
        with pytest.raises(ImageError, match=r"8 bands, and --bands 9 asks for band 9"):
            decode(data, DecodePolicy(bands=(9,)))
    for n in (2, 4):
        data = write(eight[..., :n], photometric="minisblack", planarconfig="contig")
        with pytest.raises(ImageError, match=rf"^{n} bands, and the file does not say"):
            decode(data)
    three = write(COLOUR, photometric="minisblack", planarconfig="contig")
    np.testing.assert_array_equal(decode(three), COLOUR)


def test_values_outside_the_range_are_refused_with_a_way_out() -> None:
    for values, match in (
        (np.full((4, 4), -3, np.int16), "from -3 to -3; featx reads 0 to 32767"),
        (np.full((4, 4), 70_000, np.uint32), "--bits 17"),
        (np.full((4, 4), np.nan, np.float32), "from nan"),
        (np.full((4, 4), 1.5, np.float64), "featx reads 0 to 1 here; scale the values"),
        (np.full((4, 4), 1 + 1j, np.complex64), "type complex64"),
        (np.full((4, 4), 7, np.uint64), "type uint64"),
    ):
        with pytest.raises(ImageError, match=match):
            decode(write(values, photometric="minisblack"))


def test_bits_say_which_value_is_white() -> None:
    deep = write(GREY.astype(np.uint16) * 16, photometric="minisblack")
    assert decode(deep).max() <= 16
    found = decode(deep, DecodePolicy(bits=12))[..., 0]
    assert np.abs(found.astype(int) - GREY).max() <= 1
    with pytest.raises(ImageError, match=r"--bits 12 in place of --bits 10"):
        decode(deep, DecodePolicy(bits=10))
    plain = write(GREY, photometric="minisblack")
    np.testing.assert_array_equal(decode(plain, DecodePolicy(bits=12)), decode(plain))


def test_the_right_page_is_read_and_smaller_copies_are_none() -> None:
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(GREY[::2, ::2], subfiletype=1, photometric="minisblack", metadata=None)
        writer.write(COLOUR, photometric="rgb", metadata=None)
        writer.write(GREY, photometric="minisblack", metadata=None)
    data = file.getvalue()
    np.testing.assert_array_equal(decode(data), COLOUR)
    np.testing.assert_array_equal(decode(data, page=1)[..., 2], GREY)
    with pytest.raises(ImageError, match="page 3 of 2"):
        decode(data, page=2)


def test_what_is_cut_off_or_announces_too_much_is_refused() -> None:
    for options in ({}, {"compression": "zlib"}, {"tile": (16, 16)}, {"compression": "jpeg"}):
        data = write(COLOUR, photometric="rgb", **options)
        with pytest.raises(ImageError, match=r"damaged or cut off|cannot be decoded"):
            decode(data[: len(data) * 2 // 3])
    for size in ((200_000, 200_000), (17_000_000, 8)):
        with pytest.raises(ImageError, match=r"at most|damaged"):
            decode(announce(size))
    wide = np.zeros((3000, 3000), np.uint8)
    bomb = imagecodecs.jpeg_encode(wide)
    with pytest.raises(ImageError, match=r"3000x3000 pixels where"):
        decode(inside(bomb, 7))


def announce(size: tuple[int, int]) -> bytes:
    """A TIFF of one strip of 8 bytes that claims to have a size."""
    return inside(bytes(8), 1, size)


def inside(strip: bytes, compression: int, size: tuple[int, int] = (16, 16)) -> bytes:
    """A grey TIFF, width and height, whose only strip is `strip`."""
    tags = [
        *((256, 4, size[0]), (257, 4, size[1]), (258, 3, 8), (259, 3, compression)),
        *((262, 3, 1), (273, 4, 8), (277, 3, 1), (278, 4, size[1]), (279, 4, len(strip))),
    ]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    padded = strip + b"\0" * (len(strip) % 2)
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    return struct.pack("<2sHI", b"II", 42, 8 + len(padded)) + padded + directory


def test_loops_of_pages_end() -> None:
    data = bytearray(write(GREY, photometric="minisblack"))
    first = struct.unpack_from("<I", data, 4)[0]
    count = struct.unpack_from("<H", data, first)[0]
    struct.pack_into("<I", data, first + 2 + 12 * count, first)
    np.testing.assert_array_equal(decode(bytes(data))[..., 0], GREY)


def test_kinds_that_are_not_read_are_named() -> None:
    for options, match in (
        ({"photometric": "cfa"}, "camera raw"),
        ({"photometric": "minisblack", "compression": "jpegxl"}, "JPEGXL"),
    ):
        with pytest.raises(ImageError, match=match):
            decode(write(GREY, **options))


def test_nothing_is_written_to_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    data = bytearray(write(GREY, photometric="minisblack", compression="jpeg"))
    data[-200:-190] = b"\xff" * 10
    for broken in (bytes(data), write(np.zeros((4, 4, 7), np.uint16), photometric="minisblack")):
        try:
            decode(broken)
        except ImageError:
            pass
    assert capfd.readouterr() == ("", "")

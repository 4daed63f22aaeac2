"""The decode policy, against pictures whose pixels are known."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as tvf
from conftest import picture
from PIL import Image, ImageOps
from timm.data import create_transform
from torchvision.transforms import InterpolationMode
from torchvision.transforms._presets import ImageClassification

from featx.errors import FeatxError, ImageError
from featx.extraction.extraction import extract
from featx.images import DecodePolicy, decode, draw, draw_pixels, image_extensions, resized_size
from featx.images.decoding import decode_plain
from featx.preprocess import Preprocess, View, parse_views


def encode(image: Image.Image, fmt: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, fmt, **options)
    return file.getvalue()


@pytest.mark.parametrize("fmt", ["PNG", "BMP", "TIFF", "WEBP", "GIF", "PPM"])
def test_lossless_formats_give_their_pixels(fmt: str) -> None:
    image = picture(1)
    if fmt == "GIF":
        image = image.quantize(200)
    options = {"lossless": True} if fmt == "WEBP" else {}
    np.testing.assert_array_equal(
        decode(encode(image, fmt, **options)), np.asarray(image.convert("RGB"))
    )


@pytest.mark.parametrize("options", [{}, {"subsampling": 2}, {"progressive": True}])
def test_jpeg_is_bit_for_bit_pillow(options: dict[str, object]) -> None:
    data = encode(picture(2, (123, 77)), "JPEG", quality=83, **options)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(decode(data), expected)


def test_grey_jpeg_repeats_its_channel() -> None:
    pixels = decode(encode(picture(3).convert("L"), "JPEG"))
    np.testing.assert_array_equal(pixels[..., 0], pixels[..., 2])


def test_cmyk_is_converted() -> None:
    image = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    pixels = decode(encode(image, "TIFF"))
    np.testing.assert_array_equal(pixels[0, 0], [255, 0, 0])
    jpeg = decode(encode(image, "JPEG", quality=95))
    assert np.abs(jpeg[4, 4].astype(int) - [255, 0, 0]).max() < 8


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    pixels = decode(encode(Image.fromarray(ramp), "PNG"))
    np.testing.assert_array_equal(pixels[..., 1], np.rint(ramp / 257))
    tiff = decode(encode(Image.fromarray(ramp), "TIFF"))
    np.testing.assert_array_equal(tiff, pixels)


def test_float_pixels_lie_in_the_unit_interval() -> None:
    values = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    pixels = decode(encode(Image.fromarray(values), "TIFF"))
    np.testing.assert_array_equal(pixels[..., 0], np.rint(values * 255))
    with pytest.raises(ImageError, match=r"featx reads 0 to 1"):
        decode(encode(Image.fromarray(values * 300), "TIFF"))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_composed_on_white(mode: str) -> None:
    image = Image.new(mode, (4, 4), (0, 0, 0, 0) if mode == "RGBA" else (0, 0))
    assert (decode(encode(image, "PNG")) == 255).all()
    half = Image.new(mode, (4, 4), (0, 0, 0, 128) if mode == "RGBA" else (0, 128))
    assert np.abs(decode(encode(half, "PNG")).astype(int) - 127).max() <= 1


def test_transparent_palette_is_composed_on_white() -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 200, 10, 10])
    assert (decode(encode(image, "PNG", transparency=1)) == 255).all()
    assert (decode(encode(image, "PNG"))[0, 0] == [200, 10, 10]).all()


def test_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (6, 6), colour) for colour in ("red", "blue")]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (decode(data)[0, 0] == [255, 0, 0]).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied(orientation: int, fmt: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(picture(4, (31, 17)), fmt, exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    np.testing.assert_array_equal(decode(data), np.asarray(expected))
    assert decode(data).shape[:2] == ((17, 31) if orientation < 5 else (31, 17))


def test_truncated_empty_and_foreign_bytes_are_refused() -> None:
    jpeg, png = encode(picture(5, (200, 200)), "JPEG"), encode(picture(5), "PNG")
    for data in (jpeg[: len(jpeg) // 2], png[: len(png) // 2]):
        with pytest.raises(ImageError, match=r"cannot be decoded|known format"):
            decode(data)
    with pytest.raises(ImageError, match="empty"):
        decode(b"")
    with pytest.raises(ImageError, match="not an image"):
        decode(b"%PDF-1.7 nothing to see")


def test_png_with_a_changed_byte_is_refused() -> None:
    """Pillow draws other pixels of most of them."""
    whole, drawn = encode(Image.linear_gradient("L"), "PNG"), 0
    first = whole.index(b"IDAT") + 4
    for at in range(first, whole.rindex(b"IEND") - 12, 7):
        data = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
        try:
            Image.open(io.BytesIO(data)).load()
            drawn += 1
        except (OSError, SyntaxError):
            pass
        with pytest.raises(ImageError, match=r"checksum of its pixels is wrong|cannot be decoded"):
            decode(data)
    assert drawn


@pytest.mark.parametrize("mode", ["exact", "fast"])
def test_jpeg_whose_scan_is_damaged_is_refused(mode: str) -> None:
    data = bytearray(encode(picture(2, (120, 160)), "JPEG", restart_marker_blocks=5))
    at = data.rindex(b"\xff\xd3")
    del data[at - 20 : at - 10]
    Image.open(io.BytesIO(data)).load()
    with pytest.raises(ImageError, match="damaged: Corrupt JPEG data"):
        decode(bytes(data), DecodePolicy(mode), 30)  # type: ignore[arg-type]


def test_bytes_after_the_picture_do_no_harm() -> None:
    for fmt in ("JPEG", "PNG"):
        data = encode(picture(4), fmt)
        np.testing.assert_array_equal(decode(data + b"more"), decode(data))


def test_postscript_never_reaches_ghostscript() -> None:
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    with pytest.raises(ImageError, match="not an image"):
        decode(eps)
    assert {".eps", ".h5", ".wmf"}.isdisjoint(image_extensions())
    assert {".jpg", ".png", ".webp", ".tif"} <= image_extensions()


def test_a_bomb_is_refused_before_it_is_decoded() -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    bomb += chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    with pytest.raises(ImageError, match=r"bomb|pixels"):
        decode(bomb)


def test_fast_decoding_stays_twice_as_large_as_needed() -> None:
    data = encode(picture(6, (1600, 1200)), "JPEG")
    assert decode(data, need=256).shape == (1200, 1600, 3)
    small = decode(data, DecodePolicy("fast"), 256)
    assert 512 <= min(small.shape[:2]) < 1200
    exact, fast = (np.zeros(Preprocess().out_shape(), np.uint8) for _ in range(2))
    draw(data, Preprocess(), exact)
    draw(data, Preprocess(), fast, DecodePolicy("fast"))
    assert np.abs(exact.astype(int) - fast).mean() < 3


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (256, 256), (100, 80), (300, 300)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_crop_is_torchvisions_own_within_two_levels(
    size: tuple[int, int], interpolation: str
) -> None:
    image = picture(7, size)
    resized = tvf.resize(image, [256], InterpolationMode(interpolation), antialias=True)
    expected = np.asarray(tvf.center_crop(resized, [224, 224])).astype(int)
    out = np.zeros((1, 224, 224, 3), np.uint8)
    draw_pixels(np.array(image), Preprocess(interpolation=interpolation), out)  # type: ignore[arg-type]
    assert np.abs(out[0] - expected).max() <= 2


@pytest.mark.parametrize("size", [(1, 1), (20_000, 10), (10, 20_000), (3, 900)])
def test_extreme_shapes_fit_in_little_memory(size: tuple[int, int]) -> None:
    image = picture(8, size)
    out = np.zeros((1, 224, 224, 3), np.uint8)
    draw_pixels(np.array(image), Preprocess(), out)
    wide = image.resize(resized_size(size[::-1], Preprocess())[::-1], Image.Resampling.BILINEAR)
    expected = np.asarray(tvf.center_crop(wide, [224, 224])).astype(int)
    assert np.abs(out[0] - expected).max() <= 2


def test_squash_and_pad() -> None:
    pixels = np.zeros((100, 200, 3), np.uint8)
    out = np.zeros((1, 64, 64, 3), np.uint8)
    draw_pixels(pixels, Preprocess().override(input_size=64, resize="squash"), out)
    assert (out == 0).all()
    padded = Preprocess(mean=(0.5, 0.5, 0.5)).override(input_size=64, resize="pad")
    draw_pixels(pixels, padded, out)
    assert (out[0, :16] == 128).all()
    assert (out[0, 17:47] == 0).all()
    assert (out[0, 48:] == 128).all()


def test_views_are_the_symmetries_of_the_crop() -> None:
    pre = Preprocess(views=parse_views("dihedral"))
    pixels = np.asarray(picture(9, (300, 300))).copy()
    out = np.zeros(pre.out_shape(), np.uint8)
    draw_pixels(pixels, pre, out)
    plain = out[0]
    expected = [
        plain, plain[:, ::-1], plain[::-1], np.rot90(plain), np.rot90(plain, 2),
        np.rot90(plain, 3), plain.swapaxes(0, 1), np.rot90(plain, 2).swapaxes(0, 1),
    ]  # fmt: skip
    for found, wanted in zip(out, expected, strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_positions_and_scales_cut_what_they_say() -> None:
    pixels = np.asarray(picture(10, (256, 256))).copy()
    pre = Preprocess(views=(View(position="topleft"), View(position="bottomright")))
    out = np.zeros(pre.out_shape(), np.uint8)
    draw_pixels(pixels, pre, out)
    np.testing.assert_array_equal(out[0], pixels[:224, :224])
    np.testing.assert_array_equal(out[1], pixels[32:, 32:])
    zoomed = Preprocess(views=parse_views("scale2"))
    draw_pixels(pixels, zoomed, out[:1])
    big = Image.fromarray(pixels).resize((512, 512), Image.Resampling.BILINEAR)
    assert np.abs(out[0].astype(int) - np.asarray(big)[144:368, 144:368]).max() <= 2


@pytest.mark.parametrize("bands", [1, 2, 3, 4])
def test_png_of_16_bits_is_scaled_from_all_of_them(bands: int) -> None:
    rng = np.random.default_rng(bands)
    deep = rng.integers(0, 65536, (9, 7, bands), dtype=np.uint16)
    pixels = decode(deep_png(deep))
    n_colours = bands - (bands % 2 == 0)
    levels = np.rint(deep / 257)
    wanted = np.broadcast_to(levels[..., :n_colours], (9, 7, 3))
    if n_colours < bands:
        alpha = levels[..., -1:] / 255
        wanted = wanted * alpha + 255 * (1 - alpha)
    assert np.abs(pixels - wanted).max() <= (1 if n_colours < bands else 0)
    dark = decode(deep_png(deep // 16), DecodePolicy(bits=12))
    assert np.abs(dark.astype(int) - pixels).max() <= 2
    with pytest.raises(ImageError, match="--bits 16 in place of --bits 12"):
        decode(deep_png(deep), DecodePolicy(bits=12))


def test_clear_colour_of_a_deep_png_is_white() -> None:
    deep = np.full((4, 4, 3), 700, np.uint16)
    clear = struct.pack(">3H", 700, 700, 700)
    assert (decode(deep_png(deep, clear)) == 255).all()
    assert (decode(deep_png(deep, struct.pack(">3H", 701, 700, 700))) == 3).all()


def deep_png(samples: np.ndarray, clear: bytes = b"") -> bytes:
    """A PNG of 16 bits, shape (height, width, 1 to 4); `clear` is its chunk tRNS."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    height, width, bands = samples.shape
    head = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[bands], 0, 0, 0)
    rows = samples.astype(">u2").reshape(height, -1)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    parts = [chunk(b"IHDR", head), chunk(b"tRNS", clear) if clear else b""]
    return b"".join([b"\x89PNG\r\n\x1a\n", *parts, chunk(b"IDAT", data), chunk(b"IEND", b"")])


def test_bands_are_chosen_of_any_format() -> None:
    image = picture(4)
    wanted = np.asarray(image)[..., [2, 0, 0]]
    for fmt in ("PNG", "BMP", "TIFF"):
        pixels = decode(encode(image, fmt), DecodePolicy(bands=(3, 1, 1)))
        np.testing.assert_array_equal(pixels, wanted)
    with pytest.raises(ImageError, match="1 band, and --bands 3,1,1 asks for band 3"):
        decode(encode(image.convert("L"), "PNG"), DecodePolicy(bands=(3, 1, 1)))


@pytest.mark.parametrize("bands", ["", "1,2", "0,1,2", "a", "1,2,3,4", (1.5,), "-1"])
def test_bands_are_one_or_three_numbers(bands: object) -> None:
    with pytest.raises(FeatxError, match="bands must be one number"):
        DecodePolicy(bands=bands)  # type: ignore[arg-type]


@pytest.mark.parametrize("bits", [8, 32, 12.0, "12", True])
def test_bits_are_a_whole_number(bits: object) -> None:
    with pytest.raises(FeatxError, match="bits must be a whole number from 9 to 31"):
        DecodePolicy(bits=bits)  # type: ignore[arg-type]


def jpeg(mode: str = "RGB", **options: object) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(file, "JPEG", **options)
    return file.getvalue()


PLAIN = {
    "4:2:0": {"quality": 90},
    "4:4:4": {"quality": 90, "subsampling": 0},
    "4:2:2": {"subsampling": 1},
    "progressive": {"progressive": True},
    "grey": {"mode": "L"},
    "comment": {"comment": b"a comment"},
    "profile": {"icc_profile": b"x" * 70_000},
    "restarts": {"restart_marker_blocks": 2},
}


@pytest.mark.parametrize("name", PLAIN)
def test_a_jpeg_without_metadata_is_read_once_and_has_pillows_pixels(name: str) -> None:
    data = jpeg(**PLAIN[name])
    plain = decode_plain(data, 10**6)
    assert plain is not None
    with Image.open(io.BytesIO(data)) as image:
        np.testing.assert_array_equal(plain, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("turned", [3, 6, 8])
def test_a_jpeg_that_says_how_it_is_turned_is_left_to_pillow(turned: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = turned
    data = jpeg(exif=exif)
    assert decode_plain(data, 10**6) is None
    with Image.open(io.BytesIO(data)) as image:
        np.testing.assert_array_equal(decode(data), np.asarray(ImageOps.exif_transpose(image)))


@pytest.mark.parametrize(
    "data",
    [
        jpeg("CMYK"),
        jpeg()[:-200],
        jpeg()[:100],
        jpeg()[:3],
        b"\xff\xd8\xff\xe0\xff\xff" + b"x" * 50,
        b"\xff\xd8\xff\xe0\x00\x00" * 50,
        b"not a jpeg",
        b"",
    ],
)
def test_what_is_not_a_plain_jpeg_is_left_to_who_words_the_reason(data: bytes) -> None:
    assert decode_plain(data, 10**6) is None


def test_a_plain_jpeg_beyond_the_limit_is_left_to_the_limits() -> None:
    assert decode_plain(jpeg(), 37 * 53 - 1) is None


def test_an_index_of_several_pictures_is_left_to_pillow() -> None:
    data = jpeg()
    assert decode_plain(data[:2] + b"\xff\xe2\x00\x08MPF\0ab" + data[2:], 10**6) is None


LIBRARIES = ["torchvision", "timm"]


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("size", [(500, 375), (375, 1500), (256, 256), (100, 80), (2000, 300)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_reference_is_the_librarys_transform_bit_for_bit(
    library: str, size: tuple[int, int], interpolation: str
) -> None:
    image = picture(7, size)
    if library == "torchvision":
        preset = ImageClassification(
            crop_size=224, resize_size=232, interpolation=InterpolationMode(interpolation)
        )
        preprocess = Preprocess(resize_size=(232, 232), interpolation=interpolation)  # type: ignore[arg-type]
        wanted = preset(image)
    else:
        transform = create_transform(
            (3, 224, 224), interpolation=interpolation, crop_pct=0.9, mean=(0.485, 0.456, 0.406)
        )
        preprocess = Preprocess.from_crop_pct((224, 224), 0.9, interpolation=interpolation)
        wanted = transform(image)
    out = np.zeros((1, 224, 224, 3), np.uint8)
    draw_pixels(np.array(image), preprocess, out, "reference")
    scaled = torch.from_numpy(out[0].transpose(2, 0, 1)).float() / 255
    mean, std = (torch.tensor(v)[:, None, None] for v in (preprocess.mean, preprocess.std))
    np.testing.assert_array_equal(((scaled - mean) / std).numpy(), wanted.numpy())


def test_reference_is_another_fingerprint(tmp_path: Path, photos: Path, tiny: Any) -> None:
    found = [
        extract(photos, tmp_path / f"{mode}.h5", **tiny, decode=mode).fingerprint
        for mode in ("exact", "reference")
    ]
    assert len(set(found)) == 2


def test_a_deep_png_writes_nothing_to_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    whole = deep_png(np.random.default_rng(0).integers(0, 65536, (30, 20, 3), dtype=np.uint16))
    at = whole.index(b"IDAT")
    profile = b"iCCPx\0\0" + zlib.compress(b"not a profile")
    chunk = struct.pack(">I", len(profile) - 4) + profile + struct.pack(">I", zlib.crc32(profile))
    odd = whole[: at - 4] + chunk + whole[at - 4 :]
    np.testing.assert_array_equal(decode(odd), decode(whole))
    size = int.from_bytes(whole[at - 4 : at], "big")
    body = bytearray(whole[at : at + 4 + size])
    body[-2] ^= 1  # the checksum of the pixels themselves, with a right one of the chunk
    wrong = whole[:at] + bytes(body) + struct.pack(">I", zlib.crc32(body)) + whole[at + 8 + size :]
    for data in (wrong, whole[: len(whole) // 2], whole[:at] + whole[at + 8 + size :]):
        with pytest.raises(ImageError):
            decode(data)
    assert capfd.readouterr() == ("", "")


def _grey_png(bits: int, clear: int | None) -> bytes:
    """A row of all grey levels of a depth, one of which may be transparent."""
    levels = range(2**bits)
    row = int("".join(f"{level:0{bits}b}" for level in levels), 2).to_bytes(2**bits * bits // 8)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 2**bits, 1, bits, 0, 0, 0, 0))]
    if clear is not None:
        chunks.append((b"tRNS", struct.pack(">H", clear)))
    chunks += [(b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b"")]
    parts = (
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("bits", [2, 4])
def test_a_clear_level_of_few_bits_is_refused_for_it_would_stay_as_it_is(bits: int) -> None:
    levels = np.rint(np.linspace(0, 255, 2**bits)).astype(np.uint8)
    assert decode(_grey_png(bits, None))[0, :, 0].tolist() == levels.tolist()
    with pytest.raises(ImageError, match=f"a grey PNG of {bits} bits in which one level is tr"):
        decode(_grey_png(bits, 1))


def test_a_clear_level_of_eight_bits_is_white() -> None:
    assert decode(_grey_png(8, 7))[0, [6, 7, 8], 0].tolist() == [6, 255, 8]


def _deep_jpeg2000(bits: int, bands: int, form: str) -> bytes:
    samples = np.full((8, 8, bands), 2**bits - 1, np.uint16)
    return bytes(
        imagecodecs.jpeg2k_encode(
            samples.squeeze(), level=0, reversible=True, bitspersample=bits, codecformat=form
        )
    )


@pytest.mark.parametrize("form", ["jp2", "j2k"])
@pytest.mark.parametrize(("bits", "bands"), [(9, 1), (9, 3), (12, 3), (16, 2), (16, 3), (16, 4)])
def test_deep_colours_of_jpeg2000_are_refused_for_white_would_become_black(
    bits: int, bands: int, form: str
) -> None:
    with pytest.raises(ImageError, match=f"of {bands} components with {bits} bits each"):
        decode(_deep_jpeg2000(bits, bands, form))


@pytest.mark.parametrize("form", ["jp2", "j2k"])
@pytest.mark.parametrize("bits", [10, 12, 15, 16])
def test_white_of_deep_grey_jpeg2000_is_white(bits: int, form: str) -> None:
    assert decode(_deep_jpeg2000(bits, 1, form)).min() == 255

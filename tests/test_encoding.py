"""A picture as an object is the same picture as in its file, in every mode of Pillow."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from conftest import picture, save_pictures
from PIL import Image

from featx import FeatureExtractor, load_model
from featx.errors import ImageError, SourceError
from featx.extraction.extraction import extract
from featx.fitting.training import fit
from featx.images import DecodePolicy, decode, is_picture, pixels_of
from featx.sources.load import load_manifest

MODES = [
    *("1", "L", "P", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "LA", "PA", "La"),
    *("RGBa", "I", "F", "I;16", "I;16L", "I;16B", "I;16N"),
]
FORMATS = {"1": "PNG", "L": "PNG", "P": "PNG", "RGB": "PNG", "RGBA": "PNG", "LA": "PNG"}


def of_mode(mode: str, seed: int = 7) -> Image.Image:
    """A picture of a mode whose values use all of its range."""
    image = picture(seed, (37, 29))
    grey = np.asarray(image.convert("L"))
    if mode.startswith("I;16"):
        order = ">" if mode.endswith("B") else "<"
        data = (grey.astype(np.uint16) * 257).astype(f"{order}u2").tobytes()
        return Image.frombytes(mode, image.size, data)
    if mode == "I":
        return Image.fromarray(grey.astype(np.int32) * 257)
    if mode == "F":
        return Image.fromarray((grey / 255).astype(np.float32))
    if mode == "LAB":
        return Image.merge("LAB", picture(22, (37, 29)).split())
    alpha = picture(seed + 1, (37, 29)).convert("L")
    if mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        image.putalpha(alpha)
    if mode in ("La", "LA"):
        return Image.merge("LA", (image.convert("L"), alpha)).convert(mode)
    return image.convert(mode)


def opened_copy(path: Path) -> Image.Image:
    """The picture of a file, opened and not loaded, without a handle that stays open."""
    return Image.open(io.BytesIO(path.read_bytes()))


def expected(image: Image.Image) -> np.ndarray:
    """RGB by Pillow's own conversions, or by the range of the type."""
    if image.mode == "I" or image.mode.startswith("I;16"):
        return np.repeat(np.rint(np.asarray(image) / 257)[..., None], 3, axis=2)
    if image.mode == "F":
        return np.repeat(np.rint(np.asarray(image) * 255)[..., None], 3, axis=2)
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        rgba = image.convert("LA" if image.mode == "La" else "RGBA").convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), rgba)
    return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_goes_through_the_policy(mode: str) -> None:
    image = of_mode(mode)
    before = (image.mode, image.tobytes())
    off = np.abs(pixels_of(image).astype(int) - expected(image)).max()
    assert off <= (1 if mode in ("PA", "La", "RGBa", "F") else 0)
    assert (image.mode, image.tobytes()) == before


@pytest.mark.parametrize("mode", [m for m in MODES if m not in ("HSV", "PA", "La", "RGBa")])
def test_object_and_file_are_the_same(mode: str, tmp_path: Path) -> None:
    image = of_mode(mode)
    if mode in ("I;16L", "I;16N"):
        image = Image.fromarray(np.asarray(image))
    path = tmp_path / f"p.{FORMATS.get(mode, 'TIFF').lower()}"
    image.save(path)
    wanted = decode(path.read_bytes())
    np.testing.assert_array_equal(pixels_of(image), wanted)
    np.testing.assert_array_equal(pixels_of(opened_copy(path)), wanted)
    loaded = opened_copy(path)
    loaded.load()
    np.testing.assert_array_equal(pixels_of(loaded), wanted)


@pytest.mark.parametrize("clear", [3, b"\x00\x80\xff" * 13])
def test_transparency_of_a_palette(clear: int | bytes, tmp_path: Path) -> None:
    image = picture(5).quantize(13)
    image.save(tmp_path / "p.png", transparency=clear)
    wanted = decode((tmp_path / "p.png").read_bytes())
    assert (wanted == 255).all(axis=2).any()
    opened = opened_copy(tmp_path / "p.png")
    np.testing.assert_array_equal(pixels_of(opened), wanted)
    opened.load()
    np.testing.assert_array_equal(pixels_of(opened), wanted)
    np.testing.assert_array_equal(pixels_of(opened.copy()), wanted)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".tif", ".png"])
def test_exif_orientation_is_applied_once(orientation: int, suffix: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture(4, (31, 17)).save(tmp_path / f"p{suffix}", exif=exif)
    wanted = decode((tmp_path / f"p{suffix}").read_bytes())
    opened = opened_copy(tmp_path / f"p{suffix}")
    np.testing.assert_array_equal(pixels_of(opened), wanted)
    opened.load()
    np.testing.assert_array_equal(pixels_of(opened), wanted)


def test_what_pillow_reads_wrongly_is_right_or_refused(tmp_path: Path) -> None:
    grey = np.asarray(picture(3).convert("L")).astype(np.uint16) * 257
    colour = np.moveaxis(np.asarray(picture(3)).astype(np.uint16) * 257, 2, 0)
    tifffile.imwrite(tmp_path / "white.tif", 65535 - grey, photometric="miniswhite")
    tifffile.imwrite(tmp_path / "planes.tif", colour, photometric="rgb", planarconfig="separate")
    for name, wanted in (("white.tif", grey // 257), ("planes.tif", np.asarray(picture(3)))):
        opened = opened_copy(tmp_path / name)
        pixels = pixels_of(opened)
        np.testing.assert_array_equal(pixels, wanted if wanted.ndim == 3 else pixels)
        np.testing.assert_array_equal(
            pixels[..., 0], wanted if wanted.ndim == 2 else pixels[..., 0]
        )
        opened.load()
        with pytest.raises(ImageError, match="a TIFF of 16 bits that Pillow has loaded"):
            pixels_of(opened)


def test_a_changed_object_is_not_its_file(tmp_path: Path) -> None:
    picture(2, (200, 100)).save(tmp_path / "p.jpg")
    opened = opened_copy(tmp_path / "p.jpg")
    opened.draft("RGB", (100, 50))
    assert pixels_of(opened).shape == (50, 100, 3)
    opened = opened_copy(tmp_path / "p.jpg")
    opened.paste((1, 2, 3), (0, 0, 200, 100))
    assert (pixels_of(opened) == [1, 2, 3]).all()
    frames = io.BytesIO()
    picture(0).save(frames, "TIFF", save_all=True, append_images=[picture(1)])
    opened = Image.open(frames)
    opened.seek(1)
    np.testing.assert_array_equal(pixels_of(opened), np.asarray(picture(1)))


@pytest.mark.parametrize(
    ("dtype", "top"),
    [("u1", 255), ("u2", 65535), ("i2", 32767), ("u4", 65535), ("f2", 1), ("f4", 1), ("f8", 1)],
)
def test_arrays_are_scaled_by_their_type(dtype: str, top: float) -> None:
    colour = np.asarray(picture(6))
    values = (colour / 255 * top).astype(dtype)
    for bands in (slice(0, 1), slice(0, 3)):
        pixels = pixels_of(values[..., bands])
        wanted = np.broadcast_to(
            np.rint(values[..., bands].astype(float) / top * 255), colour.shape
        )
        assert np.abs(pixels - wanted).max() <= 1
    if dtype in ("u1", "u2"):
        alpha = np.full((*values.shape[:2], 1), 0, values.dtype)
        assert (pixels_of(np.dstack([values, alpha])) == 255).all()
    np.testing.assert_array_equal(pixels_of(values[..., 0]), pixels_of(values[..., :1]))


def test_arrays_that_are_no_pictures_are_refused() -> None:
    for values, match in (
        (np.zeros((4, 4, 8), np.uint8), r"^8 bands"),
        (np.zeros((4, 4, 2), np.uint8), r"^2 bands"),
        (np.zeros((3, 40, 50), np.uint8), r"^50 bands.*bands as the last axis"),
        (np.zeros(5, np.uint8), "expected numbers of shape"),
        (np.zeros((0, 4), np.uint8), "expected numbers of shape"),
        (np.full((4, 4), -1), "type int64"),
        (np.full((4, 4), 2.0), "featx reads 0 to 1"),
    ):
        with pytest.raises(ImageError, match=match):
            pixels_of(values)
    assert (pixels_of(np.eye(4, dtype=bool))[..., 0] == np.eye(4) * 255).all()


def test_bits_and_bands_count_for_objects_too() -> None:
    grey = np.asarray(picture(3).convert("L"))
    dark = pixels_of(grey.astype(np.uint16) * 16, DecodePolicy(bits=12))
    assert np.abs(dark[..., 0].astype(int) - grey).max() <= 1
    swapped = pixels_of(picture(3), DecodePolicy(bands=(3, 2, 1)))
    np.testing.assert_array_equal(swapped, np.asarray(picture(3))[..., ::-1])


@pytest.mark.parametrize("mode", MODES)
def test_the_extractor_gives_one_vector_for_both(
    mode: str, tmp_path: Path, tiny: dict[str, Any]
) -> None:
    extractor = FeatureExtractor(
        str(tiny["backbone"]), weights="random", layers="flatten", input_size=32
    )
    image = of_mode(mode)
    path = tmp_path / "p.png"
    Image.fromarray(expected(image).astype(np.uint8)).save(path)
    np.testing.assert_allclose(extractor.transform([image]), extractor.transform([path]), atol=0.02)


def test_a_list_of_pictures_is_a_source(tmp_path: Path, tiny: dict[str, Any]) -> None:
    paths = save_pictures(tmp_path / "photos", 24)
    extract(tmp_path / "photos", tmp_path / "c.h5", **tiny)
    fit(tmp_path / "c.h5", head="logreg", out=tmp_path / "m.featx")
    model = load_model(tmp_path / "m.featx")
    options = {"backbone": str(tiny["backbone"]), "progress": False}
    by_path = model.predict(paths[:4], **options).rows
    objects = [opened_copy(paths[0]), np.asarray(opened_copy(paths[1])), picture(2), picture(3)]
    by_object = model.predict(objects, **options).rows
    assert [row["label"] for row in by_object] == [row["label"] for row in by_path]
    assert [row["id"] for row in by_object] == ["0", "1", "2", "3"]
    for one, other in zip(by_path, by_object, strict=True):
        assert one["p_cat"] == pytest.approx(other["p_cat"], abs=1e-5)


def test_what_is_no_picture_is_refused_by_place() -> None:
    with pytest.raises(SourceError, match=r"entry 1 of the list is of type int"):
        load_manifest([picture(0), 5])
    assert not is_picture("a.png")
    assert not is_picture(np.array(["a.png"]))
    assert not is_picture(5)


@pytest.mark.parametrize("entry", [None, b"a.png", io.BytesIO(b""), torch.zeros(3, 4, 4)])
def test_an_entry_of_another_type_is_refused_by_place_where_all_others_are_paths(
    entry: object,
) -> None:
    name = type(entry).__name__
    with pytest.raises(SourceError, match=f"entry 1 of the list is of type {name}"):
        load_manifest(["a.png", entry])  # type: ignore[list-item]


def test_one_array_of_colours_is_not_taken_as_a_stack_of_grey_rows() -> None:
    one = np.asarray(picture(0))
    with pytest.raises(SourceError, match=r"one array of shape \(36, 40, 3\); give \[X\]"):
        load_manifest(one)  # type: ignore[arg-type]
    assert len(load_manifest([one])) == 1
    assert len(load_manifest(np.stack([one, one]))) == 2  # type: ignore[arg-type]
    assert len(load_manifest(np.stack([one[..., 0]] * 5))) == 5  # type: ignore[arg-type]

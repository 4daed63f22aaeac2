"""Pages and frames: counted as Pillow and tifffile count them, said, and read one by one."""

from __future__ import annotations

import io
import logging
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from conftest import picture, save_pictures
from PIL import Image

from featx import load_model
from featx.cache import open_cache
from featx.errors import ImageError
from featx.extraction.extraction import extract
from featx.fitting.looks import small_picture
from featx.fitting.training import fit
from featx.images import decode
from featx.images.pages import page_count
from featx.model.references import image_reader, make_references


def animation(fmt: str, n: int, **options: Any) -> bytes:
    file = io.BytesIO()
    frames = [picture(k) for k in range(n)]
    frames[0].save(file, fmt, save_all=True, append_images=frames[1:], **options)
    return file.getvalue()


@pytest.mark.parametrize("n", [1, 2, 7])
@pytest.mark.parametrize("fmt", ["TIFF", "GIF", "PNG", "WEBP", "AVIF"])
def test_pages_are_counted_as_pillow_counts_them(fmt: str, n: int) -> None:
    data = animation(fmt, n)
    assert page_count(data) == Image.open(io.BytesIO(data)).n_frames == n


def test_a_picture_before_an_animation_is_one_more() -> None:
    data = animation("PNG", 4, default_image=True)
    assert page_count(data) == Image.open(io.BytesIO(data)).n_frames


def test_every_page_gives_its_own_pixels() -> None:
    for fmt in ("TIFF", "PNG", "WEBP"):
        data = animation(fmt, 3, **({"lossless": True} if fmt == "WEBP" else {}))
        for k in range(3):
            np.testing.assert_array_equal(decode(data, page=k), np.asarray(picture(k)))
    with pytest.raises(ImageError, match="page 4 of 3"):
        decode(animation("TIFF", 3), page=3)


@pytest.mark.parametrize("hidden", [False, True])
def test_a_frame_of_a_png_with_a_changed_byte_is_refused_and_those_before_it_are_not(
    hidden: bool,
) -> None:
    """Pillow skips the checksums of frames, and draws other pixels of some that are damaged."""
    whole, drawn = animation("PNG", 3, default_image=hidden), 0
    first, last = whole.index(b"fdAT") + 8, whole.rindex(b"fdAT") - 50
    for at in range(first, last, 7):
        data = whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :]
        image = Image.open(io.BytesIO(data))
        try:
            image.seek(1)
            image.load()
            drawn += 1
        except (OSError, SyntaxError):
            pass
        with pytest.raises(ImageError, match=r"checksum of its pixels is wrong|cannot be decoded"):
            decode(data, page=1)
        np.testing.assert_array_equal(decode(data), decode(whole))
    assert drawn
    data = whole[:-20] + bytes([whole[-20] ^ 0x10]) + whole[-19:]  # of the last frame
    np.testing.assert_array_equal(decode(data, page=1), decode(whole, page=1))


def test_what_has_one_page_or_is_damaged_counts_one() -> None:
    for fmt in ("JPEG", "BMP", "PPM"):
        file = io.BytesIO()
        picture(1).save(file, fmt)
        assert page_count(file.getvalue()) == 1
    for fmt in ("GIF", "PNG", "WEBP"):
        whole = animation(fmt, 3)
        for cut in range(12, len(whole), max(1, len(whole) // 40)):
            assert page_count(whole[:cut]) <= 4
    with pytest.raises(ImageError, match="without pages"):
        page_count(b"II*\0" + bytes(4))


@pytest.fixture
def stacks(tmp_path: Path) -> Path:
    """Two stacks of three and two pages, and a picture of one."""
    folder = tmp_path / "stacks"
    for label, name, first, n in (("a", "x.tif", 0, 3), ("b", "y.tif", 3, 2), ("b", "z.png", 9, 1)):
        (folder / label).mkdir(parents=True, exist_ok=True)
        if name.endswith(".png"):
            picture(first).save(folder / label / name)
            continue
        with tifffile.TiffWriter(folder / label / name) as writer:
            for k in range(first, first + n):
                writer.write(np.asarray(picture(k)), photometric="rgb", metadata=None)
    return folder


def test_pages_left_out_are_said_and_counted(
    stacks: Path, tmp_path: Path, tiny: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    found = extract(stacks, tmp_path / "c.h5", **tiny)
    assert (found.embedded, found.pages_left) == (3, 3)
    said = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(said) == 1
    assert said[0].startswith("2 files have several pages or frames")
    assert "3 were not; pass --pages all" in said[0]


def test_every_page_becomes_a_row_of_its_own(
    stacks: Path, tmp_path: Path, tiny: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    extract(stacks, tmp_path / "c.h5", **tiny)
    caplog.clear()
    found = extract(stacks, tmp_path / "c.h5", **tiny, pages="all")
    assert (found.discovered, found.embedded, found.reused, found.pages_left) == (6, 3, 3, 0)
    assert not [r for r in caplog.records if r.levelno == logging.WARNING]
    again = extract(stacks, tmp_path / "c.h5", **tiny, pages="all")
    assert (again.embedded, again.reused) == (0, 6)
    plain = tmp_path / "plain"
    plain.mkdir()
    for k in (0, 1, 2, 3, 4, 9):
        picture(k).save(plain / f"{k}.png")
    extract(plain, tmp_path / "plain.h5", **tiny)
    with open_cache(tmp_path / "c.h5") as cache, open_cache(tmp_path / "plain.h5") as wanted:
        ids = ["a/x.tif", "a/x.tif#2", "a/x.tif#3", "b/y.tif", "b/y.tif#2", "b/z.png"]
        assert list(cache.ids) == ids
        assert cache.classes == ["a", "b"]
        assert list(cache.labels) == list("aaabbb")
        np.testing.assert_allclose(np.asarray(cache.X), np.asarray(wanted.X), atol=1e-6)
        assert len(set(map(bytes, cache.content_digests))) == 6


def test_a_directory_beyond_every_file_is_refused() -> None:
    for far in (2**40, 2**63 + 5):
        data = b"II+\0" + (8).to_bytes(2, "little") + bytes(2) + far.to_bytes(8, "little")
        with pytest.raises(ImageError, match="its first page is missing"):
            page_count(data + bytes(40))


def test_a_model_labels_every_page(stacks: Path, tmp_path: Path, tiny: dict[str, Any]) -> None:
    save_pictures(tmp_path / "photos", 24)
    extract(tmp_path / "photos", tmp_path / "c.h5", **tiny)
    fit(tmp_path / "c.h5", head="logreg", out=tmp_path / "m.featx")
    model = load_model(tmp_path / "m.featx")
    found = model.predict(stacks, backbone=str(tiny["backbone"]), progress=False, pages="all")
    assert [row["id"] for row in found.rows][:3] == ["a/x.tif", "a/x.tif#2", "a/x.tif#3"]


def test_pages_are_reference_images_and_thumbnails(
    stacks: Path, tmp_path: Path, tiny: dict[str, Any]
) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(stacks, ".")
    for source in (stacks, tmp_path / "x.tar"):
        cache = tmp_path / f"{source.stem}.h5"
        extract(source, cache, **tiny, pages="all")
        with open_cache(cache) as found:
            read = image_reader(found)
            made = make_references(found, next(iter(found.taps)), np.arange(6))
            shown = [small_picture(found, row, read, 96) for row in range(6)]
        assert sum(name.endswith(".png") for name in made) == 6
        for k, jpeg in zip((0, 1, 2, 3, 4, 9), shown, strict=True):
            assert jpeg is not None
            drawn = np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"), int)
            assert np.abs(drawn.mean((0, 1)) - np.asarray(picture(k), int).mean((0, 1))).max() < 4
    with tifffile.TiffWriter(stacks / "a" / "x.tif") as writer:
        writer.write(np.asarray(picture(5)), photometric="rgb", metadata=None)
    with open_cache(tmp_path / "stacks.h5") as found:
        assert small_picture(found, 1, image_reader(found), 96) is None


def test_a_dry_run_counts_pages_too(stacks: Path, tmp_path: Path, tiny: dict[str, Any]) -> None:
    found = extract(stacks, tmp_path / "c.h5", **tiny, pages="all", dry_run=True)
    assert (found.discovered, found.embedded) == (6, 6)

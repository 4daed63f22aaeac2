"""Files that a table names in another way than the file system does."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from conftest import picture

from featx.errors import ImageError
from featx.sources.load import load_manifest

NFC, NFD = (unicodedata.normalize(form, "Möhre") for form in ("NFC", "NFD"))


def read(folder: Path, written: str) -> bytes:
    (folder / "t.csv").write_text(f'path,label\n"{written}",x\n')
    found = load_manifest(folder / "t.csv")
    assert found.ids == [written]
    return found.read(0)[0]


def save(folder: Path, *names: str) -> None:
    for k, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        picture(k).save(folder / name, "PNG")


@pytest.mark.parametrize(
    ("lying", "written"),
    [
        ("a/b/1.png", r"a\b\1.png"),
        ("a/b/1.png", r"a\b/1.png"),
        ("a/b/1.png", r".\a\\b\1.png"),
        ("a/b/1.png", r"a\c\..\b\1.png"),
        (f"{NFD}/1.png", f"{NFC}/1.png"),
        (f"{NFC}/{NFC}.png", f"{NFD}/{NFD}.png"),
        ("a/IMG_1.JPG", "a/img_1.jpg"),
        ("Photos/1.png", r"photos\1.PNG"),
        (f"A/{NFD}.png", rf"a\{NFC}.png"),
    ],
)
def test_the_one_file_that_fits_is_read(tmp_path: Path, lying: str, written: str) -> None:
    save(tmp_path, lying, "a/c/other.png")
    assert read(tmp_path, written) == (tmp_path / lying).read_bytes()


def test_what_is_there_as_it_is_written_goes_before(tmp_path: Path) -> None:
    save(tmp_path, "a/1.png", r"a\1.png", f"{NFC}.png", f"{NFD}.png", "x.png", "X.png")
    for name in (r"a\1.png", f"{NFC}.png", f"{NFD}.png", "x.png", "X.png"):
        assert read(tmp_path, name) == (tmp_path / name).read_bytes()


def test_another_form_goes_before_another_case(tmp_path: Path) -> None:
    save(tmp_path, f"{NFD}.png", f"{NFD.upper()}.png")
    assert read(tmp_path, f"{NFC}.png") == (tmp_path / f"{NFD}.png").read_bytes()


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("IMG.PNG", r"2 others fit .Img.png, img.png.; write one of them"),
        (r"gone\1.png", "with backslashes as folders neither"),
        ("gone.png", "^file not found$"),
        (r"C:\photos\1.png", r"a Windows path .C:. .* write paths relative to the table"),
        (r"d:/photos/1.png", r"a Windows path .d:."),
        (r"\\server\share\1.png", "a Windows path"),
    ],
)
def test_why_no_file_is_read(tmp_path: Path, written: str, message: str) -> None:
    save(tmp_path, "img.png", "Img.png", "photos/1.png")
    with pytest.raises(ImageError, match=message):
        read(tmp_path, written)


def test_paths_of_windows_are_said_and_kept_as_they_lie(tmp_path: Path) -> None:
    save(tmp_path, "a/1.png", "b/2.png")
    (tmp_path / "t.csv").write_text("path\na\\1.png\nb\\2.png\n")
    found = load_manifest(tmp_path / "t.csv")
    assert found.paths == [f"{tmp_path}/a/1.png", f"{tmp_path}/b/2.png"]
    assert [note["code"] for note in found.notes] == ["backslashes"]
    listed = load_manifest([f"{tmp_path}/a\\1.png"])
    assert listed.read(0)[0] == (tmp_path / "a" / "1.png").read_bytes()

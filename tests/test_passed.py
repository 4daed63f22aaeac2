"""Files that are passed over are said by extension; HEIC is read where its extra is installed."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Shell, picture, save_pictures

from featx.errors import SourceError
from featx.extraction.extraction import extract
from featx.images import decode, image_extensions
from featx.sources.folder import PassedOver
from featx.sources.load import load_manifest

pillow_heif = pytest.importorskip("pillow_heif")


def heic(seed: int) -> bytes:
    file = io.BytesIO()
    pillow_heif.from_pillow(picture(seed, (64, 48))).save(file, quality=-1, chroma=444)
    return file.getvalue()


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Four pictures, and eight files that are none."""
    folder = tmp_path / "mixed"
    save_pictures(folder, 4)
    for name in ("cat/a.DCM", "cat/b.dcm", "dog/c.dcm", "dog/notes.txt", "README", ".hidden.png"):
        (folder / name).write_bytes(b"x")
    (folder / ".git").mkdir()
    (folder / ".git" / "x.png").write_bytes(b"x")
    return folder


def test_files_are_counted_by_extension(
    mixed: Path, tmp_path: Path, tiny_flags: list[str], shell: Shell
) -> None:
    found = load_manifest(mixed)
    kinds = {".dcm": 3, ".txt": 1, "hidden": 2, "other": 1}
    assert (found.ignored, found.ignored_by_extension) == (7, kinds)
    line = "7 ignored: .dcm 3, hidden 2, .txt 1, other 1"
    for extra in ((), ("--dry-run",)):
        done = shell("extract", mixed, tmp_path / "c.h5", *tiny_flags, *extra)
        assert line in done.stdout, done.stderr
        done = shell("extract", mixed, tmp_path / "c.h5", *tiny_flags, *extra, "--json")
        said = json.loads(done.stdout.splitlines()[-1])
        assert (said["ignored"], said["ignored_by_extension"]) == (7, kinds)


def test_a_folder_without_images_says_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(b"x")
    with pytest.raises(SourceError, match=r"holds no images \(1 other files: \.dcm 1\)"):
        load_manifest(tmp_path)


def test_very_many_extensions_are_one() -> None:
    passed = PassedOver()
    for k in range(5000):
        passed.take(f"x.{k}")
    assert len(passed) <= 101
    assert passed.total() == 5000


def test_heic_is_read(tmp_path: Path, tiny: dict[str, Any]) -> None:
    assert ".heic" in image_extensions()
    off = np.abs(decode(heic(3)).astype(int) - np.asarray(picture(3, (64, 48))))
    assert off.mean() < 3
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "a.HEIC").write_bytes(heic(1))
    assert extract(tmp_path / "s", tmp_path / "c.h5", **tiny).embedded == 1


def test_heic_without_its_extra_is_said_with_the_way_out(mixed: Path, tmp_path: Path) -> None:
    (mixed / "cat" / "x.heic").write_bytes(heic(1))
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "x.heic").write_bytes(heic(1))
    code = (
        "import sys; sys.modules['pillow_heif'] = None\n"
        "from featx.sources.load import load_manifest\n"
        "from featx.sources.folder import extra_notice\n"
        "print(extra_notice(load_manifest(sys.argv[1]).ignored_by_extension))\n"
        "try: load_manifest(sys.argv[2])\n"
        "except Exception as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, mixed, tmp_path / "only"],
        capture_output=True,
        text=True,
        check=True,
    )
    first, second = done.stdout.splitlines()
    assert first.endswith("are passed over (.heic 1): pip install 'featx[heif]'")
    assert ".heic 1" in second
    assert "pip install 'featx[heif]'" in second

"""One writer at a time, and nothing but a lock is taken for one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import featx
from featx.cache.lock import WriterLock
from featx.errors import CacheError, CacheLockedError
from featx.extraction.extraction import extract

HOLDER = json.dumps({"pid": 1 << 22, "host": "gone", "since": "2026-01-01T00:00:00+00:00"})


def test_a_cache_named_through_a_link_has_the_lock_of_the_file_behind_it(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "c.h5").symlink_to("disk/c.h5")  # which is not there yet
    with WriterLock(tmp_path / "c.h5"):
        assert (tmp_path / "disk" / "c.h5.lock").is_file()
        with pytest.raises(CacheLockedError, match=f"process {os.getpid()}"):
            WriterLock(tmp_path / "disk" / "c.h5").__enter__()
    assert not list((tmp_path / "disk").iterdir())


def test_the_file_behind_a_link_is_updated_and_the_link_stays(
    photos: Path, tmp_path: Path, tiny: dict[str, Any]
) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "c.h5").symlink_to("disk/c.h5")
    (tmp_path / "again.h5").symlink_to("c.h5")
    extract(photos, tmp_path / "c.h5", **tiny)
    assert extract(photos, tmp_path / "again.h5", **tiny).reused == 12
    assert extract(photos, tmp_path / "disk" / "c.h5", **tiny).reused == 12
    assert (tmp_path / "c.h5").is_symlink()
    assert not (tmp_path / "disk" / "c.h5").is_symlink()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["again.h5", "c.h5", "disk", "photos"]
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["c.h5"]
    (tmp_path / "m.featx").symlink_to("disk/m.featx")
    featx.fit(tmp_path / "again.h5", "logreg", folds=2, out=tmp_path / "m.featx")
    assert (tmp_path / "m.featx").is_symlink()
    assert featx.load_model(tmp_path / "disk" / "m.featx").classes == ["cat", "dog"]


def test_a_link_that_leads_in_a_circle_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "a.h5").symlink_to("b.h5")
    (tmp_path / "b.h5").symlink_to("a.h5")
    with pytest.raises(CacheError, match="link"):
        WriterLock(tmp_path / "a.h5").__enter__()


@pytest.mark.parametrize("link", ["symlink_to", "hardlink_to"])
def test_a_lock_that_is_a_link_loses_nothing(tmp_path: Path, link: str) -> None:
    (tmp_path / "diary").write_text("years of work")
    getattr(tmp_path / "c.h5.lock", link)(tmp_path / "diary")
    with pytest.raises(CacheError, match=r"is a link|is not a lock"):
        WriterLock(tmp_path / "c.h5").__enter__()
    assert (tmp_path / "diary").read_text() == "years of work"
    assert (tmp_path / "c.h5.lock").exists()


def test_a_file_of_another_program_is_not_a_lock(tmp_path: Path) -> None:
    (tmp_path / "poetry.lock").write_text("[[package]]")
    with pytest.raises(CacheError, match="is not a lock that featx wrote"):
        WriterLock(tmp_path / "poetry").__enter__()
    assert (tmp_path / "poetry.lock").read_text() == "[[package]]"
    (tmp_path / "q.lock").mkdir()
    with pytest.raises(CacheError, match="cannot write"):
        WriterLock(tmp_path / "q").__enter__()


@pytest.mark.parametrize("left", [HOLDER, "", HOLDER[:4], HOLDER[:30], "\0" * 30])
def test_what_a_dead_writer_left_is_taken_over(tmp_path: Path, left: str) -> None:
    lock = tmp_path / "c.h5.lock"
    lock.write_text(left)
    with WriterLock(tmp_path / "c.h5"):
        assert json.loads(lock.read_text())["pid"] == os.getpid()
    assert not lock.exists()


AS_ANOTHER_USER = """
import os, sys
from pathlib import Path
from featx.cache.lock import WriterLock
from featx.errors import CacheError
if os.getuid() == 0:  # root may write everywhere
    os.setgid(65534)
    os.setuid(65534)
try:
    WriterLock(Path(sys.argv[1])).__enter__()
except CacheError as error:
    print(type(error).__name__, error)
"""


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter; pytest's own are closed to others."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_the_lock_of_another_user_says_whether_it_is_dead_and_how_to_go_on(
    open_folder: Path,
) -> None:
    tmp_path = open_folder
    lock = tmp_path / "c.h5.lock"
    lock.write_text(HOLDER)
    lock.chmod(0o444)

    def said() -> str:
        words = [sys.executable, "-c", AS_ANOTHER_USER, os.fspath(tmp_path / "c.h5")]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout

    text = said()
    assert "process 4194304 on gone" in text
    assert "is dead: to go on, remove the file (rm " in text
    lock.unlink()
    with WriterLock(tmp_path / "c.h5"):
        lock.chmod(0o444)
        text = said()
    assert text.startswith("CacheLockedError")
    assert f"process {os.getpid()}" in text

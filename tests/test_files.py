"""Files that are complete or not there, and who may be replaced."""

from __future__ import annotations

import errno
import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from featx import files
from featx.errors import CacheError, NoSpaceError
from featx.files import (
    full_text,
    no_space,
    remove_dead,
    replacing,
    require_space,
    scratch_folder,
    size_text,
    write_bytes,
    writing,
)
from featx.targets import require_writable


def test_a_target_that_is_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("path")
    (tmp_path / "link.csv").symlink_to("table.csv")
    with pytest.raises(CacheError, match="would replace a file of this same command"):
        require_writable(tmp_path / "table.csv", "cache", tmp_path / "link.csv")
    others: tuple[object, ...] = (
        "https://host/" + 5000 * "x",
        tmp_path / "gone",
        ["table.csv"],
        None,
    )
    require_writable(tmp_path / "table.csv", "cache", *others)


def test_a_device_or_a_pipe_is_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(CacheError, match=r"model .* is a device or a pipe"):
        require_writable(pipe, "model")
    with pytest.raises(CacheError, match="is a device or a pipe"):
        write_bytes(pipe, b"a page")
    assert pipe.is_fifo()
    assert list(tmp_path.iterdir()) == [pipe]


def recorded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the calls of the system that make a file last."""
    calls: list[str] = []

    def record(name: str, kind: Any) -> None:
        call = getattr(os, name)

        def made(*arguments: Any, **named: Any) -> Any:
            calls.append(kind(*arguments))
            return call(*arguments, **named)

        monkeypatch.setattr(os, name, made)

    def flushed(handle: int) -> str:
        name = Path(f"/proc/self/fd/{handle}").readlink()
        return f"fsync {'folder' if name.is_dir() else name.suffix}"

    record("fsync", flushed)
    record("replace", lambda source, target: f"rename to {Path(target).name}")
    write = files.Sequential.write

    def written(self: files.Sequential, data: Any) -> int:
        calls.append("write")
        return write(self, data)

    monkeypatch.setattr(files.Sequential, "write", written)
    digest = files.hashlib.file_digest

    def read_back(file: Any, kind: Any) -> Any:
        calls.append(f"read {Path(file.name).suffix}")
        return digest(file, kind)

    monkeypatch.setattr(files.hashlib, "file_digest", read_back)
    return calls


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="names of open files")
def test_a_file_is_written_flushed_read_back_and_renamed_in_this_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = recorded(monkeypatch)
    write_bytes(tmp_path / "page.html", b"a page")
    assert calls == ["write", "fsync .tmp", "read .tmp", "rename to page.html", "fsync folder"]


def test_what_reads_back_other_than_it_was_written_is_not_published(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    write_bytes(path, b"old")

    def write() -> None:
        with writing(path) as file:
            file.write(b"new page")
            (temporary,) = tmp_path.glob(".page.html.*.tmp")
            with temporary.open("r+b") as other:
                other.write(b"N")

    with pytest.raises(CacheError, match="reads back other than it was written"):
        write()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def killed_writer(folder: Path, code: str) -> None:
    """Run code that says when it is ready, and kill it then."""
    lines = [
        "import time",
        "from pathlib import Path",
        "from featx import files",
        code,
        "print('ready', flush=True)",
        "time.sleep(600)",
    ]
    child = subprocess.Popen(
        [sys.executable, "-c", "\n".join(lines)], cwd=folder, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()


def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path: Path) -> None:
    code = "f = files.replacing(Path('page.html')); f.__enter__().write(b'half')"
    killed_writer(tmp_path, code)
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".page.html.")
    others = [".page.html.swp", ".page.html.mine.tmp", ".page.html.0123456g.tmp", "page.html.tmp"]
    for name in others:
        (tmp_path / name).write_text("of another program")
    write_bytes(tmp_path / "page.html", b"whole")
    assert {path.name for path in tmp_path.iterdir()} == {"page.html", *others}


def test_what_a_living_writer_holds_stays(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    with replacing(path) as file:
        (held,) = tmp_path.iterdir()
        remove_dead(path)
        assert list(tmp_path.iterdir()) == [held]
        write_bytes(path, b"of another run")
        file.write(b"of this run")
    assert path.read_bytes() == b"of this run"
    assert list(tmp_path.iterdir()) == [path]


def test_a_scratch_folder_of_a_killed_run_is_removed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", os.fspath(tmp_path))
    monkeypatch.setattr(files.tempfile, "tempdir", None)
    killed_writer(tmp_path, "f = files.scratch_folder(); (f.__enter__() / 'x').write_text('x')")
    (left,) = tmp_path.iterdir()
    assert sorted(path.name for path in left.iterdir()) == [".alive", "x"]
    (tmp_path / "featx-notes").mkdir()
    with scratch_folder() as mine, scratch_folder() as second:
        there = {mine.name, second.name, "featx-notes"}
        assert {path.name for path in tmp_path.iterdir()} == there
    assert [path.name for path in tmp_path.iterdir()] == ["featx-notes"]


def test_an_error_of_what_is_read_keeps_its_own_words(tmp_path: Path) -> None:
    def write() -> None:
        with writing(tmp_path / "x") as file:
            file.write(b"half")
            raise ConnectionError("3 of 7 bytes came")

    with pytest.raises(ConnectionError, match="3 of 7 bytes"):
        write()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_names_what_is_needed_and_free(tmp_path: Path) -> None:
    assert re.search(r"1\.5 MB needed, .* free", str(no_space(tmp_path / "x", 1_500_000)))
    with pytest.raises(NoSpaceError, match="needed"):
        require_space(tmp_path / "x", tmp_path, 1 << 62)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(NoSpaceError, match=r"5 kB needed, .* free \(a limit on the size"):
            write_bytes(tmp_path / "x", bytes(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("n", "text"), [(999, "999 B"), (1000, "1 kB"), (2.5e12, "2.5 TB")])
def test_sizes_for_a_person(n: float, text: str) -> None:
    assert size_text(n) == text


def test_a_full_disk_is_said_with_what_is_free(tmp_path: Path) -> None:
    named = OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "x.h5"))
    assert re.fullmatch(
        r"no space to write .*x\.h5: 1 \w+ needed at the least, [\d.]+ \w+ free; make room .*",
        full_text(named),
    )
    nameless = OSError(errno.ENOSPC, "No space left on device")
    said = full_text(nameless)
    assert said.startswith(
        "No space left on device: what was to be written needs more than is free"
    )
    assert f"free in {Path.cwd()}" in said

"""Sources that would take all memory, or all of the stack: one line in the end, or a reason."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import picture

from featx.errors import ImageError, SourceError
from featx.sources import arrow
from featx.sources.load import load_manifest


def png() -> bytes:
    file = io.BytesIO()
    picture(1).save(file, "PNG")
    return file.getvalue()


def test_1500_folders_in_one_another(tmp_path: Path) -> None:
    here, home = os.open(tmp_path, os.O_RDONLY), tmp_path
    try:
        for k in range(1500):
            os.mkdir("a", dir_fd=here)
            inner = os.open("a", os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = inner
            if k in (0, 1499):
                file = os.open("p.png", os.O_WRONLY | os.O_CREAT, dir_fd=here)
                os.write(file, png())
                os.close(file)
        found = load_manifest(home)
        assert [len(name) for name in found.ids] in ([7, 3005], [3005, 7])
    finally:
        os.close(here)
        subprocess.run(["rm", "-rf", tmp_path / "a"], check=True)  # Python has no stack for it


def header(name: str, size: int, kind: bytes) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.USTAR_FORMAT)


def member(name: str, data: bytes) -> bytes:
    return header(name, len(data), tarfile.REGTYPE) + data + bytes(-len(data) % 512)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_header_of_a_tar_is_bounded(tmp_path: Path, kind: bytes) -> None:
    """The file says that it has 7 GB of records; as a sparse file it takes no space."""
    path = tmp_path / "a.tar"
    with path.open("wb") as file:
        file.write(member("a.png", png()) + header("x", 7 << 30, kind))
        file.truncate(8 << 30)
    found = load_manifest(path)
    assert [*found.ids] == ["a.tar/a.png"]
    assert "damaged" in found.refused["a.tar/(end)"]


def test_thousands_of_headers_for_one_member_end_in_a_reason(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(
        member("a.png", png()) + header("x", 0, tarfile.XHDTYPE) * 5000 + member("b.png", png())
    )
    found = load_manifest(path)
    assert [*found.ids] == ["a.tar/a.png"]
    assert [*found.refused] == ["a.tar/(end)"]


def test_headers_for_all_members_are_bounded(tmp_path: Path) -> None:
    records = b"".join(b"%d k%d=v\n" % (len(str(k)) + 6 + (k > 999), k) for k in range(100, 1600))
    path = tmp_path / "a.tar"
    path.write_bytes(
        header("x", len(records), tarfile.XGLTYPE)
        + records
        + bytes(-len(records) % 512)
        + member("a.png", png()) * 3
        + bytes(1024)
    )
    found = load_manifest(path)
    assert not [*found.ids]


def packed(path: Path, image: bool) -> Path:
    """A value of a megabyte, stored once and named by 3,000 rows: 100 kB, and 3 GB in memory."""
    index = pa.array([0] * 3000, pa.int32())
    value = pa.DictionaryArray.from_arrays(index, pa.array([b"x" * 1_000_000]))
    text = pa.DictionaryArray.from_arrays(index, pa.array(["x" * 1_000_000]))
    table = {"image": value} if image else {"path": pa.array(["a.png"] * 3000), "note": text}
    pq.write_table(pa.table(table), path, store_schema=False, dictionary_pagesize_limit=10_000_000)
    assert path.stat().st_size < 200_000
    return path


def test_a_packed_table_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow, "MOST_BYTES", 50_000_000)
    with pytest.raises(SourceError, match="holds more than 50000000 bytes of columns in memory"):
        load_manifest(packed(tmp_path / "t.parquet", image=False))


def test_packed_images_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow, "MOST_BYTES", 50_000_000)
    found = load_manifest(packed(tmp_path / "t.parquet", image=True))
    with pytest.raises(ImageError, match="more than 50000000 bytes in row group 0"):
        found.read(0)


def test_rows_without_bytes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pq.write_table(pa.table({"path": pa.nulls(1_000_000, pa.string())}), tmp_path / "t.parquet")
    monkeypatch.setattr(arrow, "_ROWS_ALWAYS", 1000)
    with pytest.raises(SourceError, match="claims 1000000 rows in"):
        load_manifest(tmp_path / "t.parquet")


@pytest.mark.parametrize(
    ("code", "line"),
    [
        ("raise MemoryError('8 GiB')", "featx: this needs more memory than is there (8 GiB)"),
        ("f = lambda: f(); f()", "featx: what was read is nested too deeply"),
    ],
)
def test_no_memory_and_no_stack_end_in_one_line(code: str, line: str) -> None:
    program = f"""
from featx.cli.app import app, command
from featx.cli import main
import sys

@command
def doctor() -> None:
    \"\"\"Stand in for any command.\"\"\"
    {code}

@command
def info() -> None:
    \"\"\"Another, so that names are needed.\"\"\"

sys.argv = ["featx", "doctor"]
app()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith(line)
    assert done.stderr.count("\n") == 1

"""Split and merge: nothing is lost, whatever stops them."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import Shell
from test_cache import make_cache, make_rows

from featx.cache import merge, open_cache, split
from featx.cache.format import INDEX
from featx.cache.lock import WriterLock
from featx.errors import CacheError, CacheFormatError, CacheLockedError, NoSpaceError

N, PART = 300, 110


def described(n: int) -> dict[str, Any]:
    return {
        "labels": np.array([0, 1, -1] * (n // 3), np.int32),
        "classes": ["cat", "ü dog"],
        "split": ["train", "test", ""] * (n // 3),
        "columns": {
            "age": np.linspace(0, 1, n),
            "kind": np.array(["a", "ß"] * (n // 2), object),
        },
        "failed": {"bad.png": "cannot be decoded"},
    }


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return make_cache(tmp_path / "c.h5", make_rows(N), **described(N))


def contents(path: Path) -> dict[str, tuple[Any, Any]]:
    """Type and bytes of everything in a file."""
    found: dict[str, tuple[Any, Any]] = {}

    def visit(name: str, thing: Any) -> None:
        if isinstance(thing, h5py.Dataset):
            value = thing[()]
            found[name] = (thing.dtype, value if isinstance(value, bytes) else value.tobytes())

    with h5py.File(path) as opened:
        opened.visititems(visit)
        found["attributes"] = (None, dict(opened.attrs))
    return found


@pytest.mark.parametrize("rows", [37, 110, 300, 1000])
def test_there_and_back_changes_no_bit(file: Path, tmp_path: Path, rows: int) -> None:
    there = split(file, tmp_path / "f", rows=rows)
    back = merge(tmp_path / "f", tmp_path / "back.h5")
    assert (there.rows, there.parts) == (N, -(-N // rows))
    assert (back.rows, back.parts) == (N, 0)
    assert contents(tmp_path / "back.h5") == contents(file)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "back.h5",
        "c.h5",
        "c.h5.parts",
        "f",
    ]


def test_several_labels_and_numbers_survive(tmp_path: Path) -> None:
    for k, labels in enumerate((np.eye(N, 2, dtype=np.int8), np.linspace(0, 1, N))):
        classes = ["x", "y"] if labels.ndim == 2 else None
        place = tmp_path / f"{k}.h5"
        make_cache(place, make_rows(N), labels=labels, classes=classes)
        split(place, tmp_path / f"{k}", rows=PART)
        with open_cache(tmp_path / f"{k}") as found:
            assert found.classes == classes
            np.testing.assert_array_equal(found.y, labels)
        merge(tmp_path / f"{k}", tmp_path / f"{k}-back.h5")
        assert contents(tmp_path / f"{k}-back.h5") == contents(place)


def test_nothing_is_overwritten_unasked(file: Path, tmp_path: Path) -> None:
    split(file, tmp_path / "f", rows=PART)
    with pytest.raises(CacheError, match=r"exists.*--force"):
        split(file, tmp_path / "f", rows=PART)
    with pytest.raises(CacheError, match=r"exists.*--force"):
        merge(tmp_path / "f", file)
    before = file.read_bytes()
    assert merge(tmp_path / "f", file, force=True).rows == N
    assert open_cache(file).verify().ok
    assert len(file.read_bytes()) == len(before)
    assert split(file, tmp_path / "f", rows=50, force=True).parts == 6
    assert len(list((tmp_path / "f").iterdir())) == 7
    assert open_cache(tmp_path / "f").verify().ok


def test_targets_that_cannot_be(file: Path, tmp_path: Path) -> None:
    split(file, tmp_path / "f", rows=PART)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("mine")
    for target in (tmp_path / "full", tmp_path / "gone" / "f", file, tmp_path):
        with pytest.raises(CacheError):
            split(file, target, force=True)
    for target in (tmp_path / "f" / "inside.h5", tmp_path / "full", tmp_path / "f"):
        with pytest.raises(CacheError):
            merge(tmp_path / "f", target, force=True)
    with pytest.raises(CacheError, match="nothing to merge"):
        merge(file, tmp_path / "x.h5")
    with pytest.raises(CacheError, match="at least 1 row"):
        split(file, tmp_path / "x", rows=0)
    assert (tmp_path / "full" / "letter.txt").read_text() == "mine"
    assert open_cache(tmp_path / "f").verify().ok
    with WriterLock(tmp_path / "x.h5"), pytest.raises(CacheLockedError):
        merge(tmp_path / "f", tmp_path / "x.h5")


def test_a_damaged_row_is_not_passed_on(file: Path, tmp_path: Path) -> None:
    split(file, tmp_path / "f", rows=PART)
    with h5py.File(file, "r+") as opened:
        opened["features"][200, 3] += 1
    with pytest.raises(CacheFormatError, match=r"c\.h5 is damaged in row 200; .featx verify"):
        split(file, tmp_path / "g", rows=PART)
    with pytest.raises(CacheError, match="without index"):
        open_cache(tmp_path / "g")
    part = sorted((tmp_path / "f").glob("part-*"))[1]
    with h5py.File(part) as opened:
        offset = opened["features"].id.get_chunk_info(0).byte_offset
    data = bytearray(part.read_bytes())
    data[offset] ^= 1
    part.write_bytes(data)
    with pytest.raises(
        CacheFormatError, match=r"part-00001-\w+\.h5 is damaged in /features; .featx verify"
    ):
        merge(tmp_path / "f", tmp_path / "x.h5")
    assert not (tmp_path / "x.h5").exists()


def test_a_disk_without_room_is_said_before_anything_is_written(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(NoSpaceError, match=r"1\.\d+ MB needed, 1 kB free"):
        split(file, tmp_path / "f")
    assert list((tmp_path / "f").iterdir()) == []


def test_a_stopped_split_goes_on(file: Path, tmp_path: Path) -> None:
    split(file, tmp_path / "f", rows=PART)
    parts = sorted((tmp_path / "f").glob("part-*"))
    (tmp_path / "f" / INDEX).unlink()
    parts[1].unlink()
    parts[2].write_bytes(b"half")
    (tmp_path / "f" / ".part-00001-x.h5.12.tmp").write_bytes(b"half")
    kept = parts[0].stat()
    assert split(file, tmp_path / "f", rows=PART).parts == 3
    assert parts[0].stat().st_ino == kept.st_ino
    assert open_cache(tmp_path / "f").verify().ok
    assert len(list((tmp_path / "f").iterdir())) == 4


def test_the_shell_splits_and_merges(file: Path, tmp_path: Path, shell: Shell) -> None:
    done = shell("split", file, f"{tmp_path / 'f'}/", "--rows", 100)
    assert (done.returncode, done.stdout.strip()) == (0, f"{tmp_path / 'f'}: 300 rows in 3 parts")
    done = shell("merge", tmp_path / "f", tmp_path / "b.h5", "--json")
    assert '"rows": 300' in done.stdout
    assert contents(tmp_path / "b.h5") == contents(file)
    done = shell("merge", tmp_path / "f", tmp_path / "b.h5")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)


DYING = """
import os, signal, sys
from featx.cache import h5file as durable, merge, split

count, die_at, after = 0, int(sys.argv[1]), sys.argv[2] == "after"

def fatal(function):
    def call(*args, **options):
        global count
        count += 1
        if count == die_at and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*args, **options)
        if count == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return call

os.fsync = fatal(os.fsync)
os.replace = fatal(os.replace)
durable._Sink.write = fatal(durable._Sink.write)
if sys.argv[3] == "split":
    split(sys.argv[4], sys.argv[5], rows=110, force=sys.argv[6] == "force")
else:
    merge(sys.argv[4], sys.argv[5], force=sys.argv[6] == "force")
print(count)
"""


def run_dying(die_at: int, when: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", DYING, str(die_at), when, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


def holds(target: Path) -> bool:
    """Whether a target says that it is a cache."""
    return (target / INDEX).exists() if target.is_dir() else target.exists()


def kill_everywhere(step: str, source: Path, target: Path, old: int, moments: int) -> int:
    """Kill at moments spread over a run; what can be opened then is whole, and the old or new.

    A run that goes on from the parts of the one before makes fewer calls, and may live.
    """
    force = "force" if old else ""
    saved = target.with_name("saved")
    if old:
        shutil.copytree(target, saved) if target.is_dir() else shutil.copy(target, saved)
    probe = target.with_name("probe")
    calls = int(run_dying(0, "", step, source, probe, "").stdout)
    kills = 0
    for k, at in enumerate(np.linspace(1, calls, moments).astype(int)):
        done = run_dying(at, ("before", "after")[k % 2], step, source, target, force)
        kills += done.returncode == -signal.SIGKILL
        if old or holds(target):
            with open_cache(target) as found:
                assert found.verify().ok
                assert len(found) in (old, N)
        if k % 3 == 2:  # now and then it is let finish, and starts anew
            done = run_dying(0, "", step, source, target, "force")
            assert done.returncode == 0, done.stderr
            assert len(open_cache(target)) == N
            assert not list(target.parent.rglob("*.tmp"))
            shutil.rmtree(target) if target.is_dir() else target.unlink()
            if old:
                shutil.copytree(saved, target) if saved.is_dir() else shutil.copy(saved, target)
    return kills


@pytest.mark.parametrize("old", [pytest.param(0, marks=pytest.mark.slow), 12])
def test_a_split_that_is_killed_leaves_the_old_or_the_new(
    file: Path, tmp_path: Path, old: int
) -> None:
    (tmp_path / "t").mkdir()
    if old:
        split(make_cache(tmp_path / "small.h5", make_rows(old)), tmp_path / "t" / "f")
    assert kill_everywhere("split", file, tmp_path / "t" / "f", old, 6) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("old", [0, 12])
def test_a_merge_that_is_killed_leaves_the_old_or_the_new(
    file: Path, tmp_path: Path, old: int
) -> None:
    split(file, tmp_path / "f", rows=PART)
    (tmp_path / "t").mkdir()
    if old:
        make_cache(tmp_path / "t" / "c.h5", make_rows(old))
        shutil.rmtree(tmp_path / "t" / "c.h5.parts")
    assert kill_everywhere("merge", tmp_path / "f", tmp_path / "t" / "c.h5", old, 6) >= 5

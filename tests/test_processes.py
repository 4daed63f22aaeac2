"""Several processes write shards, one publishes; a worker that dies loses nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import save_pictures

from featx.cache import open_cache
from featx.errors import ExtractError, FeatxError
from featx.extraction.extraction import extract


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many") / "photos"
    save_pictures(folder, 300, suffix=".bmp")
    (folder / "cat" / "zz.bmp").write_bytes(b"BM")
    return folder


def test_two_workers_give_the_rows_of_one(many: Path, tmp_path: Path, tiny: dict[str, Any]) -> None:
    one = extract(many, tmp_path / "one.h5", **tiny)
    two = extract(many, tmp_path / "two.h5", **tiny, workers=2)
    assert (two.embedded, two.failed, two.fingerprint) == (300, 1, one.fingerprint)
    with open_cache(tmp_path / "one.h5") as a, open_cache(tmp_path / "two.h5") as b:
        np.testing.assert_array_equal(np.asarray(a.X), np.asarray(b.X))
        assert a.ids == b.ids
        assert a.failed == b.failed
        assert b.verify().ok
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one.h5", "two.h5"]
    again = extract(many, tmp_path / "two.h5", **tiny, workers=2)
    assert (again.embedded, again.reused) == (0, 300)


@pytest.mark.slow
def test_a_failure_in_a_worker_is_the_runs(
    many: Path, tmp_path: Path, tiny: dict[str, Any]
) -> None:
    with pytest.raises(ExtractError, match=r"zz\.bmp: .*--on-error fail"):
        extract(many, tmp_path / "c.h5", **tiny, workers=2, on_error="fail", threads=1)
    with pytest.raises(FeatxError, match="workers must be 1 or more"):
        extract(many, tmp_path / "c.h5", **tiny, workers=0)


def children(pid: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                status = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                command = (entry / "cmdline").read_text()
            except OSError:
                continue
            if int(status[1]) == pid and "spawn_main" in command:
                found.append(int(entry.name))
    return found


@pytest.mark.slow
def test_killed_workers_are_started_again(
    tmp_path: Path, tiny: dict[str, Any], tiny_flags: list[str]
) -> None:
    folder, cache = tmp_path / "photos", tmp_path / "c.h5"
    save_pictures(folder, 400, suffix=".bmp")
    command = [sys.executable, "-m", "featx", "extract", folder, cache, *tiny_flags]
    process = subprocess.Popen(
        [*map(str, command), "--workers", "2", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    killed: set[int] = set()
    end = time.monotonic() + 120
    while len(killed) < 3 and process.poll() is None and time.monotonic() < end:
        for child in children(process.pid):
            if child not in killed:
                time.sleep(0.3)
                try:
                    os.kill(child, signal.SIGKILL)
                    killed.add(child)
                except ProcessLookupError:
                    continue
    output, log = process.communicate(timeout=200)
    assert process.returncode == 0, log
    assert log.count("is started again") >= 3, (killed, log)
    assert output
    extract(folder, tmp_path / "clean.h5", **tiny)
    with open_cache(cache) as a, open_cache(tmp_path / "clean.h5") as b:
        np.testing.assert_array_equal(np.asarray(a.X), np.asarray(b.X))
        assert a.ids == b.ids
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.h5", "clean.h5", "photos"]

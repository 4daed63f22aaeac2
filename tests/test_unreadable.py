"""Files that cannot be read for a moment keep the rows that they have."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import picture

import featx

SCRIPT = """
import os, sys
from pathlib import Path
import featx, featx.extraction.extraction
folder, network, kind = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
options = dict(backbone=network, weights="random", layers=("flatten",), input_size=32,
               precision="fp32", compile="off", progress=False)
source = folder / "s" if kind == "folder" else folder / "t.csv"
featx.extract(source, folder / "out" / "c.h5", **options)
if os.getuid() == 0:  # for root nothing is unreadable
    os.setgid(65534), os.setuid(65534)
os.environ["HOME"] = "/nonexistent"
closed = folder / "s" if kind == "folder" else folder / "s" / "1.png"
if kind == "folder":
    os.chmod(closed, 0o444)  # its names can be listed, and no file in it be opened
else:
    os.chmod(closed, 0)
try:
    for dry in (True, False):
        found = featx.extract(source, folder / "out" / "c.h5", dry_run=dry, **options)
        codes = [one["code"] for one in found.warnings]
        print(found.discovered, found.embedded, found.reused, found.failed, found.removed, codes)
finally:
    os.chmod(closed, 0o755)
print(len(featx.open_cache(folder / "out" / "c.h5")))
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["table", "folder"])
def test_rows_of_files_that_cannot_be_read_now_are_kept(kind: str, tiny: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as name:  # pytest's own are closed to other users
        folder = Path(name)
        network = folder / "net.py"
        network.write_text(Path(tiny["backbone"].split(":")[1]).read_text())
        (folder / "s").mkdir()
        (folder / "out").mkdir()
        for k in range(4):
            picture(k).save(folder / "s" / f"{k}.png")
        (folder / "t.csv").write_text("path\n" + "".join(f"s/{k}.png\n" for k in range(4)))
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755)
            os.chown(path, 65534, 65534) if os.getuid() == 0 else None
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, name, f"file:{network}:build", kind],
            capture_output=True,
            text=True,
            check=False,
        )
        lines = done.stdout.splitlines()
        assert lines == ["4 0 4 0 0 ['kept-rows']"] * 2 + ["4"], (done.stdout, done.stderr)


def test_a_file_that_is_gone_loses_its_row(tmp_path: Path, tiny: dict[str, Any]) -> None:
    for k in range(3):
        picture(k).save(tmp_path / f"{k}.png")
    table = tmp_path / "t.csv"
    table.write_text("path\n0.png\n1.png\n2.png\n")
    featx.extract(table, tmp_path / "c.h5", **tiny)
    (tmp_path / "1.png").unlink()
    found = featx.extract(table, tmp_path / "c.h5", **tiny)
    assert (found.reused, found.failed) == (2, 1)
    assert list(featx.open_cache(tmp_path / "c.h5").ids) == ["0.png", "2.png"]


def test_another_file_with_the_old_size_and_time_is_read(
    tmp_path: Path, tiny: dict[str, Any]
) -> None:
    folder = tmp_path / "s"
    folder.mkdir()
    for k in range(3):
        picture(k).save(folder / f"{k}.bmp")
    old = time.time_ns() - 10_000_000_000
    os.utime(folder / "1.bmp", ns=(old, old))
    featx.extract(folder, tmp_path / "c.h5", **tiny)
    before = featx.open_cache(tmp_path / "c.h5").content_digests.tolist()
    size = (folder / "1.bmp").stat().st_size
    picture(9).save(folder / "new.bmp")
    (folder / "new.bmp").rename(folder / "1.bmp")
    os.utime(folder / "1.bmp", ns=(old, old))
    assert (folder / "1.bmp").stat().st_size == size
    found = featx.extract(folder, tmp_path / "c.h5", **tiny)
    assert (found.embedded, found.reused) == (1, 2)
    after = featx.open_cache(tmp_path / "c.h5").content_digests.tolist()
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, True]

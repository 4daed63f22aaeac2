"""Peak memory of each step of the driver, from 10,000 to 1,000,000 rows.

    python -m benchmarks.million_rows
    python -m benchmarks.million_rows --width 1280 --rows 10000 100000
    python -m benchmarks.million_rows --folder    # parts with an index in place of one file

Synthetic shards stand for what workers have written, and empty files for a folder of pictures; each
step runs in a process of its own, whose peak is what the kernel says of it. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from featx.cache import ExtractSpec, merge, open_cache, split
from featx.cache.ids import keys_of
from featx.cache.publish import Description, describes, write_cache
from featx.cache.reuse import KnownRows
from featx.cache.staging import SHARD_ROWS, Row, ShardWriter, parts_folder, remove_parts

SPEC = ExtractSpec(
    architecture="synthetic",
    weights_digest="00" * 32,
    taps=({"name": "pool", "layer": "pool", "side": "output", "pool": "avg"},),
    preprocess={"views": ["none"]},
    decode={"mode": "exact"},
    precision="fp32",
)
BLOCK = 8192


class Ids(Sequence[str]):
    """Names of images that are made when they are asked for, as a listing by pages would be."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    @overload
    def __getitem__(self, key: int) -> str: ...
    @overload
    def __getitem__(self, key: slice) -> list[str]: ...
    def __getitem__(self, key: int | slice) -> str | list[str]:
        if isinstance(key, slice):
            return [self[k] for k in range(*key.indices(self.n))]
        if key >= self.n:
            raise IndexError(key)
        return f"{key % 1000:03d}/{key:09d}.jpg"


def content(item: str) -> bytes:
    return sha256(item.encode()).hexdigest().encode()


def shards(place: Path, n: int, width: int) -> None:
    """Write what workers would."""
    writer, ids = ShardWriter(parts_folder(place), lambda: SPEC), Ids(n)
    for start in range(0, n, SHARD_ROWS):
        names = ids[start : start + SHARD_ROWS]
        vectors = np.random.default_rng(start).random((len(names), width), np.float32)
        writer.add(
            [Row(item, content(item), (1, 1), (v,)) for item, v in zip(names, vectors, strict=True)]
        )
    writer.flush()


def publish(place: Path, n: int, width: int) -> None:
    """Assemble the shards in the order of the source, as the driver of a run does."""
    ids = Ids(n)
    known = KnownRows(SPEC, None, parts_folder(place) / SPEC.fingerprint)
    places: NDArray[np.int32] = np.empty((n, 2), np.int32)
    for start in range(0, n, BLOCK):
        block = ids[start : start + BLOCK]
        places[start : start + BLOCK] = known.places(keys_of(content(i) for i in block))
    known.forget_contents()
    labels = np.arange(n, dtype=np.int32) % 9
    told = Description(ids, ids, labels, [f"class {k}" for k in range(9)])
    write_cache(place, SPEC, told, places, known.files, {"rows": n})
    remove_parts(place)


def look(place: Path, n: int, width: int) -> None:
    """Open, summarise, read all names and labels, and rows here and there."""
    with open_cache(place) as cache:
        assert cache.info()["rows"] == n == len(cache.ids) == len(cache.paths)
        assert cache.y is not None
        assert cache.y.shape == (n,)
        assert all(block.shape[1] == width for block in cache.X.batches(1024))


def find(place: Path, n: int, width: int) -> None:
    """Find a thousand ids, one by one and together."""
    rows = np.random.default_rng(0).integers(0, n, 1000)
    names = [Ids(n)[int(row)] for row in rows]
    with open_cache(place) as cache:
        assert [cache.row(name) for name in names[:100]] == rows[:100].tolist()
        assert cache.rows(names).tolist() == rows.tolist()


def verify(place: Path, n: int, width: int) -> None:
    with open_cache(place) as cache:
        found = cache.verify()
    assert found.ok, found.problems[:3]
    assert found.rows == n


def listing(place: Path, n: int, width: int) -> None:
    """List a folder of files, as every run does first."""
    from featx.sources.load import load_manifest

    folder = place.with_name("source")
    for k, name in enumerate(Ids(n)):
        if k < 1000:
            (folder / name).parent.mkdir(parents=True)
        (folder / name).touch()
    found = load_manifest(folder)
    assert len(found) == n
    shutil.rmtree(folder)


def rerun(place: Path, n: int, width: int) -> None:
    """Find that there is nothing to do, with a listing in memory."""
    from featx.columns import Text
    from featx.extraction.changes import describe_rows, difference, untouched_content
    from featx.items import Manifest
    from featx.sources.folder import first_folders
    from featx.sources.places import ReadFiles

    ids = Text.of(Ids(n))
    stamps = np.ones((n, 2), np.int64)
    source = Manifest("", ids, ids, ReadFiles(ids), labels=first_folders(ids), stamps=stamps)
    known = KnownRows(SPEC, place, parts_folder(place) / SPEC.fingerprint)
    found = untouched_content(source, known)
    known.forget_names()
    rows = np.flatnonzero(found != b"")
    described = describe_rows(source, rows, {})
    assert not describes(described, place)  # other labels
    known.forget_contents()
    assert difference(source, found, place).unchanged == n


def convert(place: Path, n: int, width: int) -> None:
    """Split and merge again."""
    other, back = place.with_name("other"), place.with_name("back.h5")
    split(place, other)
    merge(other, back)
    shutil.rmtree(other)
    back.unlink()


STEPS: dict[str, Callable[[Path, int, int], None]] = {
    step.__name__: step for step in (shards, publish, look, find, verify, listing, rerun, convert)
}


def measure(step: str, place: Path, n: int, width: int) -> dict[str, float]:
    """Run one step in a process of its own: its peak in MB, and its seconds."""
    command = [sys.executable, "-m", "benchmarks.million_rows", "--step", step, str(place)]
    done = subprocess.run(
        [*command, "--rows", str(n), "--width", str(width)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def run_step(step: str, place: Path, n: int, width: int) -> dict[str, float]:
    start = time.perf_counter()
    STEPS[step](place, n, width)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    return {"peak_mb": round(peak, 1), "seconds": round(time.perf_counter() - start, 2)}


def main() -> None:
    """Measure every step at every size; exit status 1 if a step fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--folder", action="store_true", help="publish a folder of parts")
    parser.add_argument("--step", nargs=2, metavar=("STEP", "PLACE"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.step:
        print(json.dumps(run_step(asked.step[0], Path(asked.step[1]), asked.rows[0], asked.width)))
        return
    found: dict[str, Any] = {"width": asked.width, "folder": asked.folder}
    for n in asked.rows:
        with tempfile.TemporaryDirectory(prefix="featx-rows-") as folder:
            place = Path(folder) / "rows.h5"
            if asked.folder:
                place = Path(folder) / "rows"
                place.mkdir()
            found[str(n)] = {step: measure(step, place, n, asked.width) for step in STEPS}
    print(json.dumps(found))


if __name__ == "__main__":
    main()

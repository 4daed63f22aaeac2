"""What the driver holds for each row, as Python and numpy ask for it: counted, not timed."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from test_cache import SPEC

from featx.cache import open_cache
from featx.cache.format import CONTENT_DTYPE, DIGEST_DTYPE, row_digest
from featx.cache.ids import KEY_DTYPE, write_id_index
from featx.cache.publish import describes
from featx.cache.reuse import KnownRows
from featx.cache.writing import FileFacts, write_file
from featx.columns import Text
from featx.extraction.changes import describe_rows, difference, untouched_content
from featx.items import Manifest
from featx.slices import SliceCounter
from featx.sources.folder import scan_folder
from featx.sources.places import ReadFiles

SMALL, LARGE = 20_000, 40_000  # more than a block of rows, so that what blocks take is in both


def names(rows: slice) -> list[str]:
    return [f"{k % 100:03d}/{k:09d}.jpg" for k in range(rows.start, rows.stop)]


class Made:
    """Rows that are made when they are asked for."""

    widths = [16, 16]  # noqa: RUF012

    def __init__(self, n: int) -> None:
        self.n = n
        text = h5py.string_dtype("utf-8", 17)
        self.columns: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {
            "ids": (text, ()),
            "paths": (text, ()),
            "content": (CONTENT_DTYPE, ()),
            "stamps": (np.dtype(np.int64), (2,)),
            "row_digest": (DIGEST_DTYPE, ()),
        }

    def __len__(self) -> int:
        return self.n

    def read(self, rows: slice) -> tuple[list[NDArray[Any]], dict[str, Any]]:
        ids, vectors = names(rows), [np.zeros((rows.stop - rows.start, 16), np.float32)] * 2
        content = np.array([sha256(i.encode()).hexdigest().encode() for i in ids], CONTENT_DTYPE)
        digests = [
            row_digest(i, c, [v[0] for v in vectors]) for i, c in zip(ids, content, strict=True)
        ]
        stamps = np.ones((len(ids), 2), np.int64)
        values = {"ids": ids, "paths": ids, "content": content, "stamps": stamps}
        return vectors, values | {"row_digest": np.array(digests, DIGEST_DTYPE)}

    def tag(self, rows: slice) -> str:
        return str(rows.start)


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    folder = tmp_path_factory.mktemp("rows")
    for n in (SMALL, LARGE):
        write_file(folder / f"{n}.h5", FileFacts(SPEC, "{}"), Made(n))
    return {n: folder / f"{n}.h5" for n in (SMALL, LARGE)}


def source(n: int) -> Manifest:
    """A listing, as that of a folder."""
    ids = Text.of(names(slice(0, n)))
    stamps = np.ones((n, 2), np.int64)
    return Manifest("test", ids, ids, ReadFiles(ids), stamps=stamps)


Step = Callable[[Path, Manifest], object]


def rerun(cache: Path, listed: Manifest) -> object:
    """What a run does in which nothing is left to do."""
    known = KnownRows(SPEC, cache, cache.parent / "none")
    content = untouched_content(listed, known)
    known.forget_names()
    description = describe_rows(listed, np.flatnonzero(content != b""), {})
    assert describes(description, cache)
    known.forget_contents()
    assert difference(listed, content, cache).unchanged == len(listed)
    return content


def compare(cache: Path, listed: Manifest) -> object:
    none = np.zeros(len(listed), KEY_DTYPE)
    assert not difference(listed, none, cache).removed
    return none


def index(cache: Path, listed: Manifest) -> object:
    with h5py.File(cache) as file, h5py.File(cache.with_name("index.h5"), "w") as new:
        write_id_index(new, len(listed), [file["ids"]])
    return None


def verify(cache: Path, _: Manifest) -> object:
    with open_cache(cache) as found:
        assert found.verify().ok
    return None


def find(cache: Path, listed: Manifest) -> object:
    wanted = np.arange(0, len(listed), len(listed) // 100)
    with open_cache(cache) as found:
        assert found.rows([listed.ids[row] for row in wanted]).tolist() == wanted.tolist()
    return None


def peak(step: Step, cache: Path, listed: Manifest) -> int:
    tracemalloc.start()
    try:
        kept = step(cache, listed)
        found = tracemalloc.get_traced_memory()[1]
        del kept
        return found
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("step", "most"),
    [
        (rerun, 64),
        (find, 1),
        *(pytest.param(*one, marks=pytest.mark.slow) for one in ((compare, 52), (index, 18))),
        pytest.param(verify, 10, marks=pytest.mark.slow),
    ],
)
def test_a_row_takes_few_bytes(caches: dict[int, Path], step: Step, most: int) -> None:
    """Beside the listing, of which `test_sources` says what it takes."""
    step(caches[SMALL], source(SMALL))  # what is made once
    small, large = (peak(step, caches[n], source(n)) for n in (SMALL, LARGE))
    assert (large - small) / (LARGE - SMALL) <= most


def test_a_folder_is_listed_without_its_entries(tmp_path: Path) -> None:
    """15,000 more files take their stamps, and Arrow's names beside what is counted here."""
    peaks = []
    for n in (10_000, 25_000):
        for k in range(10_000 if n > 10_000 else 0, n):
            (tmp_path / f"{k}.png").touch()
        peaks.append(peak(lambda *_: scan_folder(tmp_path, SliceCounter()), tmp_path, source(1)))
    assert (peaks[1] - peaks[0]) / 15_000 <= 64

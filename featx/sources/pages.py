"""Every page of the files of a source as an item of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featx.errors import ImageError
from featx.images.pages import page_count
from featx.manifest import Manifest, Stamp
from featx.sources.text import Text

_READERS = 8


@dataclass
class ReadPages:
    """Reads the file of a page; the one read last is kept, for pages come one after the other."""

    read: Callable[[int], tuple[bytes, Stamp]]
    files: NDArray[np.int64]
    last: tuple[int, tuple[bytes, Stamp]] | None = field(default=None, repr=False)

    def __call__(self, item: int) -> tuple[bytes, Stamp]:
        """Give the bytes of the whole file that the item is a page of, and its stamp."""
        file, last = int(self.files[item]), self.last
        if last is not None and last[0] == file:
            return last[1]
        found = self.read(file)
        self.last = (file, found)
        return found


def with_pages(manifest: Manifest) -> Manifest:
    """Make an item of each page: the first keeps its id, the second has ``id#2``, and so on.

    Every file is read once to count its pages; what cannot be read counts as one.
    """
    with ThreadPoolExecutor(_READERS) as pool:
        counts = np.fromiter(
            pool.map(lambda item: _count(manifest, item), range(len(manifest))),
            np.int64,
            len(manifest),
        )
    if not (counts > 1).any():
        return manifest
    files = np.repeat(np.arange(len(manifest)), counts)
    pages = np.arange(len(files)) - np.repeat(np.cumsum(counts) - counts, counts)
    rows, numbers = files.tolist(), pages.tolist()

    def some(column: Any) -> Any:
        if column is None or isinstance(column, np.ndarray):
            return None if column is None else column[files]
        return [column[row] for row in rows]

    return replace(
        manifest,
        ids=Text.of(_page_id(manifest.ids, r, p) for r, p in zip(rows, numbers, strict=True)),
        paths=Text.of(manifest.paths[row] for row in rows),
        read=ReadPages(manifest.read, files),
        labels=some(manifest.labels),
        split=some(manifest.split),
        columns={name: values[files] for name, values in manifest.columns.items()},
        stamps=some(manifest.stamps),
        pages=pages.astype(np.int32),
    )


def _page_id(ids: Sequence[str], row: int, page: int) -> str:
    return f"{ids[row]}#{page + 1}" if page else ids[row]


def _count(manifest: Manifest, item: int) -> int:
    try:
        return page_count(manifest.read(item)[0])
    except ImageError:
        return 1

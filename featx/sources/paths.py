"""Images that are named one by one: paths, rows of a table, Pillow pictures, pages of a file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featx.columns import Text
from featx.errors import ImageError, SourceError
from featx.images import file_of, is_picture
from featx.images.pages import page_count
from featx.items import Manifest, Note, Stamp, note, printable
from featx.slices import Slice, SliceCounter, listed
from featx.sources.addresses import require_named
from featx.sources.fields import (
    almost_meant,
    table_columns,
    table_labels,
    table_split,
    table_text,
    without,
)
from featx.sources.places import ReadFiles, join, parent, read_file, settled
from featx.sources.remote import is_url
from featx.sources.table import Table

PICTURES = "list of pictures"
"""The name of a source that was a list with pictures in it."""


@dataclass(frozen=True)
class ReadPictures:
    """Gives the bytes of pictures and of paths, whichever an entry is."""

    entries: Sequence[Any]

    def __call__(self, item: int) -> tuple[bytes, Stamp]:
        """Give the file of an entry, and what the file system says of it."""
        entry = self.entries[item]
        return read_file(os.fspath(entry)) if is_path(entry) else (file_of(entry), Stamp())


def from_pictures(source: Iterable[Any], ids: Sequence[str] | None = None) -> Manifest:
    """Take pictures, arrays and paths in the order given.

    Parameters
    ----------
    ids
        By default a path is its own id, and a picture's is its number, from 0.

    Raises
    ------
    SourceError
        If an entry is none of these.
    """
    entries = list(source)
    _require_readable(entries)
    shown = [
        printable(os.fspath(entry)) if is_path(entry) else f"image {k}"
        for k, entry in enumerate(entries)
    ]
    own = [shown[k] if is_path(entry) else str(k) for k, entry in enumerate(entries)]
    return Manifest(PICTURES, own if ids is None else ids, shown, ReadPictures(entries))


def refuse_one_array(source: Any) -> None:
    """Refuse an array that is one picture of colours, for its rows would be taken as pictures.

    Raises
    ------
    SourceError
        If its shape is (height, width, 3 or 4).
    """
    if is_picture(source) and np.ndim(source) == 3 and np.shape(source)[2] in (3, 4):
        raise SourceError(
            f"expected a sequence of images, got one array of shape {np.shape(source)}; give [X] "
            "if it is a single picture"
        )


def _require_readable(entries: Sequence[object]) -> None:
    for k, entry in enumerate(entries):
        if not is_path(entry) and not is_picture(entry):
            raise SourceError(
                f"entry {k} of the list is of type {type(entry).__name__}; give paths, pictures of "
                "Pillow, or arrays"
            )


def is_path(value: object) -> bool:
    """True if an entry of a list is a path."""
    return isinstance(value, (str, os.PathLike))


@dataclass(frozen=True)
class ReadSome:
    """Read some of the items of another reader: item `i` is its item ``items[i]``."""

    read: Callable[[int], tuple[bytes, Stamp]]
    items: NDArray[np.int64]

    def __call__(self, item: int) -> tuple[bytes, Stamp]:
        """Give the bytes of an item and its stamp."""
        return self.read(int(self.items[item]))


def deal_items(whole: Manifest, slice_: Slice) -> Manifest:
    """Give the items of a slice, by a hash of each id."""
    if slice_.is_whole:
        return whole
    dealing = SliceCounter(slice_)
    items = np.flatnonzero([dealing.takes(name) for name in whole.ids])
    picked: list[int] = items.tolist()

    def some(values: Any) -> Any:
        if values is None or isinstance(values, np.ndarray):
            return None if values is None else values[items]
        return [values[item] for item in picked]

    return replace(
        whole,
        ids=Text.of(some(whole.ids)),
        paths=Text.of(some(whole.paths)),
        read=ReadSome(whole.read, items),
        labels=some(whole.labels),
        split=some(whole.split),
        columns={name: values[items] for name, values in whole.columns.items()},
        stamps=some(whole.stamps),
        dealt=dealing.dealt,
    )


LIST = "list of paths"
"""The name of a source that was a list."""


def from_list(source: Sequence[Any], slice_: Slice) -> Manifest:
    """Take paths, URLs or pictures, in the order given, those of a slice by a hash of each id."""
    refuse_one_array(source)
    if any(is_picture(entry) for entry in source):
        return deal_items(from_pictures(source), slice_)
    _require_readable(source)
    paths = [os.fspath(p) for p in source]
    if not paths:
        raise SourceError("the list of paths is empty")
    shown = Text.of(map(printable, paths))
    odd = {k: path for k, path in enumerate(paths) if printable(path) != path}
    return deal_items(Manifest(LIST, shown, shown, ReadFiles(shown, odd)), slice_)


def from_table(
    place: str, read: Table, dealing: SliceCounter, missing: Sequence[str] = ()
) -> Manifest:
    """Take the images that the column ``path`` names, relative to the table.

    Parameters
    ----------
    read
        The rows of the slice that was dealt out.
    missing
        Texts that mean that a field is empty.

    Raises
    ------
    SourceError
        If there is no such column, or a row that cannot be used.
    """
    table = without(read.frame, missing)
    if "path" not in table.columns:
        raise SourceError(
            f"{place} has no column `path` (it has {listed(table.columns) or 'none'});"
            " name the column that holds the image files so"
        )
    if not dealing.names:
        raise SourceError(f"{place} has no rows")
    columns = table_columns(place, table)
    written = table_text(place, table, "path")
    folder, below = parent(place), ""
    if is_url(place):
        require_named(place, table["path"].astype(str))
        # An address that is written whole is taken as it is.
        below = "" if any(is_url(str(name)) for name in table["path"]) else folder
    files = Text.of(printable(settled(join(folder, str(name)))) for name in table["path"])
    slanted = sum("\\" in str(name) for name in table["path"])
    return Manifest(
        name=place,
        ids=table_text(place, table, "id") if "id" in table.columns else written,
        paths=files,
        read=ReadFiles(files, named_below=below),
        labels=table_labels(place, table),
        split=table_split(place, table),
        columns=columns,
        dealt=dealing.dealt,
        notes=(*read.notes, *almost_meant(place, table), *_slanted(place, slanted)),
    )


def _slanted(place: str, n_paths: int) -> list[Note]:
    if not n_paths:
        return []
    text = f"{place}: backslashes in {n_paths} paths are read as folders where no such file exists"
    return [note("backslashes", text)]


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

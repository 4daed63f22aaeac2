"""Data sets that Hugging Face's `datasets` saved on disk (``save_to_disk``)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from featx.columns import Prefixed, Text
from featx.errors import (
    GONE,
    ImageError,
    MissingExtraError,
    SourceError,
    UnreachableError,
    words_of,
)
from featx.items import Manifest, SourceOptions, Stamp
from featx.slices import SliceCounter
from featx.sources.arrow import describing, image_bytes, image_column, to_frame, with_class_names
from featx.sources.containers import Container, container_of, item_ids, row_stamps
from featx.sources.fields import (
    almost_meant,
    named_splits,
    table_columns,
    table_labels,
    table_split,
    table_text,
    without,
)
from featx.sources.places import Recent, unread

_MARKS = ("state.json", "dataset_info.json", "dataset_dict.json")


@dataclass(frozen=True)
class ReadSaved:
    """Read an item's bytes from the Arrow files, which are mapped and not copied into memory.

    Parameters
    ----------
    parts
        The folder of each split.
    columns
        The column of images of each.
    starts
        int64: number of the first item of each.
    rows
        The row in its split of each of those.
    """

    parts: tuple[Container, ...]
    columns: tuple[str, ...]
    starts: NDArray[np.int64]
    rows: tuple[int, ...]
    opened: Recent[Any] = field(default_factory=lambda: Recent(8), repr=False, compare=False)

    def __call__(self, item: int) -> tuple[bytes, Stamp]:
        """Give the bytes of an item and the stamp of its data set."""
        at = container_of(self.starts, item)
        part, column = self.parts[at], self.columns[at]
        found = self.opened.get(at, lambda: self._open(part))
        row = found[self.rows[at] + item - int(self.starts[at])]
        return image_bytes(row[column][0].as_py(), part.place), part.stamp

    def _open(self, part: Container) -> Any:
        try:
            if _stamp(Path(part.place)) != part.stamp:
                raise ImageError("the data set changed while it was read; run the command again")
            return _load(Path(part.place)).with_format("arrow")
        except SourceError as error:
            raise unread(error, f"cannot be read: {error}") from None


def is_saved(folder: Path) -> bool:
    """True if a folder looks like one of `datasets`."""
    # Of a folder whose files cannot be looked at this says no, where pathlib raises.
    return any(os.path.isfile(folder / mark) for mark in _MARKS)  # noqa: PTH113


def from_saved(folder: Path, options: SourceOptions) -> Manifest:
    """Take the rows of a saved data set; the splits of a `DatasetDict` become the split.

    A slice has a stretch of the rows of each split.

    An id is the split, if there are several, and the column ``id`` or else the number of the row.

    Raises
    ------
    SourceError
        If the folder is not a whole data set, or has no column of images.
    MissingExtraError
        If `datasets` is not installed.
    """
    loaded = _load(folder)
    parts = dict(loaded) if isinstance(loaded, dict) else {"": loaded}
    parts = {name: part for name, part in parts.items() if len(part)}
    if not parts:
        raise SourceError(f"{folder} has no rows")
    dealing = SliceCounter(options.slice_)
    spans = [dealing.takes_rows(name, len(part)) for name, part in parts.items()]
    containers: list[Container] = []
    images: list[str] = []
    tables: list[pa.Table] = []
    classes: dict[str, list[str]] = {}
    for (name, part), span in zip(parts.items(), spans, strict=True):
        place = folder / name if name else folder
        schema = part.features.arrow_schema
        containers.append(Container(os.fspath(place), name, _stamp(place)))
        images.append(image_column(os.fspath(place), schema))
        named = {
            column: feature.names
            for column, feature in part.features.items()
            if type(feature).__name__ == "ClassLabel" and feature.names
        }
        table = _columns(part.select(span), describing(schema, images[-1]))
        tables.append(with_class_names(os.fspath(place), table, named))
        classes |= named
    counts = [len(span) for span in spans]
    table = pa.concat_tables(tables, promote_options="permissive")
    frame = without(to_frame(os.fspath(folder), table, classes), options.missing)
    if len(frame.columns) and len(frame) != sum(counts):
        raise SourceError(f"{folder}: some splits have columns beside the images, others none")
    ids = _ids(os.fspath(folder), frame, containers, spans)
    return Manifest(
        name=os.fspath(folder),
        ids=ids,
        paths=Prefixed(f"{folder}/", ids),
        read=ReadSaved(
            tuple(containers),
            tuple(images),
            np.cumsum([0, *counts], dtype=np.int64)[:-1],
            tuple(span.start for span in spans),
        ),
        labels=table_labels(os.fspath(folder), frame),
        split=table_split(os.fspath(folder), frame) or named_splits(list(parts), counts, parts),
        columns=table_columns(os.fspath(folder), frame),
        stamps=row_stamps(containers, counts),
        dealt=dealing.dealt,
        notes=tuple(almost_meant(os.fspath(folder), frame, parts)),
    )


def _ids(place: str, frame: Any, containers: list[Container], spans: list[range]) -> Text:
    if "id" in frame.columns:
        whole = table_text(place, frame, "id")
    else:
        whole = Text.of(str(k) for span in spans for k in span)
    if len(containers) == 1:
        return whole
    edges = np.cumsum([0, *(len(span) for span in spans)])
    pieces = [
        (container, Text.of(whole[int(a) : int(b)]))
        for container, a, b in zip(containers, edges[:-1], edges[1:], strict=True)
    ]
    return item_ids(pieces)


def _columns(part: Any, names: list[str]) -> pa.Table:
    if not names:
        return pa.table({})
    found: pa.Table = part.select_columns(names).with_format("arrow")[:]
    return found.replace_schema_metadata(None)


def _load(folder: Path) -> Any:
    try:
        import datasets
    except ImportError:
        raise MissingExtraError(
            f"{folder} is a saved data set and needs the package datasets: "
            "pip install 'featx[datasets]'"
        ) from None
    try:
        with _without_bars(datasets):
            return datasets.load_from_disk(os.fspath(folder))
    except Exception as error:  # a damaged folder raises any type
        why = words_of(error)
        raise SourceError(f"{folder} is not a data set that `datasets` can load: {why}") from None


@contextmanager
def _without_bars(datasets: Any) -> Iterator[None]:
    """Keep the library's progress bars off the screen, and leave its setting as it was."""
    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()


def _stamp(folder: Path) -> Stamp:
    """One stamp of all files of a split: their size, and the time of the last change."""
    try:
        found = [file.stat() for file in sorted(folder.iterdir()) if file.is_file()]
    except OSError as error:
        kind = SourceError if error.errno in GONE else UnreachableError
        raise kind(f"{folder}: {error.strerror or error}") from None
    return Stamp(
        sum(f.st_size for f in found),
        max((f.st_mtime_ns for f in found), default=0),
        max((f.st_ctime_ns for f in found), default=0),
        sum(f.st_ino for f in found),
    )

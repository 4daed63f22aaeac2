"""Parquet files that hold the images themselves, as Hugging Face publishes data sets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from featx.columns import Prefixed, Text
from featx.errors import ImageError, SourceError, words_of
from featx.items import Manifest, SourceOptions, Stamp
from featx.slices import SliceCounter
from featx.sources.arrow import (
    MOST_BYTES,
    bounded_batches,
    classes_of,
    describing,
    features_of,
    image_bytes,
    image_column,
    require_rows,
    to_frame,
    with_class_names,
)
from featx.sources.containers import (
    Container,
    container_of,
    deal_files,
    gather,
    item_ids,
    row_stamps,
)
from featx.sources.fields import (
    almost_meant,
    named_splits,
    table_columns,
    table_labels,
    table_split,
    table_text,
    without,
)
from featx.sources.places import Recent, open_file, parent, require_same, unread

_ERRORS = (OSError, ValueError, pa.ArrowException)


@dataclass(frozen=True)
class _File:
    """The footer of one file, and its columns except the images."""

    image: str
    group_rows: list[int]
    table: pa.Table
    classes: dict[str, list[str]]


@dataclass(frozen=True)
class ReadRows:
    """Read an item's bytes from its row group; the two used last are held, for all threads.

    Parameters
    ----------
    containers
        The files.
    columns
        The column of images of each file.
    starts
        int64: number of the first item of each row group.
    groups
        int64, shape (n_groups, 2): file, and row group in it.
    """

    containers: tuple[Container, ...]
    columns: tuple[str, ...]
    starts: NDArray[np.int64]
    groups: NDArray[np.int64]
    recent: Recent[Any] = field(default_factory=lambda: Recent(2), repr=False, compare=False)

    def __call__(self, item: int) -> tuple[bytes, Stamp]:
        """Give the bytes of an item and the stamp of its file."""
        at = container_of(self.starts, item)
        number, group = self.groups[at].tolist()
        container = self.containers[number]
        values = self.recent.get((number, group), lambda: self._load(number, group))
        value = values[item - int(self.starts[at])].as_py()
        return image_bytes(value, parent(container.place)), container.stamp

    def _load(self, number: int, group: int) -> pa.ChunkedArray:
        container, column = self.containers[number], self.columns[number]
        try:
            with open_file(container.place, container.stamp) as file:
                opened = pq.ParquetFile(file)
                batches = bounded_batches(container.place, opened, columns=[column], group=group)
                found = pa.chunked_array([batch[column] for batch in batches])
        except SourceError as error:
            raise unread(error, str(error)) from None
        except _ERRORS as error:
            # One that was replaced meanwhile would look damaged.
            require_same(container.place, container.stamp)
            why = words_of(error)
            raise ImageError(f"row group {group} of {container.name} is damaged: {why}") from None
        require_same(container.place, container.stamp)
        return found


def holds_images(place: str, stamp: Stamp) -> bool:
    """True if a Parquet file holds images rather than the paths of some.

    Raises
    ------
    SourceError
        If it is no Parquet file.
    """
    with open_file(place, stamp) as file:
        schema = _open(place, file).schema_arrow
    try:
        found = image_column(place, schema)
    except SourceError:
        # Without paths either: let the one who reads it say what is missing.
        return "path" not in schema.names
    return "path" not in schema.names or found == "image" or found in features_of(schema)


def from_parquet(
    name: str,
    base: str,
    containers: Sequence[Container],
    options: SourceOptions,
    ignored: Counter[str] | None = None,
) -> Manifest:
    """Take the rows of the Parquet files of a slice, in their order.

    An id is that of the column ``id``, else the file and the row in it.

    Raises
    ------
    SourceError
        If no file has a column of images, or there is no row; a slice may have none.
    """
    dealing = SliceCounter(options.slice_)
    found = gather(deal_files(containers, dealing), _look)
    kept = tuple(container for container, _ in found.pairs)
    files = [file for _, file in found.pairs]
    counts = [sum(file.group_rows) for file in files]
    if not sum(counts) and options.slice_.is_whole:
        raise SourceError(f"{name} has no rows")
    classes = {column: names for file in files for column, names in file.classes.items()}
    try:
        tables = [f.table for f in files] or [pa.table({})]
        table = pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as error:
        why = words_of(error)
        raise SourceError(f"{name}: its files do not go together: {why}") from None
    frame = without(to_frame(name, table, classes), options.missing)
    if len(frame.columns) and len(frame) != sum(counts):
        raise SourceError(f"{name}: some of its files have columns beside the images, others none")
    numbered = item_ids([(s, _numbers(n)) for s, n in zip(kept, counts, strict=True)])
    groups = [(k, g) for k, file in enumerate(files) for g in range(len(file.group_rows))]
    rows = [n for file in files for n in file.group_rows]
    return Manifest(
        name=name,
        ids=table_text(name, frame, "id") if "id" in frame.columns else numbered,
        paths=Prefixed(base, numbered),
        read=ReadRows(
            kept,
            tuple(file.image for file in files),
            np.cumsum([0, *rows], dtype=np.int64)[:-1],
            np.array(groups, np.int64).reshape(-1, 2),
        ),
        labels=table_labels(name, frame),
        split=table_split(name, frame)
        or named_splits([s.name for s in kept], counts, (s.name for s in containers)),
        columns=table_columns(name, frame),
        stamps=row_stamps(kept, counts),
        refused=found.refused,
        ignored_by_extension=dict(ignored or {}),
        dealt=dealing.dealt,
        notes=tuple(almost_meant(name, frame, (container.name for container in containers))),
    )


def _look(container: Container) -> _File:
    with open_file(container.place, container.stamp) as file:
        found = _open(container.place, file)
        require_rows(container.place, found, container.stamp.size)
        schema, image = found.schema_arrow, image_column(container.place, found.schema_arrow)
        rows = []
        for k in range(found.num_row_groups):
            group = found.metadata.row_group(k)
            rows.append(group.num_rows)
            if (size := _image_size(group, image)) > MOST_BYTES:
                raise SourceError(
                    f"{container.place}: row group {k} holds {size} bytes of images, and is read "
                    f"as a whole; write row groups of at most {MOST_BYTES} bytes"
                )
        names = describing(schema, image)
        try:
            table = _beside(container.place, found, names) if names else pa.table({})
            classes = classes_of(features_of(schema))
            table = with_class_names(container.place, table, classes)
        except SourceError:
            raise
        except _ERRORS as error:
            why = words_of(error)
            raise SourceError(f"{container.place} cannot be read: {why}") from None
        return _File(image, rows, table, classes)


def _beside(place: str, file: pq.ParquetFile, names: list[str]) -> pa.Table:
    """Read the columns beside the images."""
    batches = list(bounded_batches(place, file, columns=names))
    return pa.Table.from_batches(batches) if batches else file.read(columns=names)


def _image_size(group: Any, image: str) -> int:
    columns = (group.column(k) for k in range(group.num_columns))
    found = sum(
        c.total_uncompressed_size for c in columns if c.path_in_schema.split(".", 1)[0] == image
    )
    return int(found)


def _open(place: str, file: object) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(file)
    except SourceError:
        raise
    except _ERRORS as error:
        why = words_of(error)
        raise SourceError(f"{place} is no Parquet file: {why}") from None


def _numbers(count: int) -> Text:
    return Text(pa.array(np.arange(count)).cast(pa.large_string()))

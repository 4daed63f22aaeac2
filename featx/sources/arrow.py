"""Arrow tables whose rows hold images, and Parquet read in batches of a bounded size."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from featx.errors import ImageError, SourceError, shown
from featx.slices import listed
from featx.sources.places import join, read_file
from featx.sources.remote import fetch, is_url
from featx.typing import JsonObject

Classes = Mapping[str, Sequence[str]]
"""Names of the classes of each column that holds their numbers."""

MEANT = ("path", "id", "label", "group", "split")
"""Columns of a table that have a meaning."""

_INDEX = re.compile(r"__index_level_\d+__")


def features_of(schema: pa.Schema) -> dict[str, JsonObject]:
    """Read what `datasets` writes of each column into a schema; empty if it wrote nothing."""
    try:
        found = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {str(k): v for k, v in found.items() if isinstance(v, dict)}


def classes_of(features: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """Names of the classes of each ``ClassLabel``."""
    return {
        name: [str(v) for v in feature.get("names") or ()]
        for name, feature in features.items()
        if feature.get("_type") == "ClassLabel"
    }


def image_column(place: str, schema: pa.Schema) -> str:
    """Find the column that holds images.

    One that `datasets` calls an image, else a struct ``{bytes, path}``, else a binary column; of
    several of a kind the one called ``image``.

    Raises
    ------
    SourceError
        If there is none, or one cannot be told from another.
    """
    features = features_of(schema)
    kinds = (
        [name for name, feature in features.items() if feature.get("_type") == "Image"],
        [field.name for field in schema if is_image_struct(field.type)],
        [field.name for field in schema if is_binary(field.type) and field.name not in MEANT],
    )
    for names in kinds:
        there = [name for name in names if name in schema.names]
        if "image" in there or len(there) == 1:
            return "image" if "image" in there else there[0]
        if there:
            raise SourceError(
                f"{place}: columns {listed(there)} may all hold images; call the one to be "
                "taken `image`"
            )
    has = listed([f"{field.name} ({field.type})" for field in schema]) or "none"
    raise SourceError(
        f"{place} has no column of images: neither bytes nor a struct of bytes and path (it has "
        f"{has})"
    )


def is_binary(kind: pa.DataType) -> bool:
    """True if values of an Arrow type are bytes."""
    return bool(
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_binary_view(kind)
        or pa.types.is_fixed_size_binary(kind)
    )


def is_image_struct(kind: pa.DataType) -> bool:
    """True if values of an Arrow type are ``{bytes, path}``, as `datasets` keeps an image."""
    if not pa.types.is_struct(kind):
        return False
    bytes_at = kind.get_field_index("bytes")
    return bytes_at >= 0 and is_binary(kind.field(bytes_at).type)


def image_bytes(value: Any, folder: str) -> bytes:
    """Give the bytes of one field of the column of images.

    Raises
    ------
    ImageError
        If it holds none, or names a file that cannot be read.
    """
    if isinstance(value, dict):
        path = value.get("path")
        value = value.get("bytes")
        if value is None and path:
            place = join(folder, path)
            return fetch(place) if is_url(place) else read_file(place)[0]
    if value is None:
        raise ImageError("the row holds no image (null)")
    return bytes(value)


def describing(schema: pa.Schema, image: str) -> list[str]:
    """Columns that say something of the images: all but those of bytes that have no meaning."""
    return [
        field.name
        for field in schema
        if field.name != image
        and (field.name in MEANT or not is_binary(field.type))
        and not is_image_struct(field.type)
    ]


def with_class_names(place: str, table: pa.Table, classes: Classes) -> pa.Table:
    """Write the names of classes in place of their numbers; -1 stands for none.

    This is done file by file, for two may number the same classes otherwise.

    Raises
    ------
    SourceError
        If a number has no name.
    """
    for name, names in classes.items():
        at = table.schema.get_field_index(name)
        if not names or at < 0 or not pa.types.is_integer(table.schema.field(at).type):
            continue
        codes = table[name].fill_null(-1).to_numpy().astype(np.int64)
        odd = np.flatnonzero((codes < -1) | (codes >= len(names)))
        if odd.size:
            raise SourceError(
                f"{place}: column {name!r} holds the class number {codes[odd[0]]}, and "
                f"{len(names)} classes have names ({odd.size} such rows)"
            )
        found = pa.DictionaryArray.from_arrays(
            pa.array(codes, pa.int32(), mask=codes < 0), pa.array(names, pa.string())
        )
        table = table.set_column(at, name, found)
    return table


def to_frame(place: str, table: pa.Table, classes: Classes) -> pd.DataFrame:
    """Make a frame of columns, of which one is called ``label``.

    The only ``ClassLabel`` is the label if no column is called so. Columns of bytes that are not
    text are left out.

    Raises
    ------
    SourceError
        If a column with a meaning is not text, or one of text is not UTF-8.
    """
    found: dict[str, pd.Series] = {}
    for name in dict.fromkeys(table.column_names):
        if _INDEX.fullmatch(name):  # pandas' own numbers of rows
            continue
        if name in ("path", "id") and pa.types.is_nested(table[name].type):
            kind = shown(str(table[name].type))
            raise SourceError(f"{place}: column `{name}` is of type {kind}; write one text a row")
        try:
            column = _column(table[name], as_text=name != "label")
        except pa.ArrowException:
            column = None
        if column is None and (name in MEANT or not is_binary(_value_type(table[name].type))):
            raise SourceError(f"{place}: column {name!r} is not UTF-8 text; write it as UTF-8")
        found |= {} if column is None else {name: column}
    named = [name for name in classes if name in found]
    if "label" not in found and len(named) == 1:
        found["label"] = found.pop(named[0])
    return pd.DataFrame(found, index=range(len(table)))


def _value_type(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _column(values: pa.ChunkedArray, *, as_text: bool) -> pd.Series | None:
    """Give one column: numbers where all are there, else text; None where it is bytes.

    Lists and objects become JSON `as_text`.

    Raises
    ------
    ArrowException
        If text is not UTF-8.
    """
    values = values.cast(_value_type(values.type))
    kind = values.type
    if is_binary(kind):
        return _text_of_bytes(values)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        values.validate(full=True)
    if pa.types.is_integer(kind) and values.null_count:
        # pandas would make floats of them, in which long codes are no longer what they were.
        texts = [None if v is None else str(v) for v in values.to_pylist()]
        return pd.Series(texts, dtype=object)
    if pa.types.is_nested(kind):
        found = values.to_pylist()
        texts = [None if v is None else json.dumps(v, default=str) for v in found]
        return pd.Series(texts if as_text else found, dtype=object)
    return values.to_pandas()


def _text_of_bytes(values: pa.ChunkedArray) -> pd.Series | None:
    """Read bytes as the text that some writers keep so; None where they are not UTF-8."""
    try:
        return values.cast(pa.large_binary()).cast(pa.large_string()).to_pandas()
    except pa.ArrowException:
        return None


MOST_BYTES = 2 << 30
"""Of the columns of one table, or of the images of one row group, in memory."""

_MOST_BATCH_ROWS = 16_384
_ROWS_OF_BYTE = 64  # a row of any use takes more than an eighth of a bit
_ROWS_ALWAYS = 1_000_000


def require_rows(place: str, file: pq.ParquetFile, size: int) -> None:
    """Refuse a file that claims more rows than its bytes can tell apart.

    Raises
    ------
    SourceError
        Naming both.
    """
    n_rows = file.metadata.num_rows
    if not 0 <= n_rows <= size * _ROWS_OF_BYTE + _ROWS_ALWAYS:
        raise SourceError(f"{place} claims {n_rows} rows in {size} bytes")


def bounded_batches(
    place: str,
    file: pq.ParquetFile,
    *,
    columns: Sequence[str] | None = None,
    group: int | None = None,
) -> Iterator[pa.RecordBatch]:
    """Give the rows of a file, or of one row group, in batches.

    Raises
    ------
    SourceError
        If they hold more than `MOST_BYTES`.
    """
    total = 0
    for number in range(file.num_row_groups) if group is None else [group]:
        for batch in file.iter_batches(
            _batch_rows(file.metadata.row_group(number), columns),
            row_groups=[number],
            columns=None if columns is None else list(columns),
        ):
            total += batch.nbytes
            if total > MOST_BYTES:
                raise SourceError(
                    f"{place} holds more than {MOST_BYTES} bytes "
                    f"{'of columns' if group is None else f'in row group {group}'} in memory; "
                    "write smaller files, or row groups of fewer images"
                )
            yield batch


def _batch_rows(group: pq.RowGroupMetaData, columns: Sequence[str] | None) -> int:
    """Count the rows of a batch that fits, even if each of them held all values of the group."""
    found = (group.column(k) for k in range(group.num_columns))
    values = sum(
        column.total_uncompressed_size
        for column in found
        if columns is None or column.path_in_schema.split(".", 1)[0] in columns
    )
    return int(min(_MOST_BATCH_ROWS, max(1, MOST_BYTES // max(1, values))))
